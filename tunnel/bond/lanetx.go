package bond

import (
	"sync"

	"github.com/landbridge/landbridge/fec"
)

const (
	// laneQueue bounds the packets a lane holds that no path has taken yet. Full: WriteTo blocks. About 2 ms at
	// 300 Mbit/s, as QUIC's acknowledgements wait in the same line.
	laneQueue = 64
	// laneWindow bounds the packets of a lane that the peer has not confirmed. Full: the lane sends nothing new. It must
	// cover quic-go's 10,000-packet window.
	laneWindow = 1 << 14
	// maxTries is how often a lane packet is sent before it is only kept for the timer.
	maxTries = 12
	// maxPacket is the largest lane packet a buffer holds.
	maxPacket = 1536
)

// packetBuf is one lane packet. Whoever holds it last gives it back with free.
type packetBuf struct {
	n int
	b [maxPacket]byte
}

var packetPool = sync.Pool{New: func() any { return new(packetBuf) }}

func newPacketBuf(b []byte) *packetBuf {
	p := packetPool.Get().(*packetBuf)
	p.n = copy(p.b[:], b)
	return p
}

func (p *packetBuf) bytes() []byte { return p.b[:p.n] }
func (p *packetBuf) free()         { packetPool.Put(p) }

// outPacket is a lane packet that the peer has not confirmed.
type outPacket struct {
	buf    *packetBuf // nil: confirmed
	path   uint8      // of the newest copy
	tries  uint8
	queued bool   // waits to be sent again
	pseq   uint64 // of the newest copy
	at     stamp  // of the newest copy
}

// laneTx is the sending half of a lane. Guarded by the bond's mutex.
type laneTx struct {
	id    uint8
	class Class

	queue ring[*packetBuf] // not sent yet; numbers next..
	next  uint64           // next number
	base  uint64           // least number not confirmed
	out   []outPacket      // by number modulo laneWindow
	again ring[uint64]     // numbers to send again

	enc       *fec.Encoder
	ctl       *fec.Controller
	debt      float64         // repairs owed
	shelter   float64         // least repair ratio now; see setShelter
	start     float64         // the same for the first packets after a pause
	least     int             // length of the packets that shelter is for
	uncovered int             // source packets since the last tail
	tailFrom  stamp           // when the newest source packet went; 0: the tail is covered
	tailDue   int             // repairs of the tail still to send
	tailLen   int             // packets they cover
	repaired  [maxPaths]stamp // how much later a path counts for the next repair, by those it has carried of this train
	lastPath  uint8           // path of the newest source packet
	fullAt    stamp           // when the newest packet of data was first sent
	fullFrom  stamp           // when the first one after a pause was
	newAt     stamp           // when the newest packet of any kind was first sent
	sentSince int             // source packets since the FEC controller was last told
	lostSince int
	badSince  int

	sent, resent, repairs uint64
}

func newLaneTx(id uint8, class Class) *laneTx {
	l := &laneTx{id: id, class: class, out: make([]outPacket, laneWindow)}
	l.ctl = fec.NewController(fecLimits[class])
	return l
}

// fecLimits holds the repair overhead a class may spend (DESIGN section 6). Bulk has time for repetitions, which cost only
// what was lost: it takes repair for shelter alone (see setShelter), and after a pause (see startRepair).
var fecLimits = [...]fec.Limits{
	Realtime:    fec.RealtimeLimits,
	Interactive: fec.InteractiveLimits,
	Bulk:        {},
}

func (l *laneTx) entry(seq uint64) *outPacket {
	if seq < l.base || seq >= l.next {
		return nil
	}
	return &l.out[seq%laneWindow]
}

// room tells whether a new packet may be sent: the window is open.
func (l *laneTx) room() bool { return l.next-l.base < laneWindow }

// confirm forgets what the peer has, by its report.
func (l *laneTx) confirm(r *laneReport) {
	cum, high := extend(r.cum, l.next), extend(r.high, l.next)
	if high > l.next || cum > high {
		return // names packets never sent
	}
	for l.base < cum {
		l.forget(&l.out[l.base%laneWindow])
		l.base++
	}
	pos := max(cum, l.base)
	for _, g := range r.ranges {
		first := extend(g.first, l.next)
		for ; pos < first; pos++ {
			l.forget(&l.out[pos%laneWindow])
		}
		pos = max(pos, first+uint64(g.n))
	}
	for ; pos < high; pos++ {
		l.forget(&l.out[pos%laneWindow])
	}
	for l.base < l.next && l.out[l.base%laneWindow].buf == nil {
		l.base++
	}
}

func (l *laneTx) forget(o *outPacket) {
	if o.buf != nil {
		o.buf.free()
		o.buf = nil
	}
}

// sendAgain puts a lost packet in line, unless it is there.
func (l *laneTx) sendAgain(seq uint64) {
	if o := l.entry(seq); o != nil && o.buf != nil && !o.queued {
		o.queued = true
		l.again.push(seq)
	}
}

// nextAgain returns the next packet to send again, skipping those confirmed meanwhile; nil: none.
func (l *laneTx) nextAgain() (uint64, *outPacket) {
	for l.again.len() > 0 {
		seq := l.again.front()
		if o := l.entry(seq); o != nil && o.buf != nil && o.queued {
			return seq, o
		}
		l.again.pop()
	}
	return 0, nil
}

// release gives everything back; the lane is closed and its number stays taken for long.
func (l *laneTx) release() {
	for l.base < l.next {
		l.forget(&l.out[l.base%laneWindow])
		l.base++
	}
	for l.queue.len() > 0 {
		l.queue.pop().free()
	}
	l.out, l.enc = nil, nil
}

// ring is a growable first-in-first-out queue; the zero value is empty.
type ring[T any] struct {
	buf     []T
	head, n int
}

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) front() T { return r.buf[r.head] }

func (r *ring[T]) push(v T) {
	if r.n == len(r.buf) {
		grown := make([]T, max(16, 2*len(r.buf)))
		for i := range r.n {
			grown[i] = r.buf[(r.head+i)%len(r.buf)]
		}
		r.buf, r.head = grown, 0
	}
	r.buf[(r.head+r.n)%len(r.buf)] = v
	r.n++
}

func (r *ring[T]) pop() T {
	v := r.buf[r.head]
	var zero T
	r.buf[r.head] = zero
	r.head = (r.head + 1) % len(r.buf)
	r.n--
	return v
}

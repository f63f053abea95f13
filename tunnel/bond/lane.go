package bond

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// writeStall is how long WriteTo waits while no path takes anything; then packets are dropped, as QUIC's Close waits
	// for WriteTo.
	writeStall = 5 * time.Second
	// quicBacklog is how many packets a connection may hold unprocessed; quic-go drops what exceeds 256.
	quicBacklog = 200
	// coalesce is how far ahead of its time a packet may be handed over with one that is due, to save a wake-up; on a bulk
	// lane also to save acknowledgements, as quic-go sends one for all that it finds in its queue.
	coalesce     = 300 * time.Microsecond
	coalesceBulk = 2 * time.Millisecond
	// backlogStuck is when the count of unprocessed packets is taken for wrong and starts anew.
	backlogStuck = 200 * time.Millisecond
)

// Lane is one packet channel of a session: the net.PacketConn of one QUIC connection. WriteTo blocks while the pacers
// are full. One goroutine reads, one writes, as quic-go does.
type Lane struct {
	s      *Session
	id     uint8
	tx     *laneTx
	rx     *laneRx
	closed chan struct{}
	room   chan struct{} // the queue has room again

	closedAt stamp // 0: open; guarded by the bond's mutex
	size     int   // of the largest packet; 0: not accepted yet; guarded by the bond's mutex
	touched  bool  // packets came in this batch

	readDeadline atomic.Int64 // unix ns; 0: none
	stalled      atomic.Bool  // WriteTo ran into writeStall and nothing moved since

	local, remote net.Addr // made once: quic-go is given them with each packet

	timer atomic.Pointer[time.Timer] // of a WriteTo that waited

	conn    atomic.Pointer[quic.Conn]
	backlog backlog // only used by the reader
}

// laneAddr is a lane's name. quic-go compares the texts of the addresses of each packet it receives.
type laneAddr string

func newLaneAddr(peer string, lane uint8) laneAddr {
	return laneAddr(fmt.Sprintf("%s/%v.%d", peer, laneClass(lane), lane%lanesPerClass))
}

func (a laneAddr) Network() string { return "bond" }
func (a laneAddr) String() string  { return string(a) }

func newLane(s *Session, id uint8) *Lane {
	return &Lane{s: s, id: id, tx: newLaneTx(id, laneClass(id)), rx: newLaneRx(id, laneClass(id)),
		closed: make(chan struct{}), room: make(chan struct{}, 1), local: newLaneAddr("local", id), remote: newLaneAddr(s.b.cfg.Name, id)}
}

// Class returns the lane's class.
func (l *Lane) Class() Class { return laneClass(l.id) }

// ID returns the lane's number in its session.
func (l *Lane) ID() int { return int(l.id) }

// LocalAddr and RemoteAddr name the lane; there is no IP address to it.
func (l *Lane) LocalAddr() net.Addr  { return l.local }
func (l *Lane) RemoteAddr() net.Addr { return l.remote }

// MaxPacketSize is the largest packet WriteTo takes: what fitted every path that carries the lane's class when the lane was
// opened or accepted. It stays, as a QUIC connection's packet size does; see [Lane.Fit].
func (l *Lane) MaxPacketSize() int {
	b := l.s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	return l.size
}

// SetConn lets the lane watch the connection that reads from it, so that its receive queue never overflows.
func (l *Lane) SetConn(c *quic.Conn) { l.conn.Store(c) }

// SetReadBuffer and SetWriteBuffer do nothing: quic-go asks, the bond's queues have their own bounds.
func (l *Lane) SetReadBuffer(int) error  { return nil }
func (l *Lane) SetWriteBuffer(int) error { return nil }

// SetDeadline and SetWriteDeadline set nothing for writes: WriteTo has its own limit.
func (l *Lane) SetDeadline(t time.Time) error      { return l.SetReadDeadline(t) }
func (l *Lane) SetWriteDeadline(_ time.Time) error { return nil }

// SetReadDeadline implements net.PacketConn.
func (l *Lane) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		l.readDeadline.Store(0)
	} else {
		l.readDeadline.Store(max(t.UnixNano(), 1))
	}
	l.poke()
	return nil
}

// poke makes the reader look again.
func (l *Lane) poke() {
	select {
	case l.rx.wake <- struct{}{}:
	default:
	}
}

// WriteTo queues one packet, waiting for room. The address is not used.
func (l *Lane) WriteTo(p []byte, _ net.Addr) (int, error) {
	if len(p) > maxPacket {
		return 0, fmt.Errorf("write packet of %d bytes, allowed %d: %w", len(p), l.MaxPacketSize(), syscall.EMSGSIZE)
	}
	b := l.s.b
	buf := newPacketBuf(p)
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
			l.timer.Store(timer)
		}
	}()
	for {
		b.mu.Lock()
		if l.closedAt != 0 {
			b.mu.Unlock()
			buf.free()
			return 0, net.ErrClosed
		}
		if l.tx.queue.len() < laneQueue {
			l.tx.queue.push(buf)
			wake := !b.paced || l.tx.class != Bulk
			b.mu.Unlock()
			if wake {
				b.wakeup()
			}
			return len(p), nil
		}
		b.mu.Unlock()
		if l.stalled.Load() {
			buf.free()
			return len(p), nil
		}
		if timer == nil {
			if timer = l.timer.Swap(nil); timer == nil {
				timer = time.NewTimer(writeStall)
			} else {
				timer.Reset(writeStall)
			}
		}
		select {
		case <-l.room:
		case <-l.closed:
		case <-timer.C:
			l.stalled.Store(true)
		}
	}
}

// ReadFrom returns the next packet in its time.
func (l *Lane) ReadFrom(p []byte) (int, net.Addr, error) {
	b := l.s.b
	for {
		if err := l.waitBacklog(); err != nil {
			return 0, nil, err
		}
		b.mu.Lock()
		_, at := b.host.now()
		if l.closedAt != 0 {
			b.mu.Unlock()
			return 0, nil, net.ErrClosed
		}
		next := stamp(0)
		if l.rx.ready.len() == 0 {
			if next = l.rx.release(at); l.rx.ready.len() > 0 {
				l.rx.release(at + us(l.ahead()))
			}
		}
		if l.rx.ready.len() > 0 {
			buf := l.rx.ready.pop()
			b.mu.Unlock()
			n := copy(p, buf.bytes())
			l.backlog.handed(buf.n)
			buf.free()
			return n, l.RemoteAddr(), nil
		}
		b.mu.Unlock()
		wait := time.Hour
		if next > 0 {
			wait = (next - at).duration()
		}
		if err := l.sleep(wait); err != nil {
			return 0, nil, err
		}
	}
}

// ahead is how far ahead of their time packets may be handed over.
func (l *Lane) ahead() time.Duration {
	if l.Class() == Bulk {
		return coalesceBulk
	}
	return coalesce
}

// sleep waits for the time, for packets, or for the lane's end.
func (l *Lane) sleep(d time.Duration) error {
	if dl := l.readDeadline.Load(); dl != 0 {
		left := time.Until(time.Unix(0, dl))
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		d = min(d, left)
	}
	t := l.backlog.timer(d)
	select {
	case <-t.C:
		return nil
	case <-l.rx.wake:
	case <-l.closed:
		// ReadFrom tells.
	}
	t.Stop()
	return nil
}

// waitBacklog waits until the connection has processed enough of what it was given (DESIGN section 4, rule 4).
func (l *Lane) waitBacklog() error {
	c := l.conn.Load()
	if c == nil {
		return nil
	}
	k := &l.backlog
	for {
		if k.outstanding(c.ConnectionStats().BytesReceived) < quicBacklog {
			return nil
		}
		if k.stuck(time.Now()) {
			return nil
		}
		select {
		case <-l.closed:
			return net.ErrClosed
		case <-c.Context().Done():
			return nil
		case <-k.timer(100 * time.Microsecond).C:
		}
	}
}

// backlog counts the packets handed to a QUIC connection that it has not processed: quic-go counts the bytes of every
// datagram it takes off its receive queue.
type backlog struct {
	given    uint64 // bytes handed over
	offset   uint64 // given minus processed when last in step
	ends     ring[uint64]
	inStep   bool
	lastDone uint64
	moved    time.Time
	t        *time.Timer
	stalls   uint64
}

func (k *backlog) timer(d time.Duration) *time.Timer {
	if k.t == nil {
		k.t = time.NewTimer(d)
	} else {
		k.t.Reset(d)
	}
	return k.t
}

func (k *backlog) handed(n int) {
	k.given += uint64(n)
	if k.inStep {
		k.ends.push(k.given)
	}
}

// outstanding returns how many packets wait, given the connection's count of bytes received.
func (k *backlog) outstanding(done uint64) int {
	if !k.inStep { // the first look: what came before counts as processed
		k.inStep, k.offset = true, k.given-done
	}
	if done != k.lastDone {
		k.lastDone, k.moved = done, time.Time{}
	}
	for k.ends.len() > 0 && k.ends.front() <= done+k.offset {
		k.ends.pop()
	}
	return k.ends.len()
}

// stuck tells whether nothing moved for so long that packets must have been dropped uncounted; the count starts anew.
func (k *backlog) stuck(now time.Time) bool {
	if k.moved.IsZero() {
		k.moved = now
		k.stalls++
	}
	if now.Sub(k.moved) < backlogStuck {
		return false
	}
	k.inStep = false
	for k.ends.len() > 0 {
		k.ends.pop()
	}
	return true
}

// Close closes the lane; its last packets still go out.
func (l *Lane) Close() error {
	b := l.s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	_, at := b.host.now()
	l.closeLocked(at)
	return nil
}

func (l *Lane) closeLocked(at stamp) {
	if l.closedAt != 0 {
		return
	}
	l.closedAt = max(at, 1)
	close(l.closed)
}

// forget gives back what a closed lane holds. Called with mu held.
func (l *Lane) forget() {
	l.tx.release()
	l.rx.drop()
	l.conn.Store(nil)
}

// reusable tells whether the lane's number may be given to a new lane.
func (l *Lane) reusable(at stamp) bool { return l.closedAt != 0 && at-l.closedAt > us(laneTombstone) }

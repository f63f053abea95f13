package bond

import (
	"time"

	"github.com/landbridge/landbridge/fec"
)

const (
	// interactiveHold is how long an interactive lane keeps packets behind a hole, so that a repair over another path
	// is not seen as reordering.
	interactiveHold = 15 * time.Millisecond
	// youngLane is how many packets make a lane's own use of the paths tell. Until then, and for youngFor at the most,
	// interactive lanes are equalised too: their QUIC window is to grow first.
	youngLane = 3000
	youngFor  = 8 * time.Second

	// With too much missing the lane holds the line: what is there waits, in order, for what is not. quic-go keeps 64
	// ranges of received packets and acknowledges nothing under them. A lane whose lessons are over lets QUIC see up to
	// holdHoles. Before, each packet that is late is a loss to QUIC, which remembers 64 of them for the undo.
	holdHoles      = 50
	holdHolesUntil = 36
	holdLate       = 48
	holdLateUntil  = 8
	holdAtMost     = 800 * time.Millisecond
	// deliverQueue bounds the packets ready for QUIC; full only when QUIC stopped reading, and then new ones are not
	// accepted from the paths (counted; the peer sends them again).
	deliverQueue = laneWindow
)

type slotState uint8

const (
	slotMissing  slotState = iota // not arrived
	slotHeld                      // arrived, not handed over
	slotReleased                  // handed over
)

type inPacket struct {
	buf   *packetBuf
	due   stamp // equalised lanes: send time plus the common delay; others: arrival plus hold
	state slotState
}

// laneRx is the receiving half of a lane. Guarded by the bond's mutex.
type laneRx struct {
	id    uint8
	class Class
	slots []inPacket // by number modulo laneWindow

	cum  uint64 // everything under it has arrived
	high uint64 // largest arrived plus one
	scan uint64 // next to hand over in line; what is missing under it is late

	newest     stamp // latest send time of the lane's packets and repairs, on this clock
	repairedAt stamp // newest repair symbol

	late      int   // missing under scan
	holes     int   // runs of them
	holding   bool  // too much missing at once: in order until it came
	holdSince stamp // start of the hold
	held      bool  // for holdAtMost, in vain: the line goes on until less is missing

	common    int64 // common delay of an equalised lane, µs against the clock offset; to be found anew with !haveDelay
	commonAt  stamp
	haveDelay bool
	toldStart bool            // the newest packet was one of the peer's first after a pause
	start     bool            // and the lane was not young when their data began
	small     int             // packets under fullSize in a row
	lastAt    stamp           // newest packet
	active    [maxPaths]stamp // newest packet of the lane by path

	lesson lesson

	dec   *fec.Decoder
	rec   []fec.Packet
	ready ring[*packetBuf]
	tardy ring[*packetBuf] // late packets that wait for the next in line, until tardyDue
	wake  chan struct{}

	tardyDue stamp

	young   bool
	bornAt  stamp // first packet
	arrived bool  // since the last report
	unsaid  int   // reports that shall still speak of the lane

	received, recovered, duplicate, overflow, lateCount, holds uint64
}

func newLaneRx(id uint8, class Class) *laneRx {
	l := &laneRx{id: id, class: class, slots: make([]inPacket, laneWindow), wake: make(chan struct{}, 1), young: true, lesson: lesson{left: lessons}}
	if class != Bulk {
		l.decoder()
	}
	return l
}

func (l *laneRx) decoder() *fec.Decoder {
	if l.dec == nil {
		l.dec = fec.NewDecoder(fecWindow, maxPacket)
	}
	return l.dec
}

func (l *laneRx) slot(seq uint64) *inPacket { return &l.slots[seq%laneWindow] }

// equalised tells whether the lane's packets keep one common delay; for good only bulk does, as it spreads over all paths.
func (l *laneRx) equalised() bool {
	return l.class == Bulk || l.class == Interactive && l.young
}

// source takes a packet off a path: sent is its send time on this clock (against the unknown offset), of a repetition
// that of the first time (see sentAbout).
func (l *laneRx) source(now stamp, seq uint64, payload []byte, sent stamp) {
	l.age(now)
	if !l.put(now, seq, payload, sent) {
		return
	}
	l.received++
	l.note(now, len(payload))
	l.newest = max(l.newest, sent)
	if l.dec != nil {
		l.rec = l.dec.Source(seq, payload, l.rec[:0])
		l.putRecovered(now)
	}
}

// age ends the lane's youth.
func (l *laneRx) age(now stamp) {
	if l.bornAt == 0 {
		l.bornAt = now
	}
	if l.young && (l.received > youngLane || now-l.bornAt > us(youngFor)) {
		l.young = false
	}
}

// note keeps count of what tells a lean direction.
func (l *laneRx) note(now stamp, n int) {
	if n >= fullSize {
		l.small = 0
	} else {
		l.small++
	}
	l.lastAt = now
}

// repair takes a repair symbol.
func (l *laneRx) repair(now stamp, first uint64, n int, key uint32, symbol []byte, sent stamp) error {
	l.newest, l.repairedAt = max(l.newest, sent), now
	var err error
	l.rec, err = l.decoder().Repair(first, n, key, symbol, l.rec[:0])
	l.putRecovered(now)
	return err
}

// putRecovered stores what the decoder recovered.
func (l *laneRx) putRecovered(now stamp) {
	for i := range l.rec {
		p := &l.rec[i]
		if l.put(now, p.Seq, p.Payload, l.sentAbout(p.Seq, l.newest)) {
			l.recovered++
		}
		p.Payload = nil
	}
}

// sentAbout is when a packet was first sent of which only a repair or a repetition came: as the next packet known, or
// last, the latest that it can have been. It must not be handed over early: one short round trip sample would end QUIC's
// slow start.
func (l *laneRx) sentAbout(seq uint64, last stamp) stamp {
	for s := max(seq+1, l.scan); s < l.high && s < seq+64; s++ {
		if q := l.slot(s); q.state == slotHeld {
			return q.due - stamp(l.common)
		}
	}
	return last
}

// put stores a packet in its slot unless it is there already or outside the window.
func (l *laneRx) put(now stamp, seq uint64, payload []byte, sent stamp) bool {
	if seq < l.cum {
		l.duplicate++
		return false
	}
	if seq >= l.cum+laneWindow || seq >= l.scan+laneWindow || l.ready.len()+l.tardy.len() >= deliverQueue {
		l.overflow++
		return false
	}
	if seq < l.high && l.slot(seq).state != slotMissing {
		l.duplicate++
		return false
	}
	for l.high <= seq {
		*l.slot(l.high) = inPacket{}
		l.high++
	}
	s := l.slot(seq)
	s.buf, s.state = newPacketBuf(payload), slotHeld
	if l.equalised() && seq >= l.scan && l.lesson.take(now, s.buf, sent+stamp(l.common)) {
		s.buf, s.state = nil, slotReleased
	}
	if l.equalised() {
		s.due = sent + stamp(l.common)
	} else if l.class == Interactive {
		s.due = now + us(interactiveHold)
	} else {
		s.due = now
	}
	l.arrived = true
	for l.cum < l.high && l.slot(l.cum).state != slotMissing {
		l.cum++
	}
	if seq < l.scan { // late: at once or nearly so, out of order
		l.late--
		l.lateCount++
		l.holes--
		if seq > 0 && l.slot(seq-1).state == slotMissing && seq-1 >= l.cum {
			l.holes++
		}
		if seq+1 < l.scan && l.slot(seq+1).state == slotMissing {
			l.holes++
		}
		l.handLate(now, s)
		if (l.holding || l.held) && !l.tooMany(0, holdHolesUntil, holdLateUntil) {
			l.holding, l.held = false, false
		}
	}
	return true
}

func (l *laneRx) hand(s *inPacket) {
	l.ready.push(s.buf)
	s.buf, s.state = nil, slotReleased
}

// handLate hands over a packet that came after its time. On a bulk lane it goes with the next in line, or coalesceBulk
// later: each late packet alone would be one acknowledgement of QUIC's more, a third of all in the scenario typical.
func (l *laneRx) handLate(now stamp, s *inPacket) {
	if l.class != Bulk || l.lesson.left > 0 {
		l.hand(s)
		return
	}
	if l.tardy.len() == 0 {
		l.tardyDue = now + us(coalesceBulk)
	}
	l.tardy.push(s.buf)
	s.buf, s.state = nil, slotReleased
}

// release moves what is due to the ready queue and returns when to come back; 0: nothing waits.
func (l *laneRx) release(now stamp) stamp {
	before := l.ready.len()
	next := l.releaseInLine(now)
	switch {
	case l.tardy.len() == 0:
	case l.ready.len() > before || l.tardyDue <= now:
		for l.tardy.len() > 0 {
			l.ready.push(l.tardy.pop())
		}
	case next == 0 || l.tardyDue < next:
		next = l.tardyDue
	}
	if d := l.lesson.due; d != 0 {
		if d <= now {
			l.ready.push(l.lesson.give())
		} else if next == 0 || d < next {
			next = d
		}
	}
	return next
}

func (l *laneRx) releaseInLine(now stamp) stamp {
	for l.scan < l.high {
		s := l.slot(l.scan)
		if s.state == slotReleased { // kept aside
			l.scan++
			continue
		}
		if s.state == slotHeld {
			l.holding = false // what the line was held for has come
			if l.equalised() && s.due > now {
				return s.due
			}
			l.hand(s)
			l.scan++
			continue
		}
		// A hole: it is passed over once what is behind it is due, unless too many are open.
		if l.holding {
			if now-l.holdSince < us(holdAtMost) {
				return l.holdSince + us(holdAtMost)
			}
			l.holding, l.held = false, true
		}
		next := l.scan + 1
		for next < l.high && l.slot(next).state != slotHeld {
			next++
		}
		if next == l.high {
			return 0
		}
		if due := l.slot(next).due; due > now {
			return due
		}
		if l.class != Realtime && !l.held && l.tooMany(int(next-l.scan), holdHoles, holdLate) {
			l.holding, l.holdSince = true, now
			l.holds++
			continue
		}
		l.late += int(next - l.scan)
		l.holes++
		l.scan = next
	}
	return 0
}

// tooMany tells whether QUIC would miss too much with n packets more passed over.
func (l *laneRx) tooMany(n, holes, late int) bool {
	if n > 0 {
		n, holes = l.late+n, holes-1
	} else {
		n = l.late
	}
	if l.lesson.left == 0 {
		return l.holes > holes
	}
	return n > late
}

// section returns the lane's part of a report; ranges is appended to the backing store.
//
// A bulk lane that gets no repairs says nothing of what has arrived before its time, out of order: the sender repeats by
// what paths lost, and half of the report would be the packets that are under way on slower paths.
func (l *laneRx) section(now stamp, ranges []seqRange) (laneReport, []seqRange) {
	high := l.high
	if l.class == Bulk && !l.holding && (l.repairedAt == 0 || now-l.repairedAt > us(time.Second)) {
		high = max(l.scan, l.cum)
	}
	r := laneReport{id: l.id, cum: uint32(l.cum), high: uint32(high)}
	from := len(ranges)
	for s := l.cum; s < high; {
		if l.slot(s).state != slotMissing {
			s++
			continue
		}
		e := s + 1
		for e < high && l.slot(e).state == slotMissing {
			e++
		}
		ranges = append(ranges, seqRange{uint32(s), uint32(e - s)})
		s = e
		if len(ranges)-from > maxRanges {
			break
		}
	}
	r.ranges = ranges[from:len(ranges):len(ranges)]
	l.arrived = false
	return r, ranges
}

// drop gives everything back; the lane is closed and its number stays taken for long.
func (l *laneRx) drop() {
	if l.lesson.buf != nil {
		l.lesson.give().free()
	}
	for i := range l.slots {
		if b := l.slots[i].buf; b != nil {
			b.free()
			l.slots[i].buf = nil
		}
	}
	for _, q := range []*ring[*packetBuf]{&l.ready, &l.tardy} {
		for q.len() > 0 {
			q.pop().free()
		}
	}
	l.slots, l.dec = nil, nil
}

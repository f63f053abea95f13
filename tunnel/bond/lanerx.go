package bond

import (
	"time"

	"github.com/landbridge/landbridge/fec"
)

const (
	// interactiveHold is how long an interactive lane keeps packets behind a hole, so that a repair over another path
	// is not seen as reordering.
	interactiveHold = 15 * time.Millisecond
	// equaliseMargin is kept above the slowest path's delay at the least: queues that come and go under it stay
	// invisible to QUIC. equaliseShare of the slowest path's round trip is what a packet needs that is lost twice: it
	// arrives after two rounds of detection and report, 5 one-way delays, and QUIC waits for its acknowledgement for two
	// of its own round trips, 4 D less the D of the way back; D at 1.55 one-way delays keeps it in time.
	equaliseMargin = 20 * time.Millisecond
	equaliseMost   = 100 * time.Millisecond
	equaliseShare  = 0.275
	// equaliseDecay is how fast the common delay falls, µs a second, once a path got faster.
	equaliseDecay = 20_000
	// activeFor is how long a path counts for the common delay after its last packet of the lane.
	activeFor = time.Second

	// youngLane is how many packets make a lane's own use of the paths tell. Until then, and for youngFor at the most,
	// interactive lanes are equalised too: their QUIC window is to grow first.
	youngLane = 3000
	youngFor  = 8 * time.Second

	// quic-go remembers 64 lost packets for the undo; with more missing the lane holds the line.
	holdAt     = 48
	holdUntil  = 8
	holdAtMost = 800 * time.Millisecond
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

	newest stamp // latest send time of the lane's packets and repairs, on this clock

	late      int   // missing under scan
	holding   bool  // too much missing at once: in order until it came
	holdSince stamp // start of the hold

	common    int64 // common delay of an equalised lane, µs against the clock offset; 0 with !haveCommon
	commonAt  stamp
	haveDelay bool
	active    [maxPaths]stamp // newest packet of the lane by path

	lesson lesson

	dec   *fec.Decoder
	rec   []fec.Packet
	ready ring[*packetBuf]
	wake  chan struct{}

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

// source takes a packet off a path: sent is its send time on this clock (against the unknown offset); now for a
// repetition, which is late anyway.
func (l *laneRx) source(now stamp, seq uint64, payload []byte, sent stamp) {
	if l.bornAt == 0 {
		l.bornAt = now
	}
	if l.young && (l.received > youngLane || now-l.bornAt > us(youngFor)) {
		l.young = false
	}
	if !l.put(now, seq, payload, sent) {
		return
	}
	l.received++
	l.newest = max(l.newest, sent)
	if l.dec != nil {
		l.rec = l.dec.Source(seq, payload, l.rec[:0])
		l.putRecovered(now)
	}
}

// repair takes a repair symbol.
func (l *laneRx) repair(now stamp, first uint64, n int, key uint32, symbol []byte, sent stamp) error {
	l.newest = max(l.newest, sent)
	var err error
	l.rec, err = l.decoder().Repair(first, n, key, symbol, l.rec[:0])
	l.putRecovered(now)
	return err
}

// putRecovered stores what the decoder recovered. Its send time is lost with it: that of the next packet known stands in,
// or the newest of the lane. A recovered packet must not be handed over early: one short round trip sample would end
// QUIC's slow start.
func (l *laneRx) putRecovered(now stamp) {
	for i := range l.rec {
		p := &l.rec[i]
		at := l.newest
		for s := p.Seq + 1; s < l.high && s < p.Seq+64; s++ {
			if q := l.slot(s); q.state != slotMissing {
				at = q.due - stamp(l.common)
				break
			}
		}
		if l.put(now, p.Seq, p.Payload, at) {
			l.recovered++
		}
		p.Payload = nil
	}
}

// put stores a packet in its slot unless it is there already or outside the window.
func (l *laneRx) put(now stamp, seq uint64, payload []byte, sent stamp) bool {
	if seq < l.cum {
		l.duplicate++
		return false
	}
	if seq >= l.cum+laneWindow || seq >= l.scan+laneWindow || l.ready.len() >= deliverQueue {
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
	if seq < l.scan { // late: at once, out of order
		l.late--
		l.lateCount++
		l.hand(s)
		if l.holding && l.late <= holdUntil {
			l.holding = false
		}
	}
	return true
}

func (l *laneRx) hand(s *inPacket) {
	l.ready.push(s.buf)
	s.buf, s.state = nil, slotReleased
}

// release moves what is due to the ready queue and returns when to come back; 0: nothing waits.
func (l *laneRx) release(now stamp) stamp {
	next := l.releaseInLine(now)
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
			if l.equalised() && !l.holding && s.due > now {
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
			l.holding = false
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
		if l.late+int(next-l.scan) > holdAt && l.class != Realtime {
			l.holding, l.holdSince = true, now
			l.holds++
			continue
		}
		l.late += int(next - l.scan)
		l.scan = next
	}
	return 0
}

// margin is what the common delay of a lane keeps above the slowest path, given that path's round trip.
func margin(rtt time.Duration) time.Duration {
	return min(max(equaliseMargin, time.Duration(equaliseShare*float64(rtt))), equaliseMost)
}

// equalise sets the common delay from the paths that carry the lane.
func (s *Session) equalise(now stamp, l *laneRx) {
	above := margin(s.slowest())
	var most int64
	have := false
	for _, p := range s.rx {
		if p == nil || now-p.lastAt > us(activeFor) {
			continue
		}
		// A young lane reckons with every path, or its round trip would grow while it spreads and end QUIC's slow start; but
		// not with one that is left out here, as it will be there.
		carries := l.active[p.id] != 0 && now-l.active[p.id] <= us(activeFor)
		if !carries && (l.received >= youngLane || p.pair != nil && s.leftOut(p.pair)) {
			continue
		}
		base, edge := p.delay.base(), p.delay.edge()
		if l.received < youngLane/4 { // the queue of a path's startup is about to go
			edge = min(edge, base+int64(us(above)))
		}
		d := max(base+int64(us(above)), edge+int64(us(2*time.Millisecond)))
		if !have || d > most {
			most, have = d, true
		}
	}
	if !have {
		return
	}
	if !l.haveDelay || most > l.common {
		l.common, l.haveDelay = most, true
	} else {
		fall := int64(now-l.commonAt) * equaliseDecay / 1_000_000
		l.common = max(most, l.common-fall)
	}
	l.commonAt = now
}

// section returns the lane's part of a report; ranges is appended to the backing store.
func (l *laneRx) section(ranges []seqRange) (laneReport, []seqRange) {
	r := laneReport{id: l.id, cum: uint32(l.cum), high: uint32(l.high)}
	from := len(ranges)
	for s := l.cum; s < l.high; {
		if l.slot(s).state != slotMissing {
			s++
			continue
		}
		e := s + 1
		for e < l.high && l.slot(e).state == slotMissing {
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
	for l.ready.len() > 0 {
		l.ready.pop().free()
	}
}

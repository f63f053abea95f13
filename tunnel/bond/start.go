package bond

import "time"

// The first second of a bulk lane after a pause is all that most flows of it need. The common delay that hides repetitions
// would be a fifth of that second, and each packet lost would stop its stream for as long. So the first packets go with as
// much repair as brings nearly all that is lost back, by the delay of the slowest path and a little, and auxStart tells the
// peer to keep the common delay as short as that. Later the repair would cost more than the delay does.
const (
	startRepair = time.Second
	// startPerLoss and startLeast give the repair ratio from the loss; the window of a symbol is some ms, in which losses
	// bunch. Up to startMost, as the loss comes from few packets.
	startPerLoss = 2
	startLeast   = 0.03
	startMost    = 0.3
	// startSlack is what a packet lost waits for its repair, beyond the time that the slowest path needs for the others the
	// repair is of.
	startSlack = 15 * time.Millisecond
)

// begun tells whether a bulk lane has begun to send data after a pause less than startRepair ago.
func (t *laneTx) begun(at stamp) bool {
	return t.class == Bulk && t.fullAt != 0 && at-t.fullFrom < us(startRepair)
}

// starting tells whether a packet sent now is one of the first after a pause, or one before them.
func (t *laneTx) starting(at stamp) bool {
	return t.class == Bulk && (t.fullAt == 0 || at-t.fullAt > us(activeFor)) || t.begun(at)
}

// startRatio is the repair ratio for the first packets of bulk lanes. Called with mu held.
func (s *Session) startRatio() float64 {
	var lost, rate float64
	for _, p := range s.b.paths {
		if p.usable() && !s.leftOut(p) {
			bw := float64(p.ctrl.Bandwidth())
			lost += p.lossShort * bw
			rate += bw
		}
	}
	if lost <= shelterLoss*rate {
		return 0
	}
	return min(startPerLoss*lost/rate+startLeast, startMost)
}

// startHold is fecHold for bulk lanes: repair comes by any path, and is of packets that went by all of them.
func (s *Session) startHold(p *pathTx) time.Duration {
	latest := p.owdRel
	for _, q := range s.b.paths {
		if q.usable() && !s.leftOut(q) {
			latest = max(latest, q.owdRel)
		}
	}
	return time.Duration(latest-p.owdRel)*time.Microsecond + startSlack
}

// firstTwice sends the first packet after a pause over a second path too: no repair is of it, and all that follows waits
// for it. The copy is no repetition: its time is as exact, and a packet handed over early would end QUIC's slow start.
func (s *Session) firstTwice(now time.Time, at stamp, l *Lane, seq uint64, o *outPacket) {
	if l.tx.class != Bulk || !s.b.out.room() {
		return
	}
	if q := s.other(at, l.tx.class, 1<<o.path, o.buf.n); q != nil {
		s.b.emit(now, at, q, header{kind: kindSource, lane: l.id, aux: auxStart, laneSeq: uint32(seq)}, o.buf.bytes(), true, false)
	}
}

// onStart notes whether a new packet is one of the peer's first ones after a pause, and tells whether the common delay is to
// be found anew for it. While a lane is young its delay only grows: QUIC's slow start would end otherwise.
func (l *laneRx) onStart(now stamp, seq uint64, starts bool) bool {
	if l.class != Bulk || seq < l.high || starts && l.start || !starts && !l.toldStart {
		return false
	}
	l.age(now)
	was := l.start
	if !starts || !l.toldStart || l.lean(now) { // else data is on its way, since the lane was young
		l.start = starts && !l.young
	}
	l.toldStart = starts
	if l.start == was {
		return false
	}
	l.haveDelay = false // it may be shorter
	return true
}

package bond

import "time"

const (
	// copyDebt is how far ahead of its pacer a path may be for the second copy of a packet.
	copyDebt = 5 * time.Millisecond
	// copiesMost copies beside a repetition that must not fail, until the chance that all are lost is under copyMiss, or
	// copyMissAgain where a repetition has failed already: a third failure stops a flow for half a second, and there are
	// two or three such packets a second. copyLoss is what a path is thought to lose at the least.
	copiesMost    = 3
	copyMiss      = 0.001
	copyMissAgain = 0.00001
	copyLoss      = 0.01
	// copyAfter is how much later the second copy goes where there is only one path: a burst of loss is over by then.
	// maxCopies bounds those that wait; more are not made.
	copyAfter = 12 * time.Millisecond
	maxCopies = 1024
	// startTime is how long after a pause every repetition of a bulk lane has copies. A packet that is lost twice stops its
	// stream for 0.2 s, which is a fifth of a new flow's first second; later that costs less than copies of all.
	startTime = 1500 * time.Millisecond
)

// sendCopies follows a repetition that must not fail, as the first one did, with copies over other paths until the chance
// that all are lost is small. Where there is one path only they follow on that one, after a while.
func (s *Session) sendCopies(now time.Time, at stamp, l *Lane, seq uint64, o *outPacket, p *pathTx) {
	used := pathSet(1) << p.id
	miss, enough := max(p.lossShort, copyLoss), copyMiss
	if o.tries > 2 {
		enough = copyMissAgain
	}
	for n := 1; n <= copiesMost && (n == 1 || miss > enough) && s.b.out.room(); n++ {
		q := s.other(at, l.tx.class, used, o.buf.n)
		switch {
		case q != nil:
			s.copy(now, at, q, l, seq, o)
			used |= 1 << q.id
		case s.up < 2 && s.copies.len() < maxCopies:
			q = p
			s.copies.push(deferredLoss{lostRef{lane: l.id, seq: seq, path: p.id}, at + us(time.Duration(n)*copyAfter)})
		default:
			return
		}
		miss *= max(q.lossShort, copyLoss)
	}
}

// copied tells whether a repetition is to be followed by copies.
func (l *laneTx) copied(at stamp, o *outPacket, p *pathTx) bool {
	return o.tries > 2 || l.class == Interactive || l.shelter > 0 && p.lossShort > copyLoss || l.class == Bulk && at-l.fullFrom < us(startTime)
}

// copy sends a lane packet once more without expecting word of this copy.
func (s *Session) copy(now time.Time, at stamp, p *pathTx, l *Lane, seq uint64, o *outPacket) {
	s.b.emit(now, at, p, header{kind: kindSource, lane: l.id, aux: auxAgain, laneSeq: uint32(seq)}, o.buf.bytes(), true, false)
}

// runCopies sends the second copies that had only one path to go on. Called with mu held.
func (s *Session) runCopies(now time.Time, at stamp) {
	for range s.copies.len() {
		d := s.copies.pop()
		if d.due > at || !s.b.out.room() { // those behind it may be due
			s.copies.push(d)
			continue
		}
		p, l := s.b.paths[d.ref.path], s.lanes[d.ref.lane]
		if l == nil || !p.usable() || p.full() {
			continue
		}
		if o := l.tx.entry(d.ref.seq); o != nil && o.buf != nil && p.takes(o.buf.n) {
			s.copy(now, at, p, l, d.ref.seq, o)
		}
	}
}

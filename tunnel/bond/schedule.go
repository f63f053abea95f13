package bond

import (
	"math"
	"time"
)

// fill hands lane packets to paths by priority while pacers have credit; it returns when one will. Called with mu held.
func (s *Session) fill(now time.Time, at stamp) stamp {
	b := s.b
	next := stamp(math.MaxInt64)
	for b.out.room() {
		sent, wait := s.fillOne(now, at)
		if wait > 0 {
			next = min(next, wait)
		}
		switch {
		case sent:
		case s.floor > 0:
			s.floor = 0 // bulk had nothing to send in its turn
		default:
			for _, p := range b.paths {
				p.idle = p.idle || p.nextFree <= at
			}
			return next
		}
	}
	return next
}

// fillOne sends one datagram, or tells when to come back.
func (s *Session) fillOne(now time.Time, at stamp) (bool, stamp) {
	next := stamp(0)
	later := func(wait stamp) {
		if wait > 0 && (next == 0 || wait < next) {
			next = wait
		}
	}
	// Repetitions first, of all classes: they are few, and one that is too late is a loss to QUIC.
	for c := Realtime; c < numClasses; c++ {
		ok, wait := s.eachLane(c, false, func(l *Lane) (bool, stamp) { return s.sendAgain(now, at, l) })
		if ok {
			return true, 0
		}
		later(wait)
	}
	for c := Realtime; c < numClasses; c++ {
		if s.floor >= bulkFloor && c != Bulk {
			continue // bulk's turn
		}
		ok, wait := s.fillClass(now, at, c)
		if ok {
			return true, 0
		}
		later(wait)
	}
	return false, next
}

// eachLane asks the lanes of a class, from the one whose turn it is, until one has sent a datagram; with turns, it is the
// next one's turn then. Otherwise it tells when to come back if a path must be waited for.
func (s *Session) eachLane(c Class, turns bool, send func(*Lane) (bool, stamp)) (bool, stamp) {
	wait := stamp(0)
	n := len(s.live)
	for i := range n {
		k := (i + s.turn[c]) % n
		l := s.live[k]
		if l.tx.class != c {
			continue
		}
		ok, w := send(l)
		if ok {
			if turns {
				s.turn[c] = k + 1
			}
			return true, 0
		}
		if w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	return false, wait
}

// fillClass sends one datagram of the class: a repair or a new packet. It tells when to come back if a path must be waited
// for.
func (s *Session) fillClass(now time.Time, at stamp, c Class) (bool, stamp) {
	ok, wait := s.eachLane(c, false, func(l *Lane) (bool, stamp) { return s.sendRepair(now, at, l) })
	if !ok {
		var w stamp
		ok, w = s.eachLane(c, true, func(l *Lane) (bool, stamp) { return s.sendNew(now, at, l) })
		if !ok && w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	if !ok {
		return false, wait
	}
	if c == Bulk {
		s.floor = 0
	} else {
		s.floor++
	}
	return true, 0
}

func (s *Session) sendAgain(now time.Time, at stamp, l *Lane) (bool, stamp) {
	seq, o := l.tx.nextAgain()
	if o == nil {
		return false, 0
	}
	p, wait := s.pick(at, l.tx.class, pickAgain, o.buf.n, o.path)
	if p == nil {
		if s.tooLarge(o.buf.n) {
			l.tx.again.pop()
			o.queued = false
		}
		return false, wait
	}
	l.tx.again.pop()
	o.queued = false
	s.transmit(now, at, l, seq, o, p)
	l.tx.resent++
	if l.tx.copied(at, o, p) && s.b.out.room() {
		s.sendCopies(now, at, l, seq, o, p)
	}
	return true, 0
}

func (s *Session) transmit(now time.Time, at stamp, l *Lane, seq uint64, o *outPacket, p *pathTx) {
	p.carried(at)
	h := header{kind: kindSource, lane: l.id, laneSeq: uint32(seq)}
	switch {
	case o.tries > 0:
		h.aux = auxAgain
	case l.tx.starting(at):
		h.aux = auxStart
	}
	o.pseq = s.b.emit(now, at, p, h, o.buf.bytes(), true, true)
	p.rec(o.pseq).laneSeq = seq
	o.path, o.at = p.id, at
	if o.tries < maxTries {
		o.tries++
	}
}

func (s *Session) sendNew(now time.Time, at stamp, l *Lane) (bool, stamp) {
	t := l.tx
	if t.queue.len() == 0 || !t.room() {
		return false, 0
	}
	how := pickEarliest
	if t.class == Bulk {
		how = pickSpread
	}
	buf := t.queue.front()
	p, wait := s.pick(at, t.class, how, buf.n, maxPaths)
	if p == nil {
		if s.tooLarge(buf.n) {
			t.queue.pop().free()
			l.makeRoom()
		}
		return false, wait
	}
	t.queue.pop()
	seq := t.next
	t.next++
	o := &t.out[seq%laneWindow]
	*o = outPacket{buf: buf}
	if buf.n >= fullSize {
		if t.fullAt == 0 || at-t.fullAt > us(activeFor) {
			t.fullFrom = at
		}
		t.fullAt = at
	}
	s.transmit(now, at, l, seq, o, p)
	if at-t.newAt > us(activeFor) {
		s.firstTwice(now, at, l, seq, o)
	}
	t.newAt = at
	t.sent++
	t.sentSince++
	t.onSource(at, seq, buf.bytes(), p.id)
	l.makeRoom()
	return true, 0
}

// makeRoom wakes a WriteTo that waits, now and then. Called with mu held.
func (l *Lane) makeRoom() {
	if n := l.tx.queue.len(); n == laneQueue/2 || n == 0 {
		l.stalled.Store(false)
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
}

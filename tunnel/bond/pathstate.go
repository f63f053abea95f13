package bond

import "time"

// advance moves the path's state on: up once the peer has answered, suspect when it goes silent, down when it stays
// so, and back after clean probes and a dwell time that grows with flapping. What a path that went silent holds is added
// to s.lost. Called with mu held.
func (s *Session) advance(now time.Time, at stamp, p *pathTx) {
	answered := p.acked && p.lastAck >= p.stateSince
	switch p.state {
	case PathOpening:
		if answered {
			s.setState(at, p, PathUp)
		} else if at-p.stateSince > us(downAfter) {
			s.setState(at, p, PathDown)
		}
	case PathUp:
		from, waiting := p.oldestUnanswered()
		if !waiting {
			break
		}
		limit := suspectAfterIdle
		if p.elicOut >= busyPackets && !p.quiet(at) {
			limit = suspectAfter
		}
		if p.finding() {
			limit *= 3 // it fills queues, its own and those that reports wait in
		}
		if !s.heardElsewhere(p, from) {
			limit *= 2 // nowhere to go from here; or this process slept, and reports wait to be read
		}
		// Reports come after a round trip at the latest of the path they took, and every reportIdle.
		if at-from > us(s.slowestRTT(p)+limit) {
			p.clean = 0
			s.setState(at, p, PathSuspect)
			s.b.host.log.Info("path suspect", "peer", s.b.cfg.Name, "path", p.name)
			s.lost = p.giveUp(s.lost)
			p.ctrl.OnSilence(now)
		}
	case PathSuspect:
		switch {
		case answered && p.clean >= cleanProbes-1 && at-p.stateSince > us(p.dwell):
			s.setState(at, p, PathUp)
		case !answered && at-p.stateSince > us(downAfter):
			s.setState(at, p, PathDown)
		}
	case PathDown:
		if answered && p.clean >= cleanProbes && at-p.stateSince > us(p.dwell) {
			s.setState(at, p, PathUp)
		}
	}
}

// heardElsewhere tells whether anything was acknowledged on another path that is up since the given time.
func (s *Session) heardElsewhere(p *pathTx, since stamp) bool {
	for _, q := range s.b.paths {
		if q != p && q.usable() && q.lastAck > since {
			return true
		}
	}
	return false
}

func (s *Session) setState(at stamp, p *pathTx, to PathState) {
	from := p.state
	switch {
	case to == PathSuspect:
		if at-p.stateSince > us(dwellForget) {
			p.dwell = 0
		}
		p.dwell = min(max(2*p.dwell, dwellMin), dwellMax)
		s.b.pathEvents++
	case to == PathUp:
		p.lastAck, p.lastData = at, at // it is looked at closely at first
		p.search.check()               // it may come back by another way
	}
	if to == PathUp && from != PathOpening || to == PathDown {
		s.b.host.log.Info("path "+to.String(), "peer", s.b.cfg.Name, "path", p.name, "was", from)
	}
	if from == PathUp {
		s.up--
	}
	if to == PathUp {
		s.up++
	}
	p.state, p.stateSince = to, at
	if to == PathDown || to == PathSuspect {
		p.clean = 0
	}
}

// carries tells whether lane packets may go on a path: while none is up, also on a suspect one, as a bond that fell silent
// for want of a better path would make QUIC see the pause.
func (s *Session) carries(p *pathTx) bool {
	return p.state == PathUp || s.up == 0 && p.state == PathSuspect
}

// silent tells whether the peer has gone from every path.
func (s *Session) silent() bool {
	for _, p := range s.b.paths {
		if p.state == PathOpening || p.state == PathUp {
			return false
		}
	}
	return true
}

// slowestRTT is the longest a report about p may take: out on p, back on any path.
func (s *Session) slowestRTT(p *pathTx) time.Duration {
	rtt := p.rtt
	if rtt == 0 {
		rtt = 300 * time.Millisecond
	}
	for _, q := range s.b.paths {
		if q.usable() {
			rtt = max(rtt, (p.rtt+q.rtt)/2)
		}
	}
	return rtt
}

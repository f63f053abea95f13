package bond

import "time"

// Equalised delivery: packets of a lane reach QUIC at their send time plus one common delay (DESIGN section 4, rule 2).
const (
	// equaliseMargin is kept above the slowest path's delay at the least: queues that come and go under it stay
	// invisible to QUIC. equaliseShare of the slowest path's round trip is more of it for interactive lanes.
	equaliseMargin = 20 * time.Millisecond
	equaliseMost   = 100 * time.Millisecond
	equaliseShare  = 0.275
	// equaliseDecay is how fast the common delay falls, µs a second, once a path got faster.
	equaliseDecay = 20_000
	// activeFor is how long a path counts for the common delay after its last packet of the lane.
	activeFor = time.Second

	// A direction of a lane that has received leanAfter packets in a row under fullSize, or none for activeFor, carries
	// QUIC's acknowledgements and window updates at the most, for which loss and order do not matter: its common delay is
	// short, and QUIC's round trip with it. Data brings the full one back, at once or startRepair later.
	fullSize  = 600
	leanAfter = 200

	// quic-go keeps 64 ranges of received packets: what arrives below the oldest is not acknowledged any more, and so
	// lost to QUIC for good. holesWanted is how many holes a bulk lane may show it on average while repetitions of lost
	// packets are on their way; with more losses at a time, the common delay grows until the rest arrive in time.
	holesWanted = 10
	// repairTime is what detecting, reporting and repeating a lost packet takes beyond a round trip.
	repairTime = 25 * time.Millisecond
	repairCap  = 300 * time.Millisecond
	// windowUsed is the part of quic-go's largest window that may be needed to fill the bond.
	windowUsed = 0.85 * 10_000 * 1200

	// lossSpan is the number of packets that a receiving path's loss is averaged over, measureEvery how often.
	lossSpan     = 3000
	measureEvery = 100 * time.Millisecond
	// peakDecay is how the greatest packet rate of a path fades, a measurement.
	peakDecay = 0.9995
)

// margin is what the common delay of a lane keeps above the slowest path at the least, given that path's round trip.
func margin(rtt time.Duration) time.Duration {
	return min(max(equaliseMargin, time.Duration(equaliseShare*float64(rtt))), equaliseMost)
}

// above is what the lane's common delay keeps above the slowest path.
func (s *Session) above(at stamp, l *laneRx) time.Duration {
	switch {
	case l.class != Bulk:
		return margin(s.slowest())
	case l.lean(at), l.start:
		return equaliseMargin
	}
	return s.bulkMargin(l.young)
}

// lean tells whether nothing but QUIC's acknowledgements comes. A young lane is not lean: data that followed would make
// the round trip grow in QUIC's slow start.
func (l *laneRx) lean(at stamp) bool {
	return !l.young && (l.small > leanAfter || at-l.lastAt > us(activeFor))
}

// bulkMargin is above for a lane that carries bulk data: the round trip shall hide a packet lost twice, and most of
// those lost once shall be back before their time. A young lane takes the worst for granted: a round trip that grew
// would end QUIC's slow start. Called with mu held.
func (s *Session) bulkMargin(young bool) time.Duration {
	slow := s.slowest()
	repair := s.repairAbove
	if young {
		repair = s.repairMost
	}
	// A packet lost twice arrives after the slowest path's delay and two repairs. QUIC waits for its acknowledgement for two
	// of its own round trips: twice the common delay and twice that of a lean way back, which the acknowledgement takes.
	twice := s.repairMost - slow/2
	return max(margin(slow), twice, min(repair, s.windowRoom(slow)))
}

// windowRoom is the margin with which quic-go's largest window still fills the bond.
func (s *Session) windowRoom(slow time.Duration) time.Duration {
	rate := s.rate()
	if rate == 0 {
		return 0
	}
	return time.Duration(windowUsed*8/float64(rate)*float64(time.Second)) - slow - equaliseMargin
}

// measure updates the paths' losses and the margin that hides their repetitions.
func (s *Session) measure(at stamp) {
	if at < s.nextMeasure {
		return
	}
	s.nextMeasure = at + us(measureEvery)
	var losses float64 // a second
	for _, p := range s.rx {
		if p == nil || at-p.lastAt > us(activeFor) {
			continue
		}
		p.measure(at)
		losses += p.lossShare * p.peak
	}
	s.repairMost = min(s.fastest()+repairTime, repairCap)
	s.repairAbove = 0
	if losses > 0 {
		s.repairAbove = max(0, s.repairMost-time.Duration(holesWanted/losses*float64(time.Second)))
	}
}

// measure takes in what arrived since the last time.
func (p *pathRx) measure(at stamp) {
	span := at - p.measuredAt
	sent, got := p.largest-p.measuredLargest, p.packets-p.measuredPackets
	first := p.measuredAt == 0
	p.measuredAt, p.measuredLargest, p.measuredPackets = at, p.largest, p.packets
	if first || sent == 0 {
		return
	}
	p.seen = min(p.seen+sent, lossSpan)
	share := max(0, 1-float64(got)/float64(sent))
	p.lossShare += (share - p.lossShare) * min(1, float64(sent)/float64(p.seen))
	p.peak = max(p.peak*peakDecay, float64(got)/span.duration().Seconds())
}

// equalise sets the common delay from the paths that carry the lane.
func (s *Session) equalise(now stamp, l *laneRx) {
	above := s.above(now, l)
	var most int64
	have := false
	for _, p := range s.rx {
		if p == nil || now-p.lastAt > us(activeFor) {
			continue
		}
		// A young lane reckons with every path, or its round trip would grow while it spreads and end QUIC's slow start; so
		// does one after a pause, whose first packets come by the fastest paths. But not with one that is left out here, as
		// it will be there.
		carries := l.active[p.id] != 0 && now-l.active[p.id] <= us(activeFor)
		if !carries && (l.received >= youngLane && !l.start || p.pair != nil && s.leftOut(p.pair)) {
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
	if !l.haveDelay || most > l.common || l.lean(now) {
		l.common, l.haveDelay = most, true
	} else {
		fall := int64(now-l.commonAt) * equaliseDecay / 1_000_000
		l.common = max(most, l.common-fall)
	}
	l.commonAt = now
}

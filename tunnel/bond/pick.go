package bond

import "time"

const (
	// leftOutDelay and leftOutShare: a path that is later than the best by more than the one and carries less than the
	// other of the bond's rate would cost a bulk lane more in round trip than it brings.
	leftOutDelay = 150 * time.Millisecond
	leftOutShare = 0.05
	// avoidLater is how much later a path counts for the repair or repetition of what it carried.
	avoidLater = 20 * time.Millisecond
	// For each repair of the same train that it has carried, a path counts as later by a repairSpread-th of its round trip,
	// of which each further repair takes a repairForget-th away: a path is not used that is later than another by half a
	// round trip, from which on a repetition is hardly later.
	repairSpread = 10
	repairForget = 5
)

type pickMode uint8

const (
	pickEarliest pickMode = iota // earliest arrival; waits for that path's pacer
	pickSpread                   // any path in time for the common delay: whose pacer is free the longest
	pickAgain                    // earliest arrival, a loss weighed as a round trip
)

// pick chooses the path for a packet of the class, of n bytes; avoid is not taken if there is another. With none free it tells when
// to come back (0: only news will help).
func (s *Session) pick(at stamp, c Class, how pickMode, n int, avoid uint8) (*pathTx, stamp) {
	allowed := s.allowedPaths(c)
	var best *pathTx
	var bestScore, wait stamp
	for _, p := range s.b.paths {
		if allowed>>p.id&1 == 0 || !s.hasRoom(p, n) || c == Bulk && s.leftOut(p) {
			continue
		}
		if how == pickSpread {
			if p.nextFree > at {
				if wait == 0 || p.nextFree < wait {
					wait = p.nextFree
				}
				continue
			}
			if best == nil || p.nextFree < bestScore {
				best, bestScore = p, p.nextFree
			}
			continue
		}
		score := s.arrival(at, p, n, how == pickAgain)
		if p.id == avoid {
			score += us(avoidLater)
		}
		if best == nil || score < bestScore {
			best, bestScore = p, score
		}
	}
	if best == nil {
		return nil, wait
	}
	if how == pickEarliest {
		best = s.prefer(at, c, n, allowed, best, bestScore)
	}
	if best.nextFree > at {
		return nil, best.nextFree
	}
	return best, 0
}

// pickRepair chooses the path for a lane's next repair, of n bytes: as for a repetition, but each one that a path carries
// makes it count as later for the next, so that they spread. A burst of loss on one path, which may well be the one of the
// packets they protect, must not take them all. It passes over a path whose pacer is not free, unless the others are later
// by more than half a round trip.
func (s *Session) pickRepair(at stamp, t *laneTx, n int) (*pathTx, stamp) {
	allowed := s.allowedPaths(t.class)
	var best, first *pathTx
	var bestScore, bestAt, firstAt, wait stamp
	for _, p := range s.b.paths {
		if allowed>>p.id&1 == 0 || !s.hasRoom(p, n) || t.class == Bulk && s.leftOut(p) {
			continue
		}
		there := s.arrival(at, p, n, true)
		if first == nil || there < firstAt {
			first, firstAt = p, there
		}
		if p.nextFree > at {
			if wait == 0 || p.nextFree < wait {
				wait = p.nextFree
			}
			continue
		}
		score := there + t.repaired[p.id]
		if p.id == t.lastPath {
			score += us(avoidLater)
		}
		if best == nil || score < bestScore {
			best, bestScore, bestAt = p, score, there
		}
	}
	if best != nil && first.nextFree > at && bestAt-firstAt > us(first.rtt/2) {
		best = nil
	}
	if best == nil {
		return nil, wait
	}
	return best, 0
}

// other is the path but those used on which a copy of a packet of the class arrives first. It may go a little into the
// pacer's debt: two copies are worth more together.
func (s *Session) other(at stamp, c Class, used pathSet, n int) *pathTx {
	allowed := s.allowedPaths(c)
	var best *pathTx
	var bestScore stamp
	for _, q := range s.b.paths {
		if (used|^allowed)&(1<<q.id) != 0 || !q.usable() || !s.hasRoom(q, n) || !q.validated || q.nextFree > at+us(copyDebt) ||
			c == Bulk && s.leftOut(q) {
			continue
		}
		if score := s.arrival(at, q, n, true); best == nil || score < bestScore {
			best, bestScore = q, score
		}
	}
	return best
}

// arrival is when a packet of n bytes sent on the path would arrive, against the paths' common offset, with a margin for jitter; on
// a repetition a loss weighs as a round trip.
func (s *Session) arrival(at stamp, p *pathTx, n int, again bool) stamp {
	t := max(p.nextFree, at) + stamp(int64(wireSize(n))*8_000_000/max(p.ctrl.Bandwidth(), 100_000)) + stamp(p.owdRel) + stamp(p.owdVar)
	if again {
		t += stamp(p.lossShort * float64(us(p.rtt)))
	}
	return t
}

// leftOut tells whether a path would cost a bulk lane more than it brings.
func (s *Session) leftOut(p *pathTx) bool {
	var total int64
	least := p.owdRel
	for _, q := range s.b.paths {
		if q.usable() {
			total += q.ctrl.Bandwidth()
			least = min(least, q.owdRel)
		}
	}
	return p.owdRel-least > int64(us(leftOutDelay)) && float64(p.ctrl.Bandwidth()) < leftOutShare*float64(total)
}

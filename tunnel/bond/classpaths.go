package bond

import (
	"fmt"
	"time"
)

// preferPacer is how long a preferred path's pacer may keep a packet waiting: what is more shows load, which the earliest
// arrival spreads.
const preferPacer = 2 * time.Millisecond

// preferWithin is how much later than on the earliest path a packet may arrive on a preferred one, by class. A call's
// packets keep to the path that the decision holds best for it: 20 ms cost it little (G.107: half a point of R). Requests
// come out worse on one path than spread: a burst of loss then takes more of one FEC window and of a small QUIC window
// (32 KB objects in lab typical, seed 1: p50 375 and 229 ms with 25 ms here, 180 without), so that they do what earliest
// arrival says among the paths that the decision allows.
var preferWithin = [numClasses]time.Duration{Realtime: 20 * time.Millisecond}

// classPaths is what SetClassPaths has said of a class. The zero value allows every path and prefers none.
type classPaths struct {
	set  bool
	rank [maxPaths]uint8 // place in the order, from 1; 0: not allowed
}

// SetClassPaths says which paths the packets of a class may use, by number (PathStats.ID), best first; none means all, in
// no order. Realtime packets take the first of them that is not much later than the earliest, interactive ones the earliest
// of them; bulk ones
// are spread over all of them. Where none of them carries packets, every path is allowed. It holds until the next call,
// also for other sessions.
func (b *Bond) SetClassPaths(c Class, order []uint8) error {
	if c >= numClasses {
		return fmt.Errorf("set class paths: %v, allowed realtime to bulk", c)
	}
	var cp classPaths
	for i, id := range order {
		if id >= maxPaths || cp.rank[id] != 0 {
			return fmt.Errorf("set class paths: path %d: must be below %d, and named once", id, maxPaths)
		}
		cp.set, cp.rank[id] = true, uint8(i+1)
	}
	b.mu.Lock()
	b.classes[c] = cp
	b.mu.Unlock()
	b.wakeup()
	return nil
}

// pathSet is a set of paths, by number.
type pathSet uint16

const allPaths pathSet = 1<<maxPaths - 1

// wireSize is what a lane packet of n bytes takes on a link.
func wireSize(n int) int { return n + headerSize + tagSize + frameOverhead }

// allowedPaths is the set of paths that packets of the class may use now. Called with mu held.
func (s *Session) allowedPaths(c Class) (set pathSet) {
	cp := &s.b.classes[c]
	if !cp.set {
		return allPaths
	}
	for _, p := range s.b.paths {
		if cp.rank[p.id] != 0 && s.carries(p) && !p.blocked() && (c != Bulk || !s.leftOut(p)) {
			set |= 1 << p.id
		}
	}
	if set == 0 {
		return allPaths
	}
	return set
}

// prefer is the path that the class's order names before best and that is nearly as early, else best. Called with mu held.
func (s *Session) prefer(at stamp, c Class, n int, set pathSet, best *pathTx, earliest stamp) *pathTx {
	cp, within := &s.b.classes[c], us(preferWithin[c])
	if !cp.set || within == 0 {
		return best
	}
	for _, p := range s.b.paths {
		if p == best || set>>p.id&1 == 0 || cp.rank[p.id] == 0 || cp.rank[best.id] != 0 && cp.rank[p.id] > cp.rank[best.id] ||
			!s.hasRoom(p, n) || p.nextFree > at+us(preferPacer) {
			continue
		}
		if s.arrival(at, p, n, false) <= earliest+within {
			best = p
		}
	}
	return best
}

// hasRoom tells whether a path may carry a lane packet of n bytes now, its pacer apart.
func (s *Session) hasRoom(p *pathTx, n int) bool {
	size := wireSize(n)
	return s.carries(p) && p.takes(n) && p.inflight+int64(size) <= p.ctrl.InflightCap() && !p.full() &&
		(p.validated || p.unvalBytes+size <= maxUnvalidated)
}

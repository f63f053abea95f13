package tunnel

import (
	"cmp"
	"slices"
	"time"

	"github.com/landbridge/landbridge/tunnel/bond"
)

const (
	// stallAfter is how long a receiver must stand still before the bytes that wait for it count as stalled.
	stallAfter = time.Second
	// stallLeast in stallAfter is the least number of bytes a receiver takes that does not stand still.
	stallLeast = 512
	// idleTicks in a row without a byte of a flow make a lane, or all bulk lanes, idle enough to be filled.
	idleTicks = 2
)

// manage looks after the session's lanes: it fills idle ones, replaces those whose window is lost, closes drained ones,
// and sheds stalled flows.
func (s *session) manage() {
	type activity struct {
		used  uint64
		quiet int // ticks
	}
	seen := map[*lane]*activity{}
	tick := time.NewTicker(manageInterval)
	defer tick.Stop()
	defer func() { s.node.stats.stalled.Add(-s.stalled) }()
	// A new lane is filled at once, later only after it was idle for a while.
	for {
		s.mu.Lock()
		lanes, change := slices.Clone(s.lanes), s.change
		s.mu.Unlock()
		quietBulk := true
		for _, l := range lanes {
			a := seen[l]
			if a == nil {
				a = &activity{quiet: idleTicks}
				seen[l] = a
			}
			if l.class == Bulk && a.quiet < idleTicks {
				quietBulk = false
			}
		}
		if !s.node.cfg.NoWarmUp && s.fillLeft.Load() > 0 {
			for _, l := range lanes {
				if seen[l].quiet >= idleTicks && (l.class != Bulk || quietBulk) && l.alive() && !l.draining.Load() && l.warm.wanted() {
					s.fill(l)
				}
			}
		}
		select {
		case <-s.ctx.Done():
			return
		case <-change:
			continue
		case <-s.warmed:
			continue
		case <-tick.C:
		}
		if left := s.fillLeft.Add(int64(manageInterval / warmShare)); left > int64(warmBudget) {
			s.fillLeft.Add(int64(warmBudget) - left)
		}
		for _, l := range lanes {
			a := seen[l]
			if n := l.used.Load(); n != a.used {
				a.used, a.quiet = n, 0
			} else {
				a.quiet++
			}
			s.checkLane(l)
		}
		for l := range seen {
			if !slices.Contains(lanes, l) {
				delete(seen, l)
			}
		}
		s.shed()
	}
}

// fill warms the lane unless it is being filled or must wait. Interactive lanes need little and are filled at once, all
// together. Bulk lanes come after them, one by one: two would share the bond, and each would take the other's queue for
// its own and stop growing.
func (s *session) fill(l *lane) {
	if l.class == Bulk {
		if s.fillingSmall.Load() > 0 || !s.warming.CompareAndSwap(nil, l) {
			return
		}
	}
	if l.warm.busy.Swap(true) {
		return
	}
	if l.class != Bulk {
		s.fillingSmall.Add(1)
		if w := s.warming.Load(); w != nil {
			w.warm.stop() // it goes on later
		}
	}
	s.wg.Go(func() {
		begin := time.Now()
		l.warm.fill()
		s.fillLeft.Add(-int64(time.Since(begin)))
		l.warm.busy.Store(false)
		if l.class == Bulk {
			s.warming.Store(nil)
		} else {
			s.fillingSmall.Add(-1)
		}
		select {
		case s.warmed <- struct{}{}:
		default:
		}
	})
}

// checkLane replaces a lane whose window is lost or whose packets do not fit the paths, and closes one that is drained or
// whose packets no path takes.
func (s *session) checkLane(l *lane) {
	now := time.Now()
	fit := l.l.Fit()
	if fit != bond.FitNowhere {
		l.nowhere = 0
	} else if l.nowhere++; l.nowhere == nowhereTicks {
		s.node.log.Warn("no path takes the packets of a lane any more", "peer", s.peer.name, "class", l.class, "packet", l.l.MaxPacketSize())
		s.wg.Go(func() { l.close(closeDone, "no path takes its packets") })
		return
	}
	if l.draining.Load() {
		switch {
		case l.refs.Load() > 0 || !s.fresh(): // without another lane, new flows still take this one
			l.drained = time.Time{}
		case l.drained.IsZero():
			l.drained = now
		case now.Sub(l.drained) < drainGrace:
		case !s.s.Initiator():
			// The peer may have sent all of a flow that this side has not read yet: only both can tell.
			if !l.doneSent.Swap(true) {
				l.signal(uniDone)
			}
		case l.peerDone.Load():
			s.wg.Go(func() { l.close(closeDone, "drained") })
		}
		return
	}
	if !l.alive() {
		return
	}
	if fit == bond.FitBadly {
		// All lanes at once, and then none for a while: a path that grows and shrinks is not to be followed.
		if since := now.Sub(s.lastFitted); since >= replaceInterval || since < manageInterval/2 {
			s.lastFitted = now
			s.replace(l, "packet", l.l.MaxPacketSize())
		}
		return
	}
	if l.class == Realtime {
		return
	}
	want := l.warm.need()
	st := l.conn.ConnectionStats()
	if want == 0 || st.CongestionWindow >= want || l.warm.running.Load() {
		l.low = 0
		return
	}
	if l.warm.stunted.Load() {
		if s.stunted >= stuntedMost && now.Sub(s.lastReplaced) < replaceInterval {
			return
		}
		s.stunted++
	} else {
		// Without loss the window is still growing, as fast as a new lane's would: nothing to gain.
		if st.PacketsLost == 0 || l.class != Bulk {
			l.low = 0
			return
		}
		if l.low++; l.low < lowTicks || now.Sub(s.lastReplaced) < replaceInterval {
			return
		}
	}
	s.lastReplaced = now
	s.replace(l, "window", st.CongestionWindow, "needed", want)
}

// fresh tells whether there is a lane that new flows take rather than a draining one.
func (s *session) fresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.lanes, func(l *lane) bool { return l.alive() && !l.draining.Load() })
}

// replace has the lane drained on both sides; the initiator opens another one.
func (s *session) replace(l *lane, why ...any) {
	s.node.stats.replaced.Add(1)
	s.node.log.Info("lane replaced", append([]any{"peer", s.peer.name, "class", l.class}, why...)...)
	s.drain(l)
	l.signal(uniDrain)
}

// signal opens a stream that is nothing but its kind. It fails only with the lane.
func (l *lane) signal(kind byte) {
	if str, err := l.conn.OpenUniStream(); err == nil {
		_, _ = str.Write([]byte{kind})
		_ = str.Close()
	}
}

// drain stops new flows on the lane. The initiator opens its successor at once.
func (s *session) drain(l *lane) {
	if l.draining.Swap(true) {
		return
	}
	l.warm.stop()
	s.mu.Lock()
	s.changed()
	s.mu.Unlock()
}

// shed enforces the buffer budget against receivers that stand still. QUIC cannot take back a window it has given, and
// a connection whose window is full of bytes nobody reads stops for all its flows. So when stalled flows may hold more
// than half of a lane's window, or all sessions' together half of the node's budget, those that have stood still
// longest are reset.
func (s *session) shed() {
	type stalled struct {
		h     *recvHalf
		since int64
	}
	var all []stalled
	limit := time.Now().Add(-stallAfter).UnixNano()
	s.mu.Lock()
	for _, h := range s.flows {
		if t := h.blocked.Load(); t != 0 && t < limit {
			all = append(all, stalled{h, t})
		}
	}
	s.mu.Unlock()
	var sum int64
	per := map[*lane]int64{}
	for _, f := range all {
		f.h.held(func(l *lane, n int64) {
			sum += n
			per[l] += n
		})
	}
	node := s.node.stats.stalled.Add(sum - s.stalled)
	s.stalled = sum
	slices.SortFunc(all, func(a, b stalled) int { return cmp.Compare(a.since, b.since) })
	for _, f := range all {
		over := node > s.node.budget.limit/2
		f.h.held(func(l *lane, _ int64) { over = over || per[l] > l.window.Load()/2 })
		if !over {
			continue
		}
		f.h.held(func(l *lane, n int64) {
			per[l] -= n
			node -= n
		})
		s.node.stats.shed.Add(1)
		f.h.abort(CodeStalled)
	}
}

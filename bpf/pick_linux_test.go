package bpf

import (
	"testing"
	"time"
)

// model is a path as the programs see it, and what they do with it, once more: TestPickAsModel compares the classifier,
// TestReplies the reflector.
type model struct {
	classifierPath
	classifierLive
	sent map[uint32]uint64 // our probes, by number
}

func inTime(now, then, age uint64) bool { return then != 0 && (then > now || now-then <= age) }

func (m *model) heard() uint64 {
	if m.Sent == 0 {
		return m.Reply
	}
	return max(m.Reply, m.Request)
}

func (m *model) alive(now uint64) bool {
	if m.MaxAge == 0 {
		return true
	}
	unanswered := m.Due != 0 && m.Missed != 0 && now > m.Missed+m.Due && inTime(now, m.Sent, m.MaxAge)
	return inTime(now, m.heard(), m.MaxAge) && !unanswered
}

func (m *model) quiet(now uint64) bool { return m.Quiet != 0 && !inTime(now, m.heard(), m.Quiet) }

// pickOf is which of the candidates a new flow gets; -1 for none.
func pickOf(order []*model, now uint64) int {
	best, bestRank, bestHeard := -1, 0, uint64(0)
	for i, m := range order {
		if m.State == uint8(PathDown) || !m.alive(now) {
			continue
		}
		rank, heard := 1, uint64(0)
		if m.State == uint8(PathUp) {
			rank++
		}
		if m.quiet(now) {
			heard = m.heard()
		} else {
			rank += 2
		}
		if rank > bestRank || rank == bestRank && heard > bestHeard {
			best, bestRank, bestHeard = i, rank, heard
		}
	}
	return best
}

// asks, answered and asked are what the reflector notes of a probe of ours, of its answer and of the peer's.
func (m *model) asks(n uint32, now uint64) {
	if m.sent == nil {
		m.sent = map[uint32]uint64{}
	}
	m.sent[n] = now
	delete(m.sent, n-512)
	m.Sent = now
	if m.Missed == 0 && int32(n-m.Top) >= 3 {
		m.Missed = now
	}
}

func (m *model) answered(n uint32, now uint64) {
	if m.Reply == 0 || int32(n-m.Top) > 0 {
		m.Top, m.Missed = n, m.sent[n+3]
	}
	m.Reply = now
}

func (m *model) asked(now uint64) { m.Request = now }

// TestPickAsModel: the classifier picks among any paths what the model picks.
func TestPickAsModel(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	rng := seed(t)
	var now uint64
	// Ages are in whole units, bounds half way between: the time that passes within a turn makes no difference.
	const unit = uint64(5 * time.Second)
	age := func() uint64 {
		switch n := rng.Uint64N(10); n {
		case 0:
			return 0 // never
		case 1:
			return now + 60*unit // later than now
		default:
			return now - (n-2)*unit
		}
	}
	bound := func(most uint64) uint64 {
		if n := rng.Uint64N(most); n > 0 {
			return n*unit + unit/2
		}
		return 0
	}
	kinds := map[string]int{}
	port := uint16(0)
	for range 800 {
		now = uint64(Monotonic())
		order := make([]*model, 1+rng.IntN(4))
		ids := make([]PathID, len(order))
		for i := range order {
			m := &model{}
			m.classifierPath = classifierPath{Ifindex: loopback, State: uint8(rng.UintN(3)), Keep: 0xff, MaxAge: bound(9), Quiet: bound(6), Due: bound(5)}
			m.classifierLive = classifierLive{Reply: age(), Sent: age(), Request: age(), Missed: age()}
			if m.MaxAge == 0 {
				m.Quiet, m.Due = 0, 0 // as Set does
			}
			order[i], ids[i] = m, PathID(i+1)
			must(t, paths.paths.Put(uint32(i+1), &m.classifierPath), paths.live.Put(uint32(i+1), &m.classifierLive))
		}
		must(t, paths.SetCandidates(2, Realtime, ids))
		port++
		want := pickOf(order, now)
		if got := int(pathOf(t, c, port)) - 1; got != want {
			for _, m := range order {
				t.Logf("state %d max age %d quiet %d due %d, %+v", m.State, m.MaxAge/unit, m.Quiet/unit, m.Due/unit, m.classifierLive)
			}
			t.Fatalf("candidate %d, want %d, at %d", got, want, now)
		}
		switch {
		case want < 0:
			kinds["none"]++
		case want > 0 && order[want].quiet(now):
			kinds["quiet, not the first"]++
		case want > 0 && order[0].alive(now) && order[0].State == uint8(PathUp):
			kinds["past a quiet one"]++
		}
	}
	for _, k := range []string{"none", "quiet, not the first", "past a quiet one"} {
		if kinds[k] == 0 {
			t.Errorf("no case of %q among %v", k, kinds)
		}
	}
}

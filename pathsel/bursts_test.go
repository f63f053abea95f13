package pathsel

import (
	"testing"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// The lab's links.
var (
	typical = []string{"50mbit delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3", "50mbit delay 110ms jitter 2ms loss 0.5%",
		"50mbit delay 80ms jitter 5ms loss 2% ge 0.003/0.15/0.3"}
	heavy = []string{"50mbit delay 90ms jitter 5ms loss 5% ge 0.005/0.1/0.2", "50mbit delay 110ms jitter 5ms loss 3%",
		"50mbit delay 80ms jitter 10ms loss 10%"}
)

// TestIdleProbes: where nobody uses a path, late replies ask for few probes more, whatever it loses, and make it a suspect
// as seldom.
func TestIdleProbes(t *testing.T) {
	t.Parallel()
	const (
		frame = (stamp.Len + 42) * 8 / 1000.0 // kbit
		span  = 5 * time.Minute
	)
	for _, tt := range []struct {
		name    string
		links   []string
		most    float64 // kbit/s a path and direction: probes from here, and answers to as many of the peer's
		suspect float64 // in five minutes, of all paths, on average
	}{
		{"typical", typical, 35.5, 1},
		{"heavy", heavy, 38.5, 3},
		{"worse", []string{"50mbit delay 90ms loss 20%", "50mbit delay 90ms loss 30%", "50mbit delay 90ms loss 45%"}, 46, 40},
	} {
		all := seeds(t, 3)
		suspect := 0
		for _, seed := range all {
			s := newSim(t, seed, tt.links...)
			s.quiet, s.idle = true, true
			was := map[uint8]State{}
			s.onDecide = func(_ time.Duration, _ bool, states []PathState, _ *Decision) {
				for i := range states {
					if p := &states[i]; p.State != was[p.ID] {
						was[p.ID] = p.State
						if p.State == StateSuspect {
							suspect++
						}
					}
				}
			}
			s.run(span)
			for i, p := range s.paths {
				kbit := float64(p.sent[Out]+p.sent[Back]) * frame / span.Seconds()
				t.Logf("%s, seed %d, path %d: %.1f kbit/s, %.1f probes a second", tt.name, seed, i, kbit, float64(p.sent[Out])/span.Seconds())
				if kbit > tt.most {
					t.Errorf("%s, seed %d: path %d costs %.1f kbit/s, want at most %v", tt.name, seed, i, kbit, tt.most)
				}
				if n := float64(p.sent[Out]) / span.Seconds(); n < 19 {
					t.Errorf("%s, seed %d: %.1f probes a second on path %d, want 20", tt.name, seed, n, i)
				}
			}
		}
		if n := float64(suspect) / float64(len(all)); n > tt.suspect {
			t.Errorf("%s: %.1f times suspect, want at most %v", tt.name, n, tt.suspect)
		} else {
			t.Logf("%s: %.1f times suspect", tt.name, n)
		}
	}
}

// TestBurstsAreNoSilence: on idle paths that lose in bursts (the lab's typical and heavy) a burst is no silence and no
// brownout, or seldom: a suspect every two minutes at the most, where there was one every four seconds.
func TestBurstsAreNoSilence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name              string
		links             []string
		suspect, brownout float64 // in ten minutes, of three paths, on average
	}{
		{"typical", typical, 1, 12},
		{"heavy", heavy, 5, 12},
	} {
		var entered [StateUp + 1]int
		var moves [NumClasses]int
		all := seeds(t, 3)
		for _, seed := range all {
			s := newSim(t, seed, tt.links...)
			s.quiet = true
			was := map[uint8]State{}
			s.onDecide = func(_ time.Duration, _ bool, states []PathState, _ *Decision) {
				for i := range states {
					if p := &states[i]; p.State != was[p.ID] {
						was[p.ID] = p.State
						entered[p.State]++
					}
				}
			}
			s.run(10 * time.Minute)
			for c, n := range s.moves {
				moves[c] += n
			}
		}
		n := float64(len(all))
		suspect, brownout := float64(entered[StateSuspect])/n, float64(entered[StateBrownout])/n
		t.Logf("%s: %.1f times suspect, %.1f in a brownout; moves %v in %d runs", tt.name, suspect, brownout, moves, len(all))
		if suspect > tt.suspect || brownout > tt.brownout {
			t.Errorf("%s: %.1f times suspect and %.1f in a brownout in ten minutes, want at most %v and %v", tt.name, suspect, brownout, tt.suspect, tt.brownout)
		}
	}
}

// TestOwnQueue: a bond that fills its paths one after the other, to find their rates, moves nobody. (Chance may, on paths
// of which ten seconds are known.)
func TestOwnQueue(t *testing.T) {
	for _, tt := range []struct {
		name     string
		told     Self // what pathsel is told meanwhile
		min, max int  // moves of all classes in a run
	}{
		{"filling", Self{Filling: true}, 0, 2},
		{"loading", Self{Loading: true, Queue: 50 * ms}, 0, 2},
		{"neither", Self{}, 3, 99},
	} {
		for _, seed := range seeds(t, 3) {
			s := newSim(t, seed, three...)
			s.quiet = true
			s.run(2 * time.Second)
			for path := range three {
				for way := range Way(2) {
					// Startup overshoots: the queue grows to 100 ms within a round trip, then packets are lost.
					until := s.now + 1500*ms
					for step := 0; s.now < until; step++ {
						delay := time.Duration(80+10*path+min(25*step, 100)) * ms
						loss := ""
						if step > 4 {
							loss = " loss 30%"
						}
						s.set(path, way, "50mbit jitter 2ms delay "+delay.String()+loss)
						s.run(s.now + 100*ms)
						s.table.Self(s.now, uint8(path), way, tt.told)
					}
					s.set(path, way, three[path])
					for range 5 {
						s.table.Self(s.now, uint8(path), way, Self{})
						s.run(s.now + 100*ms)
					}
				}
			}
			s.run(s.now + 30*time.Second)
			n := s.moves[Realtime] + s.moves[Interactive] + s.moves[Bulk]
			if n < tt.min || n > tt.max {
				t.Errorf("%s, seed %d: moves %v, want %d to %d in all", tt.name, seed, s.moves, tt.min, tt.max)
			}
		}
	}
}

// TestFillingIsNoCover: a sender that says for ever that it fills the path hides a brownout for so long only.
func TestFillingIsNoCover(t *testing.T) {
	s := newSim(t, 1, three...)
	s.run(20 * time.Second)
	start, path := s.now, s.d.Classes[Realtime].Path
	s.set(int(path), 2, "50mbit jitter 2ms loss 8% delay 90ms")
	for s.now < start+60*time.Second && s.d.Classes[Realtime].Path == path {
		s.table.Self(s.now, path, Out, Self{Filling: true})
		s.table.Self(s.now, path, Back, Self{Filling: true})
		s.run(s.now + 100*ms)
	}
	if took := s.now - start; took < 20*time.Second || took > 35*time.Second {
		t.Errorf("moved after %v, want 20 to 35 s", took)
	}
}

package rate

import (
	"fmt"
	"testing"
	"time"
)

// TestAppLimited: a trickle of 1 % neither lowers the estimate nor starts the
// next burst slowly.
func TestAppLimited(t *testing.T) {
	for _, tc := range dynLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 2) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				s.run(8 * sec)
				before := f.c.Bandwidth()
				tokens, at := 0.0, s.now
				f.demand = func() bool {
					tokens = min(tokens+seconds(s.now-at)*0.01*tc.link.rate/8, 3*simPacket)
					at = s.now
					if tokens < simPacket {
						return false
					}
					tokens -= simPacket
					return true
				}
				s.run(40 * sec)
				idle := f.c.Bandwidth()
				f.demand = nil
				m := s.meter()
				s.run(41 * sec)
				first := m.util(tc.link.rate)
				s.run(45 * sec)
				t.Logf("seed %d: estimate %.1f, after 32 s at 1 %% %.1f Mbit/s; first busy second %.3f, first five %.3f, queue %v",
					seed, float64(before)/1e6, float64(idle)/1e6, first, m.util(tc.link.rate), m.queue().Round(100*us))
				atLeast(t, "estimate kept", float64(idle)/float64(before), 0.98)
				atMost(t, "estimate kept", float64(idle)/float64(before), 1.1)
				atLeast(t, "used in the first second", first, 0.95)
				atMost(t, "queue", m.queue(), 15*ms)
			}
		})
	}
}

// TestAppLimitedEarly: a path that carries a trickle from its first second on keeps its estimate, whatever the trickle
// loses in bursts before the floor is known. With what is delivered taken for what the path carries, estimates fell to
// the trickle for good.
func TestAppLimitedEarly(t *testing.T) {
	link := simLink{rate: 50e6, queue: 100 * ms, delay: 90 * ms, jitter: 2 * ms, loss: 0.01, ge: [3]float64{0.005, 0.1, 0.2}}
	for _, seed := range seeds(t, 10) {
		s := newSim(t, seed, link)
		f := newBondFlow(s, Config{})
		f.start()
		trace(s, f, 100*ms)
		for s.now < 5*sec && f.c.State() == stateNames[startup] {
			s.run(s.now + 10*ms)
		}
		before := f.c.Bandwidth()
		tokens, at, train := 0.0, s.now, false
		f.demand = func() bool {
			tokens = min(tokens+seconds(s.now-at)*0.015*link.rate/8, 12*simPacket)
			at = s.now
			train = tokens >= 12*simPacket || train && tokens >= simPacket
			if train {
				tokens -= simPacket
			}
			return train
		}
		s.run(120 * sec)
		t.Logf("seed %d: estimate %.1f, after two minutes at 1.5 %% %.1f Mbit/s, floor %.3f", seed, float64(before)/1e6, float64(f.c.Bandwidth())/1e6, f.c.LossFloor())
		atLeast(t, "estimate kept", float64(f.c.Bandwidth())/float64(before), 0.9)
	}
}

// TestOutage: nothing passes for 3 s, twice; the estimate survives.
func TestOutage(t *testing.T) {
	for _, tc := range dynLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 2) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				for _, tell := range []bool{false, true} {
					s.run(s.now + 8*sec)
					f.dark = true
					at := s.now
					s.run(s.now + 3*sec)
					f.dark = false
					if tell {
						f.c.OnSilence(s.time())
					}
					f.infl = 0
					clear(f.sentAt[:])
					f.maxPace = 0
					m := s.meter()
					s.run(s.now + sec)
					first := m.util(tc.link.rate)
					m = s.meter()
					s.run(s.now + 3*sec)
					t.Logf("seed %d: dark at %v, told %v: first second %.3f, next three %.3f queue %v, most paced %.1f Mbit/s", seed, at, tell, first, m.util(tc.link.rate), m.queue().Round(100*us), f.maxPace/1e6)
					atLeast(t, "used in the first second", first, 0.7)
					atLeast(t, "used after", m.util(tc.link.rate), 0.95)
					atMost(t, "queue", m.queue(), 15*ms)
					atMost(t, "most paced", f.maxPace, 1.5*tc.link.rate)
				}
			}
		})
	}
}

// TestIdle: a short silence changes nothing; after a long one the sender starts
// gently, so that a link that has shrunk meanwhile is not flooded.
func TestIdle(t *testing.T) {
	for _, tc := range []struct {
		idle   time.Duration
		shrink float64
		first  float64
		over   float64
	}{
		{5 * sec, 1, 0.95, 0.01},
		{60 * sec, 1, 0.6, 0.01},
		{600 * sec, 1, 0.3, 0.01},
		{600 * sec, 4, 0.6, 0.4},
	} {
		t.Run(fmt.Sprint(tc.idle, tc.shrink), func(t *testing.T) {
			for _, seed := range seeds(t, 1) {
				s := newSim(t, seed, dynLinks[1].link)
				f := newBondFlow(s, Config{})
				f.start()
				s.run(8 * sec)
				f.stop = true
				s.run(s.now + tc.idle)
				s.link.rate /= tc.shrink
				f.stop = false
				f.start()
				trace(s, f, 100*ms)
				m := s.meter()
				s.run(s.now + sec)
				first, over := m.util(s.link.rate), m.lost()
				m = s.meter()
				s.run(s.now + 3*sec)
				t.Logf("seed %d: used %.3f in the first second, overflow %.3f, then %.3f, queue %v", seed, first, over, m.util(s.link.rate), m.queue().Round(100*us))
				atLeast(t, "used in the first second", first, tc.first)
				atMost(t, "overflow", over, tc.over)
				atLeast(t, "used after", m.util(s.link.rate), 0.93)
			}
		})
	}
}

// TestCap: a contracted rate is never exceeded, whatever state.
func TestCap(t *testing.T) {
	for _, tc := range dynLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 1) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{Cap: 30e6})
				f.start()
				trace(s, f, 100*ms)
				s.run(3 * sec)
				m := s.meter()
				s.run(20 * sec)
				t.Logf("seed %d: used %.3f of the cap, most paced %.2f Mbit/s", seed, m.util(30e6), f.maxPace/1e6)
				atLeast(t, "used of the cap", m.util(30e6), 0.97)
				atMost(t, "most paced", f.maxPace, 30e6)
			}
		})
	}
}

// TestDrift: clocks 100 ppm apart, either way, for a minute and a half.
func TestDrift(t *testing.T) {
	for _, ppm := range []int{-100, 100} {
		l := dynLinks[1].link
		s := newSim(t, 1, l)
		f := newBondFlow(s, Config{})
		f.clock = func(d time.Duration) time.Duration { return d + time.Hour + d*time.Duration(ppm)/1e6 }
		f.start()
		s.run(4 * sec)
		m := s.meter()
		s.run(90 * sec)
		t.Logf("%d ppm: used %.3f, queue %v", ppm, m.util(l.rate), m.queue().Round(100*us))
		atLeast(t, "used", m.util(l.rate), 0.97)
		atMost(t, "queue", m.queue(), 10*ms)
	}
}

// TestRates: the same from 1 Mbit/s to 500.
func TestRates(t *testing.T) {
	for _, rate := range []float64{1e6, 2e6, 10e6, 500e6} {
		t.Run(fmt.Sprintf("%g Mbit", rate/1e6), func(t *testing.T) {
			for _, seed := range seeds(t, 1) {
				l := simLink{rate: rate, queue: 100 * ms, delay: 100 * ms, loss: .02, jitter: 2 * ms}
				s := newSim(t, seed, l)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				s.run(4 * sec)
				m := s.meter()
				s.run(4*sec + time.Duration(min(20, 5e8/rate)*1e9))
				t.Logf("seed %d: used %.3f, queue %v, overflow %.3f", seed, m.util(l.rate), m.queue().Round(100*us), m.lost())
				atLeast(t, "used", m.util(l.rate), 0.85)
				atMost(t, "queue", m.queue(), 30*ms)
			}
		})
	}
}

// TestSiblings: several controllers share one link, as paths that pair one
// uplink with several remote ones do.
func TestSiblings(t *testing.T) {
	for _, tc := range dynLinks {
		for _, n := range []int{2, 3} {
			t.Run(fmt.Sprint(tc.name, n), func(t *testing.T) {
				for _, seed := range seeds(t, 1) {
					s := newSim(t, seed, tc.link)
					for i := range n {
						f := newBondFlow(s, Config{})
						f.flow = i
						f.c.SetSiblings(n - 1)
						s.at(time.Duration(i)*2*sec, f.start)
						if i == 0 {
							trace(s, f, 250*ms)
						}
					}
					s.run(6 * sec)
					m := s.meter()
					s.run(26 * sec)
					t.Logf("seed %d: used %.3f, queue %v, overflow %.4f, shares %.3f %.3f %.3f", seed, m.util(tc.link.rate), m.queue().Round(100*us), m.lost(), m.share(0), m.share(1), m.share(2))
					atLeast(t, "used", m.util(tc.link.rate), 0.94)
					atMost(t, "queue", m.queue(), 25*ms)
					atMost(t, "overflow", m.lost(), 0.02)
					for i := range n {
						atLeast(t, "share", m.share(i), 0.05)
					}
				}
			})
		}
	}
}

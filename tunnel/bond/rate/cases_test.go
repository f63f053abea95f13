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
				t.Logf("seed %d: estimate %.1f, after 32 s at 1 %% %.1f Mbit/s; first busy second %.3f, 5 s %.3f queue %v",
					seed, float64(before)/1e6, float64(idle)/1e6, first, m.util(tc.link.rate), m.queue().Round(100*time.Microsecond))
			}
		})
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
					t.Logf("seed %d: dark at %v, told %v: first second %.3f, next three %.3f queue %v, most paced %.1f Mbit/s", seed, at, tell, first, m.util(tc.link.rate), m.queue().Round(100*time.Microsecond), f.maxPace/1e6)
				}
			}
		})
	}
}

// TestIdle: after a minute of silence the first second is gentle, then quick.
func TestIdle(t *testing.T) {
	for _, idle := range []time.Duration{5 * sec, 60 * sec, 600 * sec} {
		t.Run(idle.String(), func(t *testing.T) {
			for _, seed := range seeds(t, 1) {
				l := dynLinks[1].link
				s := newSim(t, seed, l)
				f := newBondFlow(s, Config{})
				f.start()
				s.run(8 * sec)
				f.demand = func() bool { return false }
				s.run(s.now + idle)
				if idle > 100*sec {
					s.link.rate /= 4
				}
				f.demand = nil
				trace(s, f, 100*ms)
				m := s.meter()
				s.run(s.now + sec)
				first, over := m.util(s.link.rate), m.lost()
				m = s.meter()
				s.run(s.now + 3*sec)
				t.Logf("seed %d: first second %.3f, overflow %.3f, next three %.3f queue %v", seed, first, over, m.util(s.link.rate), m.queue())
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
				t.Logf("seed %d: of the cap %.3f, most paced %.2f Mbit/s", seed, m.util(30e6), f.maxPace/1e6)
			}
		})
	}
}

// TestDrift: clocks 100 ppm apart, either way, for two minutes.
func TestDrift(t *testing.T) {
	for _, ppm := range []int{-100, 100} {
		l := dynLinks[1].link
		s := newSim(t, 1, l)
		f := newBondFlow(s, Config{})
		f.clock = func(d time.Duration) time.Duration { return d + time.Hour + d*time.Duration(ppm)/1e6 }
		f.start()
		s.run(4 * sec)
		m := s.meter()
		s.run(120 * sec)
		t.Logf("%d ppm: util %.3f queue %v", ppm, m.util(l.rate), m.queue())
	}
}

// TestReorder: hmm.
func TestSlowLink(t *testing.T) {
	for _, rate := range []float64{500e3, 1e6, 2e6, 500e6} {
		l := simLink{rate: rate, queue: 100 * ms, delay: 100 * ms, loss: .02, jitter: 2 * ms}
		s := newSim(t, 1, l)
		f := newBondFlow(s, Config{})
		f.start()
		trace(s, f, 100*ms)
		s.run(4 * sec)
		m := s.meter()
		until := 24 * sec
		if rate > 100e6 {
			until = 8 * sec
		}
		s.run(until)
		t.Logf("%.1f Mbit/s: util %.3f queue %v lost %.3f", rate/1e6, m.util(l.rate), m.queue(), m.lost())
	}
}

// TestSiblings: several controllers share one link, as paths that pair one
// uplink with several remote ones do.
func TestSiblings(t *testing.T) {
	for _, tc := range dynLinks {
		for _, n := range []int{2, 3} {
			t.Run(fmt.Sprint(tc.name, n), func(t *testing.T) {
				for _, seed := range seeds(t, 2) {
					s := newSim(t, seed, tc.link)
					for i := range n {
						f := newBondFlow(s, Config{})
						f.flow = i
						s.at(time.Duration(i)*2*sec, f.start)
						if i == 0 {
							trace(s, f, 250*ms)
						}
					}
					s.run(6 * sec)
					m := s.meter()
					s.run(36 * sec)
					t.Logf("seed %d: util %.3f queue %v lost %.4f shares %.3f %.3f %.3f", seed, m.util(tc.link.rate), m.queue(), m.lost(), m.share(0), m.share(1), m.share(2))
				}
			})
		}
	}
}

package rate

import (
	"math"
	"testing"
	"time"
)

const (
	us  = time.Microsecond
	ms  = time.Millisecond
	sec = time.Second
)

var steadyLinks = []struct {
	name string
	link simLink
}{
	{"clean", simLink{rate: 50e6, queue: 100 * ms, delay: 90 * ms}},
	{"clean/short", simLink{rate: 50e6, queue: 100 * ms, delay: 5 * ms}},
	{"typical/ct", simLink{rate: 50e6, queue: 100 * ms, delay: 90 * ms, jitter: 2 * ms, loss: 0.01, ge: [3]float64{.002, .2, .3}, back: .02}},
	{"typical/cm", simLink{rate: 50e6, queue: 100 * ms, delay: 80 * ms, jitter: 5 * ms, loss: 0.02, ge: [3]float64{.003, .15, .3}, back: .04}},
	{"heavy/ct", simLink{rate: 50e6, queue: 60 * ms, delay: 90 * ms, jitter: 5 * ms, loss: 0.05, ge: [3]float64{.005, .1, .2}, back: .09}},
	{"heavy/cu", simLink{rate: 50e6, queue: 60 * ms, delay: 110 * ms, jitter: 5 * ms, loss: 0.03, back: .03}},
	{"heavy/cm", simLink{rate: 50e6, queue: 60 * ms, delay: 80 * ms, jitter: 10 * ms, loss: 0.10, back: .1}},
	{"skewed/fast", simLink{rate: 100e6, queue: 100 * ms, delay: 60 * ms, loss: 0.001}},
	{"skewed/mid", simLink{rate: 20e6, queue: 100 * ms, delay: 150 * ms, loss: 0.01}},
	{"skewed/slow", simLink{rate: 5e6, queue: 100 * ms, delay: 250 * ms, loss: 0.03}},
}

// With seeds 31 and 70 the slow link stands still in Startup, for want of reports.
func TestSteady(t *testing.T) {
	for _, tc := range steadyLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range hard(seeds(t, 2), tc.name, map[string][]uint64{"typical/cm": {36}, "heavy/cm": {100}, "skewed/slow": {31, 70}}) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				s.run(1 * sec)
				m0 := s.meter()
				s.run(4 * sec)
				start := m0.util(tc.link.rate)
				m := s.meter()
				s.run(24 * sec)
				util, q := m.util(tc.link.rate), m.queue()
				t.Logf("seed %d: used %.3f in seconds 1 to 4, %.3f in 4 to 24, mean queue %v, floor %.3f of %.3f",
					seed, start, util, q.Round(100*us), f.c.LossFloor(), tc.link.meanLoss())
				atLeast(t, "used in seconds 1 to 4", start, 0.8)
				atLeast(t, "used", util, 0.97)
				atMost(t, "mean queue", q, 10*ms)
				atMost(t, "overflow", m.lost(), 0.005)
				atMost(t, "error of the floor", math.Abs(f.c.LossFloor()-tc.link.meanLoss()), 0.015)
			}
		})
	}
}

// TestReports: sparse, bunched and late reports make no difference.
func TestReports(t *testing.T) {
	for _, tc := range []struct {
		name  string
		step  time.Duration
		bunch time.Duration
		back  float64
		app   float64
	}{
		{"every 20 ms, a tenth lost", 20 * ms, 0, 0.1, 0},
		{"bunched by 60 ms", 10 * ms, 60 * ms, 0, 0},
		{"half lost", 10 * ms, 0, 0.5, 0},
		{"a fifth app-limited for a moment", 10 * ms, 0, 0, 0.2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 2) {
				l := dynLinks[1].link
				l.back = tc.back
				s := newSim(t, seed, l)
				f := newBondFlow(s, Config{})
				f.step, f.bunch, f.starved = tc.step, tc.bunch, tc.app
				f.start()
				trace(s, f, 100*ms)
				s.run(4 * sec)
				m := s.meter()
				s.run(20 * sec)
				t.Logf("seed %d: used %.3f, queue %v", seed, m.util(l.rate), m.queue().Round(100*us))
				atLeast(t, "used", m.util(l.rate), 0.97)
				atMost(t, "mean queue", m.queue(), 10*ms)
			}
		})
	}
}

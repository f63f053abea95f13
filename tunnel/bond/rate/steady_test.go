package rate

import (
	"testing"
	"time"
)

const ms = time.Millisecond

var steadyLinks = []struct {
	name string
	link simLink
}{
	{"clean", simLink{rate: 50e6, queue: 100 * ms, delay: 90 * ms}},
	{"clean/short", simLink{rate: 50e6, queue: 100 * ms, delay: 5 * ms}},
	{"typical/ct", simLink{rate: 50e6, queue: 100 * ms, delay: 90 * ms, jitter: 2 * ms, loss: 0.01, ge: [3]float64{.002, .2, .3}, back: .02}},
	{"typical/cm", simLink{rate: 50e6, queue: 100 * ms, delay: 80 * ms, jitter: 5 * ms, loss: 0.02, ge: [3]float64{.003, .15, .3}, back: .04}},
	{"heavy/ct", simLink{rate: 50e6, queue: 60 * ms, delay: 90 * ms, jitter: 5 * ms, loss: 0.05, ge: [3]float64{.005, .1, .2}, back: .09}},
	{"heavy/cm", simLink{rate: 50e6, queue: 60 * ms, delay: 80 * ms, jitter: 10 * ms, loss: 0.10, back: .1}},
	{"skewed/fast", simLink{rate: 100e6, queue: 100 * ms, delay: 60 * ms, loss: 0.001}},
	{"skewed/mid", simLink{rate: 20e6, queue: 100 * ms, delay: 150 * ms, loss: 0.01}},
	{"skewed/slow", simLink{rate: 5e6, queue: 100 * ms, delay: 250 * ms, loss: 0.03}},
}

func TestSteady(t *testing.T) {
	for _, tc := range steadyLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 2) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				s.run(1 * time.Second)
				m0 := s.meter()
				s.run(4 * time.Second)
				start := m0.util(tc.link.rate)
				m := s.meter()
				s.run(24 * time.Second)
				t.Logf("seed %d: util 1-4 s %.3f, after %.3f, mean queue %v, overflow %.4f, floor %.3f of %.3f", seed, start, m.util(tc.link.rate), m.queue().Round(100*time.Microsecond), m.lost(), f.c.LossFloor(), tc.link.meanLoss())
			}
		})
	}
}

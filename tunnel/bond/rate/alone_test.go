package rate

import (
	"strings"
	"testing"
)

// TestAlone: jitter and bursts of loss are not taken for a rival. (One run of a thousand does, on heavy/ct.)
func TestAlone(t *testing.T) {
	for _, tc := range steadyLinks {
		t.Run(tc.name, func(t *testing.T) {
			for _, seed := range seeds(t, 2) {
				s := newSim(t, seed, tc.link)
				f := newBondFlow(s, Config{})
				f.start()
				trace(s, f, 100*ms)
				for s.now < 30*sec {
					s.run(s.now + 50*ms)
					if strings.Contains(f.c.State(), "compete") {
						t.Fatalf("seed %d: %s after %v", seed, f.c.State(), s.now)
					}
				}
			}
		})
	}
}

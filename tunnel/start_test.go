package tunnel

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestFirstSecond asks a warm tunnel over bad links for an endless stream: its first second moves nearly what a later one
// does, counted from the first byte on. Without repair at the start it was 0.72 to 0.76 here.
func TestFirstSecond(t *testing.T) {
	t.Parallel()
	runs, seconds, least := 5, 3*time.Second, 0.78
	if raceOn {
		t.Skip("five tunnels to warm; the race detector sees the same code in other tests")
	}
	scenario, err := wan.ScenarioNamed("heavy")
	if err != nil {
		t.Fatal(err)
	}
	seed := seeded(t).Uint64()
	var mu sync.Mutex
	var shares []float64
	t.Run("runs", func(t *testing.T) {
		for i := range runs {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				bubble(t, func(t *testing.T) {
					elephant := func(_ int, c *Config) { c.ElephantBytes = elephantEarly } // these connections have nothing waiting
					c, done := newBonded(t, seed+uint64(i), [][]wan.Impairment{scenario.Impairments()}, warm, raw, elephant)
					defer done()
					c.serve = source64k
					c.warmed()
					time.Sleep(6 * time.Second) // filler is over, and the lanes idle
					conn, end := c.open()
					_, _ = conn.Write([]byte("please"))
					var began time.Time
					var first, all int64
					buf := make([]byte, 64<<10)
					for began.IsZero() || time.Since(began) < seconds {
						n, err := conn.Read(buf)
						if err != nil {
							t.Fatal(err)
						}
						if began.IsZero() {
							began = time.Now()
						}
						all += int64(n)
						if time.Since(began) <= time.Second {
							first = all
						}
					}
					_ = conn.Reset()
					<-end
					share := float64(first) * (seconds - time.Second).Seconds() / float64(all-first)
					mu.Lock()
					shares = append(shares, share)
					mu.Unlock()
				})
			})
		}
	})
	if len(shares) < runs {
		return // failed
	}
	slices.Sort(shares)
	t.Logf("shares %.3f", shares)
	if m := shares[runs/2]; m < least {
		t.Errorf("the first second moves %.3f of a later one (median), want %.2f", m, least)
	}
}

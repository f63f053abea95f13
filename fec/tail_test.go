package fec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestTailRepairsWithoutBursts(t *testing.T) {
	tests := []struct {
		loss     float64
		n        int
		min, max int
	}{
		{0.001, 24, 1, 2},
		{0.01, 1, 1, 2},
		{0.01, 24, 2, 4},
		{0.05, 24, 4, 9},
		{0.01, 200, 6, 12},
		{0.30, 2, 3, 4},
		{0.01, 0, 0, 0},
		{0.01, -5, 0, 0},
	}
	for _, tt := range tests {
		r := rand.New(rand.NewPCG(seed(t), 40))
		c := NewController(InteractiveLimits)
		for i := range 4000 {
			lost := 0
			for range 32 {
				if r.Float64() < tt.loss {
					lost++
				}
			}
			c.OnReport(epoch.Add(time.Duration(i)*10*time.Millisecond), 32, lost, 0)
		}
		if got := c.TailRepairs(tt.n); got < tt.min || got > tt.max {
			t.Errorf("loss %v, tail of %d: %d repairs, want %d..%d", tt.loss, tt.n, got, tt.min, tt.max)
		}
	}
}

// TestTailRepairsObjects sends objects over bad links by what the controller says, and counts those that stay incomplete.
func TestTailRepairsObjects(t *testing.T) {
	// A border link of the lab's kind: 2 % at random and bursts of about 7 packets with 70 % loss.
	border := gilbert{random: 0.02, enter: 0.003, leave: 0.15, lossInBad: 0.7}
	tests := []struct {
		paths   int
		loss    gilbert
		packets int
		repairs float64 // at most, on average
	}{
		{1, border, 24, 15},
		{3, border, 24, 13},
		{3, border, 4, 6},
		{3, burstyLoss(0.01, 8), 24, 18},
		{3, burstyLoss(0.01, 1), 24, 4},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("paths=%d/packets=%d/%+v", tt.paths, tt.packets, tt.loss), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed(t), 41))
			c := NewController(InteractiveLimits)
			links := make([]gilbert, tt.paths)
			for i := range links {
				links[i] = tt.loss
			}
			next := 0
			lose := func(packets int) (lost int) {
				for range packets {
					if links[next%len(links)].lost(r) {
						lost++
					}
					next++
				}
				return lost
			}
			const warmup, objects = 1000, 20_000
			bare, failed, sum := 0, 0, 0
			for i := range warmup + objects {
				repairs := c.TailRepairs(tt.packets)
				lost := lose(tt.packets)
				lostRepairs := lose(repairs)
				if i >= warmup {
					sum += repairs
					if lost > 0 {
						bare++
					}
					if lost > repairs-lostRepairs {
						failed++
					}
				}
				c.OnReport(epoch.Add(time.Duration(i)*20*time.Millisecond), tt.packets, lost, 0)
			}
			share := float64(failed) / objects
			t.Logf("incomplete %.2f %% (%.1f %% without repair), %.1f repairs", 100*share, 100*float64(bare)/objects, float64(sum)/objects)
			// One path's bursts have a heavier tail than the chain that stands for them.
			limit := 0.005
			if tt.paths == 1 {
				limit = 0.0075
			}
			if share > limit {
				t.Errorf("%.2f %% of objects stay incomplete, want %.2f", 100*share, 100*limit)
			}
			if got := float64(sum) / objects; got > tt.repairs {
				t.Errorf("%.1f repairs for an object, want at most %.1f", got, tt.repairs)
			}
		})
	}
}

// TestTailRepairsFollowBursts checks that the same loss asks for more when it bunches.
func TestTailRepairsFollowBursts(t *testing.T) {
	last := 0
	for _, burst := range []float64{1, 3, 8} {
		r := rand.New(rand.NewPCG(seed(t), 42))
		c := NewController(InteractiveLimits)
		g := burstyLoss(0.02, burst)
		for i := range 6000 {
			lost := 0
			for range 32 {
				if g.lost(r) {
					lost++
				}
			}
			c.OnReport(epoch.Add(time.Duration(i)*10*time.Millisecond), 32, lost, 0)
		}
		got := c.TailRepairs(24)
		if got <= last {
			t.Errorf("bursts of %v: %d repairs, %d for shorter bursts", burst, got, last)
		}
		last = got
		want := 1 - 1/burst // of neighbours, when a burst loses everything
		if r := c.bursts.correlation(); math.Abs(r-want) > 0.12 {
			t.Errorf("bursts of %v: correlation %.2f, want %.2f", burst, r, want)
		}
	}
}

// TestTailRepairsReportSize: bursts are seen whatever reports packets come in, also when each loss ends a report.
func TestTailRepairsReportSize(t *testing.T) {
	const burst = 6
	for _, size := range []int{1, 10, 32, 100, 0} {
		r := rand.New(rand.NewPCG(seed(t), 43))
		c := NewController(InteractiveLimits)
		g := burstyLoss(0.02, burst)
		sent, lost := 0, 0
		for i := range 200_000 {
			sent++
			hit := g.lost(r)
			if hit {
				lost++
			}
			if sent == size || size == 0 && (hit || sent == 50) {
				c.OnReport(epoch.Add(time.Duration(i)*time.Millisecond/4), sent, lost, 0)
				sent, lost = 0, 0
			}
		}
		if got, want := c.bursts.correlation(), 1-1.0/burst; math.Abs(got-want) > 0.12 {
			t.Errorf("reports of %d: correlation %.2f, want %.2f", size, got, want)
		}
	}
}

// TestTailRepairsSeenLoss: at least one as soon as any loss was seen, none long after.
func TestTailRepairsSeenLoss(t *testing.T) {
	c := NewController(BulkLimits)
	now := epoch
	for range 10_000 {
		now = now.Add(time.Millisecond)
		c.OnReport(now, 100, 0, 0)
	}
	c.OnReport(now, 100, 1, 0)
	if got := c.TailRepairs(10); got < 1 {
		t.Errorf("%d repairs after a loss", got)
	}
	for range 1000 {
		now = now.Add(time.Second)
		c.OnReport(now, 10, 0, 0)
	}
	if got := c.TailRepairs(10); got != 0 {
		t.Errorf("%d repairs a quarter of an hour after the only loss", got)
	}
}

func BenchmarkTailRepairs(b *testing.B) {
	for _, n := range []int{24, 512} {
		b.Run(fmt.Sprintf("packets=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			c := NewController(InteractiveLimits)
			for i := range 100 {
				c.OnReport(epoch.Add(time.Duration(i)*reportEvery), 32, i%3, 0)
			}
			for b.Loop() {
				c.TailRepairs(n)
			}
		})
	}
}

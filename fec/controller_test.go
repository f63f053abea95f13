package fec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Unix(1_700_000_000, 0)

const reportEvery = 25 * time.Millisecond

// run drives a simulated lane by a controller until its clock shows end, calling observe after each report.
func (s *simulation) run(t testing.TB, c *Controller, end time.Duration, observe func()) {
	for next := s.now.Truncate(reportEvery) + reportEvery; s.now < end; {
		s.step(t, c.Ratio())
		if s.now >= next {
			next += reportEvery
			sent, lost, unrecovered := s.judge()
			c.OnReport(epoch.Add(s.now), sent, lost, unrecovered)
			if observe != nil {
				observe()
			}
		}
	}
}

func TestControllerCleanLane(t *testing.T) {
	for _, limits := range []Limits{BulkLimits, InteractiveLimits, {Min: 0.02, Max: 0.1, Target: 0.001}} {
		c := NewController(limits)
		if c.Ratio() != limits.Min || c.TailRepairs(24) != 0 {
			t.Errorf("%+v: at first ratio %v, tail %d", limits, c.Ratio(), c.TailRepairs(24))
		}
		for i := range 10_000 {
			c.OnReport(epoch.Add(time.Duration(i)*reportEvery), 100, 0, 0)
			if c.Ratio() != limits.Min || c.TailRepairs(24) != 0 {
				t.Fatalf("%+v: after %d clean reports ratio %v, tail %d", limits, i, c.Ratio(), c.TailRepairs(24))
			}
		}
	}
}

// TestControllerBounds reports anything, also what cannot be, and wants the ratio inside the limits.
func TestControllerBounds(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 30))
	nan := math.NaN()
	tests := []struct {
		limits   Limits
		min, max float64
	}{
		{BulkLimits, 0, 0.08},
		{InteractiveLimits, 0, 0.2},
		{Limits{}, 0, 0},
		{Limits{Min: 0.05, Max: 0.3, Target: 0.01}, 0.05, 0.3},
		{Limits{Min: 0.5, Max: 0.3, Target: 0.01}, 0.3, 0.3},
		{Limits{Min: -1, Max: 7, Target: -3}, 0, 1},
		{Limits{Min: nan, Max: nan, Target: nan, Tail: nan}, 0, 0},
		{Limits{Max: 0.1, Target: math.Inf(1), Tail: 9}, 0, 0.1},
	}
	for _, tt := range tests {
		c := NewController(tt.limits)
		now := epoch
		for range 3000 {
			now = now.Add(time.Duration(r.Int64N(int64(2*time.Second))) - 200*time.Millisecond)
			sent := r.IntN(400) - 20
			lost := r.IntN(max(sent, 1)+10) - 5
			c.OnReport(now, sent, lost/(1+r.IntN(20)), r.IntN(100)-10)
			if got := c.Ratio(); !(got >= tt.min && got <= tt.max) {
				t.Fatalf("%+v: ratio %v outside of %v..%v", tt.limits, got, tt.min, tt.max)
			}
			n := r.IntN(600) - 10
			if got := c.TailRepairs(n); got < 0 || got > MaxTail || got > max(n, 0)+tailSpare {
				t.Fatalf("%+v: %d repairs for a tail of %d", tt.limits, got, n)
			}
		}
	}
}

// TestControllerRisesQuickly starts 5 % loss on a clean lane.
func TestControllerRisesQuickly(t *testing.T) {
	for _, rate := range []float64{300, 2000} {
		s := newSimulation(seed(t), rate, gilbert{})
		c := NewController(InteractiveLimits)
		s.run(t, c, 5*time.Second, nil)
		if c.Ratio() != 0 {
			t.Fatalf("rate %v: ratio %v on a clean lane", rate, c.Ratio())
		}
		for i := range s.loss {
			s.loss[i] = burstyLoss(0.05, 1)
		}
		reached := time.Duration(0)
		s.run(t, c, 10*time.Second, func() {
			if reached == 0 && c.Ratio() >= 0.06 {
				reached = s.now - 5*time.Second
			}
		})
		// Packets lost at 5 s are reported at 5.17 s at the earliest.
		if reached == 0 || reached > 1500*time.Millisecond {
			t.Errorf("rate %v: ratio at 6 %% after %v, want 1.5 s", rate, reached)
		}
	}
}

// TestControllerConverges wants the residual at its target, and the ratio steady, where Max suffices for that.
func TestControllerConverges(t *testing.T) {
	tests := []struct {
		limits   Limits
		loss     gilbert
		min, max float64 // of the mean ratio
		within   float64 // the residual may be so many times the target; bursts make few events of it
	}{
		{BulkLimits, burstyLoss(0.003, 1), 0, 0.01, 1.6}, // below target: not worth repairing
		{BulkLimits, burstyLoss(0.03, 1), 0.03, 0.08, 1.6},
		{InteractiveLimits, burstyLoss(0.01, 1), 0.01, 0.06, 1.6},
		{InteractiveLimits, burstyLoss(0.05, 1), 0.06, 0.17, 1.6},
		{InteractiveLimits, burstyLoss(0.01, 4), 0.03, 0.17, 3},
	}
	for _, tt := range tests {
		name := fmt.Sprintf("max=%v/%+v", tt.limits.Max, tt.loss)
		t.Run(name, func(t *testing.T) {
			s := newSimulation(seed(t), 4000, tt.loss)
			c := NewController(tt.limits)
			s.run(t, c, 5*time.Second, nil)
			sent, late := s.sent, s.late
			var n, sum, square float64
			s.run(t, c, 20*time.Second, func() {
				n, sum, square = n+1, sum+c.Ratio(), square+c.Ratio()*c.Ratio()
			})
			mean := sum / n
			deviation := math.Sqrt(max(square/n-mean*mean, 0))
			residual := float64(s.late-late) / float64(s.sent-sent)
			t.Logf("ratio %.3f +- %.3f, residual %.3f %%", mean, deviation, 100*residual)
			if residual > tt.within*tt.limits.Target {
				t.Errorf("residual %.3f %%, target %.3f %%", 100*residual, 100*tt.limits.Target)
			}
			if mean < tt.min || mean > tt.max {
				t.Errorf("mean ratio %.3f, want %v..%v", mean, tt.min, tt.max)
			}
			if deviation > 0.2*tt.limits.Max {
				t.Errorf("ratio swings: %.3f +- %.3f", mean, deviation)
			}
		})
	}
}

// TestControllerRelaxes has ten bad seconds on a clean lane: afterwards the ratio sinks, without a step up, to nothing.
func TestControllerRelaxes(t *testing.T) {
	for _, limits := range []Limits{BulkLimits, InteractiveLimits} {
		s := newSimulation(seed(t), 2000, burstyLoss(0.05, 4))
		c := NewController(limits)
		s.run(t, c, 10*time.Second, nil)
		if c.Ratio() < 0.05 {
			t.Errorf("max %v: ratio %v after 10 s of loss", limits.Max, c.Ratio())
		}
		for i := range s.loss {
			s.loss[i] = gilbert{}
		}
		s.run(t, c, 11*time.Second, nil)
		last := c.Ratio()
		s.run(t, c, 70*time.Second, func() {
			if c.Ratio() > last+1e-9 {
				t.Fatalf("max %v: ratio rises from %v to %v at %v without loss", limits.Max, last, c.Ratio(), s.now)
			}
			last = c.Ratio()
		})
		if c.Ratio() > 0.002 {
			t.Errorf("max %v: ratio %v a minute after the loss", limits.Max, c.Ratio())
		}
	}
}

// TestControllerGivesUpBeyondMax wants no repair where it would be wasted, and some again when that is over.
func TestControllerGivesUpBeyondMax(t *testing.T) {
	s := newSimulation(seed(t), 2000, burstyLoss(0.15, 1))
	c := NewController(BulkLimits)
	s.run(t, c, 8*time.Second, nil)
	if c.Ratio() != 0 {
		t.Errorf("ratio %v at 15 %% loss, want none", c.Ratio())
	}
	for i := range s.loss {
		s.loss[i] = burstyLoss(0.03, 1)
	}
	s.run(t, c, 40*time.Second, nil)
	if c.Ratio() < 0.02 {
		t.Errorf("ratio %v at 3 %% loss after 15 %%, want more than 2 %%", c.Ratio())
	}
}

// TestControllerFewPackets checks that a handful of losses is not taken for loss beyond repair.
func TestControllerFewPackets(t *testing.T) {
	c := NewController(InteractiveLimits)
	c.OnReport(epoch, 24, 8, 8)
	if c.Ratio() == 0 {
		t.Errorf("no repair after 8 of the first 24 packets were lost")
	}
}

// TestControllerLateKnowledge reports packets as they are sent, and their fate in later reports.
func TestControllerLateKnowledge(t *testing.T) {
	together, apart := NewController(InteractiveLimits), NewController(InteractiveLimits)
	now := epoch
	for i := range 2000 {
		now = now.Add(reportEvery)
		if i%10 == 0 {
			together.OnReport(now, 50, 10, 1)
		} else {
			together.OnReport(now, 50, 0, 0)
		}
		switch i % 10 {
		case 1:
			apart.OnReport(now, 0, 10, 0)
			apart.OnReport(now, 50, 0, 0)
		case 3:
			apart.OnReport(now, 50, 0, 1)
		default:
			apart.OnReport(now, 50, 0, 0)
		}
	}
	if a, b := together.Ratio(), apart.Ratio(); a == 0 || math.Abs(a-b) > 0.1*a {
		t.Errorf("ratio %v when all is known at once, %v when not", a, b)
	}
	if a, b := together.Loss(), apart.Loss(); math.Abs(a-b) > 0.1*a {
		t.Errorf("loss %v when all is known at once, %v when not", a, b)
	}
}

// TestControllerOutage checks that one gap does not bring the ratio to its maximum, in one report or in many at once.
func TestControllerOutage(t *testing.T) {
	for _, pieces := range []int{1, 10} {
		c := NewController(InteractiveLimits)
		now := epoch
		for range 400 {
			now = now.Add(reportEvery)
			c.OnReport(now, 100, 0, 0)
		}
		now = now.Add(reportEvery)
		for range pieces {
			c.OnReport(now, 300/pieces, 300/pieces, 300/pieces)
		}
		if c.Ratio() <= 0 || c.Ratio() > 0.1 {
			t.Errorf("%d pieces: ratio %v after 300 packets lost at once, want up to 0.1", pieces, c.Ratio())
		}
	}
}

package wan

import (
	"math"
	"math/rand/v2"
	"time"
)

// The jitter process. Delay on a real path wanders: neighbouring packets see
// nearly the same queues. Independent noise per packet would, if order is kept,
// turn into a running maximum far above the mean. So jitter here is a function
// of time alone: two equal AR(1) filters in series over white noise (a smoothed
// Ornstein-Uhlenbeck process) on a grid of 1 ms, interpolated between, with a
// standard deviation of half the impairment's Jitter, clamped to +-Jitter. The
// second filter bounds the slope, so that keeping order (a frame never leaves
// before its predecessor) hardly ever has to delay anything.
const (
	jitterStep = time.Millisecond
	// Two filters of 10 ms have an integrated correlation time of 20 ms.
	jitterTau = 10 * time.Millisecond
	// After this long nothing remembers the past: a longer gap costs no more steps.
	jitterMemory = 20 * jitterTau
)

var (
	jitterRho = math.Exp(-float64(jitterStep) / float64(jitterTau))
	// Innovation that gives the AR(2) process with double root rho unit variance.
	jitterNoise = math.Sqrt(math.Pow(1-jitterRho*jitterRho, 3) / (1 + jitterRho*jitterRho))
)

type jitter struct {
	rng       *rand.Rand
	at        time.Duration // grid time of cur
	prev, cur float64       // unit variance, at `at`-step and `at`
	started   bool
}

func (j *jitter) step() {
	next := 2*jitterRho*j.cur - jitterRho*jitterRho*j.prev + jitterNoise*j.rng.NormFloat64()
	j.prev, j.cur = j.cur, next
	j.at += jitterStep
}

// sample returns the deviation at time t in units of Jitter, -1..1. Times must
// not run backwards by more than a step.
func (j *jitter) sample(t time.Duration) float64 {
	if !j.started || t-j.at > jitterMemory {
		j.started = true
		j.at = (t - jitterMemory).Truncate(jitterStep)
	}
	for j.at < t {
		j.step()
	}
	back := float64(j.at-t) / float64(jitterStep)
	back = min(back, 1)
	x := j.cur + (j.prev-j.cur)*back
	return max(-1, min(1, x/2))
}

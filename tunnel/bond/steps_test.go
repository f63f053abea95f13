package bond

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// The rate of a link and what else is on it, as the bond sees it over three carriers: package rate has the same of one
// controller alone.

// linkWatch is the first link's direction to a, sampled every watchStep of a transfer.
type linkWatch struct {
	at    []time.Duration
	queue []time.Duration
	bytes []uint64 // that left the queue
	// compete counts the samples in which a controller of b was in a compete state, by path.
	compete map[string]int
}

const watchStep = 10 * time.Millisecond

// watched transfers for d and samples; script is called every watchStep with the time since the start.
func (w *world) watched(t *testing.T, p *lanePair, seed uint64, d time.Duration, script func(since time.Duration)) *linkWatch {
	v := &linkWatch{compete: map[string]int{}}
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(watchStep)
		defer tick.Stop()
		for start := time.Now(); ; {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if script != nil {
				script(time.Since(start))
			}
			c := w.links[0].Stats(wan.BtoA)
			v.at = append(v.at, time.Since(start))
			v.queue, v.bytes = append(v.queue, c.Queue), append(v.bytes, c.SentBytes)
			for _, ps := range w.b.bond.Stats().Paths {
				if strings.Contains(ps.Controller, "compete") {
					v.compete[ps.Name]++
				}
			}
		}
	}()
	r := p.transfer(t, seed, d)
	close(done)
	<-watched
	if !r.ok {
		t.Error("payload damaged")
	}
	return v
}

// settle is how long a figure must hold to count.
const settle = 500 * time.Millisecond

// gone is the time from from until the queue is below limit for settle.
func (v *linkWatch) gone(from, to, limit time.Duration) time.Duration {
	low := from
	for i, at := range v.at {
		switch {
		case at <= from:
		case at > to:
			return to - from
		case v.queue[i] >= limit:
			low = at
		case at-low >= settle:
			return low - from
		}
	}
	return to - from
}

// used is the time from from until settle of the link carried share of rate.
func (v *linkWatch) used(from, to time.Duration, rate, share float64) time.Duration {
	n := int(settle / watchStep)
	for i := n; i < len(v.at) && v.at[i] < to; i++ {
		if v.at[i-n] >= from && float64(v.bytes[i]-v.bytes[i-n])*8 >= share*rate*(v.at[i]-v.at[i-n]).Seconds() {
			return v.at[i] - from
		}
	}
	return to - from
}

// TestRateSteps: a link's rate falls to a third in mid-transfer and rises again: the queue is below 20 ms within 3 s, and
// 0.9 of the rate is used within 5 s. SIM_SEEDS sets the number of seeds.
func TestRateSteps(t *testing.T) {
	scenarios := []string{"clean", "typical", "heavy"}
	if raceEnabled {
		scenarios = scenarios[:1]
	}
	for _, name := range scenarios {
		seeds, _ := simSeeds(t)
		first := testSeed(t)
		for seed := first; seed < first+uint64(seeds); seed++ {
			t.Run(fmt.Sprint(name, "/seed=", seed), func(t *testing.T) {
				t.Parallel()
				inBubble(t, func(t *testing.T) {
					const s = time.Second
					const fall, rise, end = 3 * s, 9 * s, 15 * s
					links := simLinks(name)
					w := newWorldOf(t, seed, worldConfig{links: links})
					defer w.close()
					sa, sb := w.sessions()
					<-sa.Started()
					<-sb.Started()
					p := w.lane(sa, sb, Bulk)
					defer p.close()
					p.transfer(t, seed, 6*s) // warm
					full := links[0].bToA.Rate
					script := []struct {
						at   time.Duration
						rate int64
					}{{fall, full / 3}, {rise, full}}
					v := w.watched(t, p, seed, end, func(since time.Duration) {
						if len(script) > 0 && since >= script[0].at {
							imp := w.links[0].Impairment(wan.BtoA)
							imp.Rate = script[0].rate
							if err := w.links[0].SetImpairment(wan.BtoA, imp); err != nil {
								t.Error(err)
							}
							script = script[1:]
						}
					})
					gone, used := v.gone(fall, rise, 20*time.Millisecond), v.used(rise, end, float64(full), 0.9)
					t.Logf("queue gone after %v; 0.9 used after %v; compete %v", gone, used, v.compete)
					if gone > 3*s {
						t.Errorf("the queue that a fall built is gone after %v, want 3 s at the most", gone)
					}
					if used > 5*s {
						t.Errorf("0.9 of the rate is used %v after it rose, want 5 s at the most", used)
					}
				})
			})
		}
	}
}

// TestOwnQueue: on a path whose reports come back by a much shorter one, the queue that looking for more rate leaves is
// drained and not taken for a rival's: no controller competes with nobody. The link's rate is let fall and rise so that it
// looks for more.
func TestOwnQueue(t *testing.T) {
	const ms = time.Millisecond
	seeds, _ := simSeeds(t)
	first := testSeed(t)
	for seed := first; seed < first+uint64(seeds); seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				far := wan.Impairment{Rate: 50e6, Delay: 110 * ms}
				w := newWorld(t, seed, far, wan.Impairment{Rate: 20e6, Delay: 60 * ms})
				defer w.close()
				sa, sb := w.sessions()
				<-sa.Started()
				<-sb.Started()
				p := w.lane(sa, sb, Bulk)
				defer p.close()
				p.transfer(t, seed, 5*time.Second) // warm
				changes := 0
				v := w.watched(t, p, seed, 12*time.Second, func(since time.Duration) {
					if since >= time.Second+time.Duration(changes)*3500*ms {
						changes++
						imp := far
						if changes%2 == 1 {
							imp.Rate = far.Rate * 3 / 4
						}
						if err := w.links[0].SetImpairment(wan.BtoA, imp); err != nil {
							t.Error(err)
						}
					}
				})
				if len(v.compete) > 0 {
					t.Errorf("in a compete state for so many times %v: %v", watchStep, v.compete)
				}
			})
		})
	}
}

package bond

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// simSeeds is how many seeds the suite runs: SIM_SEEDS, as in make sim SEEDS=200; nightly tells whether it was set.
func simSeeds(t *testing.T) (n int, nightly bool) {
	v := os.Getenv("SIM_SEEDS")
	if v == "" {
		return 1, false
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("SIM_SEEDS %q, want a number from 1", v)
	}
	return n, true
}

// TestSim runs every scenario over SIM_SEEDS seeds from TEST_SEED on. The network repeats itself with the seed; the order
// in which goroutines run does not, so figures of a seed vary a little from run to run.
func TestSim(t *testing.T) {
	first := testSeed(t)
	n, nightly := simSeeds(t)
	var tab simTable
	if nightly {
		t.Cleanup(func() { fmt.Print(tab.String()) })
	}
	for _, c := range simCases() {
		tab.rows = append(tab.rows, simRow{name: c.name})
	}
	for i, c := range simCases() {
		if raceEnabled && !c.race {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := first; seed < first+uint64(n); seed++ {
				t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
					t.Parallel()
					inBubble(t, func(t *testing.T) {
						res := runSim(t, &c, seed)
						t.Log(res)
						tab.add(i, res)
						if t.Failed() {
							t.Logf("again: TEST_SEED=%d go test -run 'TestSim/%s/' ./tunnel/bond", seed, c.name)
						}
					})
				})
			}
		})
	}
}

// simTable collects what the runs measured.
type simTable struct {
	mu   sync.Mutex
	rows []simRow
}

type simRow struct {
	name string
	runs []simResult
}

func (t *simTable) add(i int, r simResult) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[i].runs = append(t.rows[i].runs, r)
}

// spread is the middle, the tenth from the bad end, and the worst of a metric's values; most tells that more is worse.
func spread[T cmp.Ordered](runs []simResult, most bool, of func(simResult) T) [3]T {
	var v []T
	for _, r := range runs {
		v = append(v, of(r))
	}
	slices.Sort(v)
	if most {
		slices.Reverse(v)
	}
	return [3]T{v[len(v)/2], v[len(v)/10], v[0]}
}

func (t *simTable) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %5s  %-20s  %-20s  %-20s  %-16s  %-20s\n", "scenario", "runs", "of limit", "overhead", "stall ms", "taken for lost", "Jain")
	fmt.Fprintf(&b, "%-14s %5s  %-20s  %-20s  %-20s  %-16s  %-20s\n", "", "", "median p10 min", "median p90 max", "median p90 max", "median p90 max", "median p10 min")
	for _, row := range t.rows {
		if len(row.runs) == 0 {
			continue
		}
		limit := spread(row.runs, false, func(r simResult) float64 { return r.ofLimit })
		over := spread(row.runs, true, func(r simResult) float64 { return r.overhead })
		stall := spread(row.runs, true, func(r simResult) time.Duration { return r.stall })
		lost := spread(row.runs, true, func(r simResult) uint64 { return r.quicLost })
		jain := spread(row.runs, false, func(r simResult) float64 { return r.jain })
		fmt.Fprintf(&b, "%-14s %5d  %5.3f %5.3f %5.3f     %5.3f %5.3f %5.3f     %5d %5d %5d     %4d %4d %4d    %5.3f %5.3f %5.3f\n", row.name, len(row.runs),
			limit[0], limit[1], limit[2], over[0], over[1], over[2],
			stall[0].Milliseconds(), stall[1].Milliseconds(), stall[2].Milliseconds(), lost[0], lost[1], lost[2], jain[0], jain[1], jain[2])
	}
	return b.String()
}

package bond

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

func simLinks(scenario string, carriers ...int) []worldLink {
	sc, err := wan.ScenarioNamed(scenario)
	if err != nil {
		panic(err)
	}
	imps := sc.Impairments()
	if carriers == nil {
		return bothWays(imps...)
	}
	var some []wan.Impairment
	for _, c := range carriers {
		some = append(some, imps[c])
	}
	return bothWays(some...)
}

func simCases() []simCase {
	return []simCase{
		{
			name: "heavy", links: simLinks("heavy"), warm: 5 * time.Second, run: 5 * time.Second,
			want: simBounds{ofLimit: 0.6, stall: time.Second, overhead: 2, quicLost: 500},
		},
		{
			name: "outage", links: simLinks("outage"), warm: 5 * time.Second, run: 10 * time.Second,
			want: simBounds{ofLimit: 0.4, stall: time.Second, overhead: 2, quicLost: 500},
		},
		{
			name: "delay-step", links: simLinks("typical"), warm: 5 * time.Second, run: 8 * time.Second,
			script: func(r *simRun) {
				for i := 0; r.at(time.Duration(1+2*i) * time.Second); i++ {
					by := 40 * time.Millisecond
					if i%2 == 1 {
						by = -by
					}
					for _, d := range []wan.Direction{wan.AtoB, wan.BtoA} {
						r.change(0, d, func(imp *wan.Impairment) { imp.Delay += by })
					}
				}
			},
			want: simBounds{ofLimit: 0.6, stall: time.Second, overhead: 2, quicLost: 500},
		},
	}
}

// simSeeds is how many seeds a run of the suite takes: SIM_SEEDS, as in make sim SEEDS=200.
func simSeeds(t *testing.T) int {
	v := os.Getenv("SIM_SEEDS")
	if v == "" {
		return 1
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("SIM_SEEDS %q, want a number from 1", v)
	}
	return n
}

func TestSim(t *testing.T) {
	first, n := testSeed(t), simSeeds(t)
	for _, c := range simCases() {
		t.Run(c.name, func(t *testing.T) {
			for i := range n {
				seed := first + uint64(i)
				t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
					t.Parallel()
					inBubble(t, func(t *testing.T) {
						res := runSim(t, &c, seed)
						t.Log(res)
					})
				})
			}
		})
	}
}

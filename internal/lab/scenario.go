package lab

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// accessImpairment is each of the agent's two access links, each direction: a clean business line.
var accessImpairment = wan.Impairment{Rate: 100_000_000, Delay: 2 * time.Millisecond, Queue: 50 * time.Millisecond}

// scenarioLinks returns a scenario's border links.
func scenarioLinks(name string) ([]wan.Carrier, error) {
	s, err := wan.ScenarioNamed(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return s.Carriers, nil
}

// pick returns the links of those names, in the scenario's order.
func pick(links []wan.Carrier, names []string) []wan.Carrier {
	var out []wan.Carrier
	for _, l := range links {
		if slices.Contains(names, l.Name) {
			out = append(out, l)
		}
	}
	return out
}

// limitMbit is what loss-free TCP could carry over the links in what their loss leaves.
func limitMbit(links []wan.Carrier) float64 {
	imps := make([]wan.Impairment, len(links))
	for i, l := range links {
		imps[i] = l.Impairment
	}
	return round(wan.Limit(imps...)/1e6, 2)
}

// bestPathRTT is the shortest unloaded round trip across the border, from the client to the origin.
func bestPathRTT(links []wan.Carrier, agent bool) time.Duration {
	best := time.Duration(math.MaxInt64)
	for _, l := range links {
		best = min(best, 2*l.Impairment.Delay)
	}
	if agent {
		best += 2 * accessImpairment.Delay
	}
	return best
}

// outageCycle is how often the links' outages come, 0 if none comes again and again.
func outageCycle(links []wan.Carrier) (cycle time.Duration) {
	for _, l := range links {
		for _, o := range l.Impairment.Outages {
			cycle = max(cycle, o.Every)
		}
	}
	return cycle
}

// bestCarrier is the carrier on which a plain TCP bulk transfer goes fastest: the least of the link's rate and of what
// the loss lets a Reno-like sender reach (Mathis et al. 1997, MSS/RTT x 1.22/sqrt(loss)). On lossy long paths CUBIC
// falls back to that very rate. Ties go to the shorter path.
func bestCarrier(links []wan.Carrier) string {
	const mss = 1448
	best, bestRate, bestDelay := "", -1.0, time.Duration(0)
	for _, l := range links {
		rate := float64(l.Impairment.Capacity())
		if loss := l.Impairment.MeanLoss(); loss > 0 {
			rtt := 2 * l.Impairment.Delay.Seconds()
			rate = min(rate, mss*8/rtt*1.22/math.Sqrt(loss))
		}
		if rate > bestRate || rate == bestRate && l.Impairment.Delay < bestDelay {
			best, bestRate, bestDelay = l.Name, rate, l.Impairment.Delay
		}
	}
	return best
}

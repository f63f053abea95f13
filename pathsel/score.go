package pathsel

import (
	"math"
	"time"
)

const (
	// rMax is R of a perfect G.711 call (ITU-T G.107, default values).
	rMax = 93.2
	// packetization is a G.711 packet's worth of speech, and lookahead the least a player keeps beyond the jitter.
	packetization = 20 * time.Millisecond
	// bpl is the packet-loss robustness of G.711 with concealment (ITU-T G.113, appendix I); its Ie is 0.
	bpl = 25.1
	// steep is the delay impairment a millisecond, in place of 0.024, of what the delay has just risen by: a player's
	// buffer has to stretch, and a delay that rises is seldom done with it.
	steep = 0.11
	risen = 10 // ms above the minimum that jitter may be
	// assumedRate stands in for a capacity that the bond does not know, where it knows that of no other path either.
	assumedRate = 20_000_000
	// scoreMax keeps scores finite, so that they can be written as JSON and read back the same.
	scoreMax = 1e6
)

// RFactor is the E-model's transmission rating (ITU-T G.107) of a G.711 call, simplified: the delay impairment in the form
// of Cole and Rosenbluth (2001), of mouth-to-ear delay, and the effective equipment impairment of G.107, section 7.4, of
// packet loss (0 to 1) with its burst ratio (1 for random loss).
func RFactor(delay time.Duration, loss, burstRatio float64) float64 {
	return rMax - delayImpairment(delay) - lossImpairment(loss, burstRatio)
}

func delayImpairment(delay time.Duration) float64 {
	ms := float64(delay) / float64(time.Millisecond)
	return 0.024*ms + 0.11*max(ms-177.3, 0)
}

func lossImpairment(loss, burstRatio float64) float64 {
	percent := 100 * loss
	return 95 * percent / (percent/max(burstRatio, 1) + bpl)
}

// MOS turns R into a mean opinion score, 1 to 4.5 (ITU-T G.107, annex B).
func MOS(r float64) float64 {
	switch {
	case r <= 0:
		return 1
	case r >= 100:
		return 4.5
	}
	return max(1+0.035*r+r*(r-60)*(100-r)*7e-6, 1)
}

// doubt is which end of the loss estimate's uncertainty a score counts: the path in use gets the better one, a challenger
// the worse, so that noise alone moves nobody.
type doubt float64

const (
	fairly   doubt = 0
	kindly   doubt = -1 // one standard deviation less
	severely doubt = 1
)

// loss is the loss that scores count.
func (d *Direction) loss(k doubt) float64 {
	p, n := d.Now, float64(d.Packets)
	if k == fairly || n == 0 {
		return p
	}
	// Of a binomial, with one packet more of either kind, so that a clean short sample is not taken for certain. Bursts
	// make packets less independent.
	q := (p*n + 1) / (n + 2)
	return min(max(p+float64(k)*math.Sqrt(q*(1-q)*max(d.Burst, 1)/n), 0), 1)
}

// burstRatio is the mean burst over what random loss would have.
func (d *Direction) burstRatio() float64 {
	return max(d.Burst*(1-d.Loss), 1)
}

// median and p95 are what scores count: in a brownout the long windows still hold what the path was like before.
func (d *Delay) median(s State) time.Duration {
	if s == StateBrownout {
		return max(d.Median, d.Recent)
	}
	return d.Median
}

func (d *Delay) p95(s State) time.Duration {
	if s == StateBrownout {
		return max(d.P95, d.Recent)
	}
	return d.P95
}

// view is what costs are counted with beside a path's state.
type view struct {
	policy  *Policy
	assumed float64 // capacity, bits a second
}

// assumed is the capacity that a path of unknown capacity is given: the mean of what is known of the others, so that it is
// neither sought nor shunned for it.
func assumed(states []PathState) float64 {
	sum, n := 0.0, 0
	for i := range states {
		if c := states[i].CapacityBitsPerSec; c > 0 && states[i].State != StateDown {
			sum += float64(c)
			n++
		}
	}
	if n == 0 {
		return assumedRate
	}
	return sum / float64(n)
}

// cost is a path's score for a class, the smaller the better: realtime counts 100-R, interactive the milliseconds of a
// round trip at its 95th percentile and what loss adds, bulk the milliseconds until Policy.BulkBytes are across.
func (v *view) cost(class Class, s *PathState, k doubt) float64 {
	p := v.policy
	c := &p.Classes[class]
	var x float64
	switch class {
	case Realtime:
		x = realtimeCost(s, c, k)
	case Interactive:
		loss, delay, median := s.Out.loss(k), s.Out.Delay.p95(s.State)*2, s.RTT.median(s.State)
		if c.RoundTrip {
			loss, delay = 1-(1-loss)*(1-s.Back.loss(k)), s.RTT.p95(s.State)
		}
		x = c.DelayWeight*millis(delay) + c.LossWeight*loss*millis(median)
	default:
		rate := float64(s.CapacityBitsPerSec)
		if rate <= 0 {
			rate = v.assumed
		}
		loss, delay := s.Out.loss(k), s.RTT.median(s.State)
		if c.RoundTrip {
			loss = 1 - (1-loss)*(1-s.Back.loss(k))
		}
		x = c.DelayWeight*millis(delay) + 8000*float64(p.BulkBytes)/rate*(1+c.LossWeight*loss)/max(1-loss, 0.01)
	}
	return min(x, scoreMax)
}

func realtimeCost(s *PathState, c *ClassPolicy, k doubt) float64 {
	one := func(d *Direction) float64 {
		delay := d.Delay.p95(s.State) + packetization // a player's buffer takes in the jitter
		impairment := delayImpairment(delay)
		if s.State == StateBrownout {
			impairment += steep * max(millis(d.Delay.Recent-d.Delay.Min)-risen, 0)
		}
		return c.DelayWeight*impairment + c.LossWeight*lossImpairment(d.loss(k), d.burstRatio())
	}
	v := one(&s.Out)
	if c.RoundTrip {
		v = max(v, one(&s.Back)) // a call is as good as its worse half
	}
	return 100 - rMax + v
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// score is the cost as people know it: R for realtime, else milliseconds.
func score(class Class, cost float64) float64 {
	if class == Realtime {
		return 100 - cost
	}
	return cost
}

// margin is by how much another path's cost must be less than that of the one in use.
func (c *ClassPolicy) margin(class Class, cost float64) float64 {
	if class == Realtime {
		return 30 * c.Hysteresis // 10 %: 3 points of R, a tenth of a point of MOS
	}
	return max(cost*c.Hysteresis, millis(c.Margin))
}

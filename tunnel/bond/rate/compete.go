package rate

import "time"

// While a queue stays that sending less does not take away, another flow holds
// it (or the route has grown longer, which looks the same until the base delay
// is ten seconds old). Keeping the queue short would then mean to starve. What
// decides how a FIFO queue shares the link is who sends how much into it, so
// the controller measures its share and steers it to a half.
//
// The measurement: with the bottleneck busy and the others sending z, a sender
// at rate S is delivered C*S/(S+z). At u times S and then at d times S, the
// ratio of what is delivered is r = u/d * (dS+z)/(uS+z), which gives the share
// f = S/(S+z). Nothing gained and nothing lost means there is nobody else.
const (
	competeUp   = 1.4
	competeDown = 0.6
	// fairShare is the share aimed at: with one other flow, a half, and what the
	// truces below cost.
	fairShare = 0.53
	lateShare = 0.25
	// shareCycles is how many cycles the share is averaged over.
	shareCycles = 3
	// lossShare is the part of the fair share from which on loss makes the sender
	// yield. Below, the loss is the other's doing: BBR version 1 overruns a short
	// queue whatever one does.
	lossShare = 0.9
	// With heavyLoss there are more than two: heavyShare is enough then.
	heavyLoss  = 0.1
	heavyShare = 0.8
	// mostUp and mostDown bound the change a cycle, about nine round trips long.
	// Beside loss it is lossyUp: who overruns the queue (BBR version 1) had half
	// a minute of the lion's share while mostUp caught up.
	mostUp   = 1.5
	mostDown = 0.8
	lossyUp  = 2.0
	// aloneDrop is the part of the expected fall of the queue in Down that
	// shows the queue to be this sender's own; twice in a row it must.
	aloneDrop = 0.75
	// Delivered in Down and after Drain, as parts of the rate before, below
	// which nobody else has taken what was left.
	routeSlow = 0.68
	drainSlow = 0.82
	// overSend bounds the rate by what is delivered of it, above soleShare.
	overSend  = 1.1
	lossySend = 2 // and while there is loss
	// aloneShare is a share that is as good as the whole, when it is seen
	// in one cycle, with soleShare on average.
	aloneShare = 0.9
	soleShare  = 0.65
	// Two senders of this kind could keep each other competing for ever: each
	// gives in after truceAfter and up to as much again, and sees. It waits
	// twice as long each time it has to come back, maxTruces times.
	truceAfter = 4 * time.Second
	maxTruces  = 4
	truceShare = 0.8 // of the fair share; less is nothing to give, unless all lose by it
	lossyTruce = 0.57
	// routeDoubt is how long loss can still unmask a new route as a full queue.
	routeDoubt = 15 * time.Second
	// rejoinFor is how long the rate held beside another flow is remembered.
	rejoinFor = 20 * time.Second
)

type competition struct {
	compete bool
	share   float64       // of the link, smoothed
	before  float64       // bw before Drain, in case the queue was not ours
	plain   float64       // delivered at gain 1
	raised  float64       // and in Up
	lowered float64       // and in Down
	peak    time.Duration // queue at the start of Down
	phase   int           // progress within the state
	span    time.Duration // how long Up and Down last
	from    interval      // all that was reported before what they sent
	lowAt   time.Time     // when the last of what Down sent was reported
	sole    bool          // Up brought nothing more
	dice    uint32
	cycles  int
	alone   int     // signs in a row of being alone; two a cycle
	over    float64 // loss over the floor this cycle

	oldBase time.Duration // before the route changed, in case it did not
	routeAt time.Time
	truces  int       // that did not hold
	compAt  time.Time // when it began
	heldBW  float64   // rate when competing last ended
	heldAt  time.Time

	calm time.Duration // queue before Up
	low  time.Duration // least mean delay of Drain or of the cycle, raw
	high time.Duration // and the most
	slow float64       // least rate delivered in Drain
}

func (c *Controller) startCompete(now time.Time, m float64, ok bool) {
	c.compete, c.alone, c.over = true, 0, 0
	c.compAt = now
	c.delay.hold = true
	if c.heldAt.IsZero() || now.Sub(c.heldAt) > rejoinFor {
		c.share = c.fair()
		if c.downs == 0 {
			// Straight from Startup: the other was there before.
			c.share = min(lateShare, c.share)
		}
		c.bw = max(m, c.before/2)
		if c.downs == 0 {
			// Drains that gave way to the other may have brought it far down.
			c.bw = max(c.bw, c.full/2)
		}
		c.truces = 0
	} else {
		c.truces = min(c.truces+1, maxTruces)
		c.bw = max(m, c.heldBW)
	}
	c.enter(now, cruise)
}

func (c *Controller) stopCompete(now time.Time, m float64) {
	c.compete = false
	c.heldBW, c.heldAt = c.bw*min(1, c.fair()/max(c.share, 0.05)), now
	// What was delivered in Down of what was sent there says less than that at the plain rate.
	c.bw = min(c.bw, max(m, c.plain))
	c.delay.hold = false
	c.deep = deepDowns
	c.enter(now, down)
}

// stepCompete cycles Cruise, Up, Down. A change of rate shows after the round
// trip with the present queue.
func (c *Controller) stepCompete(now time.Time, m float64, app, ok bool) {
	lag := c.lastRTT
	age := now.Sub(c.since)
	if app && age > maxSpan+4*lag {
		// Too little to send to compete for anything.
		c.stopCompete(now, c.bw)
		return
	}
	if !ok || app {
		return
	}
	switch c.state {
	case up:
		if c.phase == 0 && !c.told.Before(c.since) {
			c.plain, c.calm, c.phase = c.average(maxSpan/2, m), c.queue(), 1
			c.from = c.rates.all
		}
		if c.phase == 1 && !c.told.Before(c.since.Add(c.span)) {
			c.raised = c.creditSince(c.from, m)
			c.enter(now, down)
		}
	case down:
		if c.phase == 0 && !c.told.Before(c.since) {
			c.peak, c.phase = c.delay.standing(), 1
			c.from = c.rates.all
		}
		if c.phase == 1 && !c.told.Before(c.since.Add(c.span)) {
			c.lowered, c.phase, c.lowAt = c.creditSince(c.from, m), 2, now
			c.measureShare(c.raised, c.lowered)
		}
		if c.phase == 2 && now.Sub(c.lowAt) >= c.delayWindow()/2 {
			if c.plain > 0 && c.queue() > highQueue && c.quiet() && c.lowered < c.slowed(c.plain, routeSlow) && (c.queue()-c.calm).Abs() < c.flatness() {
				c.newRoute(now)
				return
			}
			fall := seconds(c.peak - c.delay.standing())
			if c.queue() < c.target()+3*time.Millisecond+c.delay.jitter() || fall >= aloneDrop*(1-competeDown)*seconds(c.span) {
				c.alone++
			} else if !c.sole {
				c.alone = 0
			}
			if c.sole {
				c.alone++
			}
			if c.alone >= 2 || c.share > c.enough() && now.Sub(c.compAt) > c.truce() {
				c.stopCompete(now, m)
				return
			}
			c.steer()
			c.enter(now, cruise)
		}
	default:
		if excess, _ := c.loss.excess(); excess {
			c.over = max(c.over, c.loss.episode()-c.loss.floor)
		}
		if age >= lag*time.Duration(6+c.dice>>24%5)/2 {
			// Uneven cycles do not fall into step with the other's probing.
			c.dice = c.dice*1664525 + 1013904223
			c.span = min(max(c.roundTrip(), 100*time.Millisecond), 250*time.Millisecond)
			c.enter(now, up)
		}
	}
}

// fair is the share to aim at: the same for each of one's own on the link, and
// for a rival. Together they then leave the rival room.
func (c *Controller) fair() float64 {
	if c.siblings > 0 {
		return 1 / float64(c.siblings+2)
	}
	return fairShare
}

// enough is the share from which a truce is worth a try.
func (c *Controller) enough() float64 {
	if c.over > 0 {
		return lossyTruce * c.fair()
	}
	return truceShare * c.fair()
}

// truce is how long to compete before giving in once.
func (c *Controller) truce() time.Duration {
	return (truceAfter + time.Duration(c.dice>>16)*truceAfter>>16) << c.truces
}

// steer moves the rate towards the fair share: others sending z, it is z.
func (c *Controller) steer() {
	f := min(max(c.share, 0.05), 0.95)
	fair := c.fair()
	g := 1 + ((1-f)/f*fair/(1-fair)-1)/2
	switch {
	case c.over > heavyLoss && c.share > heavyShare*fair:
		g = min(g, 0.9)
	case c.over > 0 && c.share > lossShare*fair:
		g = min(g, 0.95)
	}
	up := mostUp
	if c.over > 0 {
		up = lossyUp
	}
	c.bw *= min(max(g, mostDown), up)
	if c.plain > 0 && c.share > soleShare {
		c.bw = min(c.bw, overSend*c.plain)
	}
	if c.plain > 0 && c.over > 0 {
		c.bw = min(c.bw, lossySend*c.plain)
	}
	c.over = 0
}

// flatness is the change of the mean queue that jitter explains.
func (c *Controller) flatness() time.Duration {
	return 3*time.Millisecond + 2*c.delay.jitter()
}

// quiet tells that nothing overflows: a queue that overflows is level too.
func (c *Controller) quiet() bool {
	return c.loss.recent < c.loss.floor+lossMargin+c.loss.sigma(recentBlocks*lossBlock)
}

// slowed is the part of rate that says that what was delivered has gone down with
// what was sent; jitter blurs it.
func (c *Controller) slowed(rate, to float64) float64 {
	return rate * (to + 1.5*seconds(c.delay.jitter())/seconds(max(c.span, 100*time.Millisecond)))
}

// newRoute takes the present delay for the base: sending less brought that much
// less through and left the delay as it was, so no queue of this sender's, and
// none it shares, is in it.
func (c *Controller) newRoute(now time.Time) {
	c.delay.hold = false
	c.oldBase, c.routeAt = c.delay.base(), now
	c.delay.rebase(now, c.delay.least)
	c.rtt, c.rttAt = c.lastRTT, now
	if !c.compete || now.Sub(c.compAt) < rejoinFor/2 {
		c.bw = max(c.bw, c.before) // as it was before the delay rose
	}
	c.compete = false
	c.deep = deepDowns
	c.enter(now, down)
}

func (c *Controller) measureShare(up, down float64) {
	if up <= 0 || down <= 0 {
		return
	}
	const g = competeUp / competeDown
	r := up / down
	f := (g - r) / (r*(competeUp-1) + g*(1-competeDown))
	n := float64(shareCycles)
	if c.cycles++; c.cycles == 1 && c.downs == 0 {
		n = 2 // there was no more than a guess
	}
	c.share += (min(max(f, -0.2), 1.2) - c.share) / n
	c.sole = f > aloneShare && c.share > soleShare
}

// average is the rate over a span of receiver time, or else the usual sample.
func (c *Controller) average(span time.Duration, m float64) float64 {
	if sum, ok := c.rates.over(span); ok && sum.elapsed > 0 {
		return c.credit(sum)
	}
	return m
}

// creditSince is the rate of all that was reported after from.
func (c *Controller) creditSince(from interval, m float64) float64 {
	sum := c.rates.all
	sum.elapsed -= from.elapsed
	sum.delivered -= from.delivered
	sum.lost -= from.lost
	sum.packets -= from.packets
	if sum.elapsed <= 0 {
		return m
	}
	return c.credit(sum)
}

// competePacing is the gain in each state; Up and Down end before what they did
// has been seen.
func (c *Controller) competePacing() float64 {
	if c.last.Sub(c.since) >= c.span {
		return 1
	}
	switch c.state {
	case up:
		return competeUp
	case down:
		return competeDown
	}
	return 1
}

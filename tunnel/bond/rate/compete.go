package rate

import "time"

// While a queue stays that sending less does not take away, another flow holds
// it (or the route has grown longer, which looks the same until the base delay
// is ten seconds old). Keeping the queue short would then mean to starve. What
// decides how a FIFO queue shares the link is who sends how much into it, so
// the controller measures its share and steers it to a half.
//
// The measurement: with the bottleneck busy and the others sending z, a sender
// at rate S is delivered C*S/(S+z). Sending g times as much delivers
// g*(S+z)/(gS+z) times as much. From that ratio r follows the share
// S/(S+z) = (g/r-1)/(g-1): nothing gained means there is nobody else.
const (
	competeUp   = 1.25
	competeDown = 0.75
	// fairShare is the share aimed at: with one other flow, a half.
	fairShare = 0.5
	// shareStep bounds the change a cycle, about eight round trips long.
	shareStep = 0.15
	// aloneDrop is the part of the expected fall of the queue in Down that
	// shows the queue to be this sender's own.
	aloneDrop = 0.75
)

type competition struct {
	compete bool
	share   float64       // of the link, smoothed
	before  float64       // bw before Drain, in case the queue was not ours
	plain   float64       // delivered at gain 1
	peak    time.Duration // queue at the start of Down
	phase   int           // progress within the state
	span    time.Duration // how long Up and Down last
}

func (c *Controller) startCompete(now time.Time, m float64, ok bool) {
	c.compete = true
	c.share = fairShare
	if ok {
		c.bw = max(m, c.before/2)
	}
	c.enter(now, cruise)
}

func (c *Controller) stopCompete(now time.Time, m float64, ok bool) {
	c.compete = false
	if ok {
		c.bw = min(c.bw, m)
	}
	c.enter(now, down)
}

// stepCompete cycles Cruise, Up, Down. A change of rate shows after the round
// trip with the present queue.
func (c *Controller) stepCompete(now time.Time, m float64, app, ok bool) {
	if !ok || app {
		return
	}
	lag := c.lastRTT
	age := now.Sub(c.since)
	switch c.state {
	case up:
		if c.phase == 0 && age >= lag*9/10 {
			c.plain, c.phase = c.average(maxSpan/2, m), 1
		}
		if c.phase == 1 && age >= lag+c.span {
			c.measureShare(c.average(c.span*8/10, m))
			c.enter(now, down)
		}
	case down:
		if c.phase == 0 && age >= lag {
			c.peak, c.phase = c.delay.standing(), 1
		}
		if c.phase == 1 && age >= lag+c.span+c.delayWindow() {
			fall := seconds(c.peak - c.delay.standing())
			c.peak = 0
			if c.queue() < c.target()+3*time.Millisecond || fall >= aloneDrop*(1-competeDown)*seconds(c.span) {
				c.stopCompete(now, m, ok)
				return
			}
			c.enter(now, cruise)
		}
	default:
		if excess, _ := c.loss.excess(); excess {
			c.bw = min(c.bw, c.average(maxSpan/2, m)) * 0.9
			c.loss.mark()
		}
		if age >= 4*lag {
			c.bw = c.average(maxSpan, m) * (1 + min(max(fairShare-c.share, -shareStep), shareStep))
			c.span = min(max(c.roundTrip(), 100*time.Millisecond), 250*time.Millisecond)
			c.enter(now, up)
		}
	}
}

func (c *Controller) measureShare(raised float64) {
	if c.plain <= 0 || raised <= 0 {
		return
	}
	f := (competeUp*c.plain/raised - 1) / (competeUp - 1)
	c.share += (min(max(f, 0), 1) - c.share) / 2
}

// average is the rate over a span of receiver time, or else the usual sample.
func (c *Controller) average(span time.Duration, m float64) float64 {
	if sum, ok := c.rates.over(span); ok && sum.elapsed > 0 {
		return c.credit(sum)
	}
	return m
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

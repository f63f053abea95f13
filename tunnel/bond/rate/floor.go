package rate

import (
	"math"
	"time"
)

// tryFloor learns the floor of a path that has shown no queue. Loss may then be
// a policer's, who drops all beyond his rate: it is the path's own only if it
// was there at a lower rate already found to pass.
func (c *Controller) tryFloor(now time.Time, m float64, ok bool) bool {
	l, n := c.loss.episode(), float64(c.loss.packets)
	if n < lossBlock {
		return true
	}
	expected := c.loss.floor + lossMargin
	if c.loss.known() {
		expected += 2 * c.loss.sigma(n)
	}
	switch {
	case l < expected:
		switch {
		case l < c.loss.floor-lossMargin-2*c.loss.sigma(n):
			c.loss.accept(l) // the floor was some queue's or policer's
		case l < c.loss.floor && c.policed:
			c.loss.floor = (l + c.loss.floor) / 2 // perhaps in part
		default:
			c.loss.fold(l, n)
		}
		if p := c.cruiseLoss; c.trial == 0 && p > l+lossMargin+2*c.loss.sigma(n) {
			// Less came through at the higher rate than the floor explains.
			c.policed = true
			c.bw *= (1 - p) / (1 - l)
		}
	case c.trial > 0 && l > c.trial/2:
		// Not significantly less at the lower rate: take the rate back as well.
		if c.trial-l < lossMargin+2*math.Sqrt(c.trial*c.loss.burst*2/n) {
			c.bw = c.tryBW
		}
		c.loss.accept(l)
	default:
		c.trial, c.tryBW = l, c.bw
		if ok {
			c.bw = min(c.bw, c.average(maxSpan/2, m))
		}
		c.enter(now, down)
		return false
	}
	c.trial, c.cruiseLoss = 0, 0
	return true
}

// queueTrusted tells whether sending too much has lately shown as a queue.
func (c *Controller) queueTrusted(now time.Time) bool {
	return !c.policed && !c.queueSeen.IsZero() && now.Sub(c.queueSeen) < 15*time.Second
}

// judgeLoss looks for loss beyond the path's own. Once may be a burst: it only
// makes the sender go Down and look again. What comes back is a policer, or a
// queue too short to see, and what is gross needs no second look.
func (c *Controller) judgeLoss(now time.Time, m float64, ok bool) bool {
	excess, gross := c.loss.excess()
	if !excess || !ok {
		return false
	}
	c.upAt = now
	if gross && now.Sub(c.routeAt) < routeDoubt {
		// The new route was a full queue after all.
		c.routeAt = time.Time{}
		c.delay.rebase(now, c.oldBase)
		c.enter(now, drain)
		return true
	}
	if now.Sub(c.suspectAt) > suspectFor {
		c.suspects = 0
	}
	c.suspects++
	c.suspectAt = now
	trusted := c.queueTrusted(now)
	if trusted && !gross && c.state == up && c.suspects == 1 && c.queue() < c.target() {
		c.loss.mark() // where a queue comes before loss and there is none, this is a burst
		return false
	}
	if !trusted && (gross || c.suspects >= suspectTimes) || c.suspects >= trustedTimes {
		c.policed = true
		c.suspects, c.queueSeen = 0, time.Time{}
		c.bw = min(c.bw, m)
	} else {
		if c.state == up {
			c.bw = min(c.bw, max(m, c.upFrom))
		}
	}
	c.enter(now, down)
	return true
}

// floorEligible tells whether loss reported now can only be the path's own:
// the queue is short, and the sender has been well below the bandwidth for a
// round trip, or is known to meet a queue before it meets a drop.
func (c *Controller) floorEligible(now time.Time) bool {
	if c.compete || now.Sub(c.routeAt) < routeDoubt || c.queue() > c.target()+6*time.Millisecond+c.delay.jitter() {
		return false
	}
	switch c.state {
	case down:
		return c.marked && c.queueTrusted(now)
	case cruise:
		if c.queueTrusted(now) {
			return true
		}
		m, app, ok := c.sample()
		return ok && app && m < trickle*c.bw && c.loss.known()
	}
	return false
}

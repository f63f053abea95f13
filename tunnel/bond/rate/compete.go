package rate

import "time"

func (c *Controller) startCompete(now time.Time) {
	c.compete, c.compAt = true, now
	c.bw = max(c.bw, c.before)
	c.slots = [2]float64{c.bw, c.bw}
	c.enter(now, cruise)
}

// stepCompete is plain BBR: the maximum of the rates of two cycles, probed by
// 1.25 and 0.9 for a round each.
func (c *Controller) stepCompete(now time.Time, m float64, app, ok bool) {
	if ok && m > c.slots[0] {
		c.slots[0] = m
	}
	c.bw = max(c.slots[0], c.slots[1])
	rtt := c.roundTrip()
	switch c.state {
	case up:
		c.pulsed = true
		if excess, _ := c.loss.excess(); excess || now.Sub(c.since) > rtt {
			c.enter(now, down)
		}
	case down:
		if now.Sub(c.since) > rtt+c.delayWindow() {
			if c.queue() < c.target() {
				if now.Sub(c.compAt) > rtt {
					c.compete = false
					c.downAt = now
				}
			} else {
				c.compAt = now
			}
			c.enter(now, cruise)
		}
	default:
		c.state = cruise
		if now.Sub(c.since) > 8*rtt {
			c.slots[1], c.slots[0] = c.slots[0], m
			c.enter(now, up)
		}
	}
}

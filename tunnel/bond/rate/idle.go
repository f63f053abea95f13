package rate

import "time"

// WantProbeRTT tells that the base delay has gone unseen for so long that the
// controller wants to empty the path to measure it.
func (c *Controller) WantProbeRTT() bool {
	return c.inited && !c.compete && c.state != startup && c.last.Sub(c.delay.seenAt) > rttWindow
}

// AllowProbeRTT says whether this path may do so now; the bond lets one path at
// a time.
func (c *Controller) AllowProbeRTT(ok bool) {
	if ok && c.WantProbeRTT() && c.state != probeRTT {
		c.delay.seenAt = c.last
		c.enter(c.last, probeRTT)
	}
}

// restart prepares for sending after idle time: the estimate stays, but what is
// sent at once is halved for each minute begun, and then doubles every round
// trip up to the estimate.
func (c *Controller) restart(now time.Time, idle time.Duration) {
	c.rates.reset()
	c.delay.forget()
	if c.state == startup {
		return
	}
	r := c.bw
	for t := idle; t > 0 && r > float64(c.cfg.InitialRate)/8; t -= time.Minute {
		r /= 2
	}
	c.ramp, c.rampAt = max(r, min(c.bw, float64(c.cfg.InitialRate)/8)), now
	c.compete, c.delay.hold = false, false
	c.enter(now, cruise)
	c.downAt = now
}

func (c *Controller) stepRamp(now time.Time) {
	if c.queue() > startupQueue {
		c.bw = min(c.bw, c.ramp)
		c.ramp = 0
		return
	}
	if now.Sub(c.rampAt) >= c.roundTrip() {
		c.rampAt = now
		c.ramp *= 2
	}
	if c.ramp >= c.bw*1.1 {
		c.ramp = 0
	}
}

// OnSilence says that the path has stopped answering (an outage), or resumes
// after one. The estimate is kept; sending starts over gently.
func (c *Controller) OnSilence(now time.Time) {
	c.restart(now, time.Minute)
}

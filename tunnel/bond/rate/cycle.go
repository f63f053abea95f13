package rate

import "time"

func (c *Controller) stepStartup(now time.Time, m float64, app, ok bool) {
	if ok {
		c.bw = max(c.bw, m)
		c.roundBest = max(c.roundBest, m)
	}
	if now.Sub(c.roundAt) >= c.roundTrip() {
		c.roundAt = now
		if c.roundBest >= c.full*startupGrow {
			c.full, c.flat = c.roundBest, 0
		} else if ok && !app {
			c.flat++
		}
		c.roundBest = 0
	}
	queue := c.delay.sudden() > startupQueue+2*c.delay.jitter()
	if !queue && c.flat < startupFlat && !(c.flat > 0 && c.loss.recent > startupLoss) {
		return
	}
	if queue {
		c.queueSeen = now
	} else {
		c.bw = min(c.full, c.average(maxSpan, m))
	}
	c.enter(now, drain)
}

// track follows the measured rate m of a bottleneck known to be busy, with time
// constant tau.
func (c *Controller) track(m float64, dt, tau time.Duration) {
	c.bw += (m - c.bw) * min(1, seconds(dt)/seconds(tau))
}

// stepDrain sends little until what is in flight fits the path, then waits to
// see the queue gone. A queue that stays is not this sender's.
func (c *Controller) stepDrain(now time.Time, dt time.Duration, m float64, ok, busy bool) {
	if busy && c.delay.sudden() > c.noiseDelay()+10*time.Millisecond+2*c.delay.jitter() {
		c.track(m, dt, 30*time.Millisecond)
	}
	if c.delay.sudden() > startupQueue+2*c.delay.jitter() {
		c.queueSeen, c.policed = now, false
	}
	if ok && now.Sub(c.since) > c.delayWindow() {
		if c.low == 0 && c.high == 0 {
			c.low, c.high = c.delay.mean, c.delay.mean
		}
		c.low, c.high = min(c.low, c.delay.mean), max(c.high, c.delay.mean)
		c.found = max(c.found, c.queue())
		c.slow = min(c.slow, m)
	}
	if c.settled.IsZero() {
		c.settledBW = c.bw
		c.deficit = seconds(now.Sub(c.since)) - float64(c.sentBytes-c.sentAtDrain)/c.bw
		if c.drains > 0 && c.deficit < enoughDeficit*seconds(c.high-c.delay.baseV)-c.noise && now.Sub(c.since) < c.loop() {
			return
		}
		if float64(c.inflight) <= c.bw*seconds(c.roundTrip()+targetQueue) || now.Sub(c.since) > 4*c.loop() {
			c.settled = now
		}
		return
	}
	if now.Sub(c.settled) < c.loop() {
		return
	}
	if c.bw < fellTo*c.before {
		c.series = 0 // at once: that was the link
	}
	left := min(c.queue(), c.delay.sudden()-c.noiseDelay())
	switch {
	case c.series >= yieldDrains && c.bw < yieldTo*c.seriesBW && now.Sub(c.seriesFrom) > yieldTime:
		c.before = c.seriesBW
		c.series = 0
		c.startCompete(now, m, ok)
	case left <= highQueue+c.delay.jitter() || seconds(left) <= (1-aloneDrop)*seconds(c.found):
		c.enter(now, down) // gone, or nearly: nobody keeps it up
	case c.quiet() && c.slow < c.slowed(c.before, drainSlow) && c.high-c.low < c.flatness():
		c.newRoute(now)
	case c.drains < maxDrains && (c.bw < c.settledBW*0.92 || c.deficit < enoughDeficit*seconds(c.queue())):
		// Too little was held back: the rate was still being found, or what is
		// in flight is not what it was said to be.
		before := c.before
		c.drains++
		c.enter(now, drain)
		c.before = before
		return
	default:
		c.startCompete(now, m, ok)
	}
	c.drains = 0
}

// stepDown empties the queue, waits for a loop to see it empty, and learns from
// that: what delay is left is jitter, what loss is left is the path's own.
func (c *Controller) stepDown(now time.Time, m float64, ok bool) {
	if !c.marked && now.Sub(c.since) >= c.roundTrip()+20*time.Millisecond {
		c.marked = true
		c.loss.mark()
	}
	if c.delay.standing() > c.noiseDelay()+max(c.fromQ, 0)+2*highQueue+c.delay.jitter() {
		c.enter(now, drain) // the rate fell meanwhile
		return
	}
	if c.settled.IsZero() {
		if now.Sub(c.since) >= c.downTime() {
			c.settled = now
		}
		return
	}
	if now.Sub(c.settled) < c.loop() {
		return
	}
	// Look the longer the more jitter there is to average out.
	c.lookSum += c.delay.over()
	c.looks++
	if now.Sub(c.settled) < c.loop()+40*c.delay.jitter() {
		return
	}
	if !c.loss.known() && c.loss.packets < trialPackets && now.Sub(c.since) < maxTrial {
		return
	}
	if c.queue() >= highQueue+c.delay.jitter() {
		c.enter(now, drain)
		return
	}
	if !c.queueTrusted(now) && !c.tryFloor(now, m, ok) {
		return
	}
	c.downAt = now
	c.deep = max(c.deep-1, 0)
	x := min(c.lookSum/c.looks, time.Millisecond+5*c.delay.jitter()/2)
	w := 0.35
	if c.downs++; c.downs == 1 {
		w = 0.7 // nothing was known
	}
	c.noise += (seconds(x) - c.noise) * w
	if c.policed {
		c.enter(now, cruise)
	} else {
		c.enter(now, refill)
	}
}

// downTime is how long Down sends at downGain to take away the queue it found.
func (c *Controller) downTime() time.Duration {
	q := min(max(c.fromQ, c.target()), 2*highQueue)
	if c.deep > 0 {
		q += deepQueue
	}
	return duration(seconds(q)/(1-downGain)) + 20*time.Millisecond
}

func (c *Controller) stepCruise(now time.Time, dt time.Duration, m float64, app, ok, busy bool) {
	q := c.queue()
	if c.delay.standing() > c.noiseDelay()+c.target()+highQueue {
		if c.highSince.IsZero() {
			c.highSince = now
		}
		if now.Sub(c.highSince) > 30*time.Millisecond {
			c.enter(now, drain)
			if busy {
				c.bw = m
			}
			return
		}
	} else {
		c.highSince = time.Time{}
	}
	if busy && !app {
		c.track(m, dt, time.Second)
	}
	c.qSlow += (seconds(q) - c.qSlow) * min(1, seconds(dt))
	if c.qSlow > seconds(c.target())*0.7 {
		c.queueSeen = now
	}
	if c.judgeLoss(now, m, ok) {
		return
	}
	if c.loss.packets > episodePackets {
		c.cruiseLoss = c.loss.episode()
		c.loss.mark()
	}
	if now.Sub(c.downAt) > downEvery {
		c.enter(now, down)
		return
	}
	if app || !ok || now.Sub(c.markedAt) < ceQuiet {
		c.lowSince = time.Time{}
		return
	}
	if c.policed {
		if now.Sub(c.upAt) > policeEvery {
			c.enter(now, up)
		}
		return
	}
	if q > c.target()/3 || now.Sub(c.since) < c.loop() {
		c.lowSince = time.Time{}
	} else if c.lowSince.IsZero() {
		c.lowSince = now
	} else if now.Sub(c.lowSince) > c.roundTrip()/2 {
		c.enter(now, up)
	}
}

func (c *Controller) stepUp(now time.Time, m float64, app, ok, busy bool) {
	q := c.queue()
	if c.judgeLoss(now, m, ok) {
		return
	}
	full := 5*time.Millisecond + c.delay.jitter()/2
	if c.pulsed {
		full += c.delay.jitter() // there is room, and each look may be jitter
	}
	if q > max(c.fromQ, 0)+full {
		if q > max(c.fromQ, 0)+8*time.Millisecond+2*c.delay.jitter() {
			c.queueSeen = now
			c.policed = false
		}
		c.upAt = now
		if c.pulsed {
			c.enter(now, drain)
		} else {
			// Full, or nearly: bw was too low to keep a queue.
			c.bw *= upNudge
			c.enter(now, cruise)
		}
		return
	}
	if app {
		c.upAt = now
		c.enter(now, cruise)
		return
	}
	if !c.pulsed {
		if c.settled.IsZero() {
			if now.Sub(c.since) >= upPulse {
				c.settled = now
			}
		} else if now.Sub(c.settled) >= c.loop() {
			c.pulsed = true
			c.upAtN = now
		}
		return
	}
	round := c.roundTrip() + c.rateWindow()
	if c.policed {
		// The greatest of noisy samples would overrun.
		m = c.average(policeSpan, m)
		round += policeSpan
	}
	if ok {
		c.bw = max(c.bw, m)
	}
	if now.Sub(c.upAtN) >= round {
		if m < c.upFrom*1.03 {
			// Neither rate nor queue grew: something else limits.
			c.upAt = now
			c.enter(now, down)
			return
		}
		c.upAtN = now
		c.upFrom = c.bw
		c.upRounds++
		c.loss.mark()
	}
}

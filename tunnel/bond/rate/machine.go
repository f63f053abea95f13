package rate

import "time"

type state uint8

const (
	startup state = iota
	drain
	down
	refill
	cruise
	up
	probeRTT
)

var stateNames = [...]string{"Startup", "Drain", "Down", "Refill", "Cruise", "Up", "ProbeRTT"}

// State names what the controller is doing: Startup, Drain, Down, Refill,
// Cruise, Up or ProbeRTT, with "/compete" while another flow holds the queue.
func (c *Controller) State() string {
	if c.compete {
		return stateNames[c.state] + "/compete"
	}
	return stateNames[c.state]
}

const (
	startupGain  = 2.77 // draft-ietf-ccwg-bbr, BBRStartupPacingGain
	startupGrow  = 1.25 // growth a round that keeps Startup going
	startupFlat  = 3    // rounds without it that end Startup
	startupLoss  = 0.3  // with one round without growth ends it at once: a policer
	startupQueue = 15 * time.Millisecond

	drainGain  = 0.5
	downGain   = 0.9
	settleGain = 0.98 // while waiting to see what Drain or Down did
	refillGain = 1.05
	upGain     = 1.25
	policeGain = 1.1 // Up where no queue gives warning

	targetQueue = 4 * time.Millisecond  // held in Cruise: proves the link full
	highQueue   = 16 * time.Millisecond // over target: the rate fell, or another flow came
	// maxDrains bounds the Drains in a row, each of which must hold back
	// enoughDeficit of the queue it found to tell whose it is.
	maxDrains     = 3
	enoughDeficit = 0.4
	upPulse       = 40 * time.Millisecond // at upGain: a queue of 10 ms if the link is full

	// maxSpan is the longest time a rate is averaged over.
	maxSpan = 500 * time.Millisecond

	downEvery = 4 * time.Second // the base is good for 10 s; this sees it twice
	// After a doubt about the base, deepDowns Downs take deepQueue more away than
	// is seen: a base that held a queue comes to light.
	deepDowns   = 3
	deepQueue   = 20 * time.Millisecond
	policeEvery = 5 * time.Second
	// trialPackets is how many packets a trial of the floor asks for, in at most
	// maxTrial.
	trialPackets = 500
	maxTrial     = 2 * time.Second
	// episodePackets ends an episode of loss in Cruise, to judge it by itself.
	episodePackets = 2000
	// suspectFor is how soon loss must recur to be believed.
	suspectFor = 3 * time.Second

	// idleTrust is the idle time after which the estimate is no longer sent at
	// at once; the rest of it is ramped up to.
	idleTrust = 10 * time.Second
)

// machine is the state machine's part of a Controller.
type machine struct {
	state   state
	since   time.Time
	settled time.Time // in Drain, Down and Up: when the change of rate ended
	fromQ   time.Duration

	roundAt   time.Time
	roundBest float64
	full      float64
	flat      int

	busySince time.Time // the queue has not been empty since
	queueSeen time.Time // last time more sending made a queue
	noise     float64   // seconds by which delay exceeds the base on an empty link

	downAt    time.Time // end of the last Down
	upAt      time.Time // end of the last Up
	highSince time.Time
	lowSince  time.Time // Cruise has not kept its queue since

	pulsed   bool // Up is past its pulse: there is room
	upFrom   float64
	upAtN    time.Time
	credited bool // bw counts the path's own loss
	// suspectAt is when loss was last over the floor, not yet confirmed.
	suspectAt time.Time
	policed   bool // the last Up met loss instead of queue
	cutAt     time.Time
	ramp      float64 // bytes/s limit after an idle time; 0 is none
	rampAt    time.Time

	qSlow       float64 // the queue in Cruise, averaged over a second
	trial       float64 // loss at the last, higher rate tried to learn the floor
	tryBW       float64 // bw before the first of these trials
	deep        int
	drains      int     // Drains repeated
	sentAtDrain int64   // sentBytes when Drain began
	deficit     float64 // seconds of sending held back in Drain
	settledBW   float64 // bw when Drain had drained
	downs       int
	cruiseLoss  float64 // in the last whole episode of Cruise; 0 is unknown
	marked      bool    // Down counts loss since its rate shows
	competition
}

func (c *Controller) enter(now time.Time, s state) {
	c.state, c.since, c.settled = s, now, time.Time{}
	c.fromQ, c.phase, c.marked = c.queue(), 0, false
	c.loss.mark()
	switch s {
	case up:
		c.pulsed, c.upFrom, c.upAtN = c.policed, c.bw, now
	case drain:
		c.before, c.slow = c.bw, c.bw
		c.low, c.high = 0, 0
		c.sentAtDrain = c.sentBytes
	case cruise:
		c.lowSince, c.highSince = time.Time{}, time.Time{}
	}
}

// queue is the mean queue over the delay window.
func (c *Controller) queue() time.Duration { return c.delay.over() - c.noiseDelay() }

// noiseDelay is what jitter adds to the base on average. What was measured is
// believed as far as the jitter seen explains it: else it was a queue.
func (c *Controller) noiseDelay() time.Duration {
	return min(duration(c.noise), time.Millisecond+5*c.delay.jitter()/2)
}

// target is the queue to hold: more where jitter would hide it.
func (c *Controller) target() time.Duration { return targetQueue + c.delay.jitter()/4 }

// sample is the latest rate through the bottleneck, in sent terms.
func (c *Controller) sample() (rate float64, appLimited, ok bool) {
	sum, ok := c.rates.over(c.rateWindow())
	if !ok || sum.elapsed <= 0 {
		return 0, false, false
	}
	return c.credit(sum), sum.appLimited, true
}

// credit is the rate of an interval, with the loss that the path may have by
// itself counted as sent through it.
func (c *Controller) credit(sum interval) float64 {
	delivered, lost := float64(sum.delivered), float64(sum.lost)
	credit := 0.0
	if c.loss.known() {
		credit = min(c.loss.floor+c.loss.sigma(float64(sum.packets)), maxFloor)
	}
	return (delivered + min(lost, delivered*credit/(1-credit))) / seconds(sum.elapsed)
}

// loop is the time after which the reports show what a change of rate did.
func (c *Controller) loop() time.Duration {
	return c.roundTrip() + c.delayWindow() + 30*time.Millisecond
}

func (c *Controller) step(now time.Time, s Sample, dt time.Duration) {
	if c.since.IsZero() {
		c.since, c.roundAt, c.downAt, c.upAt = now, now, now, now
		c.noise = 0
	}
	m, app, ok := c.sample()
	if c.delay.sudden() > c.noiseDelay()+time.Millisecond+c.delay.jitter()/4 {
		if c.busySince.IsZero() {
			c.busySince = now
		}
	} else {
		c.busySince = time.Time{}
	}
	busy := ok && !c.busySince.IsZero() && now.Sub(c.busySince) >= c.rateWindow()
	if busy {
		// A longer span averages jitter and bursts of loss out.
		m = c.average(min(now.Sub(c.busySince), maxSpan), m)
	}
	if !c.credited && c.loss.known() {
		c.credited = true
		if c.state != startup {
			c.bw /= 1 - c.loss.floor
		}
	}
	if c.ramp > 0 {
		c.stepRamp(now)
	}
	if s.CE > 0 && now.Sub(c.cutAt) > c.roundTrip() {
		c.cutAt = now
		c.bw *= 0.9
	}
	switch {
	case c.compete:
		c.stepCompete(now, m, app, ok)
	case c.state == startup:
		c.stepStartup(now, m, app, ok)
	case c.state == drain:
		c.stepDrain(now, dt, m, ok, busy)
	case c.state == down:
		c.stepDown(now, m, ok)
	case c.state == refill:
		if now.Sub(c.since) >= duration(seconds(c.target())/(refillGain-1)) {
			c.enter(now, cruise)
		}
	case c.state == cruise:
		c.stepCruise(now, dt, m, app, ok, busy)
	case c.state == up:
		c.stepUp(now, m, app, ok, busy)
	case c.state == probeRTT:
		if now.Sub(c.since) > c.roundTrip()+200*time.Millisecond {
			c.downAt = now
			c.enter(now, refill)
		}
	}
	c.bw = c.clamp(c.bw)
}

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
	if !c.credited {
		m = max(m, c.bw)
	}
	c.bw += (m - c.bw) * min(1, seconds(dt)/seconds(tau))
}

// stepDrain sends little until what is in flight fits the path, then waits to
// see the queue gone. A queue that stays is not this sender's.
func (c *Controller) stepDrain(now time.Time, dt time.Duration, m float64, ok, busy bool) {
	if busy && c.delay.sudden() > c.noiseDelay()+10*time.Millisecond+2*c.delay.jitter() {
		c.track(m, dt, 30*time.Millisecond)
	}
	if ok && now.Sub(c.since) > c.delayWindow() {
		if c.low == 0 && c.high == 0 {
			c.low, c.high = c.delay.mean, c.delay.mean
		}
		c.low, c.high = min(c.low, c.delay.mean), max(c.high, c.delay.mean)
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
	switch {
	case c.queue() <= highQueue+c.delay.jitter():
		c.enter(now, down)
	case c.quiet() && c.slow < c.slowed(c.before, drainSlow) && c.high-c.low < c.flatness():
		c.newRoute(now)
	case c.drains < maxDrains && (c.bw < c.settledBW*0.92 || c.deficit < enoughDeficit*seconds(c.queue())):
		// Too little was held back: the rate was still being found, or what is
		// in flight is not what it was said to be.
		before := c.before
		c.enter(now, drain)
		c.before = before
		c.drains++
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
	if c.settled.IsZero() {
		if now.Sub(c.since) >= c.downTime() {
			c.settled = now
		}
		return
	}
	if now.Sub(c.settled) < c.loop() {
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
	c.downs++
	c.deep = max(c.deep-1, 0)
	x := min(c.delay.over(), time.Millisecond+5*c.delay.jitter()/2)
	c.noise += (seconds(x) - c.noise) * 0.4
	if c.policed {
		c.enter(now, cruise)
	} else {
		c.enter(now, refill)
	}
}

// tryFloor learns the floor of a path that has shown no queue. Loss may then be
// a policer's, who drops all beyond his rate: it is the path's own only if it
// was there at a lower rate already found to pass.
func (c *Controller) tryFloor(now time.Time, m float64, ok bool) bool {
	l, n := c.loss.episode(), float64(c.loss.packets)
	if n < lossBlock {
		return true
	}
	if c.trial == 0 {
		c.tryBW = c.bw
	}
	expected := c.loss.floor + lossMargin
	if c.loss.known() {
		expected += 2 * c.loss.sigma(n)
	}
	switch {
	case l < expected:
		if l < c.loss.floor-lossMargin-2*c.loss.sigma(n) {
			c.loss.accept(l) // the floor was some queue's or policer's
		} else {
			c.loss.fold(l, n)
		}
		if p := c.cruiseLoss; c.trial == 0 && p > l+lossMargin+2*c.loss.sigma(n) {
			// Less came through at the higher rate than the floor explains.
			c.policed = true
			c.bw *= (1 - p) / (1 - l)
		}
	case c.trial > 0 && l > c.trial/2:
		// No less at the lower rate: take the rate back as well.
		if l > c.trial*3/4 {
			c.bw = c.tryBW
		}
		c.loss.accept(l)
	default:
		c.trial = l
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
	if app || !ok {
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

// judgeLoss looks for loss beyond the path's own. Once may be a burst: it only
// makes the sender go Down and look again. What comes back is a policer, or a
// queue too short to see, and what is gross needs no second look.
func (c *Controller) judgeLoss(now time.Time, m float64, ok bool) bool {
	excess, gross := c.loss.excess()
	if !excess || !ok {
		return false
	}
	c.upAt = now
	if gross && !c.queueTrusted(now) || now.Sub(c.suspectAt) < suspectFor {
		c.policed = true
		c.suspectAt, c.queueSeen = time.Time{}, time.Time{}
		c.bw = min(c.bw, m)
	} else {
		c.suspectAt = now
		if c.state == up {
			c.bw = min(c.bw, max(m, c.upFrom))
		}
	}
	c.enter(now, down)
	return true
}

func (c *Controller) stepUp(now time.Time, m float64, app, ok, busy bool) {
	q := c.queue()
	if c.judgeLoss(now, m, ok) {
		return
	}
	if q > max(c.fromQ, 0)+5*time.Millisecond+c.delay.jitter()/2 {
		if q > max(c.fromQ, 0)+8*time.Millisecond+2*c.delay.jitter() {
			c.queueSeen = now
			c.policed = false
		}
		c.upAt = now
		if c.pulsed {
			c.enter(now, drain)
		} else {
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
	if ok {
		c.bw = max(c.bw, m)
	}
	if now.Sub(c.upAtN) >= c.roundTrip()+c.rateWindow() {
		if m < c.upFrom*1.03 {
			// Neither rate nor queue grew: something else limits.
			c.upAt = now
			c.enter(now, down)
			return
		}
		c.upAtN = now
		c.upFrom = c.bw
		c.loss.mark()
	}
}

// floorEligible tells whether loss reported now can only be the path's own:
// the queue is short, and the sender has been well below the bandwidth for a
// round trip, or is known to meet a queue before it meets a drop.
func (c *Controller) floorEligible(now time.Time, s Sample) bool {
	if c.compete || c.queue() > c.target()+6*time.Millisecond+c.delay.jitter() {
		return false
	}
	switch c.state {
	case down:
		return c.marked && c.queueTrusted(now)
	case cruise:
		return c.queueTrusted(now) || s.AppLimited && c.loss.known()
	}
	return false
}

func (c *Controller) pacing() float64 {
	r := c.bw
	if c.compete {
		return r * c.competePacing()
	}
	switch c.state {
	case startup:
		r *= startupGain
	case drain:
		if c.settled.IsZero() {
			r *= drainGain
		} else {
			r *= settleGain
		}
	case down:
		if c.settled.IsZero() || !c.loss.known() || c.policed {
			r *= downGain
		} else {
			r *= settleGain
		}
	case refill:
		r *= refillGain
	case cruise:
		r *= c.cruiseGain()
	case up:
		switch {
		case c.policed:
			r *= policeGain
		case c.pulsed || c.settled.IsZero():
			r *= upGain
		}
	case probeRTT:
		r *= 0.5
	}
	if c.ramp > 0 {
		r = min(r, c.ramp)
	}
	return r
}

// cruiseGain steers the mean queue to its target.
func (c *Controller) cruiseGain() float64 {
	if c.policed {
		return settleGain
	}
	k := 0.4 / seconds(c.loop())
	return 1 + min(max(k*seconds(c.target()-c.queue()), -0.08), 0.02)
}

func (c *Controller) inflightCap() float64 {
	bdp := c.bw * seconds(c.roundTrip())
	// What a report interval, a lost report and jitter leave unacknowledged.
	slack := c.bw * (0.04 + 2*seconds(c.delay.jitter()))
	if c.compete {
		return 2*bdp + slack
	}
	switch c.state {
	case startup:
		return 3*bdp + slack
	case drain, down:
		return bdp + slack
	case up:
		return 1.5*bdp + slack
	case probeRTT:
		return bdp/2 + slack
	}
	return 1.25*bdp + slack
}

// WantProbeRTT tells that the base delay has gone unseen for so long that the
// controller wants to empty the path to measure it.
func (c *Controller) WantProbeRTT() bool {
	return c.inited && c.state != startup && c.last.Sub(c.delay.seenAt) > rttWindow
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
// sent at once shrinks by half a minute.
func (c *Controller) restart(now time.Time, idle time.Duration) {
	c.rates.reset()
	if c.state == startup {
		return
	}
	r := c.bw
	for t := idle; t > 0 && r > float64(c.cfg.InitialRate)/8; t -= time.Minute {
		r /= 2
	}
	c.ramp, c.rampAt = max(r, min(c.bw, float64(c.cfg.InitialRate)/8)), now
	c.compete = false
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

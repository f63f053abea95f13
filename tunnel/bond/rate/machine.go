package rate

import "time"

type state uint8

const (
	startup state = iota
	drain
	down
	cruise
	up
	probeRTT
)

var stateNames = [...]string{"Startup", "Drain", "Down", "Cruise", "Up", "ProbeRTT"}

// State names what the controller is doing: Startup, Drain, Down, Cruise, Up or
// ProbeRTT, with "/compete" while another flow holds the queue.
func (c *Controller) State() string {
	if c.compete {
		return stateNames[c.state] + "/compete"
	}
	return stateNames[c.state]
}

const (
	startupGain  = 2.77 // draft-ietf-ccwg-bbr 5.6.1
	startupGrow  = 1.25 // growth a round that keeps Startup going
	startupFlat  = 3    // rounds without it that end Startup
	startupQueue = 15 * time.Millisecond

	drainGain = 0.7
	downGain  = 0.9
	idleGain  = 0.98 // while waiting to see what Down did

	targetQueue = 4 * time.Millisecond  // held in Cruise: proves the link full
	highQueue   = 20 * time.Millisecond // over target: the rate fell, or another flow came
	busyQueue   = 3 * time.Millisecond  // over noise: the bottleneck does not idle
	maxNoise    = 10 * time.Millisecond

	downEvery = 4 * time.Second // base is good for 10 s; this sees it twice
	upEvery   = 2500 * time.Millisecond

	competeFor = 10 * time.Second

	// idleTrust is the idle time after which the estimate is no longer sent at
	// at once; the rest of it is ramped up to.
	idleTrust = 10 * time.Second
)

// machine is the state machine's part of a Controller.
type machine struct {
	state state
	since time.Time

	roundAt   time.Time
	roundBest float64
	full      float64
	flat      int

	busySince time.Time // the queue has not been empty since
	queueSeen time.Time // last time more sending made a queue
	noise     float64   // seconds the standing queue reads on an empty link

	downAt    time.Time // end of the last Down
	upAt      time.Time // end of the last Up
	highSince time.Time
	emptyAt   time.Time // the queue was last seen to empty itself under Cruise

	upGain   float64
	upFrom   float64
	upRound  time.Time
	drainQ   time.Duration // standing queue at the last look at progress
	drainAt  time.Time
	before   float64 // bw before the present drain
	policed  bool    // the last Up met loss instead of queue
	cutAt    time.Time
	ramp     float64 // bytes/s limit after an idle time; 0 is none
	rampAt   time.Time
	compete  bool
	compAt   time.Time // last evidence of a competitor
	slots    [2]float64
	mayProbe bool
}

func (m *machine) init() {
	m.upGain = 1
	m.mayProbe = true
}

func (c *Controller) enter(now time.Time, s state) {
	c.state, c.since = s, now
	c.loss.mark()
	switch s {
	case up:
		c.upGain, c.upFrom, c.upRound = 1.1, c.bw, now
	case drain:
		c.drainQ, c.drainAt = c.delay.standing(), time.Time{}
		c.before = c.bw
	case cruise:
		c.emptyAt = time.Time{}
	}
}

// sample is the latest rate through the bottleneck, in sent terms.
func (c *Controller) sample() (rate float64, appLimited, ok bool) {
	sum, ok := c.rates.over(c.rateWindow())
	if !ok || sum.elapsed <= 0 {
		return 0, false, false
	}
	n := float64(sum.packets)
	delivered, lost := float64(sum.delivered), float64(sum.lost)
	credit := c.loss.floor
	if c.loss.known() {
		credit += c.loss.sigma(n)
	}
	credit = min(credit, maxFloor)
	return (delivered + min(lost, delivered*credit/(1-credit))) / seconds(sum.elapsed), sum.appLimited, true
}

func (c *Controller) noiseDelay() time.Duration { return duration(c.noise) }

func (c *Controller) step(now time.Time, s Sample) {
	if c.since.IsZero() {
		c.since, c.roundAt = now, now
		c.downAt, c.upAt = now, now
	}
	m, app, ok := c.sample()
	if c.delay.latest() > c.noiseDelay()+busyQueue {
		if c.busySince.IsZero() {
			c.busySince = now
		}
	} else {
		c.busySince = time.Time{}
	}
	busy := !c.busySince.IsZero() && now.Sub(c.busySince) >= c.rateWindow()
	if c.ramp > 0 {
		c.stepRamp(now)
	}
	if s.CE > 0 && now.Sub(c.cutAt) > c.roundTrip() {
		c.cutAt = now
		c.bw = c.clamp(c.bw * 0.9)
	}
	if c.compete {
		c.stepCompete(now, m, app, ok)
		return
	}
	switch c.state {
	case startup:
		c.stepStartup(now, m, app, ok)
	case drain:
		c.stepDrain(now, m, busy && ok)
	case down:
		c.stepDown(now, m, busy && ok)
	case cruise:
		c.stepCruise(now, m, app, ok, busy)
	case up:
		c.stepUp(now, m, app, ok, busy)
	case probeRTT:
		if now.Sub(c.since) > c.roundTrip()+200*time.Millisecond {
			c.enter(now, cruise)
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
	queue := c.delay.latest() > startupQueue
	if queue {
		c.queueSeen = now
	}
	if queue || c.flat >= startupFlat {
		if !queue && c.full > 0 {
			c.bw = c.full
		}
		c.enter(now, drain)
	}
}

// track follows the measured rate of a bottleneck known to be busy, with time
// constant tau.
func (c *Controller) track(m float64, tau time.Duration, dt time.Duration) {
	a := min(1, seconds(dt)/max(seconds(tau), 1e-3))
	c.bw += (m - c.bw) * a
}

const reportEvery = 10 * time.Millisecond

func (c *Controller) stepDrain(now time.Time, m float64, busy bool) {
	if busy {
		c.track(m, 30*time.Millisecond, reportEvery)
	}
	q := c.delay.standing()
	if q <= c.noiseDelay()+targetQueue {
		c.enter(now, down)
		return
	}
	rtt := c.roundTrip() + c.delayWindow()
	if now.Sub(c.since) < rtt {
		c.drainQ, c.drainAt = q, now
		return
	}
	if d := now.Sub(c.drainAt); d >= rtt {
		if q > c.drainQ-max(3*time.Millisecond, duration(seconds(d)*0.05)) {
			c.startCompete(now)
			return
		}
		c.drainQ, c.drainAt = q, now
	}
}

func (c *Controller) stepDown(now time.Time, m float64, busy bool) {
	look := c.roundTrip() + c.delayWindow() + 60*time.Millisecond
	if !c.loss.known() || c.policed {
		look *= 2
	}
	if now.Sub(c.since) < look {
		return
	}
	q := c.delay.standing()
	c.downAt = now
	if q < maxNoise+2*time.Millisecond {
		c.noise += (min(seconds(q), seconds(maxNoise)) - c.noise) * 0.3
		c.enter(now, cruise)
		return
	}
	c.enter(now, drain)
}

func (c *Controller) stepCruise(now time.Time, m float64, app, ok, busy bool) {
	q := c.delay.standing()
	target := c.noiseDelay() + targetQueue
	if q > target+highQueue {
		if c.highSince.IsZero() {
			c.highSince = now
		}
		if now.Sub(c.highSince) > 30*time.Millisecond {
			if busy {
				c.bw = m
			}
			c.enter(now, drain)
			return
		}
	} else {
		c.highSince = time.Time{}
	}
	if ok && !app && busy {
		c.track(m, 300*time.Millisecond, reportEvery)
		c.queueSeen = now
	} else if ok && m > c.bw {
		c.track(m, 500*time.Millisecond, reportEvery)
	}
	if c.loss.known() && c.loss.excess() && now.Sub(c.cutAt) > c.roundTrip()+c.rateWindow() {
		c.cutAt = now
		if ok {
			c.bw = min(c.bw, m)
		}
		c.enter(now, down)
		return
	}
	if c.loss.episodeN > 2000 {
		c.loss.mark()
	}
	if now.Sub(c.downAt) > downEvery {
		c.enter(now, down)
		return
	}
	if app || !ok {
		c.emptyAt = time.Time{}
		return
	}
	if q < c.noiseDelay()+targetQueue/2 && now.Sub(c.since) > c.roundTrip()+c.delayWindow() {
		if c.emptyAt.IsZero() {
			c.emptyAt = now
		}
		wait := c.roundTrip()
		if c.policed {
			wait = upEvery
		}
		if now.Sub(c.emptyAt) > wait {
			c.enter(now, up)
		}
	} else {
		c.emptyAt = time.Time{}
	}
}

func (c *Controller) stepUp(now time.Time, m float64, app, ok, busy bool) {
	q := c.delay.standing()
	if ok && !busy {
		c.bw = max(c.bw, m)
	}
	if c.delay.latest() > c.noiseDelay()+targetQueue+4*time.Millisecond {
		c.queueSeen = now
		c.policed = false
		c.upAt = now
		if q > c.noiseDelay()+targetQueue+highQueue/2 {
			c.enter(now, drain)
		} else {
			c.enter(now, cruise)
		}
		return
	}
	if c.loss.known() && c.loss.excess() {
		c.policed = true
		c.upAt = now
		if ok {
			c.bw = min(c.bw, m)
		}
		c.enter(now, down)
		return
	}
	if app {
		c.upAt = now
		c.enter(now, cruise)
		return
	}
	if now.Sub(c.upRound) >= c.roundTrip()+c.rateWindow() {
		c.upRound = now
		if m < c.upFrom*(1+(c.upGain-1)/2) {
			// Neither rate nor queue grew: something else limits.
			c.upAt = now
			c.enter(now, down)
			return
		}
		c.upFrom = c.bw
		c.upGain = min(c.upGain+0.1, 1.4)
		c.loss.mark()
	}
}

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
		c.upGain = 1.25
		if now.Sub(c.since) > rtt || (c.loss.known() && c.loss.excess()) {
			c.enter(now, down)
		}
	case down:
		if now.Sub(c.since) > rtt+c.delayWindow() {
			if c.delay.standing() < c.noiseDelay()+targetQueue {
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

// floorEligible tells whether loss reported now can only be the path's own:
// the queue is empty, and the sender has been well below the bandwidth for a
// round trip, or is known to meet a queue before it meets a drop.
func (c *Controller) floorEligible(now time.Time, s Sample) bool {
	if c.delay.standing() > c.noiseDelay()+targetQueue+6*time.Millisecond {
		return false
	}
	switch c.state {
	case startup:
		return false
	case down:
		return now.Sub(c.since) > c.roundTrip()
	}
	if c.compete {
		return false
	}
	return now.Sub(c.queueSeen) < 10*time.Second && c.state == cruise || s.AppLimited
}

func (c *Controller) pacing() float64 {
	r := c.bw
	switch c.state {
	case startup:
		r *= startupGain
	case drain:
		r *= drainGain
	case down:
		if !c.loss.known() || c.policed || c.compete || c.downBusy() {
			r *= downGain
		} else {
			r *= idleGain
		}
	case cruise:
		if !c.compete {
			r *= c.cruiseGain()
		}
	case up:
		r *= c.upGain
	case probeRTT:
		r *= 0.5
	}
	if c.ramp > 0 {
		r = min(r, c.ramp)
	}
	return r
}

// downBusy tells whether Down still has a queue to take away.
func (c *Controller) downBusy() bool {
	return c.last.Sub(c.since) < 60*time.Millisecond
}

// cruiseGain steers the standing queue to its target.
func (c *Controller) cruiseGain() float64 {
	e := seconds(c.noiseDelay() + targetQueue - c.delay.standing())
	k := 0.35 / seconds(max(c.roundTrip()+c.delayWindow(), 50*time.Millisecond))
	return 1 + min(max(k*e, -0.1), 0.03)
}

func (c *Controller) inflightCap() float64 {
	bdp := c.bw * seconds(c.roundTrip())
	// What a report interval, a lost report and jitter leave unacknowledged.
	slack := c.bw * 0.05
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
	if c.compete {
		return 2*bdp + slack
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
	if c.delay.latest() > c.noiseDelay()+startupQueue {
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

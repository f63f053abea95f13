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

// Limiting tells that the path held the sender up of late, and so shows what it carries.
func (c *Controller) Limiting() bool { return c.fed }

// Filling tells that the queue is of the controller's own making: it looks for the rate, with enough to send for that, or
// drains what that left behind or what stood when the rate fell.
func (c *Controller) Filling() bool { return c.state == startup && c.fed || c.state == drain }

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
	upMore     = 0.25 // and so much more each round that it found more
	upMost     = 1.5
	policeGain = 1.1 // Up where no queue gives warning

	targetQueue = 4 * time.Millisecond  // held in Cruise: proves the link full
	highQueue   = 16 * time.Millisecond // over target: the rate fell, or another flow came
	// yieldDrains Drains, seriesGap or less apart, that brought the rate down to
	// yieldTo of what it was are no fall of the link's rate: another flow takes
	// whatever is left to it.
	yieldDrains = 4
	seriesGap   = 3 * time.Second
	yieldTo     = 0.75
	fellTo      = 0.6             // what one Drain must find to be the link's doing
	yieldTime   = 4 * time.Second // they span at least
	// maxDrains bounds the Drains in a row, each of which must hold back
	// enoughDeficit of the queue it found to tell whose it is.
	maxDrains     = 3
	enoughDeficit = 0.4
	upPulse       = 40 * time.Millisecond // at upGain: a queue of 10 ms if the link is full

	// appLimitedBelow is the part of bw above which a sender is not limited by
	// what it has to send, and trickle that below which no loss is its doing.
	appLimitedBelow = 0.95
	trickle         = 0.7

	ceCut   = 0.9
	ceQuiet = time.Second // after a mark without probing for more
	upNudge = 1.01

	// maxBusyGap is the longest time without an arrival in which the link is taken to have been busy.
	maxBusyGap = 100 * time.Millisecond
	// maxSpan is the longest time a rate is averaged over.
	maxSpan = 500 * time.Millisecond

	downEvery = 4 * time.Second // the base is good for 10 s; this sees it twice
	// After a doubt about the base, deepDowns Downs take deepQueue more away than
	// is seen: a base that held a queue comes to light.
	deepDowns   = 3
	deepQueue   = 20 * time.Millisecond
	policeEvery = 5 * time.Second
	policeSpan  = 150 * time.Millisecond // to average rates over in Up
	// trialPackets is how many packets a trial of the floor asks for, in at most
	// maxTrial.
	trialPackets = 500
	maxTrial     = 2 * time.Second
	// episodePackets ends an episode of loss in Cruise, to judge it by itself.
	episodePackets = 2000
	// suspectFor is how soon loss must recur to be believed.
	suspectFor = 3 * time.Second
	// suspectTimes is how often, and trustedTimes on a path that has lately
	// shown a queue before loss.
	suspectTimes = 2
	trustedTimes = 4

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
	upRounds int // that found more
	upAtN    time.Time
	credited bool // bw counts the path's own loss
	// suspectAt is when loss was last over the floor, not yet confirmed.
	suspectAt time.Time
	suspects  int
	policed   bool // the last Up met loss instead of queue
	cutAt     time.Time
	ramp      float64 // bytes/s limit after an idle time; 0 is none
	rampAt    time.Time
	markedAt  time.Time // the last ECN-CE

	lookSum     time.Duration // delays over base seen at the end of Down, and their number
	looks       time.Duration
	qSlow       float64 // the queue in Cruise, averaged over a second
	trial       float64 // loss at the last, higher rate tried to learn the floor
	tryBW       float64 // bw before the first of these trials
	deep        int
	series      int       // Drains in close succession
	seriesAt    time.Time // the last of them
	seriesBW    float64   // bw before the first
	seriesFrom  time.Time
	drains      int           // Drains repeated
	found       time.Duration // the most queue in these
	sentAtDrain int64         // sentBytes when Drain began
	deficit     float64       // seconds of sending held back in Drain
	settledBW   float64       // bw when Drain had drained
	downs       int
	cruiseLoss  float64 // in the last whole episode of Cruise; 0 is unknown
	marked      bool    // Down counts loss since its rate shows
	competition
}

func (c *Controller) enter(now time.Time, s state) {
	c.state, c.since, c.settled = s, now, time.Time{}
	c.fromQ, c.phase, c.marked = c.queue(), 0, false
	c.lookSum, c.looks = 0, 0
	c.loss.mark()
	switch s {
	case up:
		c.pulsed, c.upFrom, c.upAtN, c.upRounds = c.policed, c.bw, now, 0
	case drain:
		c.before, c.slow = c.bw, c.bw
		c.low, c.high = 0, 0
		c.sentAtDrain = c.sentBytes
		if c.drains > 0 {
			break
		}
		c.found = 0
		if now.Sub(c.seriesAt) > seriesGap {
			c.series, c.seriesBW, c.seriesFrom = 0, c.bw, now
		}
		c.series++
		c.seriesAt = now
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
	rate = c.credit(sum)
	app := sum.appLimited
	if c.state != startup {
		// A moment without a packet to send makes no difference to a sender
		// that used up its rate all the same.
		app = app && rate < appLimitedBelow*c.bw
	}
	return rate, app, true
}

// credit is the rate of an interval, with the loss that the path may have by
// itself counted as sent through it.
func (c *Controller) credit(sum interval) float64 {
	delivered, lost := float64(sum.delivered), float64(sum.lost)
	credit := 0.0
	switch {
	case !c.loss.known():
	case c.policed:
		credit = c.loss.floor // a policer drops what is too much at once: more than the floor is no luck
	default:
		credit = min(c.loss.floor+c.loss.sigma(float64(sum.packets)), maxFloor)
	}
	return (delivered + min(lost, delivered*credit/(1-credit))) / seconds(sum.elapsed)
}

// loop is the time after which the reports show what a change of rate did.
func (c *Controller) loop() time.Duration {
	return c.roundTrip() + c.delayWindow() + 30*time.Millisecond
}

// stepCE answers ECN marks: a tenth less a round trip, and no probing for more
// while they last.
func (c *Controller) stepCE(now time.Time) {
	c.markedAt = now
	if now.Sub(c.cutAt) <= c.roundTrip() {
		return
	}
	c.cutAt = now
	c.bw *= ceCut
	switch c.state {
	case startup:
		c.bw = min(c.bw, c.average(c.rateWindow(), c.bw))
		c.enter(now, drain)
	case up:
		c.upAt = now
		c.enter(now, cruise)
	}
}

func (c *Controller) step(now time.Time, s Sample, dt time.Duration) {
	if c.since.IsZero() {
		c.since, c.roundAt, c.downAt, c.upAt = now, now, now, now
		c.noise = 0
	}
	m, app, ok := c.sample()
	if c.delay.sudden() > c.noiseDelay()+time.Millisecond+c.delay.jitter()/4 {
		if c.busySince.IsZero() || s.RecvElapsed > maxBusyGap {
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
	if s.CE > 0 && !c.compete {
		c.stepCE(now)
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
			r *= min(upGain+upMore*float64(c.upRounds), upMost)
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

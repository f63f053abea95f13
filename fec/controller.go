package fec

import (
	"math"
	"time"
)

// Limits of a controller. Ratios are repair bytes per source byte.
type Limits struct {
	Min, Max float64 // bounds of Ratio; Max is not exceeded whatever the loss
	// Target is the share of packets that may be missing at their deadline, after FEC. Below it FEC is cut back.
	Target float64
	// Tail is the chance that a tail stays incomplete after the repairs that TailRepairs asks for; 0 means 0.005.
	Tail float64
}

// Limits by class of lane. BulkLimits are for bulk that cannot wait for a repetition; the bond's bulk lanes can, and take FEC
// only while they begin (ARCHITECTURE, Decisions).
var (
	BulkLimits        = Limits{Max: 0.08, Target: 0.005}
	InteractiveLimits = Limits{Max: 0.20, Target: 0.001}
	RealtimeLimits    = Limits{Max: 0.20, Target: 0.001}
)

const (
	// maxRatio bounds Limits.Max: a copy of everything.
	maxRatio = 1.0
	// minTarget and maxTarget bound Limits.Target; fewer than 1 in 100,000 cannot be measured in useful time.
	minTarget, maxTarget = 1e-5, 0.5

	// relaxTime is how long it takes from Max to the floor once nothing is unrecovered any more. It also sets how
	// quickly the ratio rises: by Max in relaxTime / (unrecovered share / Target - 1).
	relaxTime = 30 * time.Second
	// maxRise is the largest part of Max that is added at one time, so that one gap (an outage, which no FEC repairs)
	// does not count as much as lasting loss.
	maxRise = 1.0 / 4
	// maxStep is the largest part of Max that one unrecovered packet adds, for lanes with few packets.
	maxStep = 1.0 / 8
	// idleTime is the time constant with which the ratio relaxes whether or not there are packets to judge by.
	idleTime = 2 * time.Minute
	// lossTime is the memory of the loss that gives the floor, burstTime that of how unevenly it falls; bursts are
	// rare, so that takes longer to see.
	lossTime  = 10 * time.Second
	burstTime = 60 * time.Second
	// rateTime is the memory of the packet rate.
	rateTime = 3 * time.Second
	// floorMargin is how much repair per lost packet is sent without any being unrecovered. Windows lose more and less
	// than the mean, so 1 is too little for any residual; more is left to the feedback.
	floorMargin = 1.25
	// futileDeviations is how far above Max loss must be, in standard deviations of independent losses, for repair to
	// be futile; futileBelow is the part of Max that loss must then fall below before repair is sent again.
	futileDeviations = 4
	futileBelow      = 0.8
)

// decaying is a pair of sums whose ratio is wanted over the recent past.
type decaying struct{ num, den float64 }

// fading is what is left after dt of something remembered for memory.
func fading(dt, memory time.Duration) float64 {
	if dt == 0 {
		return 1
	}
	return math.Exp(-dt.Seconds() / memory.Seconds())
}

func (d *decaying) decay(f float64) {
	d.num *= f
	d.den *= f
}

func (d *decaying) add(num, den float64) {
	d.num += num
	d.den += den
}

func (d *decaying) ratio() float64 {
	if d.den <= 0 {
		return 0
	}
	return d.num / d.den
}

// Controller decides how much repair a lane sends in one direction. Not safe for concurrent use; use NewController.
//
// It is driven by what was still missing at the deadline, not by loss: the ratio rises with every packet more than
// Target that was, sinks slowly while there are fewer, and so settles where Target is just met. The loss before FEC
// gives a floor from which this feedback moves. Without loss, or when losing so few packets that Target is met without
// repair, the ratio is Min. When more is lost than Max could ever repair, it is Min too: repair then is nearly all
// waste (a window with more losses than repairs gives back nothing) on paths that are in trouble already.
type Controller struct {
	limits  Limits
	last    time.Time
	started bool
	extra   float64 // what the feedback adds to the floor
	rise    float64 // how much of it was added at the time last
	futile  bool    // loss is beyond what Max repairs
	loss    decaying
	rate    decaying // packets per second
	bursts  burstiness
}

// NewController returns a controller with these limits, brought into 0 <= Min <= Max <= 1 and targets of
// 0.00001 to 0.5.
func NewController(l Limits) *Controller {
	l.Max = clamp(l.Max, 0, maxRatio)
	l.Min = clamp(l.Min, 0, l.Max)
	l.Target = clamp(l.Target, minTarget, maxTarget)
	if l.Tail == 0 {
		l.Tail = defaultTail
	}
	l.Tail = clamp(l.Tail, minTarget, maxTarget)
	return &Controller{limits: l}
}

// clamp brings v into lo..hi; what is not a number becomes lo.
func clamp(v, lo, hi float64) float64 {
	if !(v > lo) {
		return lo
	}
	return min(v, hi)
}

// OnReport tells what became of the lane's source packets since the report before: sourceSent more were sent,
// lostBeforeFEC more turned out not to have arrived by themselves (the first time they were sent), unrecovered more of
// these were still missing at their deadline. The numbers need not be about the same packets, as sending comes before
// knowing, but each packet counts once in each. Reports may come at any pace, several for the same now too; some 10 a
// second are enough for the ratio. TailRepairs knows better how losses bunch when reports are over few packets (32 or
// fewer). Negative numbers count as 0.
func (c *Controller) OnReport(now time.Time, sourceSent, lostBeforeFEC, unrecovered int) {
	sent := float64(max(sourceSent, 0))
	lost := float64(max(lostBeforeFEC, 0))
	missing := float64(max(unrecovered, 0))

	var dt time.Duration
	if c.started {
		dt = max(now.Sub(c.last), 0)
	}
	if !c.started || dt > 0 {
		c.started, c.last = true, now
	}

	c.loss.decay(fading(dt, lossTime))
	c.loss.add(lost, sent)
	c.rate.decay(fading(dt, rateTime))
	c.rate.add(sent, dt.Seconds())
	c.bursts.decay(fading(dt, burstTime))
	c.bursts.add(sent, lost)

	// In packets: settles where missing = Target x sent, without smoothing (and its delay), at any rate.
	step := maxStep * c.limits.Max
	if rate := c.rate.ratio(); rate > 0 {
		step = min(step, c.limits.Max/(relaxTime.Seconds()*c.limits.Target*rate))
	}
	if dt > 0 {
		c.rise = 0
		c.extra *= fading(dt, idleTime)
	}
	change := min(step*(missing-c.limits.Target*sent), maxRise*c.limits.Max-c.rise)
	c.rise += max(change, 0)
	c.extra = clamp(c.extra+change, 0, c.limits.Max-min(c.floor(), c.limits.Max))

	// A few packets are no proof: what is lost must exceed what Max repairs by more than chance makes of it.
	repairable := c.limits.Max * c.loss.den
	if c.loss.num > repairable+futileDeviations*math.Sqrt(repairable) {
		c.futile = true
	} else if c.loss.num < repairable*futileBelow {
		c.futile = false
	}
}

// floor is the ratio that loss alone asks for.
func (c *Controller) floor() float64 {
	return floorMargin * max(c.loss.ratio()-c.limits.Target, 0)
}

// Ratio is the ratio of repair bytes to source bytes to send now.
func (c *Controller) Ratio() float64 {
	if c.futile {
		return c.limits.Min
	}
	return clamp(c.floor()+c.extra, c.limits.Min, c.limits.Max)
}

// Loss is the share of packets lost before FEC over the last 10 s or so.
func (c *Controller) Loss() float64 { return min(c.loss.ratio(), 1) }

package rate

import "time"

const (
	baseBuckets     = 10
	baseBucketWidth = time.Second // 10 s in all, in which 100 ppm of drift is 1 ms
	owdRing         = 64          // 200 ms of reports 3 ms apart

	// nearBase is how close to the base a delay must come to confirm it.
	nearBase = 2 * time.Millisecond
	// quickWindow is about twice the time jitter stays correlated for.
	quickWindow = 40 * time.Millisecond
	// jitterStep is the spacing of the delays whose curvature is taken for
	// jitter: neighbours closer than this have the same jitter.
	jitterStep = 20 * time.Millisecond
	// clockStep is a change of delay that only a clock that was set explains.
	clockStep = 10 * time.Second
	// maxJitter bounds how blind to queues a shaky path can make the sender.
	maxJitter = 10 * time.Millisecond
)

type owdAt struct {
	at  time.Time
	owd time.Duration
}

// delayFilter splits one-way delay into the base, the least of 10 s, and what
// comes on top lately, and estimates how much of that is jitter.
type delayFilter struct {
	bucket [baseBuckets]time.Duration
	filled int
	head   int
	headAt time.Time

	ring   [owdRing]owdAt
	n, pos int

	baseV time.Duration
	mean  time.Duration // over the window of the last add
	least time.Duration // of the same
	quick time.Duration // least over quickWindow

	seenAt time.Time // when the delay was last near base
	ok     bool
	hold   bool // do not forget the base

	last [2]time.Duration // delays jitterStep apart, for the second difference
	lasN int
	lasT time.Time
	dev  float64 // standard deviation of jitter, seconds
	devN int
}

func (d *delayFilter) add(now time.Time, owd, window time.Duration) {
	if !d.ok || now.Sub(d.headAt) > baseBuckets*baseBucketWidth || (owd-d.mean).Abs() > clockStep {
		// The first, silent for longer than the memory, or a clock was set.
		d.ok = true
		d.rebase(now, owd)
		d.n, d.lasN = 0, 0
	}
	for now.Sub(d.headAt) >= baseBucketWidth {
		d.headAt = d.headAt.Add(baseBucketWidth)
		d.head = (d.head + 1) % baseBuckets
		d.filled = min(d.filled+1, baseBuckets)
		d.bucket[d.head] = owd
		if d.hold {
			d.bucket[d.head] = min(owd, d.baseV)
		}
	}
	d.bucket[d.head] = min(d.bucket[d.head], owd)
	d.baseV = d.bucket[d.head]
	for i := 0; i < d.filled; i++ {
		d.baseV = min(d.baseV, d.bucket[(d.head-i+baseBuckets)%baseBuckets])
	}
	if owd <= d.baseV+nearBase {
		d.seenAt = now
	}
	d.curve(now, owd)

	d.ring[d.pos] = owdAt{now, owd}
	d.pos = (d.pos + 1) % owdRing
	d.n = min(d.n+1, owdRing)
	d.least, d.quick = owd, owd
	var sum time.Duration // of differences, which cannot overflow
	var n time.Duration
	for i := 1; i <= d.n; i++ {
		v := &d.ring[(d.pos-i+owdRing)%owdRing]
		age := now.Sub(v.at)
		if age > window && age > quickWindow {
			break
		}
		if age <= window {
			d.least = min(d.least, v.owd)
			sum += v.owd - owd
			n++
		}
		if age <= quickWindow {
			d.quick = min(d.quick, v.owd)
		}
	}
	d.mean = owd + sum/n
}

// curve learns jitter from second differences, which a queue that grows or
// shrinks steadily does not enter.
func (d *delayFilter) curve(now time.Time, owd time.Duration) {
	gap := now.Sub(d.lasT)
	if gap < jitterStep {
		return
	}
	if gap > 4*jitterStep {
		d.lasN = 0
	}
	d.lasT = now
	if d.lasN >= 2 {
		x := seconds((owd - 2*d.last[0] + d.last[1]).Abs())
		// Mean of |second difference| of a process with correlation 0.4 at one
		// step and 0.1 at two is 1.4 standard deviations.
		d.devN = min(d.devN+1, 64)
		d.dev += (min(x/1.4, 4*seconds(maxJitter)) - d.dev) / float64(d.devN)
	}
	d.last[1], d.last[0] = d.last[0], owd
	d.lasN = min(d.lasN+1, 2)
}

func (d *delayFilter) base() time.Duration { return d.baseV }

// jitter is the standard deviation of what delays packets besides the queue.
func (d *delayFilter) jitter() time.Duration { return min(duration(d.dev), maxJitter) }

// over, standing and sudden are the delay over the base: on average over the
// window, at least over the window, and at least over quickWindow.
func (d *delayFilter) over() time.Duration     { return d.mean - d.baseV }
func (d *delayFilter) standing() time.Duration { return d.least - d.baseV }
func (d *delayFilter) sudden() time.Duration   { return d.quick - d.baseV }

// forget drops the queue seen of late, but not the base.
func (d *delayFilter) forget() {
	d.n, d.lasN = 0, 0
	d.mean, d.least, d.quick = d.baseV, d.baseV, d.baseV
}

// rebase takes owd for the base and forgets what was before.
func (d *delayFilter) rebase(now time.Time, owd time.Duration) {
	d.headAt, d.filled, d.head = now, 1, 0
	d.bucket[0] = owd
	d.baseV = owd
	d.seenAt = now
}

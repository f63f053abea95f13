package rate

import "time"

// samplerSize holds 250 ms of reports 2 ms apart, or 1.2 s at the usual 10 ms.
const samplerSize = 128

type interval struct {
	elapsed    time.Duration
	delivered  int64
	lost       int64
	packets    int64
	appLimited bool
}

// sampler keeps the latest report intervals and sums them over any recent span
// of receiver time.
type sampler struct {
	ring [samplerSize]interval
	n    int // filled
	head int // next to write
	late interval
}

func (s *sampler) reset() { *s = sampler{} }

func (s *sampler) add(x Sample) {
	s.late.elapsed += x.RecvElapsed
	s.late.delivered += x.Delivered
	s.late.lost += x.Lost
	s.late.packets += x.DeliveredPackets + x.LostPackets
	s.late.appLimited = s.late.appLimited || x.AppLimited
	// Nothing arrived since: what was found lost goes with the next arrivals.
	if s.late.elapsed == 0 || x.Delivered == 0 {
		return
	}
	s.ring[s.head] = s.late
	s.late = interval{}
	s.head = (s.head + 1) % samplerSize
	s.n = min(s.n+1, samplerSize)
}

// over sums the newest intervals until they span at least window. ok is false
// while there are too few.
func (s *sampler) over(window time.Duration) (sum interval, ok bool) {
	for i := 1; i <= s.n; i++ {
		v := &s.ring[(s.head-i+samplerSize)%samplerSize]
		sum.elapsed += v.elapsed
		sum.delivered += v.delivered
		sum.lost += v.lost
		sum.packets += v.packets
		sum.appLimited = sum.appLimited || v.appLimited
		if sum.elapsed >= window {
			return sum, true
		}
	}
	return sum, false
}

const (
	baseBuckets     = 10
	baseBucketWidth = time.Second // 10 s in all, in which 100 ppm of drift is 1 ms
	owdRing         = 64
)

type owdAt struct {
	at  time.Time
	owd time.Duration
}

// delayFilter splits one-way delay into base, the least of 10 s, and standing
// queue, the least of the last few tens of milliseconds over the base. Jitter
// only delays, so minima see through it.
type delayFilter struct {
	bucket [baseBuckets]time.Duration
	filled int
	head   int
	headAt time.Time

	ring   [owdRing]owdAt
	n, pos int
	recent time.Duration // least over the window of the last add
	quick  time.Duration // least over the last quickWindow
	baseV  time.Duration
	seenAt time.Time // when the delay was last near base
	ok     bool
}

// quickWindow is twice the time jitter stays correlated for.
const quickWindow = 40 * time.Millisecond

// nearBase is how close to the base a delay must come to confirm it.
const nearBase = 2 * time.Millisecond

func (d *delayFilter) add(now time.Time, owd, window time.Duration) {
	if !d.ok {
		d.ok = true
		d.headAt, d.filled, d.head = now, 1, 0
		d.bucket[0] = owd
	}
	if now.Sub(d.headAt) > baseBuckets*baseBucketWidth {
		// Silent for longer than the window: start over.
		d.headAt, d.filled, d.head = now, 1, 0
		d.bucket[0] = owd
	}
	for now.Sub(d.headAt) >= baseBucketWidth {
		d.headAt = d.headAt.Add(baseBucketWidth)
		d.head = (d.head + 1) % baseBuckets
		d.filled = min(d.filled+1, baseBuckets)
		d.bucket[d.head] = owd
	}
	d.bucket[d.head] = min(d.bucket[d.head], owd)
	d.baseV = d.bucket[d.head]
	for i := 0; i < d.filled; i++ {
		d.baseV = min(d.baseV, d.bucket[(d.head-i+baseBuckets)%baseBuckets])
	}
	if owd <= d.baseV+nearBase {
		d.seenAt = now
	}

	d.ring[d.pos] = owdAt{now, owd}
	d.pos = (d.pos + 1) % owdRing
	d.n = min(d.n+1, owdRing)
	d.recent, d.quick = owd, owd
	for i := 1; i <= d.n; i++ {
		v := &d.ring[(d.pos-i+owdRing)%owdRing]
		age := now.Sub(v.at)
		if age > window {
			break
		}
		d.recent = min(d.recent, v.owd)
		if age <= quickWindow {
			d.quick = min(d.quick, v.owd)
		}
	}
}

func (d *delayFilter) base() time.Duration { return d.baseV }

// standing is the queue that did not go away during the delay window.
func (d *delayFilter) standing() time.Duration { return d.recent - d.baseV }

// latest is the queue over the last quickWindow: sooner, and noisier.
func (d *delayFilter) latest() time.Duration { return d.quick - d.baseV }

// rebase takes the latest delay for the base: the route has changed.
func (d *delayFilter) rebase(now time.Time) {
	d.headAt, d.filled, d.head = now, 1, 0
	d.bucket[0] = d.recent
	d.baseV = d.recent
	d.seenAt = now
}

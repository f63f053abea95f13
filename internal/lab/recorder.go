package lab

import (
	"slices"
	"sync"
	"time"
)

// recorder notes when payload arrives, over all flows of a run: the measured window opens with the first byte of any
// flow. Safe for concurrent use.
type recorder struct {
	window time.Duration
	cycle  time.Duration // stalls are kept for each of these as well; 0: not

	mu        sync.Mutex
	start     time.Time // first byte of the run
	last      time.Time
	bytes     int64
	inSecond1 int64
	inHalf2   int64 // of the window's second half
	flows     map[uint64]*flowTimes
	stalls    []time.Duration // the longest of each cycle
}

type flowTimes struct {
	last  time.Time
	stall time.Duration
	bytes int64
}

func newRecorder(window time.Duration) *recorder {
	return &recorder{window: window, flows: make(map[uint64]*flowTimes)}
}

// add notes n new payload bytes of a flow.
func (r *recorder) add(flow uint64, n int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.start.IsZero() {
		r.start = now
	}
	f := r.flows[flow]
	if f == nil {
		f = &flowTimes{last: now}
		r.flows[flow] = f
	}
	r.gap(f, now)
	f.last, r.last = now, now
	f.bytes += int64(n)
	r.bytes += int64(n)
	if now.Sub(r.start) < time.Second {
		r.inSecond1 += int64(n)
	}
	if now.Sub(r.start) >= r.window/2 {
		r.inHalf2 += int64(n)
	}
}

// gap notes the time a flow went without payload until now, in every cycle it touches.
func (r *recorder) gap(f *flowTimes, now time.Time) {
	span := now.Sub(f.last)
	f.stall = max(f.stall, span)
	if r.cycle <= 0 {
		return
	}
	for k := int(f.last.Sub(r.start) / r.cycle); k <= int(now.Sub(r.start)/r.cycle); k++ {
		for k >= len(r.stalls) {
			r.stalls = append(r.stalls, 0)
		}
		r.stalls[k] = max(r.stalls[k], span)
	}
}

// cycleStalls is the longest stall of any flow in each whole cycle of the window. Flows that died stall to the end.
func (r *recorder) cycleStalls(now time.Time) []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cycle <= 0 || r.start.IsZero() {
		return nil
	}
	now = r.within(now)
	for _, f := range r.flows {
		r.gap(f, now)
	}
	whole := int(now.Sub(r.start) / r.cycle)
	return slices.Clone(r.stalls[:min(whole, len(r.stalls))])
}

// flowBytes is the payload of each of so many flows, those without any included.
func (r *recorder) flowBytes(flows int) []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]int64, flows)
	for id, f := range r.flows {
		if id < uint64(flows) {
			out[id] = f.bytes
		}
	}
	return out
}

// within is now, or the end of the window when that has passed.
func (r *recorder) within(now time.Time) time.Time {
	if end := r.start.Add(r.window); now.After(end) {
		return end
	}
	return now
}

// end is when the window closes; zero while nothing has arrived.
func (r *recorder) end() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.start.IsZero() {
		return time.Time{}
	}
	return r.start.Add(r.window)
}

// total is the payload received so far.
func (r *recorder) total() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// stallMax is the longest time any flow went without new payload, up to now or the end of the window: a flow that died
// stalls until the end.
func (r *recorder) stallMax(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	now = r.within(now)
	var longest time.Duration
	for _, f := range r.flows {
		longest = max(longest, f.stall, now.Sub(f.last))
	}
	return longest
}

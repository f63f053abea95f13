package lab

import (
	"sync"
	"time"
)

// recorder notes when payload arrives, over all flows of a run: the measured window opens with the first byte of any
// flow. Safe for concurrent use.
type recorder struct {
	window time.Duration

	mu        sync.Mutex
	start     time.Time // first byte of the run
	last      time.Time
	bytes     int64
	inSecond1 int64
	flows     map[uint64]*flowTimes
}

type flowTimes struct {
	last  time.Time
	stall time.Duration
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
	f.stall = max(f.stall, now.Sub(f.last))
	f.last, r.last = now, now
	r.bytes += int64(n)
	if now.Sub(r.start) < time.Second {
		r.inSecond1 += int64(n)
	}
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
	if end := r.start.Add(r.window); now.After(end) {
		now = end
	}
	var longest time.Duration
	for _, f := range r.flows {
		longest = max(longest, f.stall, now.Sub(f.last))
	}
	return longest
}

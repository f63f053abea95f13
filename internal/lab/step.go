package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// RateStep is a change of a carrier's rate in the middle of a run, both directions.
type RateStep struct {
	Carrier string
	Rate    int64         // bits a second of Ethernet frame
	At      time.Duration // since the workload began
}

// maxSteps bounds the steps of a run.
const maxSteps = 16

// ParseRateStep reads "ct:16mbit@10s".
func ParseRateStep(text string) (RateStep, error) {
	bad := func(why string) (RateStep, error) {
		return RateStep{}, fmt.Errorf("%w: rate step %q: %s, want for example ct:16mbit@10s", ErrOptions, text, why)
	}
	carrier, rest, ok := strings.Cut(text, ":")
	rate, at, ok2 := strings.Cut(rest, "@")
	if !ok || !ok2 {
		return bad("parts are missing")
	}
	if !slices.Contains(carriers, carrier) {
		return bad("unknown carrier")
	}
	if strings.ContainsFunc(rate, func(r rune) bool { return r == ' ' || r == '\t' }) {
		return bad("more than a rate")
	}
	imp, err := wan.ParseImpairment(rate)
	if err != nil || imp.Rate == 0 {
		return bad("not a rate")
	}
	d, err := time.ParseDuration(at)
	if err != nil || d < 0 {
		return bad("not a time")
	}
	return RateStep{Carrier: carrier, Rate: imp.Rate, At: d}, nil
}

// StepResult says how the workload took a RateStep.
type StepResult struct {
	Carrier  string  `json:"carrier"`
	At       float64 `json:"at_seconds"`
	FromMbit float64 `json:"from_mbit"`
	ToMbit   float64 `json:"to_mbit"`
	// QueueMSMax is the longest the link's queue became until the next step, in the direction of the payload: what its
	// one-way delay was above its base.
	QueueMSMax float64 `json:"queue_ms_max"`
	QueueDrops uint64  `json:"queue_drops"`
	// QueueGone is the time until the queue that a fall built was below 20 ms and stayed there for half a second; null:
	// not before the next step.
	QueueGone *float64 `json:"queue_gone_seconds"`
	// Used is the time until 0.9 of what a rise gave was used over half a second; null: not before the next step.
	Used *float64 `json:"used_seconds"`
}

// String is the result for people.
func (s StepResult) String() string {
	in := func(v *float64) string {
		if v == nil {
			return "not before the end"
		}
		return fmt.Sprintf("after %.2f s", *v)
	}
	text := fmt.Sprintf("%s from %.0f to %.0f Mbit/s at %.0f s: ", s.Carrier, s.FromMbit, s.ToMbit, s.At)
	if s.ToMbit < s.FromMbit {
		return text + fmt.Sprintf("queue up to %.0f ms, %d drops, gone %s", s.QueueMSMax, s.QueueDrops, in(s.QueueGone))
	}
	return text + "0.9 used " + in(s.Used)
}

const (
	stepPoll   = 20 * time.Millisecond  // between samples of a stepped link
	stepSettle = 500 * time.Millisecond // what counts as staying, and the span rates are measured over
	stepQueue  = 20 * time.Millisecond  // above the base
	stepUse    = 0.9
)

// linkSample is one direction of a link at one moment since the workload began.
type linkSample struct {
	at    time.Duration
	queue time.Duration
	sent  uint64 // bytes, since the link's start
	drops uint64 // frames, likewise
}

// judgeStep fills in what the samples from the step to the next one say.
func judgeStep(s *StepResult, rate int64, at time.Duration, samples []linkSample) {
	if len(samples) == 0 {
		return
	}
	s.QueueDrops = samples[len(samples)-1].drops - samples[0].drops
	for _, x := range samples {
		s.QueueMSMax = max(s.QueueMSMax, millis(x.queue))
	}
	var took time.Duration
	var ok bool
	to := &s.Used
	if s.ToMbit < s.FromMbit {
		to = &s.QueueGone
		took, ok = queueGone(at, samples)
	} else {
		took, ok = rateUsed(rate, at, samples)
	}
	if ok {
		v := round(took.Seconds(), 2)
		*to = &v
	}
}

// queueGone is the time until the first queue over stepQueue was below it for stepSettle; 0 if there was none.
func queueGone(at time.Duration, samples []linkSample) (time.Duration, bool) {
	over := slices.IndexFunc(samples, func(x linkSample) bool { return x.queue > stepQueue })
	if over < 0 {
		return 0, true
	}
	low := -1
	for i := over; i < len(samples); i++ {
		switch {
		case samples[i].queue > stepQueue:
			low = -1
		case low < 0:
			low = i
		}
		if low >= 0 && samples[i].at-samples[low].at >= stepSettle {
			return samples[low].at - at, true
		}
	}
	return 0, false
}

// rateUsed is the time until stepUse of the rate was sent over stepSettle.
func rateUsed(rate int64, at time.Duration, samples []linkSample) (time.Duration, bool) {
	first := 0
	for _, x := range samples {
		for first+1 < len(samples) && x.at-samples[first+1].at >= stepSettle {
			first++
		}
		span := x.at - samples[first].at
		if span >= stepSettle && float64(x.sent-samples[first].sent)*8 >= stepUse*float64(rate)*span.Seconds() {
			return x.at - at, true
		}
	}
	return 0, false
}

// steppedLimit is limitMbit where rates change on the way: the mean over the window.
func steppedLimit(links []wan.Carrier, steps []RateStep, window time.Duration) float64 {
	sum := 0.0
	for _, l := range links {
		begin := time.Duration(0)
		for _, s := range append(stepsOf(steps, l.Name), RateStep{At: window}) {
			end := min(s.At, window)
			sum += limitMbit([]wan.Carrier{l}) * (end - begin).Seconds()
			begin, l.Impairment.Rate = end, s.Rate
		}
	}
	return round(sum/window.Seconds(), 2)
}

// stepsOf is the steps of one carrier, in order.
func stepsOf(steps []RateStep, carrier string) (of []RateStep) {
	for _, s := range steps {
		if s.Carrier == carrier {
			of = append(of, s)
		}
	}
	slices.SortStableFunc(of, func(a, b RateStep) int { return int(a.At - b.At) })
	return of
}

package lab

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseRateStep(t *testing.T) {
	for _, tc := range []struct {
		text string
		want RateStep // zero: an error
	}{
		{"ct:16mbit@10s", RateStep{"ct", 16_000_000, 10 * time.Second}},
		{"cm:16.5Mbit@500ms", RateStep{"cm", 16_500_000, 500 * time.Millisecond}},
		{"xx:16mbit@10s", RateStep{}},
		{"ct:16mbit", RateStep{}},
		{"ct@10s", RateStep{}},
		{"ct:@10s", RateStep{}},
		{"ct:fast@10s", RateStep{}},
		{"ct:0mbit@10s", RateStep{}},
		{"ct:16mbit loss 5%@10s", RateStep{}},
		{"ct:loss 5%@10s", RateStep{}},
		{"ct:16mbit@soon", RateStep{}},
		{"ct:16mbit@-1s", RateStep{}},
	} {
		got, err := ParseRateStep(tc.text)
		if got != tc.want || (err != nil) != (tc.want == RateStep{}) {
			t.Errorf("%q: %+v, %v", tc.text, got, err)
		}
		if err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%q: %v does not wrap ErrOptions", tc.text, err)
		}
	}
}

// stepSamples is a link sampled every 20 ms for 6 s from 10 s on: its queue and its rate as functions of the time since.
func stepSamples(queue func(since time.Duration) time.Duration, mbit func(since time.Duration) float64) (out []linkSample) {
	sent := 0.0
	for since := time.Duration(0); since < 6*time.Second; since += stepPoll {
		out = append(out, linkSample{at: 10*time.Second + since, queue: queue(since), sent: uint64(sent), drops: uint64(since / time.Second)})
		sent += mbit(since) * 1e6 / 8 * stepPoll.Seconds()
	}
	return out
}

func TestJudgeStep(t *testing.T) {
	ms := time.Millisecond
	steady := func(v float64) func(time.Duration) float64 { return func(time.Duration) float64 { return v } }
	flat := func(v time.Duration) func(time.Duration) time.Duration {
		return func(time.Duration) time.Duration { return v }
	}
	between := func(a, b, v time.Duration) func(time.Duration) time.Duration {
		return func(since time.Duration) time.Duration {
			if since >= a && since < b {
				return v
			}
			return 5 * ms
		}
	}
	for _, tc := range []struct {
		name     string
		from, to float64
		queue    func(time.Duration) time.Duration
		mbit     func(time.Duration) float64
		want     float64 // seconds; -1: never
	}{
		{"a fall whose queue lasts", 48, 16, between(100*ms, 1500*ms, 90*ms), steady(16), 1.5},
		{"a fall without a queue", 48, 16, flat(0), steady(16), 0},
		{"a queue that comes late counts", 48, 16, between(2*time.Second, 3*time.Second, 50*ms), steady(16), 3},
		{"a dip is not the end", 48, 16, func(since time.Duration) time.Duration {
			if since%(400*ms) < 100*ms && since < 3*time.Second {
				return 60 * ms
			}
			return 0
		}, steady(16), 2.9},
		{"a probe later does not count", 48, 16, func(since time.Duration) time.Duration {
			if since < 600*ms || since > 4*time.Second {
				return 60 * ms
			}
			return 0
		}, steady(16), 0.6},
		{"a queue that stays", 48, 16, flat(90 * ms), steady(16), -1},
		{"a rise used after a second", 16, 48, flat(0), func(since time.Duration) float64 {
			if since < time.Second {
				return 16
			}
			return 48
		}, 1.44}, // 0.44 s of the new rate and 0.06 s of the old make 0.9 of it
		{"a burst is no use", 16, 48, flat(0), func(since time.Duration) float64 {
			if since < 100*ms {
				return 60
			}
			return 16
		}, -1},
		{"a rise not used", 16, 48, flat(0), steady(40), -1},
	} {
		s := StepResult{Carrier: "ct", FromMbit: tc.from, ToMbit: tc.to}
		judgeStep(&s, int64(tc.to*1e6), 10*time.Second, stepSamples(tc.queue, tc.mbit))
		got, other := s.QueueGone, s.Used
		if tc.to > tc.from {
			got, other = other, got
		}
		switch {
		case other != nil:
			t.Errorf("%s: the other figure is %v", tc.name, *other)
		case got == nil && tc.want != -1, got != nil && (*got < tc.want-0.03 || *got > tc.want+0.03):
			t.Errorf("%s: %v, want %v s", tc.name, s, tc.want)
		}
		if s.QueueDrops != 5 {
			t.Errorf("%s: %d queue drops, want 5", tc.name, s.QueueDrops)
		}
		if never := strings.Contains(s.String(), "not before"); never != (tc.want == -1) {
			t.Errorf("%s: %q", tc.name, s)
		}
	}
}

func TestSteppedLimit(t *testing.T) {
	links, err := scenarioLinks("clean")
	if err != nil {
		t.Fatal(err)
	}
	whole := limitMbit(links)
	for _, tc := range []struct {
		name  string
		steps []RateStep
		want  float64 // of the whole limit, in 150ths: three carriers of 50
	}{
		{"none", nil, 150},
		{"half of the time at nearly nothing", []RateStep{{"ct", 1, 10 * time.Second}}, 125},
		{"down and up again, listed backwards", []RateStep{{"ct", 50_000_000, 15 * time.Second}, {"ct", 10_000_000, 5 * time.Second}}, 130},
		{"two carriers", []RateStep{{"ct", 25_000_000, 0}, {"cm", 25_000_000, 10 * time.Second}}, 112.5},
		{"after the end", []RateStep{{"ct", 1, time.Minute}}, 150},
	} {
		got := steppedLimit(links, tc.steps, 20*time.Second)
		if want := whole * tc.want / 150; got < want-0.1 || got > want+0.1 {
			t.Errorf("%s: %.2f Mbit/s, want %.2f", tc.name, got, want)
		}
	}
}

package wan

import (
	"math/rand/v2"
	"testing"
	"time"
)

func newPipe(imp Impairment, seed uint64) *pipe[int] {
	return &pipe[int]{shaper: NewShaper(imp, seed), maxFlying: maxFlyingMemory}
}

// arrivals empties the pipe and returns frame numbers and times.
func arrivals(p *pipe[int]) (frames []int, at []time.Duration) {
	for {
		next, ok := p.next()
		if !ok {
			return frames, at
		}
		x, _ := p.pop(next)
		for range x.copies {
			frames, at = append(frames, x.frame), append(at, next)
		}
	}
}

// TestPipeRateCut cuts the rate to a third with a full queue: what is queued
// must drain at the new rate, frame by frame.
func TestPipeRateCut(t *testing.T) {
	const frame = 1250 // 1 ms at 10 Mbit/s
	for _, tt := range []struct {
		rate int64
		each time.Duration
	}{{10e6 / 4, 4 * time.Millisecond}, {20e6, 500 * time.Microsecond}, {0, 0}, {10e6, time.Millisecond}} {
		p := newPipe(Impairment{Rate: 10e6, Delay: 50 * time.Millisecond}, 1)
		for i := range 30 {
			p.offer(0, frame, i)
		}
		now := 10 * time.Millisecond
		p.setImpairment(now, Impairment{Rate: tt.rate, Delay: 50 * time.Millisecond})
		p.offer(now, frame, 30)
		_, at := arrivals(p)
		if len(at) != 31 {
			t.Fatalf("rate %d: %d frames arrive, want 31", tt.rate, len(at))
		}
		for i, got := range at {
			want := time.Duration(i+1) * time.Millisecond
			if i >= 10 {
				want = now + time.Duration(i-9)*tt.each
			}
			if want += 50 * time.Millisecond; got != want {
				t.Errorf("rate %d: frame %d arrives at %v, want %v", tt.rate, i, got, want)
			}
		}
	}
}

// TestPipeDark: what has left the queue arrives, what leaves it in the dark dies.
func TestPipeDark(t *testing.T) {
	p := newPipe(Impairment{Rate: 10e6, Delay: 50 * time.Millisecond}, 1)
	for i := range 30 {
		p.offer(0, 1250, i) // departs at i+1 ms
	}
	p.darken(5500*time.Microsecond, true)
	p.darken(6*time.Millisecond, true) // again: no change
	p.darken(20500*time.Microsecond, false)
	got, _ := arrivals(p)
	if len(got) != 15 || got[4] != 4 || got[5] != 20 {
		t.Errorf("arrive: %v", got)
	}
	c := p.counters(6 * time.Millisecond)
	if c.Outage != 15 || c.Delivered != 15 || c.DeliveredBytes != 15*1250 || c.Sent != 30 || c.InFlight != 0 {
		t.Errorf("counters %+v", c)
	}
}

// TestPipeState: the queue and the darkness of the moment, whoever made it dark.
func TestPipeState(t *testing.T) {
	p := newPipe(mustParse("10mbit outage 3s every 10s"), 1)
	for i := range 30 {
		p.offer(0, 1250, i) // a millisecond each
	}
	for _, tc := range []struct {
		at    time.Duration
		queue time.Duration
		off   bool
		dark  bool
	}{
		{at: 10 * time.Millisecond, queue: 20 * time.Millisecond, dark: true},
		{at: 31 * time.Millisecond, dark: true},
		{at: 3 * time.Second},
		{at: 4 * time.Second, off: true, dark: true},
		{at: 5 * time.Second},
		{at: 11 * time.Second, dark: true},
	} {
		p.darken(tc.at, tc.off)
		if c := p.counters(tc.at); c.Queue != tc.queue || c.Dark != tc.dark {
			t.Errorf("at %v: queue %v, dark %v, want %v, %v", tc.at, c.Queue, c.Dark, tc.queue, tc.dark)
		}
	}
}

func TestPipeBypass(t *testing.T) {
	p := newPipe(mustParse("1kbit loss 100% delay 20ms"), 1)
	p.darken(0, true)
	p.offer(0, 1000, 1)
	p.bypass(time.Millisecond, 2)
	p.bypass(time.Millisecond, 3)
	frames, at := arrivals(p)
	if len(frames) != 2 || frames[0] != 2 || frames[1] != 3 || at[1] != 21*time.Millisecond {
		t.Errorf("arrive: %v at %v", frames, at)
	}
	if c := p.counters(0); c.Other != 2 || c.Delivered != 0 {
		t.Errorf("counters %+v", c)
	}
}

func TestPipeBound(t *testing.T) {
	p := newPipe(mustParse("delay 1s duplicate 50%"), 1)
	p.maxFlying = 100
	for i := range 300 {
		p.offer(0, 100, i)
	}
	c := p.counters(0)
	if c.Overflow == 0 || c.InFlight < 100 || c.InFlight > 200 {
		t.Errorf("counters %+v", c)
	}
	checkCounters(t, c)
}

func checkCounters(t *testing.T, c Counters) {
	t.Helper()
	if c.Offered != c.TooBig+c.Policed+c.QueueDrops+c.Sent {
		t.Errorf("offered does not add up: %+v", c)
	}
	if c.Sent+c.Duplicated != c.Lost+c.Outage+c.Overflow+c.Delivered+c.InFlight {
		t.Errorf("sent does not add up: %+v", c)
	}
}

// TestPipeRandom changes everything at random and checks what must always hold:
// counters add up, time goes forward, and without Reorder order is kept.
func TestPipeRandom(t *testing.T) {
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 1))
	chance := func(max float64) float64 {
		if rng.IntN(2) == 0 {
			return 0
		}
		return rng.Float64() * max
	}
	some := func() Impairment {
		imp := Impairment{
			Rate:   int64(chance(1) * 50e6),
			Queue:  time.Duration(chance(1) * 1e8),
			Delay:  time.Duration(chance(1) * 1e8),
			Jitter: time.Duration(chance(1) * 1e7),
			Loss:   chance(0.2), Duplicate: chance(0.2), Corrupt: chance(0.2),
			GE: GE{P: chance(0.1), R: 0.1 + chance(0.5), H: chance(1)},
		}
		if rng.IntN(3) == 0 {
			imp.Outages = []Outage{{Duration: 10 * time.Millisecond, Every: 50 * time.Millisecond}}
		}
		if rng.IntN(3) == 0 {
			imp.Policer = Policer{Rate: 1 + int64(rng.IntN(20e6)), Burst: 5000}
		}
		if rng.IntN(3) == 0 {
			imp.MTU = 1200
		}
		return imp
	}
	for round := range 200 {
		p := newPipe(some(), seed+uint64(round))
		now, last, lastFrame := time.Duration(0), time.Duration(0), -1
		for i := range 400 {
			now += time.Duration(rng.IntN(400)) * time.Microsecond
			p.offer(now, 60+rng.IntN(1455), i)
			switch rng.IntN(40) {
			case 0:
				p.setImpairment(now, some())
			case 1:
				p.darken(now, rng.IntN(2) == 0)
			}
			for {
				next, _ := p.next()
				x, ok := p.pop(now)
				if !ok {
					break
				}
				if next < last {
					t.Fatalf("round %d: frame %d arrives at %v, before %v", round, x.frame, next, last)
				}
				if x.frame < lastFrame {
					t.Fatalf("round %d: frame %d arrives after %d", round, x.frame, lastFrame)
				}
				last, lastFrame = next, x.frame
			}
			checkCounters(t, p.counters(now))
		}
		arrivals(p)
		if c := p.counters(now); c.InFlight != 0 {
			t.Fatalf("round %d: %+v", round, c)
		}
		checkCounters(t, p.counters(now))
	}
}

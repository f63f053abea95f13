package wan

import (
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// testSeed is fixed, so that a statistical test that passes keeps passing;
// TEST_SEED tries another.
func testSeed(t testing.TB) uint64 {
	seed := uint64(1)
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// within99 checks k of n against a share p, with a 99 % confidence interval
// widened by factor for draws that are not independent.
func within99(t *testing.T, what string, k, n uint64, p, factor float64) {
	t.Helper()
	got := float64(k) / float64(n)
	if d := 2.576 * math.Sqrt(p*(1-p)/float64(n)) * factor; math.Abs(got-p) > d {
		t.Errorf("%s: %d of %d = %.5f, want %.5f +- %.5f", what, k, n, got, p, d)
	}
}

func TestShaperRate(t *testing.T) {
	for _, tt := range []struct {
		rate  int64
		bytes int
	}{{50e6, 1514}, {5e6, 200}, {1e9, 9014}, {64e3, 1514}} {
		s := NewShaper(Impairment{Rate: tt.rate, Delay: 10 * time.Millisecond}, 1)
		gap := time.Duration(float64(tt.bytes) * 8e9 / float64(tt.rate) / 2) // twice the rate
		var first, last time.Duration
		var sent int
		for i := range 5000 {
			if d := s.Offer(time.Duration(i)*gap, tt.bytes); d.Copies == 1 {
				if sent++; sent == 1 {
					first = d.At
				}
				last = d.At
			}
		}
		got := float64(sent-1) * float64(tt.bytes) * 8 / (last - first).Seconds()
		if math.Abs(got/float64(tt.rate)-1) > 0.001 {
			t.Errorf("%d bit/s: measured %.0f", tt.rate, got)
		}
	}
}

func TestShaperQueue(t *testing.T) {
	const frame = 1250 // 1 ms at 10 Mbit/s
	for _, tt := range []struct {
		name string
		imp  Impairment
		want int
	}{
		{"time", Impairment{Rate: 10e6, Queue: 20 * time.Millisecond}, 20},
		{"default", Impairment{Rate: 10e6}, 100},
		{"packets", Impairment{Rate: 10e6, QueuePackets: 7}, 7},
		{"shorter than a frame", Impairment{Rate: 10e6, Queue: time.Microsecond}, 1},
		{"unlimited", Impairment{}, 500},
	} {
		s := NewShaper(tt.imp, 1)
		got := 0
		for range 500 {
			if d := s.Offer(0, frame); d.Copies == 1 {
				got++
				want := time.Duration(0)
				if tt.imp.Rate > 0 {
					want = time.Duration(got) * time.Millisecond
				}
				if d.Depart != want {
					t.Errorf("%s: frame %d departs at %v, want %v", tt.name, got, d.Depart, want)
				}
			}
		}
		c := s.Counters()
		if got != tt.want || c.QueueDrops != uint64(500-tt.want) || c.SentBytes != uint64(tt.want*frame) {
			t.Errorf("%s: %d of 500 pass, want %d; %+v", tt.name, got, tt.want, c)
		}
	}
}

func TestShaperLoss(t *testing.T) {
	seed := testSeed(t)
	const n = 400_000
	for _, text := range []string{
		"loss 1%", "loss 10%", "ge 0.002/0.2/0.3", "ge 0.005/0.1/0.2", "loss 2% ge 0.003/0.15/0.3", "unlimited",
	} {
		imp := mustParse(text)
		s := NewShaper(imp, seed)
		for range n {
			s.Offer(0, 100)
		}
		c := s.Counters()
		// Losses in bursts of m say as much as n/m independent ones, about twice
		// that because burst lengths vary.
		factor := 1.0
		if imp.GE.P > 0 {
			factor = math.Sqrt(2 / imp.GE.R)
		}
		within99(t, text, c.Lost, n, imp.MeanLoss(), factor)
		if c.Lost+c.Delivered != n || c.Sent != n {
			t.Errorf("%s: counters %+v", text, c)
		}
	}
}

func TestShaperBurstLength(t *testing.T) {
	s := NewShaper(Impairment{GE: GE{P: 0.01, R: 0.125}}, testSeed(t)) // nothing survives the bad state
	var bursts, lost, run int
	for range 500_000 {
		if s.Offer(0, 100).Copies == 0 {
			lost++
			run++
		} else if run > 0 {
			bursts++
			run = 0
		}
	}
	mean := float64(lost) / float64(bursts)
	// Geometric with mean m has deviation sqrt(m(m-1)).
	if d := 2.576 * math.Sqrt(8*7/float64(bursts)); math.Abs(mean-8) > d {
		t.Errorf("mean burst %.3f over %d bursts, want 8 +- %.3f", mean, bursts, d)
	}
}

func TestShaperShares(t *testing.T) {
	const n = 200_000
	imp := mustParse("reorder 3% 7ms duplicate 1% corrupt 2% loss 5% delay 20ms")
	s := NewShaper(imp, testSeed(t))
	late := uint64(0)
	for i := range n {
		now := time.Duration(i) * 100 * time.Microsecond
		d := s.Offer(now, 100)
		if d.Copies == 0 {
			continue
		}
		want := now + imp.Delay
		if d.Late {
			late++
			want += imp.Reorder.Extra
		}
		if d.At != want {
			t.Fatalf("frame %d (late %v) arrives at %v, want %v", i, d.Late, d.At, want)
		}
	}
	c := s.Counters()
	arrived := c.Sent - c.Lost
	within99(t, "reordered", c.Reordered, arrived, 0.03, 1)
	within99(t, "duplicated", c.Duplicated, arrived, 0.01, 1)
	within99(t, "corrupted", c.Corrupted, arrived, 0.02, 1)
	within99(t, "lost", c.Lost, n, 0.05, 1)
	if late != c.Reordered || c.Sent+c.Duplicated != c.Lost+c.Delivered {
		t.Errorf("late %d, counters %+v", late, c)
	}
}

func TestShaperJitter(t *testing.T) {
	seed := testSeed(t)
	for _, j := range []time.Duration{2, 5, 10} {
		jit := j * time.Millisecond
		const delay, gap, n = 90 * time.Millisecond, 250 * time.Microsecond, 400_000
		s := NewShaper(Impairment{Delay: delay, Jitter: jit}, seed)
		dev := make([]float64, n) // ms from Delay
		last := time.Duration(0)
		for i := range n {
			now := time.Duration(i) * gap
			d := s.Offer(now, 100)
			if d.At < last {
				t.Fatalf("jitter %v: frame %d overtakes", jit, i)
			}
			last = d.At
			dev[i] = float64(d.At-now-delay) / 1e6
		}
		mean, sq := 0.0, 0.0
		for _, x := range dev {
			mean += x / n
			sq += x * x / n
		}
		corr := func(lag int) float64 {
			sum := 0.0
			for i := range n - lag {
				sum += (dev[i] - mean) * (dev[i+lag] - mean) / float64(n-lag)
			}
			return sum / (sq - mean*mean)
		}
		sorted := slices.Sorted(slices.Values(dev))
		amp := float64(j)
		median := sorted[n/2]
		c1, c20, c100 := corr(4), corr(80), corr(400)
		t.Logf("jitter %v: mean %+.3f ms, median %+.3f, deviation %.2f, range %.2f..%.2f, correlation 1 ms %.3f, 20 ms %.3f, 100 ms %.3f",
			jit, mean, median, math.Sqrt(sq), sorted[0], sorted[n-1], c1, c20, c100)
		if math.Abs(median) > 0.5 || math.Abs(mean) > 0.5 {
			t.Errorf("jitter %v moves the delay: mean %v ms, median %v ms", jit, mean, median)
		}
		if sorted[0] < -amp-0.001 || sorted[n-1] > amp+0.001 {
			t.Errorf("jitter %v: range %v..%v ms", jit, sorted[0], sorted[n-1])
		}
		if d := math.Sqrt(sq); d < 0.4*amp || d > 0.55*amp {
			t.Errorf("jitter %v: deviation %v ms", jit, d)
		}
		if c1 < 0.95 || c20 < 0.2 || c20 > 0.6 || math.Abs(c100) > 0.15 {
			t.Errorf("jitter %v: correlation %v after 1 ms, %v after 20 ms, %v after 100 ms", jit, c1, c20, c100)
		}
	}
}

func TestShaperOutages(t *testing.T) {
	imp := mustParse("delay 10ms outage 300ms every 1s from 200ms outage 50ms from 700ms")
	s := NewShaper(imp, 1)
	for i := range 3000 {
		now := time.Duration(i) * time.Millisecond
		phase := i % 1000
		dark := phase >= 200 && phase < 500 || i >= 700 && i < 750
		if d := s.Offer(now, 100); (d.Copies == 0) != dark {
			t.Fatalf("at %v: %d copies, dark %v", now, d.Copies, dark)
		}
	}
	if c := s.Counters(); c.Outage != 950 || c.Lost != 0 {
		t.Errorf("counters %+v", c)
	}
	// What counts is when a frame leaves the queue.
	s = NewShaper(mustParse("8mbit outage 10ms from 10ms"), 1)
	for i := range 25 {
		departs := i + 1 // ms: 1000 bytes each
		if d := s.Offer(0, 1000); (d.Copies == 0) != (departs >= 10 && departs < 20) {
			t.Errorf("frame departing at %d ms: %d copies", departs, d.Copies)
		}
	}
}

func TestShaperPolicer(t *testing.T) {
	s := NewShaper(mustParse("policer 10mbit burst 12500 delay 5ms"), 1)
	passed := 0
	for range 50 { // a burst of 10 frames fits, and is not delayed
		if d := s.Offer(0, 1250); d.Copies == 1 {
			passed++
			if d.At != 5*time.Millisecond {
				t.Errorf("policed frame arrives at %v", d.At)
			}
		}
	}
	if passed != 10 {
		t.Errorf("burst of %d frames passes, want 10", passed)
	}
	for i := range 4000 { // then the rate, 1 frame a millisecond
		if s.Offer(time.Duration(i)*250*time.Microsecond, 1250).Copies == 1 {
			passed++
		}
	}
	if passed < 1005 || passed > 1011 {
		t.Errorf("%d frames pass in a second, want 1010", passed)
	}
	if c := s.Counters(); c.Policed != 4050-uint64(passed) {
		t.Errorf("counters %+v", c)
	}
}

func TestShaperMTU(t *testing.T) {
	s := NewShaper(Impairment{MTU: 1400}, 1)
	if s.Offer(0, 1414).Copies != 1 || s.Offer(0, 1415).Copies != 0 || s.Counters().TooBig != 1 {
		t.Errorf("MTU 1400 does not end at a frame of 1414 bytes: %+v", s.Counters())
	}
}

func TestShaperSeeds(t *testing.T) {
	run := func(text string, seed uint64) (out []Delivery) {
		s := NewShaper(mustParse(text), seed)
		for i := range 5000 {
			out = append(out, s.Offer(time.Duration(i*i%977)*time.Microsecond+time.Duration(i)*time.Millisecond, 60+i%1400))
		}
		return out
	}
	const text = "5mbit delay 20ms jitter 3ms loss 3% ge 0.01/0.2/0.3 reorder 1% 4ms duplicate 1% corrupt 1%"
	if !slices.Equal(run(text, 7), run(text, 7)) {
		t.Error("same seed, different runs")
	}
	if slices.Equal(run(text, 7), run(text, 8)) {
		t.Error("different seeds, same run")
	}
	plain, jittery := run("loss 5% delay 9ms", 7), run("loss 5% delay 9ms jitter 3ms", 7)
	for i := range plain {
		if plain[i].Copies != jittery[i].Copies {
			t.Fatalf("jitter changes the fate of frame %d", i)
		}
	}
}

func TestShaperAllocs(t *testing.T) {
	s := NewShaper(Scenarios()[2].Carriers[0].Impairment, 1)
	now := time.Duration(0)
	step := func() {
		for range 100 {
			now += 200 * time.Microsecond
			s.Offer(now, 1514)
		}
	}
	step()
	for range 50 {
		step()
	}
	if n := testing.AllocsPerRun(100, step); n != 0 {
		t.Errorf("%v allocations for 100 frames", n)
	}
}

func TestFlip(t *testing.T) {
	Flip(nil, 5)
	for r := uint64(1); r != 0; r *= 7 {
		b := make([]byte, 37)
		Flip(b, r)
		changed := 0
		for _, x := range b {
			if x != 0 {
				changed++
			}
		}
		if changed != 1 {
			t.Fatalf("flip with %d changes %d bytes", r, changed)
		}
		if r > 1<<60 {
			break
		}
	}
}

func BenchmarkShaper(b *testing.B) {
	for _, s := range Scenarios() {
		b.Run("scenario="+s.Name, func(b *testing.B) {
			sh := NewShaper(s.Carriers[0].Impairment, 1)
			b.ReportAllocs()
			b.SetBytes(1514)
			now := time.Duration(0)
			for b.Loop() {
				now += 240 * time.Microsecond
				sh.Offer(now, 1514)
			}
		})
	}
}

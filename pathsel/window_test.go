package pathsel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel/stamp"
)

// TestWindowsOracle compares both windows with lists that are searched anew each time.
func TestWindowsOracle(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 1))
	var loss lossWindow
	var delay delayWindow
	type packet struct {
		second       int64
		probe, lost  bool
		startsABurst bool
	}
	var packets []packet
	var delays []time.Duration
	now, losing := time.Duration(0), false
	for step := range 2500 {
		now += time.Duration(rng.Int64N(int64(60 * ms)))
		if step%500 == 499 {
			now += time.Duration(rng.Int64N(int64(80 * time.Second))) // a silence, now and then longer than the window
		}
		second := int64(now / time.Second)
		switch rng.IntN(3) {
		case 0, 1:
			lost, ok := rng.IntN(3), rng.IntN(4)
			loss.probes(now, lost, ok)
			for i := range lost + ok {
				packets = append(packets, packet{second, true, i < lost, i == 0 && lost > 0 && !losing})
				losing = i < lost
			}
		case 2:
			c := Counts{Packets: rng.IntN(6), Bursts: 0}
			c.Lost = rng.IntN(c.Packets + 1)
			loss.traffic(now, c)
			for i := range c.Packets {
				packets = append(packets, packet{second, false, i < c.Lost, false})
			}
		}
		d := time.Duration(rng.Int64N(50)) * ms // many equal ones
		delay.add(d)
		delays = append(delays, d)

		var sent int
		var counted, wantLost, wantBursts float64
		for s := second - lossSeconds + 1; s <= second; s++ {
			var probes, traffic Counts
			for i := len(packets) - 1; i >= 0 && packets[i].second >= s; i-- {
				if p := packets[i]; p.second == s {
					c := &traffic
					if p.probe {
						c = &probes
					}
					c.Packets++
					if p.lost {
						c.Lost++
					}
					if p.startsABurst {
						c.Bursts++
					}
				}
			}
			weight := 1.0
			if traffic.Packets >= probes.Packets {
				probes = traffic
				if traffic.Packets > trafficWeight {
					weight = float64(trafficWeight) / float64(traffic.Packets)
				}
			}
			sent += probes.Packets
			counted += weight * float64(probes.Packets)
			wantLost += weight * float64(probes.Lost)
			wantBursts += weight * float64(probes.Bursts)
		}
		if counted < float64(sent) && wantLost > 0 {
			wantLost = max(wantLost/counted*float64(sent), 1)
			wantBursts = max(wantBursts/counted*float64(sent), 1)
		}
		// A half may be rounded either way: the sums are not in the same order.
		rounded := func(n int, exact float64) bool { return math.Abs(float64(n)-exact) < 0.5+1e-9 }
		if got := loss.counts(now, lossSeconds); step%7 == 0 &&
			(got.Packets != sent || !rounded(got.Lost, wantLost) || !rounded(got.Bursts, min(wantBursts, float64(got.Lost)))) {
			t.Fatalf("step %d: %+v, want %d packets, %v lost, %v bursts", step, got, sent, wantLost, wantBursts)
		}
		last := slices.Clone(delays[max(0, len(delays)-delaySamples):])
		slices.Sort(last)
		for _, q := range []float64{0, 0.5, 0.95, 1} {
			want := last[max(int(math.Ceil(q*float64(len(last))))-1, 0)]
			if got := delay.quantile(q); got != want {
				t.Fatalf("step %d: quantile %v is %v, want %v", step, q, got, want)
			}
		}
	}
}

// TestTrafficDoesNotDrownTheMinute: three seconds in which traffic filled a queue are three seconds of loss, however many
// packets they had.
func TestTrafficDoesNotDrownTheMinute(t *testing.T) {
	var w lossWindow
	for s := range lossSeconds {
		now := time.Duration(s) * time.Second
		w.probes(now, 0, 20)
		if s < 3 {
			w.traffic(now, Counts{Packets: 4000, Lost: 1200, Bursts: 400})
		}
	}
	c := w.counts((lossSeconds-1)*time.Second, lossSeconds)
	// 3 of 60 seconds at 30 %, each of them 25/20 of an idle one.
	if loss, want := float64(c.Lost)/float64(c.Packets), 3*25*0.3/(3*25+57*20); math.Abs(loss-want) > 0.001 {
		t.Errorf("loss %v, want %v", loss, want)
	}
	if burst := float64(c.Lost) / float64(c.Bursts); math.Abs(burst-3) > 0.05 || c.Packets != 3*4000+57*20 {
		t.Errorf("bursts of %v, %d packets, want 3 and %d", burst, c.Packets, 3*4000+57*20)
	}
}

func TestRecentMedian(t *testing.T) {
	var w delayWindow
	for i := range recentSamples + 3 {
		if _, ok := w.recentMedian(); ok != (i >= recentSamples) {
			t.Errorf("after %d samples: %v", i, ok)
		}
		w.addRecent(time.Duration(20-i) * ms)
	}
	if got, _ := w.recentMedian(); got != 13*ms { // of 17 to 10 the fourth from below
		t.Errorf("median %v, want 13ms", got)
	}
}

// TestBursts feeds the emulator's Gilbert-Elliott model packet by packet and reads its parameters back.
func TestBursts(t *testing.T) {
	const perMS = 5
	seed := testSeed(t)
	for _, ge := range []wan.GE{{P: 0.005, R: 0.2}, {P: 0.02, R: 0.5}, {P: 0.03, R: 0.97}} {
		link := wan.NewShaper(wan.Impairment{GE: ge}, seed)
		table := NewTable(0)
		table.Add(0, 1, "ct-ct")
		table.Probe(&stamp.Event{Kind: stamp.EventReply, Path: 1, At: 1})
		var c Counts
		losing, now := false, time.Duration(0)
		for i := range 55_000 * perMS { // a thousand bursts and more: the tolerances are seven standard deviations
			now = time.Duration(i) * ms / perMS
			c.Packets++
			lost := link.Offer(now, 1000).Copies == 0
			if lost {
				c.Lost++
				if !losing {
					c.Bursts++
				}
			}
			losing = lost
			if i%(100*perMS) == 100*perMS-1 {
				table.Traffic(now, 1, Out, c)
				c = Counts{}
			}
		}
		d := table.States(now, nil)[0].Out
		loss := ge.P / (ge.P + ge.R)
		near := func(what string, got, want, tolerance float64) {
			if math.Abs(got-want) > tolerance*want {
				t.Errorf("%+v: %s %.4f, want %.4f", ge, what, got, want)
			}
		}
		near("loss", d.Loss, loss, 0.3)
		near("burst", d.Burst, 1/ge.R, 0.25)
		near("enter", d.BurstEnter, ge.P, 0.3)
		near("leave", d.BurstLeave, ge.R, 0.25)
	}
}

// TestProbeBursts: runs of lost probes across events are one burst.
func TestProbeBursts(t *testing.T) {
	var w lossWindow
	for _, run := range [][2]int{{0, 5}, {2, 0}, {3, 1}, {1, 4}} {
		w.probes(time.Second, run[0], run[1])
	}
	if got, want := w.counts(time.Second, lossSeconds), (Counts{Packets: 16, Lost: 6, Bursts: 2}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestLossTestAlarms counts false alarms of the bare test over 20 hours of probes, and how many packets a true one takes.
func TestLossTestAlarms(t *testing.T) {
	for _, tt := range []struct{ p0, p1 float64 }{{0.01, 0.08}, {0.05, 0.15}} {
		rng := rand.New(rand.NewPCG(testSeed(t), 9))
		var test lossTest
		test.tune(Counts{Packets: 100_000, Lost: int(tt.p0 * 100_000), Bursts: int(tt.p0 * 100_000)})
		draw := func(p float64) {
			if rng.Float64() < p {
				test.add(1, 0)
			} else {
				test.add(0, 1)
			}
		}
		false20h := 0
		for range 20 * 3600 * 20 {
			if draw(tt.p0); test.sum >= lossAlarm {
				false20h++
				test.reset()
			}
		}
		sum := 0
		const runs = 400
		for range runs {
			for test.reset(); test.sum < lossAlarm; sum++ {
				draw(tt.p1)
			}
		}
		t.Logf("%v to %v: %d false alarms in 20 h, true after %d packets on average", tt.p0, tt.p1, false20h, sum/runs)
		if false20h > 12 {
			t.Errorf("%v: %d false alarms in 20 h of probes", tt.p0, false20h)
		}
		if sum/runs > 170 {
			t.Errorf("%v to %v takes %d packets", tt.p0, tt.p1, sum/runs)
		}
	}
}

// TestSteadyLoss counts false alarms where the usual loss is what the last minute of probes shows, with its luck: a day of a
// direction with 5 % has three, one with 1 % less than one. With a lossAlarm of 8 there were 20 and 7.
func TestSteadyLoss(t *testing.T) {
	days := 12
	if raceEnabled {
		days = 2
	}
	for _, tt := range []struct{ loss, perDay float64 }{{0.01, 0.67}, {0.05, 2.9}} {
		rng := rand.New(rand.NewPCG(testSeed(t), 11))
		var d direction
		alarms := 0
		for now := time.Duration(0); now < time.Duration(days)*24*time.Hour; now += stamp.DefaultInterval {
			if now%time.Second == 0 {
				d.tune(now)
			}
			if rng.Float64() < tt.loss {
				d.probes(now, 1, 0)
			} else {
				d.probes(now, 0, 1)
			}
			if d.lossTest.sum >= lossAlarm {
				alarms++
				d.lossTest.reset()
			}
		}
		mean := tt.perDay * float64(days)
		t.Logf("%v: %d false alarms in %d days, usually %.0f", tt.loss, alarms, days, mean)
		if float64(alarms) > mean+5*math.Sqrt(mean) {
			t.Errorf("%v: %d false alarms in %d days, usually %.0f", tt.loss, alarms, days, mean)
		}
	}
}

package rate

import (
	"encoding/binary"
	"math"
	"testing"
	"time"
)

func TestSampler(t *testing.T) {
	var s sampler
	if _, ok := s.over(ms); ok {
		t.Error("an empty sampler had a sample")
	}
	for range 300 { // more than the ring holds
		s.add(Sample{Delivered: 1000, DeliveredPackets: 1, RecvElapsed: 10 * ms})
	}
	// Nothing arrived: loss goes with the next arrival.
	s.add(Sample{Lost: 500, LostPackets: 1})
	if sum, _ := s.over(50 * ms); sum.lost != 0 || sum.delivered != 5000 || sum.elapsed != 50*ms {
		t.Errorf("over 50 ms %+v, want 5000 bytes delivered, none lost", sum)
	}
	s.add(Sample{Delivered: 1000, DeliveredPackets: 1, RecvElapsed: 10 * ms, AppLimited: true})
	if sum, _ := s.over(20 * ms); sum.lost != 500 || sum.delivered != 2000 || !sum.appLimited {
		t.Errorf("over 20 ms %+v, want 2000 bytes delivered, 500 lost, app-limited", sum)
	}
	if _, ok := s.over(10 * sec); ok {
		t.Error("a sample spanned more than the ring holds")
	}
}

func TestDelayFilter(t *testing.T) {
	var d delayFilter
	now := simEpoch
	feed := func(n int, owd time.Duration) {
		for range n {
			now = now.Add(10 * ms)
			d.add(now, owd, 50*ms)
		}
	}
	feed(100, 40*ms)
	feed(100, 70*ms)
	if d.base() != 40*ms || d.standing() != 30*ms || d.over() != 30*ms {
		t.Errorf("base %v, standing %v, mean over %v; want 40ms, 30ms, 30ms", d.base(), d.standing(), d.over())
	}
	feed(1, 35*ms)
	if d.base() != 35*ms {
		t.Errorf("base %v after a lower delay, want 35ms at once", d.base())
	}
	feed(1150, 75*ms)
	if d.base() != 75*ms {
		t.Errorf("base %v 11.5 s after a step, want 75ms", d.base())
	}
	d.hold = true
	feed(1500, 90*ms)
	if d.base() != 75*ms {
		t.Errorf("held base %v, want 75ms", d.base())
	}
	// Offsets of the clocks do not matter, nor does a long silence.
	now = now.Add(time.Hour)
	feed(10, -time.Hour)
	if d.base() != -time.Hour || d.over() != 0 {
		t.Errorf("base %v, over %v; want -1h, 0", d.base(), d.over())
	}
}

// TestSilenceForgetsTheQueue: what stood in the queue before an outage is no reason to send less after it.
func TestSilenceForgetsTheQueue(t *testing.T) {
	s := newSim(t, 1, dynLinks[0].link)
	f := newBondFlow(s, Config{})
	f.start()
	s.run(8 * sec)
	before := f.c.Bandwidth()
	for i := range 10 { // a queue of 30 ms, just before nothing passes
		f.c.delay.add(s.time().Add(time.Duration(i)*10*ms), f.c.BaseOWD()+30*ms, 50*ms)
	}
	now := s.time().Add(3 * sec)
	f.c.OnSilence(now)
	f.c.OnReport(now, Sample{}) // nothing has arrived yet
	if b := f.c.Bandwidth(); b != before {
		t.Errorf("estimate %d after an outage, was %d", b, before)
	}
}

// TestClockSet: the peer's clock is set by an hour, either way.
func TestClockSet(t *testing.T) {
	for _, by := range []time.Duration{time.Hour, -time.Hour, 300 * ms, -300 * ms} {
		s := newSim(t, 1, dynLinks[1].link)
		f := newBondFlow(s, Config{})
		f.start()
		s.run(6 * sec)
		f.clock = func(d time.Duration) time.Duration { return d + time.Hour + by }
		m := s.meter()
		s.run(12 * sec)
		t.Logf("by %v: used %.3f, queue %v", by, m.util(s.link.rate), m.queue().Round(100*us))
		atLeast(t, "used", m.util(s.link.rate), 0.8)
		atMost(t, "queue", m.queue(), 20*ms)
	}
}

func TestJitterIgnoresSteadyQueues(t *testing.T) {
	var d delayFilter
	now := simEpoch
	for i := range 200 {
		now = now.Add(10 * ms)
		d.add(now, time.Duration(i)*ms, 50*ms) // a queue growing by 100 ms/s
	}
	if d.jitter() > 100*us {
		t.Errorf("jitter %v on a steadily growing queue, want none", d.jitter())
	}
	for i := range 200 {
		now = now.Add(20 * ms)
		d.add(now, 200*ms+time.Duration(i%2)*4*ms, 50*ms)
	}
	if d.jitter() < 2*ms {
		t.Errorf("jitter %v on delays that alternate by 4 ms, want 2 ms or more", d.jitter())
	}
}

func TestLossFilter(t *testing.T) {
	var l lossFilter
	l.init()
	for range 100 {
		l.add(Sample{DeliveredPackets: 61, LostPackets: 3}, true)
	}
	if math.Abs(l.floor-3.0/64) > 1e-9 || math.Abs(l.recent-3.0/64) > 1e-9 {
		t.Errorf("floor %v, recent %v; want %v", l.floor, l.recent, 3.0/64)
	}
	l.mark()
	l.add(Sample{DeliveredPackets: 950, LostPackets: 50}, false)
	if ex, _ := l.excess(); ex {
		t.Error("5 % loss counted as excess over a floor of 4.7 %")
	}
	l.mark()
	l.add(Sample{DeliveredPackets: 700, LostPackets: 300}, false)
	if ex, gross := l.excess(); !ex || !gross {
		t.Errorf("30 %% loss over a floor of 4.7 %%: excess %v, gross %v; want both", ex, gross)
	}
	l.mark()
	l.add(Sample{DeliveredPackets: 100, LostPackets: 12}, false)
	if ex, _ := l.excess(); ex {
		t.Error("one burst of 12 packets counted as excess")
	}
}

// TestECN: marks slow the sender by a tenth a round trip, without loss or queue.
func TestECN(t *testing.T) {
	s := newSim(t, 1, dynLinks[0].link)
	f := newBondFlow(s, Config{})
	f.start()
	s.run(5 * sec)
	before := f.c.PacingRate()
	f.ce = 1
	s.run(s.now + sec)
	if r := float64(f.c.PacingRate()) / float64(before); r > 0.75 {
		t.Errorf("rate %.2f of before after a second of CE marks, want 0.75 or less", r)
	}
}

// TestLossRises: the path's own loss grows in mid-transfer and is learned anew.
func TestLossRises(t *testing.T) {
	for _, seed := range seeds(t, 2) {
		l := dynLinks[0].link
		l.loss, l.jitter = 0.01, 2*ms
		s := newSim(t, seed, l)
		f := newBondFlow(s, Config{})
		f.start()
		trace(s, f, 100*ms)
		s.run(8 * sec)
		s.link.loss = 0.08
		least := 1.0
		for s.now < 24*sec {
			m := s.meter()
			s.run(s.now + 2*sec)
			least = min(least, m.util(l.rate))
		}
		t.Logf("seed %d: least two seconds %.3f, floor %.3f", seed, least, f.c.LossFloor())
		atLeast(t, "used in the worst two seconds", least, 0.85)
		atLeast(t, "floor", f.c.LossFloor(), 0.04)
	}
}

// TestProbeRTT: asked for when the base has gone unseen, granted by the bond, and
// over after a round trip and 200 ms.
func TestProbeRTT(t *testing.T) {
	c := New(Config{})
	now := simEpoch
	report := func(owd time.Duration) {
		now = now.Add(10 * ms)
		c.OnReport(now, Sample{Delivered: 50000, DeliveredPackets: 34, RecvElapsed: 10 * ms, OWD: owd, OWDMin: owd, RTT: 100 * ms})
	}
	for range 200 {
		report(50 * ms)
	}
	c.AllowProbeRTT(true)
	if c.WantProbeRTT() || c.State() == "ProbeRTT" {
		t.Fatal("ProbeRTT with a base just seen")
	}
	// What is over base stays: the bottleneck's clock drifts away.
	for i := 0; i < 5000 && !c.WantProbeRTT(); i++ {
		report(50*ms + 5*ms + time.Duration(i)*20*us)
	}
	if !c.WantProbeRTT() {
		t.Fatal("the base went unseen, and ProbeRTT was not asked for")
	}
	c.AllowProbeRTT(false)
	if c.State() == "ProbeRTT" {
		t.Fatal("ProbeRTT without leave")
	}
	rate := c.PacingRate()
	c.AllowProbeRTT(true)
	if c.State() != "ProbeRTT" || c.PacingRate() > rate*6/10 {
		t.Fatalf("state %s, rate %d of %d; want ProbeRTT at half", c.State(), c.PacingRate(), rate)
	}
	for range 40 {
		report(50 * ms)
	}
	if c.State() == "ProbeRTT" || c.WantProbeRTT() {
		t.Errorf("state %s, wanted again %v; want ProbeRTT over", c.State(), c.WantProbeRTT())
	}
}

func TestZeroReport(t *testing.T) {
	c := New(Config{Cap: 1e6, InitialRate: 1e9, MinRate: 1e8})
	for range 100 {
		c.OnReport(simEpoch, Sample{})
		c.OnReport(simEpoch, Sample{Delivered: -1})
	}
	if r := c.PacingRate(); r != 1e6 {
		t.Errorf("rate %d, want the cap", r)
	}
}

// FuzzController feeds arbitrary reports: whatever a peer says, the rate stays
// within its bounds and finite.
func FuzzController(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23})
	f.Add(make([]byte, 240))
	f.Fuzz(func(t *testing.T, b []byte) {
		const most = 40e6
		c := New(Config{Cap: most, MinRate: 1e5})
		now := simEpoch
		for len(b) >= 16 {
			u := binary.LittleEndian.Uint16
			now = now.Add(time.Duration(u(b)) * 100 * us)
			n := int64(u(b[2:]))
			s := Sample{
				Delivered: n * int64(b[4]), DeliveredPackets: n,
				Lost: int64(u(b[5:])) * int64(b[4]), LostPackets: int64(u(b[5:])),
				RecvElapsed: time.Duration(u(b[7:])) * 50 * us,
				OWDMin:      time.Duration(int16(u(b[9:]))) * 100 * us,
				RTT:         time.Duration(u(b[11:])) * 10 * us,
				Inflight:    int64(int16(u(b[13:]))) * 100,
				AppLimited:  b[15]&1 > 0, CE: int(b[15] >> 6),
			}
			switch b[15] >> 1 & 7 {
			case 0:
				c.OnSend(now, 1400)
			case 1:
				c.OnSilence(now)
			case 2:
				c.AllowProbeRTT(true)
			case 3: // values no honest peer sends
				s.OWDMin *= 1e12
				s.Delivered *= 1e9
				s.RTT *= 1e9
			}
			c.OnReport(now, s)
			b = b[16:]
			if r := c.PacingRate(); r < 1e5 || r > most {
				t.Fatalf("pacing rate %d in %s outside 1e5..%g", r, c.State(), most)
			}
			if r := c.Bandwidth(); r < 1e5 || r > most {
				t.Fatalf("bandwidth %d outside 1e5..%g", r, most)
			}
			if c.InflightCap() <= 0 {
				t.Fatalf("inflight cap %d", c.InflightCap())
			}
			for _, x := range []float64{c.bw, c.noise, c.share, c.qSlow, c.loss.floor, c.loss.recent, c.loss.burst, c.ramp} {
				if math.IsNaN(x) || math.IsInf(x, 0) {
					t.Fatalf("state is not finite: %+v", c.machine)
				}
			}
			if l := c.LossFloor(); l < 0 || l > maxFloor {
				t.Fatalf("loss floor %v outside 0..%v", l, maxFloor)
			}
		}
	})
}

// drive returns a step of steady traffic at 50 Mbit/s.
func drive(c *Controller) func() {
	now := simEpoch
	var i int
	return func() {
		i++
		now = now.Add(10 * ms)
		owd := 90*ms + time.Duration(i*7919%4000)*us
		c.OnReport(now, Sample{
			Delivered: 62000, DeliveredPackets: 42, Lost: 1472, LostPackets: 1,
			RecvElapsed: 10 * ms, OWD: owd, OWDMin: owd, RTT: 185 * ms, Inflight: 1 << 20,
		})
	}
}

func TestNoAllocations(t *testing.T) {
	c := New(Config{})
	report := drive(c)
	if n := testing.AllocsPerRun(2000, func() { report(); c.OnSend(c.last, 1472); c.PacingRate(); c.InflightCap() }); n != 0 {
		t.Errorf("%v allocations a report, want none", n)
	}
}

func BenchmarkOnReport(b *testing.B) {
	b.ReportAllocs()
	report := drive(New(Config{}))
	for b.Loop() {
		report()
	}
}

func BenchmarkOnSend(b *testing.B) {
	b.ReportAllocs()
	c := New(Config{})
	now := simEpoch
	for b.Loop() {
		c.OnSend(now, 1472)
	}
}

package wan

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTapPlain forwards without io_uring, as where it is missing or forbidden.
func TestTapPlain(t *testing.T) {
	e, a, b := tapPair(t, 1, mustParse("delay 5ms duplicate 10%"), Impairment{})
	e.mu.Lock()
	e.io.close()
	e.mu.Unlock()
	_, got := tapRun(t, a, b, 2000, 300, 50, 2*time.Millisecond, 5*time.Millisecond)
	s := e.Stats()[0].AtoB
	checkCounters(t, s.Counters)
	if uint64(len(got)) != 2000+s.Duplicated || s.Duplicated == 0 || s.WriteErrors != 0 {
		t.Errorf("%d datagrams arrive; %+v", len(got), s)
	}
	if overtaken(got) != 0 {
		t.Error("order lost")
	}
}

// TestURing reads from a device what was written to the other end, in order.
func TestURing(t *testing.T) {
	e, a, _ := tapPair(t, 1, Impairment{}, Impairment{})
	e.mu.Lock() // stops the loop
	defer e.mu.Unlock()
	r, err := newURing()
	if err != nil {
		t.Skipf("the kernel allows no io_uring, the emulator does without: %v", err)
	}
	defer r.close()
	for round := range 20 { // several times around the ring
		out := make([]byte, 300)
		for i := range 40 {
			writeNumbered(out, uint32(i))
			if _, err := a.WriteToUDPAddrPort(out, tapDst); err != nil {
				t.Fatal(err)
			}
		}
		frames := make([]frame, 50)
		for i := range frames {
			r.prepare(uringOpRead, e.links[0].taps[0].fd, frames[i].buf[:])
		}
		err := r.submit(func(i int, res int32) {
			want := int32(342)
			if i >= 40 {
				want = -int32(unix.EAGAIN)
			}
			if res != want {
				t.Fatalf("round %d: read %d gives %d, want %d", round, i, res, want)
			}
			if i < 40 && readNumbered(frames[i].buf[HeaderIPv4:res], 0).id != uint32(i) {
				t.Fatalf("round %d: read %d out of order", round, i)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkTap reports frames a second through one link and the CPU of the
// emulator's thread for each, the far stack's receive path included: flat out,
// and at 13,000 frames a second in bursts of a millisecond.
func BenchmarkTap(b *testing.B) {
	for _, bm := range []struct {
		name  string
		plain bool
		gap   time.Duration
	}{
		{"load=full/io=uring", false, 0},
		{"load=full/io=plain", true, 0},
		{"load=13k/io=uring", false, time.Millisecond},
		{"load=13k/io=plain", true, time.Millisecond},
	} {
		b.Run(bm.name, func(b *testing.B) { benchmarkTap(b, bm.plain, bm.gap) })
	}
}

func benchmarkTap(b *testing.B, plain bool, gap time.Duration) {
	e, src, dst := tapPair(b, 1, Impairment{Delay: 20 * time.Millisecond}, Impairment{})
	e.mu.Lock()
	if plain {
		e.io.close()
	} else if e.io.ring == nil {
		e.mu.Unlock()
		b.Skip("no io_uring")
	}
	e.mu.Unlock()
	const frameBytes, burst = 1442, 13
	out := make([]byte, frameBytes-HeaderIPv4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := make([]byte, 2000)
		for {
			if _, _, err := dst.ReadFromUDPAddrPort(in); err != nil {
				return
			}
		}
	}()
	before, cpu := e.Stats()[0].AtoB, e.CPU()
	b.ReportAllocs()
	b.SetBytes(frameBytes)
	b.ResetTimer()
	start := time.Now()
	for i := range b.N {
		if gap > 0 && i%burst == 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i/burst) * gap)))
		}
		// Full load is what the device's queue takes without dropping.
		for gap == 0 && i%256 == 0 && e.Stats()[0].AtoB.Offered-before.Offered+2048 < uint64(i) {
			time.Sleep(200 * time.Microsecond)
		}
		src.WriteToUDPAddrPort(out, tapDst)
	}
	var s WayStats
	for try := 0; try < 1000; try++ {
		if s = e.Stats()[0].AtoB; s.Delivered-before.Delivered+s.DeviceDrops >= uint64(b.N) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	dst.Close()
	<-done
	b.ReportMetric(float64(e.CPU()-cpu)/float64(b.N)/1e3, "cpu-us/frame")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(s.DeviceDrops), "device-drops")
}

package bond

import (
	"flag"
	"testing"
	"time"
)

// TestSteadyPathAllocs: a packet costs no allocation on its way: WriteTo, scheduler, seal, socket, check, slot, release,
// ReadFrom, and the reports that go back. An average below one in a run is noise: a pool that the collector emptied.
func TestSteadyPathAllocs(t *testing.T) {
	if raceOn {
		t.Skip("the race detector empties pools at random")
	}
	for _, c := range []Class{Interactive, Bulk} {
		t.Run(c.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r, _, la := usableRig(t, 3, c)
				p, buf := make([]byte, 1200), make([]byte, maxPacket)
				var lb *Lane
				packets := 0
				run := func() {
					for range 2 {
						if _, err := la.WriteTo(p, nil); err != nil {
							t.Fatal(err)
						}
					}
					r.a.turn()
					if lb == nil {
						select {
						case lb = <-r.b.bond.sess.accepted:
						default:
						}
					}
					for lb != nil {
						r.b.bond.mu.Lock()
						_, at := r.b.host.now()
						lb.rx.release(at)
						n := lb.rx.ready.len()
						r.b.bond.mu.Unlock()
						if n == 0 {
							break
						}
						if _, _, err := lb.ReadFrom(buf); err != nil {
							t.Fatal(err)
						}
						packets++
					}
					r.b.turn()
					time.Sleep(2 * time.Millisecond)
				}
				for range 3000 {
					run()
				}
				packets = 0
				if n := testing.AllocsPerRun(2000, run); n != 0 {
					t.Errorf("%.0f allocations for 2 packets", n)
				}
				if packets < 3900 {
					t.Errorf("%d packets crossed: nothing was shown", packets)
				}
			})
		})
	}
}

// TestBlockedWriteAllocs: a writer that waits for the pacers allocates nothing either.
func TestBlockedWriteAllocs(t *testing.T) {
	if raceOn {
		t.Skip("the race detector empties pools at random")
	}
	inBubble(t, func(t *testing.T) {
		_, s, l := usableRig(t, 1, Bulk)
		done := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			defer close(done)
			for {
				time.Sleep(time.Millisecond)
				select {
				case <-stop:
					return
				default:
				}
				s.b.mu.Lock()
				l.tx.queue.pop().free()
				s.b.mu.Unlock()
				select {
				case l.room <- struct{}{}:
				default:
				}
			}
		}()
		p := make([]byte, 1200)
		for range 200 {
			if _, err := l.WriteTo(p, nil); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(1000, func() { _, _ = l.WriteTo(p, nil) }); n != 0 {
			t.Errorf("%.0f allocations for a packet that waits", n)
		}
		close(stop)
		<-done
	})
}

// TestStageBenchmarks: the benchmark of each stage runs, and a packet costs none of them an allocation.
func TestStageBenchmarks(t *testing.T) {
	times := flag.Lookup("test.benchtime").Value
	old := times.String()
	if err := times.Set("1000x"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = times.Set(old) }()
	for name, f := range map[string]func(*testing.B){
		"Seal": BenchmarkSeal, "Open": BenchmarkOpen, "Pick": BenchmarkPick, "LaneSend": BenchmarkLaneSend,
		"LaneHandOver": BenchmarkLaneHandOver, "Report": BenchmarkReport,
	} {
		failed := false
		r := testing.Benchmark(func(b *testing.B) {
			defer func() { failed = failed || b.Failed() }() // a part of it too
			f(b)
		})
		if failed || r.N == 0 {
			t.Errorf("go test -bench %s fails", name)
		} else if n := r.AllocsPerOp(); n != 0 && !raceOn {
			t.Errorf("go test -bench %s: %d allocations", name, n)
		}
	}
}

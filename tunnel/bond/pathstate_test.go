package bond

import (
	"runtime"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/tunnel/bond/rate"
)

// TestSilenceSeenByReport: a path that is found silent when a report comes, between two ticks, hands its packets over
// like one found by the tick.
func TestSilenceSeenByReport(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 2, false)
		s, _ := r.establish(t)
		b := s.b
		now, at := b.host.now()
		for _, p := range b.paths {
			p.acked = true
			s.setState(at, p, PathUp)
			p.rtt = 100 * time.Millisecond
		}
		l := s.addLane(laneID(Bulk, 0))
		const packets = 20
		for i := range packets {
			l.tx.next++
			o := &l.tx.out[i]
			*o = outPacket{buf: newPacketBuf(make([]byte, 100))}
			s.transmit(now, at, l, uint64(i), o, b.paths[0])
		}
		now, at = now.Add(time.Second), at+us(time.Second)
		b.paths[1].lastAck = at
		s.onReport(now, at, s.lastReportNo+1, &report{paths: []pathReport{{largest: uint32(b.paths[0].largest), span: reportBits / 8}}})
		if st := b.paths[0].state; st != PathSuspect {
			t.Fatalf("path is %v after a second without an answer, want suspect", st)
		}
		if n := l.tx.again.len(); n != packets {
			t.Errorf("%d of the %d packets on the silent path are sent again", n, packets)
		}
		if b.paths[0].inflight != 0 {
			t.Errorf("%d bytes in flight on a path that was given up", b.paths[0].inflight)
		}
	})
}

// TestPathStates: a path that goes dark is suspect after a round trip and suspectAfter, down after downAfter, and back
// after clean probes and a dwell time that doubles each time, up to dwellMax; a minute of peace forgets it.
func TestPathStates(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		imp := wan.Impairment{Rate: 20e6, Delay: 40 * time.Millisecond}
		w := newWorld(t, testSeed(t), imp, imp)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		done, end := make(chan int), make(chan struct{})
		go func() { // traffic on both paths
			for i := 0; ; i++ {
				select {
				case <-end:
					done <- i
					return
				case <-time.After(2 * time.Millisecond):
				}
				if _, err := la.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil); err != nil {
					t.Error(err)
				}
			}
		}()
		time.Sleep(time.Second)
		b := w.a.bond
		state := func() PathState {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.paths[0].state
		}
		// await returns how long the path took to the state.
		await := func(want PathState) time.Duration {
			t.Helper()
			start := time.Now()
			until(t, 2*dwellMax, want.String(), func() bool { return state() == want })
			return time.Since(start)
		}
		if state() != PathUp {
			t.Fatalf("path is %v at first", state())
		}
		var last time.Duration
		for i := range 6 {
			w.links[0].Darken(true)
			if took := await(PathSuspect); took < 80*time.Millisecond || took > 80*time.Millisecond+suspectAfter+60*time.Millisecond {
				t.Errorf("flap %d: suspect after %v", i, took)
			}
			if i == 1 {
				if took := await(PathDown); took < downAfter-20*time.Millisecond || took > downAfter+20*time.Millisecond {
					t.Errorf("down %v after suspect, want %v", took, downAfter)
				}
			}
			b.mu.Lock()
			since := b.paths[0].stateSince
			b.mu.Unlock()
			w.links[0].Darken(false)
			await(PathUp)
			b.mu.Lock()
			_, at := b.host.now()
			took, dwell := (at - since).duration(), b.paths[0].dwell
			b.mu.Unlock()
			if want := min(dwellMin<<i, dwellMax); dwell != want || took < dwell || took > dwell+time.Second {
				t.Errorf("flap %d: back after %v, dwell %v, want %v", i, took, dwell, want)
			}
			if took < last/2 {
				t.Errorf("flap %d: back after %v, the one before after %v", i, took, last)
			}
			last = took
			time.Sleep(time.Second)
		}
		time.Sleep(dwellForget)
		w.links[0].Darken(true)
		await(PathSuspect)
		b.mu.Lock()
		if d := b.paths[0].dwell; d != dwellMin {
			t.Errorf("dwell %v after a minute of peace, want %v", d, dwellMin)
		}
		b.mu.Unlock()
		w.links[0].Darken(false)
		close(end)
		sent := <-done
		time.Sleep(3 * time.Second)
		exactlyOnce(t, stop(), sent)
	})
}

// TestNothingLeaks: sessions and lanes that have ended hold no memory; goroutines would stop the bubble from ending.
func TestNothingLeaks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		r := newRig(t, 2, false)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		lanes := func(n int) {
			sa, sb := r.a.bond.sess, r.b.bond.sess
			sa.startDone, sb.startDone = true, true
			for range n {
				l, err := sa.OpenLane(Bulk)
				if err != nil {
					t.Fatal(err)
				}
				for range 300 {
					if l.tx.queue.len() < laneQueue {
						_, _ = l.WriteTo(make([]byte, 1000), nil)
					}
					r.a.turn()
					r.b.turn()
					time.Sleep(time.Millisecond)
				}
				l.Close()
				for _, far := range sb.live {
					far.Close()
				}
				for range 20 {
					r.a.turn()
					r.b.turn()
					time.Sleep(100 * time.Millisecond)
				}
			}
		}
		r.establish(t)
		lanes(2)
		before := heap()
		lanes(20)
		if grown := int64(heap()) - int64(before); grown > 4<<20 {
			t.Errorf("20 lanes that were closed hold %d KB", grown>>10)
		}
		for range 20 {
			r.a.bond.mu.Lock()
			r.a.bond.endSession("test")
			r.a.bond.mu.Unlock()
			r.b.bond.mu.Lock()
			r.b.bond.endSession("test")
			r.b.bond.mu.Unlock()
			time.Sleep(2 * time.Second)
			for range 10 {
				r.a.turn()
				r.b.turn()
				time.Sleep(100 * time.Millisecond)
			}
			r.establish(t)
			lanes(1)
		}
		if grown := int64(heap()) - int64(before); grown > 6<<20 {
			t.Errorf("20 sessions that ended hold %d KB", grown>>10)
		}
	})
}

// TestSilenceEverywhere: a path silent while another one delivers is given up soon; silent with all others, which may be
// this machine's own doing and leaves nowhere to go, it gets twice the time. What waits on an idle path for an answer are
// probes, of which some may be lost.
func TestSilenceEverywhere(t *testing.T) {
	for _, tc := range []struct {
		name      string
		otherIsUp bool
		idle      bool
		after     time.Duration
	}{
		{"another delivers", true, false, suspectAfter},
		{"none delivers", false, false, 2 * suspectAfter},
		{"idle, another delivers", true, true, suspectAfterIdle},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				r := newRig(t, 2, false)
				s, _ := r.establish(t)
				now, at := s.b.host.now()
				const rtt = 100 * time.Millisecond
				for _, p := range s.b.paths {
					p.acked, p.rtt = true, rtt
					p.ctrl = rate.New(rate.Config{})
					s.setState(at, p, PathUp)
				}
				p := s.b.paths[0]
				if tc.idle {
					p.lastData = at - us(idleAfter) - 1
				}
				for range busyPackets {
					s.b.emit(now, at, p, header{kind: kindPadding}, nil, true, false)
				}
				s.b.out.n = 0
				limit := 3*tc.after + rtt // three times in Startup
				for _, d := range []time.Duration{limit, limit + time.Millisecond} {
					if tc.otherIsUp {
						s.b.paths[1].lastAck = at + us(d)
					}
					s.advance(now.Add(d), at+us(d), p)
					want := PathUp
					if d > limit {
						want = PathSuspect
					}
					if p.state != want {
						t.Errorf("%v after %v without an answer, want %v", p.state, d, want)
					}
				}
			})
		})
	}
}

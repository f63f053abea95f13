package bond

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/bench/wan"
)

// The tests of this file and lanerules_test.go are of the bond: that it keeps the rules of DESIGN section 4, here 1 to 3.
// quicrules_test.go pins what the rules build on.

// uneven are three clean paths of 80, 90 and 110 ms, the ones that DESIGN gives figures for.
func uneven(rate int64) []wan.Impairment {
	var links []wan.Impairment
	for _, d := range []time.Duration{90, 110, 80} {
		links = append(links, wan.Impairment{Rate: rate, Delay: d * time.Millisecond, Queue: 100 * time.Millisecond})
	}
	return links
}

// stampPacket is a lane packet that tells its number and when it was written.
func stampPacket(b []byte, n uint64) []byte {
	binary.BigEndian.PutUint64(b, n)
	binary.BigEndian.PutUint64(b[8:], uint64(time.Now().UnixNano()))
	return b
}

// arrival is a stamped packet as it was read from the far lane.
type arrival struct {
	n       uint64
	latency time.Duration
}

// collect reads stamped packets from l until it closes.
func collect(l *Lane) func() []arrival {
	var got []arrival
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, maxPacket)
		for {
			n, _, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 16 {
				continue
			}
			sent := time.Unix(0, int64(binary.BigEndian.Uint64(b[8:])))
			got = append(got, arrival{binary.BigEndian.Uint64(b), time.Since(sent)})
		}
	}()
	return func() []arrival {
		l.Close()
		<-done
		return got
	}
}

// exactlyOnce fails unless the packets 0..n-1 arrived once each, and tells whether they came in order.
func exactlyOnce(t testing.TB, got []arrival, n int) (inOrder bool) {
	t.Helper()
	seen := make([]int, n)
	inOrder = true
	for i, a := range got {
		if a.n >= uint64(n) {
			t.Fatalf("packet %d arrived, %d were sent", a.n, n)
		}
		seen[a.n]++
		inOrder = inOrder && (i == 0 || got[i-1].n < a.n)
	}
	for i, k := range seen {
		if k != 1 {
			t.Errorf("packet %d of %d arrived %d times", i, n, k)
			return
		}
	}
	return inOrder
}

// TestRule1Blocks: WriteTo takes what the pacers let out and no more, and everything it took arrives once.
func TestRule1Blocks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const rate, packets, size = 10e6, 4000, 1200
		w := newWorld(t, testSeed(t), wan.Impairment{Rate: rate, Delay: 20 * time.Millisecond, Queue: 100 * time.Millisecond})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		start := time.Now()
		b := make([]byte, size)
		for i := range packets {
			if _, err := la.WriteTo(stampPacket(b, uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
			w.a.bond.mu.Lock()
			if n := la.tx.queue.len(); n > laneQueue {
				t.Fatalf("%d packets in the lane's queue, allowed %d", n, laneQueue)
			}
			w.a.bond.mu.Unlock()
		}
		took := time.Since(start)
		time.Sleep(2 * time.Second)
		exactlyOnce(t, stop(), packets)
		if least := time.Duration(packets*size*8/rate*1e9) - 200*time.Millisecond; took < least {
			t.Errorf("%d packets taken in %v, the link needs %v", packets, took, least)
		}
		if lost := w.links[0].Stats(wan.AtoB).QueueDrops; lost > packets/20 {
			t.Errorf("%d packets ran into the link's queue", lost)
		}
		// 2 ms of a lane at 300 Mbit/s: QUIC's acknowledgements wait in the same line.
		if wait := time.Duration(laneQueue * 1280 * 8 * int64(time.Second) / 300e6); wait > 3*time.Millisecond {
			t.Errorf("a full lane queue holds an acknowledgement up for %v at 300 Mbit/s", wait)
		}
	})
}

// TestRule1Stall: with no path at all WriteTo blocks, for writeStall at the most and without an error, so that quic-go's
// Close returns; afterwards it blocks no more until a path is back.
func TestRule1Stall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testSeed(t), wan.Impairment{Rate: 20e6, Delay: 20 * time.Millisecond})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		w.links[0].Darken(true)
		time.Sleep(5 * time.Second) // down
		var mu sync.Mutex
		taken := 0
		var failed error
		go func() {
			for i := range laneQueue + 50 {
				_, err := la.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil)
				mu.Lock()
				if err != nil {
					failed = err
				}
				taken++
				mu.Unlock()
			}
		}()
		check := func(when string, want int) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if taken != want || failed != nil {
				t.Errorf("%s: %d packets taken, want %d; error %v", when, taken, want, failed)
			}
		}
		time.Sleep(writeStall - 100*time.Millisecond)
		if writeStall > 5*time.Second {
			t.Errorf("Close of a connection may take %v", writeStall)
		}
		check("before writeStall", laneQueue)
		time.Sleep(200 * time.Millisecond)
		check("after writeStall", laneQueue+50)
		w.links[0].Darken(false)
		time.Sleep(5 * time.Second)
		if got := stop(); len(got) != laneQueue {
			t.Errorf("%d packets arrived, want the %d in the queue", len(got), laneQueue)
		}
		if la.stalled.Load() {
			t.Error("the lane is still taken for stalled")
		}
	})
}

// TestRule1Errors: the errors of WriteTo are EMSGSIZE, which quic-go passes over, and the end of the lane.
func TestRule1Errors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testSeed(t), wan.Impairment{Rate: 1e6, Delay: 20 * time.Millisecond})
		defer w.close()
		sa, sb := w.sessions()
		la, _ := w.rawLane(sa, sb, Bulk)
		if _, err := la.WriteTo(make([]byte, maxPacket+1), nil); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("oversize packet: %v, want EMSGSIZE", err)
		}
		done := make(chan error)
		go func() {
			for {
				if _, err := la.WriteTo(make([]byte, 1000), nil); err != nil {
					done <- err
					return
				}
			}
		}()
		time.Sleep(100 * time.Millisecond) // it blocks
		la.Close()
		at := time.Now()
		if err := <-done; !errors.Is(err, net.ErrClosed) || time.Since(at) != 0 {
			t.Errorf("blocked WriteTo after Close: %v after %v, want net.ErrClosed at once", err, time.Since(at))
		}
	})
}

// TestRule2Equalises: whatever path a packet took, it is handed over at its send time plus one common delay, that of the
// slowest path and a little. Differences above HyStart's least threshold would end QUIC's slow start.
func TestRule2Equalises(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, testSeed(t), uneven(50e6)...)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		const packets, settle = 4000, 1500
		for i := range packets {
			if _, err := la.WriteTo(stampPacket(make([]byte, 800), uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		got := stop()
		if !exactlyOnce(t, got, packets) {
			t.Error("clean paths of unequal delay reordered packets")
		}
		least, most := time.Hour, time.Duration(0)
		for i, a := range got[settle:] {
			least, most = min(least, a.latency), max(most, a.latency)
			// The common delay may sink slowly (equaliseDecay); what counts is the difference between neighbours, of which one
			// may be handed over with the other, which may have waited for a pacer.
			const near = coalesceBulk + time.Millisecond
			if d := a.latency - got[settle+i-1].latency; d < -near || d > near {
				t.Fatalf("packet %d took %v, the one before %v; HyStart trips at 4 ms", a.n, a.latency, got[settle+i-1].latency)
			}
		}
		if least < 110*time.Millisecond || most > 110*time.Millisecond+max(equaliseMost, repairCap)+5*time.Millisecond {
			t.Errorf("packets took %v to %v, the slowest path 110 ms", least, most)
		}
		for i, l := range w.links {
			if n := l.Stats(wan.AtoB).Delivered; n < packets/10 {
				t.Errorf("path %d carried only %d packets: nothing was shown", i, n)
			}
		}
	})
}

// TestRule3RepairTime: a packet that a path lost is back inside two of QUIC's round trips, so that its loss costs nothing.
// QUIC sees D and the lean way back as the round trip; the acknowledgement takes the latter once of the two.
func TestRule3RepairTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		links := uneven(30e6)
		for i := range links {
			links[i].Loss = 0.02
		}
		w := newWorld(t, testSeed(t), links...)
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stop := collect(lb)
		const packets = 6000
		for i := range packets {
			if _, err := la.WriteTo(stampPacket(make([]byte, 1000), uint64(i)), nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		got := stop()
		exactlyOnce(t, got, packets)
		var all []time.Duration
		for _, a := range got {
			all = append(all, a.latency)
		}
		slices.Sort(all)
		d := all[len(all)/2]
		lost := uint64(0)
		for _, l := range w.links {
			lost += l.Stats(wan.AtoB).Lost
		}
		if lost < packets/100 {
			t.Errorf("%d of %d packets were lost: nothing was shown", lost, packets)
		}
		if most := all[len(all)-1]; most > 2*d+110*time.Millisecond {
			t.Errorf("the latest packet took %v, D is %v: outside two round trips of QUIC", most, d)
		}
	})
}

// TestRule3KeepsWindow: QUIC's window survives loss, and a path that goes dark, and is large enough for the bond.
func TestRule3KeepsWindow(t *testing.T) {
	for _, tc := range []struct {
		name string
		loss float64
		dark bool
	}{{"clean", 0, false}, {"loss", 0.02, false}, {"outage", 0.002, true}} {
		t.Run(tc.name, func(t *testing.T) {
			seed := testSeed(t)
			inBubble(t, func(t *testing.T) {
				links := uneven(20e6)
				for i := range links {
					links[i].Loss = tc.loss
				}
				w := newWorld(t, seed, links...)
				defer w.close()
				sa, sb := w.sessions()
				<-sb.Started()
				p := w.lane(sa, sb, Bulk)
				defer p.close()
				var before quic.ConnectionStats
				time.AfterFunc(6*time.Second, func() {
					before = p.cb.ConnectionStats()
					w.links[0].Darken(tc.dark)
				})
				time.AfterFunc(8*time.Second, func() { w.links[0].Darken(false) })
				r := p.transfer(t, seed, 10*time.Second)
				if !r.ok {
					t.Error("payload damaged")
				}
				rate, rtt := sb.Capacity()
				product := float64(rate) / 8 * rtt.Seconds()
				st := p.cb.ConnectionStats()
				t.Logf("window %d at 6 s, %d at 10 s; bandwidth times delay %.0f; %d packets taken for lost of %d; stall %v", before.CongestionWindow, st.CongestionWindow,
					product, st.PacketsLost, st.PacketsSent, r.stall)
				if float64(before.CongestionWindow) < 1.2*product {
					t.Errorf("window %d at 6 s, the bond holds %.0f", before.CongestionWindow, product)
				}
				if least := 0.69 * float64(before.CongestionWindow); float64(st.CongestionWindow) < least { // one cut may be under way
					t.Errorf("window %d at 10 s, %d at 6 s: cuts were not undone", st.CongestionWindow, before.CongestionWindow)
				}
				if r.stall > time.Second {
					t.Errorf("nothing came for %v", r.stall)
				}
				if tc.loss == 0 && st.PacketsLost > lessons {
					t.Errorf("%d packets taken for lost over clean paths, %d lessons", st.PacketsLost, lessons)
				}
			})
		})
	}
}

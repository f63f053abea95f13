package bond

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
)

// The tests of this file are of quic-go, not of the bond: each pins an internal that DESIGN section 4 builds on. One that
// fails after an upgrade means that the rule it names has to be measured anew.

// TestQUICSendQueue: rule 1. While WriteTo blocks, a connection makes 8 more packets and no others; nothing is lost, and
// a rate set by blocking alone is never seen as congestion.
func TestQUICSendQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPipe(50 * time.Millisecond)
		p := newQUICPair(t, a, b, nil)
		defer p.close()
		time.Sleep(time.Second) // the handshake's last packets
		block := make(chan struct{})
		deliver := *a.write.Load()
		a.script(func(n int, b []byte) (time.Duration, error) {
			<-block
			return deliver(n, b)
		})
		before := p.ca.ConnectionStats()
		p.greedy(t)
		time.Sleep(20 * time.Millisecond)
		if got := p.ca.ConnectionStats().PacketsSent - before.PacketsSent; got != 1+8 {
			t.Errorf("%d packets made while WriteTo blocked, want the one in it and 8 in the queue", got)
		}
		free := time.Now()
		a.script(func(n int, b []byte) (time.Duration, error) { // 20 Mbit/s
			if now := time.Now(); free.Before(now) {
				free = now
			}
			free = free.Add(time.Duration(len(b)) * 8 * time.Second / 20e6)
			time.Sleep(time.Until(free))
			return deliver(n, b)
		})
		close(block)
		time.Sleep(2 * time.Second)
		sent := p.ca.ConnectionStats().BytesSent
		time.Sleep(3 * time.Second)
		now := p.ca.ConnectionStats()
		if rate := float64(now.BytesSent-sent) * 8 / 3 / 20e6; rate < 0.98 {
			t.Errorf("%.3f of the rate that WriteTo allows was used", rate)
		}
		if now.PacketsLost != 0 {
			t.Errorf("%d packets lost behind a writer that blocks", now.PacketsLost)
		}
	})
}

// TestQUICWriteError: rule 1. EMSGSIZE is passed over; any other error ends the connection.
func TestQUICWriteError(t *testing.T) {
	other := errors.New("no route today")
	for _, tc := range []struct {
		name string
		err  error
		ends bool
	}{
		{"emsgsize", fmt.Errorf("packet too long: %w", syscall.EMSGSIZE), false},
		{"enobufs", syscall.ENOBUFS, true},
		{"other", other, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPipe(10 * time.Millisecond)
				p := newQUICPair(t, a, b, nil)
				defer p.close()
				time.Sleep(time.Second)
				fail := true
				a.script(func(int, []byte) (time.Duration, error) {
					if fail {
						fail = false
						return 0, tc.err
					}
					return 10 * time.Millisecond, nil
				})
				s := p.stream(t)
				if _, err := s.Write(make([]byte, 100)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if ended := p.ca.Context().Err() != nil; ended != tc.ends {
					t.Errorf("connection ended: %v, want %v", ended, tc.ends)
				}
			})
		})
	}
}

// TestQUICCloseWaits: rule 1. Close waits for a WriteTo that blocks, hence the bond's limit on it (writeStall).
func TestQUICCloseWaits(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPipe(10 * time.Millisecond)
		p := newQUICPair(t, a, b, nil)
		defer p.close()
		time.Sleep(time.Second)
		block := make(chan struct{})
		a.script(func(int, []byte) (time.Duration, error) {
			<-block
			return 0, nil
		})
		s := p.stream(t)
		_, _ = s.Write(make([]byte, 100))
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			p.ca.CloseWithError(0, "")
			close(closed)
		}()
		time.Sleep(time.Minute)
		select {
		case <-closed:
			t.Error("Close returned while WriteTo blocked: writeStall is not needed any more")
		default:
		}
		close(block)
		<-closed
	})
}

// TestQUICHyStart: rule 2. Slow start ends when the least round trip of a round's first samples exceeds the least ever by
// an eighth of it, at least 4 ms and at most 16 ms.
func TestQUICHyStart(t *testing.T) {
	for _, tc := range []struct {
		rtt, more time.Duration
		trips     bool
	}{
		{16 * time.Millisecond, 3500 * time.Microsecond, false},
		{16 * time.Millisecond, 4500 * time.Microsecond, true},
		{80 * time.Millisecond, 9500 * time.Microsecond, false},
		{80 * time.Millisecond, 10500 * time.Microsecond, true},
		{220 * time.Millisecond, 15500 * time.Microsecond, false},
		{220 * time.Millisecond, 16500 * time.Microsecond, true},
	} {
		t.Run(fmt.Sprintf("rtt=%v/more=%v", tc.rtt, tc.more), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPipe(tc.rtt / 2)
				p := newQUICPair(t, a, b, nil)
				defer p.close()
				p.greedy(t)
				until(t, 20*tc.rtt, "a window of 64 packets", func() bool { return p.window() >= 64 })
				a.script(func(int, []byte) (time.Duration, error) { return tc.rtt/2 + tc.more, nil })
				time.Sleep(5*tc.rtt + tc.rtt/2)
				w := p.window()
				if n := p.ca.ConnectionStats().PacketsLost; n != 0 {
					t.Fatalf("%d packets lost", n)
				}
				// Four doublings at the least, or two rounds until it shows.
				if tc.trips && w > 400 || !tc.trips && w < 900 {
					t.Errorf("window of %d packets after the round trip grew; slow start ended: want %v", w, tc.trips)
				}
			})
		})
	}
}

// late makes the next full packet of a arrive so much later than others.
func (p *quicPair) late(delay time.Duration, n int, more func(i int) time.Duration) {
	i := 0
	p.a.script(func(_ int, b []byte) (time.Duration, error) {
		if len(b) > 900 && i < n {
			i++
			return delay + more(i-1), nil
		}
		return delay, nil
	})
}

// trickle writes a packet of about 1000 bytes each interval until the connection closes, and waits until the window has
// stopped growing.
func (p *quicPair) trickle(t testing.TB, interval time.Duration) {
	t.Helper()
	s := p.stream(t)
	p.wg.Go(func() {
		for ; ; time.Sleep(interval) {
			if _, err := s.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	})
	w := 0
	until(t, 10*time.Second, "a steady window", func() bool {
		time.Sleep(time.Second)
		last := w
		w = p.window()
		return w == last
	})
}

// TestQUICLatePackets: rule 3. The steps by which quic-go learns to wait: after the first spurious loss no counting of
// packets, then 9/8, 10/8, 12/8 and in the end 2 round trips; each cut whose loss was spurious is undone.
func TestQUICLatePackets(t *testing.T) {
	const delay = 50 * time.Millisecond // RTT 100 ms
	ms := func(x float64) time.Duration { return time.Duration(x * float64(time.Millisecond)) }
	inBubble(t, func(t *testing.T) {
		a, b := newPipe(delay)
		p := newQUICPair(t, a, b, nil)
		defer p.close()
		p.trickle(t, 2*time.Millisecond) // an acknowledgement that goes with a window update delays the next by two packets
		for i, step := range []struct {
			late time.Duration
			lost bool
			why  string
		}{
			{ms(12.2), true, "three packets came before it"},
			{ms(12.2), false, "packets are not counted any more, and it is inside 9/8"},
			{ms(16.2), true, "outside 9/8"},
			{ms(24.2), false, "inside 10/8"},
			{ms(28.2), true, "outside 10/8"},
			{ms(48.2), false, "inside 12/8"},
			{ms(52.2), true, "outside 12/8"},
			{ms(96.2), false, "inside 2"},
			{ms(104.2), true, "outside 2"},
			{ms(96.2), false, "inside 2"},
			{ms(104.2), true, "2 is the end"},
		} {
			before, window := p.ca.ConnectionStats().PacketsLost, p.ca.ConnectionStats().CongestionWindow
			p.late(delay, 1, func(int) time.Duration { return step.late })
			least := window
			for range 4000 {
				time.Sleep(100 * time.Microsecond)
				least = min(least, p.ca.ConnectionStats().CongestionWindow)
			}
			now := p.ca.ConnectionStats()
			if lost := now.PacketsLost > before; lost != step.lost {
				t.Errorf("step %d: packet %v late: taken for lost: %v, want %v (%s)", i, step.late, lost, step.lost, step.why)
			}
			if cut := float64(least) / float64(window); step.lost && (cut < 0.65 || cut > 0.75) {
				t.Errorf("step %d: the window was cut to %.3f, want 0.7", i, cut)
			}
			if w := now.CongestionWindow; w < window || w > window+8*1280 { // it may grow with what is sent again
				t.Errorf("step %d: window %d after a spurious loss, %d before: the cut was not undone", i, now.CongestionWindow, window)
			}
		}
	})
}

// TestQUICRealLoss: what a single loss costs that is not repaired, the reason for the whole bond.
func TestQUICRealLoss(t *testing.T) {
	const delay = 50 * time.Millisecond
	inBubble(t, func(t *testing.T) {
		a, b := newPipe(delay)
		p := newQUICPair(t, a, b, nil)
		defer p.close()
		p.trickle(t, 4*time.Millisecond)
		window := p.ca.ConnectionStats().CongestionWindow
		p.late(delay, 1, func(int) time.Duration { return -2 * delay })
		time.Sleep(2 * time.Second)
		if cut := float64(p.ca.ConnectionStats().CongestionWindow) / float64(window); cut < 0.69 || cut > 0.75 {
			t.Errorf("window %.3f of what it was 2 s after a loss, want 0.7 and hardly more", cut)
		}
	})
}

// TestQUICUndoMemory: rule 3. Of the lost packets 64 are remembered: a cut for one more is not undone, even if all arrive.
func TestQUICUndoMemory(t *testing.T) {
	const delay = 50 * time.Millisecond
	for _, tc := range []struct {
		n      int
		undone bool
	}{{8, true}, {holdLate, true}, {64, true}, {65, false}, {100, false}} {
		t.Run(fmt.Sprint(tc.n), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPipe(delay)
				p := newQUICPair(t, a, b, nil)
				defer p.close()
				p.trickle(t, time.Millisecond)
				before := p.ca.ConnectionStats()
				// All at one time, so that each is lost before the first is seen to be late only.
				at := time.Duration(max(tc.n, 20)) * time.Millisecond
				p.late(delay, tc.n, func(i int) time.Duration { return at + 40*time.Millisecond - time.Duration(i)*time.Millisecond })
				time.Sleep(2 * time.Second)
				now := p.ca.ConnectionStats()
				if got := int(now.PacketsLost - before.PacketsLost); got != tc.n {
					t.Fatalf("%d packets taken for lost, want %d", got, tc.n)
				}
				if undone := now.CongestionWindow >= before.CongestionWindow; undone != tc.undone {
					t.Errorf("window %d, before %d: undone %v, want %v", now.CongestionWindow, before.CongestionWindow, undone, tc.undone)
				}
			})
		})
	}
}

// TestQUICAckRanges: rule 3. A receiver keeps 64 ranges of packets: with more holes at a time, what arrives in the oldest
// is not acknowledged any more. holdHoles must stay under it.
func TestQUICAckRanges(t *testing.T) {
	const delay = 50 * time.Millisecond
	for _, tc := range []struct {
		holes int
		lost  int
	}{{holdHoles, 0}, {63, 0}, {65, 1}, {80, 16}} {
		t.Run(fmt.Sprint(tc.holes), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				a, b := newPipe(delay)
				p := newQUICPair(t, a, b, nil)
				defer p.close()
				p.trickle(t, 500*time.Microsecond)
				for _, late := range []time.Duration{15500, 30500, 55500} { // learn to wait for two round trips
					p.late(delay, 1, func(int) time.Duration { return late * time.Microsecond })
					time.Sleep(500 * time.Millisecond)
				}
				before := p.ca.ConnectionStats().PacketsLost
				p.late(delay, 2*tc.holes, func(i int) time.Duration {
					if i%2 == 1 {
						return 0
					}
					return 95*time.Millisecond - time.Duration(i/2)*time.Millisecond // all at one time
				})
				time.Sleep(2 * time.Second)
				// Now and then quic-go leaves out a packet number: one hole more.
				if got := int(p.ca.ConnectionStats().PacketsLost - before); got != tc.lost && (tc.lost == 0 || got != tc.lost+1) {
					t.Errorf("%d packets lost with %d holes at a time, want %d", got, tc.holes, tc.lost)
				}
			})
		})
	}
	if holdHoles > 64-8 {
		t.Errorf("holdHoles is %d, too near the 64 ranges of quic-go", holdHoles)
	}
}

// TestQUICReceiveQueue: rule 4. A connection that stands still keeps 256 packets and drops the rest; it counts the bytes
// of a packet when it takes it off its queue, not before, which is what lets the lane count along.
func TestQUICReceiveQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := &gate{}
		a, b := newPipe(10 * time.Millisecond)
		p := newQUICPair(t, a, b, func(isA bool, c *quic.Config) {
			if !isA {
				c.Tracer = g.tracer
			}
		})
		defer p.close()
		time.Sleep(time.Second)
		var packet []byte
		a.script(func(_ int, b []byte) (time.Duration, error) {
			packet = append([]byte(nil), b...)
			return 10 * time.Millisecond, nil
		})
		_, _ = p.stream(t).Write(make([]byte, 1000))
		time.Sleep(time.Second)

		g.close()
		before := p.cb.ConnectionStats().BytesReceived
		const given = 400
		b.push(time.Now(), packet)
		synctest.Wait() // it is in hand
		for range given - 1 {
			b.push(time.Now(), packet)
		}
		synctest.Wait()
		if got := p.cb.ConnectionStats().BytesReceived - before; got != uint64(len(packet)) {
			t.Errorf("%d bytes counted while the connection stands still, want the %d of the packet in hand", got, len(packet))
		}
		if got := g.dropped.Load(); got != given-1-256 {
			t.Errorf("%d of %d packets dropped, want all but the one in hand and 256 queued", got, given)
		}
		g.open()
		time.Sleep(time.Second)
		if got := p.cb.ConnectionStats().BytesReceived - before; got != 257*uint64(len(packet)) {
			t.Errorf("%d bytes counted in the end, want those of 257 packets of %d", got, len(packet))
		}
	})
}

// TestQUICMaxWindow: rule 5. The congestion window ends at 10,000 packets; laneWindow must cover it.
func TestQUICMaxWindow(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := newPipe(100 * time.Millisecond)
		p := newQUICPair(t, a, b, nil)
		defer p.close()
		p.greedy(t)
		time.Sleep(3 * time.Second) // 32 packets double nine times in 2 s
		if w := p.window(); w != 10_000 {
			t.Errorf("window of %d packets, want 10000", w)
		}
		if laneWindow < 10_000 {
			t.Errorf("laneWindow %d is under quic-go's window", laneWindow)
		}
	})
}

// TestQUICPacketSize: rule 6. On a connection that is no UDP socket packets have InitialPacketSize, and no discovery goes
// beyond it, even where it is not disabled. In real time: see quicConfig.
func TestQUICPacketSize(t *testing.T) {
	for _, size := range []int{1280, 1400, 1434} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			a, b := newPipe(0)
			p := newQUICPair(t, a, b, func(_ bool, c *quic.Config) {
				c.InitialPacketSize = uint16(size)
				c.DisablePathMTUDiscovery = false
			})
			defer p.close()
			s, err := p.ca.OpenUniStream()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _ = s.Write(make([]byte, 300<<10))
				s.Close()
			}()
			r, err := p.cb.AcceptUniStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 64<<10)
			for err == nil {
				_, err = r.Read(buf)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			most, full := 0, 0
			for _, n := range a.sizes {
				most = max(most, n)
				if n == size {
					full++
				}
			}
			if most != size || full < 150 {
				t.Errorf("largest packet %d bytes, %d of %d have %d", most, full, len(a.sizes), size)
			}
		})
	}
}

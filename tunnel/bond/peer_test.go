package bond

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// Tests of what becomes of a peer that moves, restarts or goes away, over the in-memory network.

// conns collects the network's sockets of a world, a's and b's, as wrap sees them.
type conns struct{ a, b []*wan.Conn }

func (c *conns) wrap(isA bool, _ int, s Socket) Socket {
	conn := s.(*packetSocket).PacketConn.(*wan.Conn)
	if isA {
		c.a = append(c.a, conn)
	} else {
		c.b = append(c.b, conn)
	}
	return s
}

func (s *side) path(i int) (remote netip.AddrPort, validated bool, paths int) {
	s.bond.mu.Lock()
	defer s.bond.mu.Unlock()
	return s.bond.paths[i].remote, s.bond.paths[i].validated, len(s.bond.paths)
}

// TestPeerBehindNAT: a peer whose NAT gives it another port again and again is followed each time: the path is the same,
// its new address answers for itself, and data flows on both ways.
func TestPeerBehindNAT(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var cs conns
		imp := wan.Impairment{Rate: 20e6, Delay: 30 * time.Millisecond}
		w := newWorldOf(t, testSeed(t), worldConfig{learn: true, wrap: cs.wrap, links: bothWays(imp, imp)})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		var stopped atomic.Bool
		sent := [2]int{}
		send := func(l *Lane, n *int) {
			for ; !stopped.Load(); time.Sleep(2 * time.Millisecond) {
				if _, err := l.WriteTo(stampPacket(make([]byte, 700), uint64(*n)), nil); err != nil {
					t.Error(err)
					return
				}
				*n++
			}
		}
		gotB, gotA := collect(lb), collect(la)
		go send(la, &sent[0])
		go send(lb, &sent[1])
		time.Sleep(time.Second)
		home, _ := addrs(0)
		moved := -1
		for i := range w.b.bond.paths {
			if a, _, _ := w.b.path(i); a == home {
				moved = i
			}
		}
		if moved < 0 {
			t.Fatal("b has no path to a's address")
		}
		for i := range 2 * maxPaths {
			to := netip.AddrPortFrom(home.Addr(), uint16(20_000+i))
			if err := w.net.Rebind(cs.a[0], to); err != nil {
				t.Fatal(err)
			}
			time.Sleep(500 * time.Millisecond)
			if remote, ok, n := w.b.path(moved); remote != to || !ok || n != 2 {
				t.Fatalf("move %d: path leads to %v (want %v), validated %v, %d paths", i, remote, to, ok, n)
			}
		}
		stopped.Store(true)
		time.Sleep(2 * time.Second)
		exactlyOnce(t, gotB(), sent[0])
		exactlyOnce(t, gotA(), sent[1])
	})
}

// TestUnvalidatedAddress: an address that a peer seems to have moved to gets maxUnvalidated bytes and then a probe a second
// until it answers, also where an answer to an earlier probe is still on its way; when it does answer, the path is whole.
func TestUnvalidatedAddress(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var cs conns
		w := newWorldOf(t, testSeed(t), worldConfig{learn: true, wrap: cs.wrap, links: bothWays(wan.Impairment{Rate: 20e6, Delay: 100 * time.Millisecond})})
		defer w.close()
		sa, sb := w.sessions()
		<-sa.Started()
		la, lb := w.rawLane(sa, sb, Bulk)
		stopB, stopA := collect(lb), collect(la)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := uint64(0); ; i++ {
				time.Sleep(100 * time.Microsecond) // a stalled lane takes all at once
				if _, err := lb.WriteTo(stampPacket(make([]byte, 1000), i), nil); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		home, _ := addrs(0)
		to := netip.AddrPortFrom(home.Addr(), 999)
		if err := w.net.Rebind(cs.a[0], to); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "the move is seen", func() bool { remote, _, _ := w.b.path(0); return remote == to })
		w.links[0].DarkenDirection(wan.BtoA, true) // what b sends to the new address is never seen
		b := w.b.bond
		b.mu.Lock()
		before := b.paths[0].sentBytes
		b.mu.Unlock()
		const dark = 20
		time.Sleep(dark * time.Second)
		b.mu.Lock()
		sent, validated := b.paths[0].sentBytes-before, b.paths[0].validated
		b.mu.Unlock()
		if most := uint64(maxUnvalidated + 1600 + dark*100); validated || sent > most {
			t.Errorf("%d bytes to an address that never answered, allowed %d; validated %v", sent, most, validated)
		}
		if sent < maxUnvalidated/4 {
			t.Errorf("only %d bytes were sent: nothing was shown", sent)
		}
		w.links[0].DarkenDirection(wan.BtoA, false)
		time.Sleep(4 * time.Second)
		if _, ok, _ := w.b.path(0); !ok {
			t.Error("the address answers now and is not validated")
		}
		stopA()
		stopB()
		<-done
	})
}

// crash takes a node off the network without a word.
func (s *side) crash(cs []*wan.Conn) {
	for _, c := range cs {
		c.Close()
	}
}

// TestRestart: a node that crashed and came back, either of the two, has a session again well inside 3 s, also the tenth
// time and where it comes back with other ports; the old session ends, and only then.
func TestRestart(t *testing.T) {
	for _, tc := range []struct {
		name     string
		learn, a bool
	}{{"opener", false, true}, {"accepter", false, false}, {"opener behind NAT", true, true}, {"accepter that learns", true, false}} {
		t.Run(tc.name, func(t *testing.T) {
			seed := testSeed(t)
			inBubble(t, func(t *testing.T) {
				var cs conns
				imp := wan.Impairment{Rate: 20e6, Delay: 80 * time.Millisecond, Loss: 0.02}
				w := newWorldOf(t, seed, worldConfig{learn: tc.learn, wrap: cs.wrap, links: bothWays(imp, imp)})
				defer w.close()
				ctx := t.Context()
				sa, sb := w.sessions()
				for i := range maxPaths + 4 {
					la, _ := w.rawLane(sa, sb, Interactive)
					time.Sleep(time.Duration(i%3) * time.Second)
					down, down2, mine, other, old := w.a, cs.a, &w.a, w.b, sb
					if !tc.a {
						down, down2, mine, other, old = w.b, cs.b, &w.b, w.a, sa
					}
					down.crash(down2)
					cs.a, cs.b = cs.a[:len(cs.a):len(cs.a)], cs.b[:len(cs.b):len(cs.b)]
					time.Sleep(100 * time.Millisecond)
					select {
					case <-old.Done():
						t.Fatal("the session ended before the peer was back")
					default:
					}
					if tc.a {
						cs.a = nil
						*mine = w.start(down.key, other.key.Public(), true, skew{})
						if tc.learn { // its NAT has forgotten it
							for j, c := range cs.a {
								home, _ := addrs(j)
								if err := w.net.Rebind(c, netip.AddrPortFrom(home.Addr(), uint16(30_000+i))); err != nil {
									t.Fatal(err)
								}
							}
						}
					} else {
						cs.b = nil
						*mine = w.start(down.key, other.key.Public(), false, skew{})
					}
					back := time.Now()
					wait, cancel := context.WithTimeout(ctx, 3*time.Second)
					var err, err2 error
					if sa, err = w.a.bond.AcceptSession(wait); err == nil {
						sb, err2 = w.b.bond.AcceptSession(wait)
					}
					cancel()
					if err != nil || err2 != nil {
						t.Fatalf("restart %d: no session within 3 s: %v, %v", i, err, err2)
					}
					if took := time.Since(back); took > 1500*time.Millisecond {
						t.Errorf("restart %d: a session after %v", i, took)
					}
					select {
					case <-old.Done():
					default:
						t.Error("the old session did not end")
					}
					if _, err := la.WriteTo([]byte{1}, nil); !tc.a && err == nil {
						t.Error("a lane of the old session still takes packets")
					}
					go down.host.Close()
				}
			})
		})
	}
}

// TestClosePeer: a node that stops says so; the peer's session ends at once and a new one comes with the node.
func TestClosePeer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		imp := wan.Impairment{Rate: 20e6, Delay: 80 * time.Millisecond}
		w := newWorld(t, testSeed(t), imp, imp)
		defer w.close()
		sa, sb := w.sessions()
		la, lb := w.rawLane(sa, sb, Bulk)
		w.b.host.Close()
		time.Sleep(100 * time.Millisecond)
		select {
		case <-sa.Done():
		default:
			t.Error("the session of a node that stopped goes on")
		}
		for _, l := range []*Lane{la, lb} {
			if _, _, err := l.ReadFrom(make([]byte, maxPacket)); err == nil {
				t.Error("a lane of an ended session can be read")
			}
		}
		time.Sleep(10 * time.Second)
		w.b = w.start(w.b.key, w.a.key.Public(), false, skew{})
		back := time.Now()
		w.sessions()
		if took := time.Since(back); took > 1500*time.Millisecond {
			t.Errorf("a session after %v", took)
		}
	})
}

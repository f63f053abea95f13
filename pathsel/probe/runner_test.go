package probe

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel/stamp"
)

const ms = time.Millisecond

var (
	here  = netip.MustParseAddrPort("10.0.0.1:862")
	there = netip.MustParseAddrPort("10.0.0.2:862")
)

// log keeps what a runner tells.
type log struct {
	mu     sync.Mutex
	sent   int
	events []stamp.Event
}

func (l *log) config(clock func() time.Duration) Config {
	return Config{
		Clock:   clock,
		OnSent:  func(time.Duration, uint8) { l.mu.Lock(); l.sent++; l.mu.Unlock() },
		OnEvent: func(ev *stamp.Event) { l.mu.Lock(); l.events = append(l.events, *ev); l.mu.Unlock() },
	}
}

func (l *log) count() (replies, out, back int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Kind == stamp.EventReply {
			replies++
		}
		out, back = out+e.OutLost, back+e.BackLost
	}
	return replies, out, back
}

// pair runs two nodes that probe each other over an emulated link, each with its own key.
func pair(t *testing.T, link string) (a, b *Runner, la, lb *log, stop func()) {
	imp, err := wan.ParseImpairment(link)
	if err != nil {
		t.Fatal(err)
	}
	network := wan.NewNetwork(1)
	network.Connect(here.Addr(), there.Addr(), imp, imp)
	start := time.Now()
	clock := func() time.Duration { return time.Since(start) }
	later := func() time.Duration { return time.Since(start) + time.Hour } // the peer's clock
	la, lb = new(log), new(log)
	a, b = New(la.config(clock)), New(lb.config(later))
	ka, kb := stamp.NewKey(1, [16]byte{1}), stamp.NewKey(2, [16]byte{2})
	a.AddReflected(kb)
	b.AddReflected(ka)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, r := range []*Runner{a, b} {
		c, err := network.Listen([]netip.AddrPort{here, there}[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := r.SetUplink("ct", FromPacketConn(c)); err != nil {
			t.Fatal(err)
		}
		if err := r.AddPath(Path{ID: 5, Uplink: "ct", Remote: []netip.AddrPort{there, here}[i], Key: []*stamp.Key{ka, kb}[i]}); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { r.Run(ctx) })
	}
	return a, b, la, lb, func() { cancel(); wg.Wait() }
}

func TestRunner(t *testing.T) {
	for _, tt := range []struct {
		link        string
		least, lost int // replies of 200 probes, and losses found
	}{{"50mbit delay 90ms", 195, 0}, {"50mbit delay 90ms loss 10% duplicate 5% corrupt 1%", 130, 20}} {
		synctest.Test(t, func(t *testing.T) {
			a, _, la, lb, stop := pair(t, tt.link)
			time.Sleep(10 * time.Second)
			stop()
			for _, l := range []*log{la, lb} {
				replies, out, back := l.count()
				if l.sent < 200 || l.sent > 201 || replies < tt.least || out+back < tt.lost || tt.lost == 0 && out+back > 0 {
					t.Errorf("%s: sent %d, %d replies, lost %d out and %d back", tt.link, l.sent, replies, out, back)
				}
				for _, e := range l.events {
					if e.Kind == stamp.EventReply && (e.RTT < 180*ms || e.RTT > 181*ms || e.Path != 5) {
						t.Fatalf("%+v", e)
					}
				}
			}
			if s, r := a.Stats(); s.Sent < 200 || r.Answered < 160 {
				t.Errorf("%+v %+v", s, r)
			}
			if err := a.SetUplink("cu", nil); err != ErrClosed {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func TestBoostAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, la, _, stop := pair(t, "50mbit delay 90ms")
		time.Sleep(time.Second)
		a.Boost(5, 2*time.Second)
		time.Sleep(time.Second)
		if la.mu.Lock(); la.sent < 415 || la.sent > 425 {
			t.Errorf("%d probes, want 420", la.sent)
		}
		boosted := la.sent
		la.mu.Unlock()
		a.Pace(5, 25*time.Millisecond)
		time.Sleep(time.Second)
		if la.mu.Lock(); la.sent-boosted < 39 || la.sent-boosted > 41 {
			t.Errorf("%d probes in a second, want 40", la.sent-boosted)
		}
		sent := la.sent
		la.mu.Unlock()
		a.RemovePath(5)
		time.Sleep(time.Second)
		stop()
		if la.sent != sent {
			t.Errorf("%d probes of a removed path", la.sent-sent)
		}
	})
}

// chanSource is what the kernel's reader will be.
type chanSource chan stamp.Reply

func (c chanSource) Replies() <-chan stamp.Reply { return c }

// TestKernelReplies feeds the replies by a source while the sockets get none: times are those of the source.
func TestKernelReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		clock := func() time.Duration { return time.Since(start) }
		network := wan.NewNetwork(1)
		network.Connect(here.Addr(), there.Addr(), wan.Impairment{Delay: 50 * ms}, wan.Impairment{})
		var l log
		r := New(l.config(clock))
		mine, _ := network.Listen(here)
		peer, _ := network.Listen(there)
		key := stamp.NewKey(1, [16]byte{1})
		if err := r.SetUplink("ct", FromPacketConn(mine)); err != nil {
			t.Fatal(err)
		}
		if err := r.AddPath(Path{ID: 5, Uplink: "ct", Remote: there, Key: key}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		source := make(chanSource)
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		wg.Go(func() { r.Take(ctx, source) })
		wg.Go(func() { // the kernel: both ends' XDP programs in one
			b := make([]byte, 100)
			for {
				n, _, err := peer.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				p, err := stamp.ParseProbe(b[:n], func(uint32) *stamp.Key { return key })
				if err != nil {
					t.Error(err)
				}
				rep := stamp.Reply{Path: 5, Key: 1, Seq: p.Seq, Count: p.Seq, T1: p.Sent, T2: time.Hour, T3: time.Hour, T4: p.Sent + 70*ms}
				select {
				case source <- rep:
				case <-ctx.Done():
				}
			}
		})
		time.Sleep(2 * time.Second)
		cancel()
		peer.Close()
		wg.Wait()
		if replies, out, back := l.count(); replies < 38 || out+back > 0 {
			t.Errorf("%d replies, %d and %d lost", replies, out, back)
		}
		if i := slices.IndexFunc(l.events, func(e stamp.Event) bool { return e.Kind == stamp.EventReply }); i < 0 || l.events[i].RTT != 70*ms {
			t.Errorf("%+v", l.events)
		}
	})
}

// TestForeignPeer: an open path to a plain RFC 8762 reflector, and that reflector's side of it in our own.
func TestForeignPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, la, lb, stop := pair(t, "50mbit delay 10ms")
		a.RemovePath(5)
		b.AllowOpen(1000) // and it goes on probing the same address itself
		if err := a.AddPath(Path{ID: 6, Uplink: "ct", Remote: there}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		stop()
		if replies, out, back := la.count(); replies < 38 || out+back > 0 {
			t.Errorf("%d replies, %d and %d lost", replies, out, back)
		}
		if n, _, _ := lb.count(); n < 38 {
			t.Errorf("the reflector's own probes got %d replies", n)
		}
		if _, r := b.Stats(); r.Open < 38 {
			t.Errorf("%+v", r)
		}
	})
}

func TestAddErrors(t *testing.T) {
	r := New(Config{})
	if err := r.AddPath(Path{ID: 1, Uplink: "ct"}); err == nil {
		t.Error("a path without socket")
	}
}

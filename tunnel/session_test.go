package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSessionEnds restarts the session under flows that wait, send and receive: all are reset with a reason, nothing of
// the old session stays, and new flows use the next one.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for _, bySource := range []bool{true, false} { // Done, or just a newer session
		bubble(t, func(t *testing.T) {
			c := newChain(t, 3, 10, 100*time.Millisecond, raw)
			defer c.close()
			c.serve = echo
			c.up()
			idle, idleDone := c.open()
			if _, err := idle.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := idle.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			busy, busyDone := c.open()
			go func() { _, _ = io.Copy(struct{ io.Writer }{busy}, zeros{}) }()
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{busy}) }()
			stuck, stuckDone := c.open() // never reads
			go func() { _, _ = io.Copy(struct{ io.Writer }{stuck}, zeros{}) }()
			time.Sleep(3 * time.Second)

			old := c.ends[1]
			c.connect(1)
			if bySource {
				old[0].end()
			}
			start := time.Now()
			for i, d := range []<-chan error{idleDone, busyDone, stuckDone} {
				var re *ResetError
				if err := <-d; !errors.As(err, &re) || re.Code != CodeLaneLost {
					t.Errorf("flow %d ended with %v", i, err)
				}
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("flows ended after %v", d)
			}
			if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("idle client read: %v", err)
			}
			conn, done := c.open()
			go send(t, conn, []byte("again"))
			if got, err := io.ReadAll(conn); string(got) != "again" || err != nil {
				t.Errorf("on the new session: %q, %v", got, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
			if n := old[0].open.Load(); n != 0 {
				t.Errorf("%d lane ends of the old session are open", n)
			}
		})
	}
}

// TestLaneDies kills the connection under one lane: its flows are reset, the others go on, and a new lane comes up.
func TestLaneDies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 50, 100*time.Millisecond)
		defer c.close()
		c.serve = echo
		c.up()
		var conns []*memConn
		var dones []<-chan error
		for range 4 {
			conn, done := c.open()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			conns, dones = append(conns, conn), append(dones, done)
		}
		a := c.ends[0][0]
		i := slices.IndexFunc(a.lanes, func(l *fakeLane) bool { return l.class == Interactive })
		_ = a.lanes[i].conn.Load().CloseWithError(9, "killed")
		time.Sleep(2 * time.Second)
		lost := 0
		for i, conn := range conns {
			select {
			case err := <-dones[i]:
				wantReset(t, err, CodeLaneLost, false)
				lost++
			default:
				_ = conn.CloseWrite()
				if err := <-dones[i]; err != nil {
					t.Errorf("flow %d: %v", i, err)
				}
			}
		}
		if lost != 2 {
			t.Errorf("%d flows of 4 on two lanes lost, want 2", lost)
		}
		c.up()
	})
}

// TestDrain marks a lane as used up while a flow is on it: the flow goes on, new ones go elsewhere, a successor comes
// up at once, and the lane ends when the flow is over on both sides.
func TestDrain(t *testing.T) {
	for _, by := range []int{0, 1} { // the initiator, the other side
		bubble(t, func(t *testing.T) {
			c := newChain(t, 2, 50, 100*time.Millisecond, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
			defer c.close()
			c.serve = echo
			c.up()
			conn, done := c.open()
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			ses, _ := c.nodes[by].peers[names[1-by]].current()
			old, _ := ses.pick(Interactive)
			bulk, _ := ses.pick(Bulk)
			for _, l := range []*lane{old, bulk} { // all at once, as when the packet size changes
				ses.drain(l)
				l.signal(uniDrain)
			}
			time.Sleep(time.Second)
			for _, n := range c.nodes {
				draining, fresh := 0, 0
				for _, l := range n.Stats().Peers[0].Lanes {
					switch {
					case l.Class != "interactive":
					case l.Draining:
						draining++
					default:
						fresh++
					}
				}
				if draining != 1 || fresh != 1 {
					t.Errorf("%s has %d draining and %d fresh lanes", n.cfg.Name, draining, fresh)
				}
			}
			str, err := old.conn.OpenUniStream()
			if err != nil {
				t.Fatal(err)
			}
			str.CancelWrite(0)
			if n := str.StreamID() / 4; n > 8 {
				t.Errorf("stream %d was the draining lane's next, want one of its first", n)
			}
			before := old.sent.Load()
			c2, done2 := c.open()
			go send(t, c2, []byte("elsewhere"))
			if b, err := io.ReadAll(c2); string(b) != "elsewhere" || err != nil {
				t.Errorf("new flow: %q, %v", b, err)
			}
			if err := <-done2; err != nil {
				t.Error(err)
			}
			if old.sent.Load() != before {
				t.Error("a new flow used the draining lane")
			}
			time.Sleep(time.Minute)
			if !old.alive() {
				t.Fatal("the lane ended under a flow")
			}
			go send(t, conn, []byte("still here"))
			if b, err := io.ReadAll(conn); string(b) != "still here" || err != nil {
				t.Errorf("old flow: %q, %v", b, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			time.Sleep(10 * time.Second)
			if old.alive() {
				t.Error("the drained lane is still there")
			}
		})
	}
}

// TestDrainAlone marks all lanes as used up while no other can be opened yet, as before the paths' rates are known: flows
// have the old ones until there are new ones.
func TestDrainAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 50, 100*time.Millisecond, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		c.serve = echo
		c.up()
		hold := func(on bool) {
			for _, s := range c.ends[0] {
				s.held.Store(on)
			}
		}
		ask := func() {
			t.Helper()
			conn, done := c.open()
			go send(t, conn, []byte("carried"))
			if b, err := io.ReadAll(conn); string(b) != "carried" || err != nil {
				t.Errorf("a flow: %q, %v", b, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		hold(true)
		ses, _ := c.nodes[0].peers[names[1]].current()
		a, _ := ses.pick(Interactive)
		b, _ := ses.pick(Bulk)
		for _, l := range []*lane{a, b} {
			ses.drain(l)
			l.signal(uniDrain)
		}
		for range 3 { // long enough for both sides to find that no flow is there
			time.Sleep(2 * drainGrace)
			ask()
		}
		if !a.alive() || !b.alive() {
			t.Error("a lane has ended before another one was there")
		}
		hold(false)
		time.Sleep(2 * drainGrace)
		ask()
		if a.alive() || b.alive() {
			t.Error("a lane goes on without flows beside new ones")
		}
	})
}

// TestDrainDone ends the successors of lanes that the initiator may close at any time, as it was told that they have no flows:
// none begins there.
func TestDrainDone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 50, 100*time.Millisecond, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		c.up()
		var ses [2]*session
		for by := range ses {
			ses[by], _ = c.nodes[by].peers[names[1-by]].current()
		}
		lanes := func(s *session) []*lane {
			s.mu.Lock()
			defer s.mu.Unlock()
			return slices.Clone(s.lanes)
		}
		old := lanes(ses[1])
		for _, l := range lanes(ses[0]) {
			l.refs.Add(1) // as the initiator's look at it may come later
			defer l.refs.Add(-1)
			ses[0].drain(l)
			l.signal(uniDrain)
		}
		time.Sleep(2 * drainGrace)
		hold := func(on bool) {
			for _, s := range c.ends[0] {
				s.held.Store(on)
			}
		}
		hold(true)
		for _, l := range lanes(ses[1]) {
			if !slices.Contains(old, l) {
				l.close(closeDone, "lost")
			}
		}
		time.Sleep(time.Second)
		for _, l := range old {
			if !l.alive() || !l.draining.Load() {
				t.Errorf("%v: alive %v, draining %v", l, l.alive(), l.draining.Load())
			}
		}
		l, change := ses[1].pick(Interactive)
		if l != nil {
			t.Errorf("a flow would begin on %v, which is about to be closed", l)
		}
		hold(false)
		<-change
		if l, _ := ses[1].pick(Interactive); l == nil || slices.Contains(old, l) {
			t.Errorf("new flows take %v, want a new lane", l)
		}
	})
}

// TestHello tells names, versions and routes, at the start and at a change.
func TestHello(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		told := map[string][]netip.Prefix{}
		c := newChain(t, 2, 50, 100*time.Millisecond, func(i int, c *Config) {
			c.Version = "v" + c.Name
			c.OnRoutes = func(peer string, p []netip.Prefix) {
				mu.Lock()
				defer mu.Unlock()
				told[fmt.Sprint(i, peer)] = p
			}
		})
		defer c.close()
		first := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		if err := c.nodes[1].SetRoutes("one", first); err != nil {
			t.Fatal(err)
		}
		if err := c.nodes[1].SetRoutes("nobody", nil); err == nil {
			t.Error("routes for an unknown peer are taken")
		}
		c.up()
		check := func(want []netip.Prefix) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if got, ok := told["0two"]; !ok || !slices.Equal(got, want) || len(told) != 1 {
				t.Errorf("told %v, want only %v", told, want)
			}
		}
		check(first)
		if v := c.nodes[0].Stats().Peers[0].Version; v != "vtwo" {
			t.Errorf("peer says version %q", v)
		}
		for _, next := range [][]netip.Prefix{first[:1], nil} {
			if err := c.nodes[1].SetRoutes("one", next); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			check(next)
		}
		// The lane under the control stream dies: the next one brings it again.
		if err := c.nodes[1].SetRoutes("one", first); err != nil {
			t.Fatal(err)
		}
		for _, l := range c.ends[0][0].lanes {
			_ = l.conn.Load().CloseWithError(9, "killed")
		}
		time.Sleep(3 * time.Second)
		check(first)
	})
}

// TestWrongKey has a peer with another key than configured: no lane comes up, and nothing is left of the tries.
func TestWrongKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 50, 20*time.Millisecond)
		defer c.close()
		c.up()
		c.nodes[1].RemovePeer("one")
		c.nodes[1].RemovePeer("one") // harmless
		other := newChain(t, 1, 0, 0)
		defer other.close()
		b := make(source, 1)
		if err := c.nodes[1].AddPeer("one", other.keys[0].Public(), b); err != nil {
			t.Fatal(err)
		}
		c.srcs[0].b = b
		c.ends[0][0].end()
		c.connect(0)
		time.Sleep(20 * time.Second)
		for _, n := range c.nodes {
			if n.Stats().Peers[0].Up {
				t.Errorf("%s has lanes", n.cfg.Name)
			}
		}
	})
}

// TestNoLeaks runs 1,000 flows, some of which break, and looks at what is left.
func TestNoLeaks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 3, 500, 20*time.Millisecond, func(_ int, c *Config) { c.ElephantBytes = 8 << 10 })
		c.serve = echo
		c.up()
		synctest.Wait()
		before := runtime.NumGoroutine()
		msg := bytes.Repeat([]byte("compressible or not"), 1000)
		r := seeded(t)
		noise := randomBytes(r, 20<<10)
		for batch := range 20 {
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					conn, done := c.open()
					data := [][]byte{nil, []byte("x"), msg, noise}[i%4]
					go func() {
						_, _ = conn.Write(data)
						if i%10 == 9 {
							_ = conn.Reset()
						} else {
							_ = conn.CloseWrite()
						}
					}()
					if got, err := io.ReadAll(conn); i%10 != 9 && (err != nil || !bytes.Equal(got, data)) {
						t.Errorf("batch %d, flow %d: %d bytes of %d, %v", batch, i, len(got), len(data), err)
					}
					<-done
				})
			}
			wg.Wait()
		}
		time.Sleep(lingerWait + parkWait)
		synctest.Wait()
		after := runtime.NumGoroutine()
		if after > before {
			buf := make([]byte, 1<<20)
			t.Errorf("%d goroutines before, %d after:\n%s", before, after, firstStacks(string(buf[:runtime.Stack(buf, true)])))
		}
		for _, n := range c.nodes {
			st := n.Stats()
			if st.ActiveFlows != 0 || len(n.Flows(0)) != 0 || st.Flows != 1000 {
				t.Errorf("%s: %d of %d flows active", n.cfg.Name, st.ActiveFlows, st.Flows)
			}
			for _, p := range st.Peers {
				s, _ := n.peers[p.Name].current()
				if len(s.flows) != 0 || len(s.hops) != 0 || len(s.parked) != 0 {
					t.Errorf("%s: %d flows, %d hops, %d continuations left", n.cfg.Name, len(s.flows), len(s.hops), len(s.parked))
				}
				for _, l := range s.lanes {
					want := int32(0)
					if l.refs.Load() > 1 || l.load.Load() != want { // one of them has the control stream
						t.Errorf("%s: %v has %d directions, %d senders", n.cfg.Name, l, l.refs.Load(), l.load.Load())
					}
				}
			}
		}
		c.close()
	})
}

func firstStacks(s string) string {
	return strings.Join(strings.SplitN(s, "\n\n", 12)[:min(11, strings.Count(s, "\n\n"))], "\n\n")
}

// TestClosed has a closed node refuse everything.
func TestClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 50, 20*time.Millisecond)
		c.up()
		c.close()
		_, done := c.open()
		wantReset(t, <-done, CodeShutdown, false)
		if err := c.nodes[0].AddPeer("late", c.keys[1].Public(), make(source)); !errors.Is(err, ErrClosed) {
			t.Errorf("AddPeer: %v", err)
		}
		_ = c.nodes[0].Close()
	})
}

func TestConfig(t *testing.T) {
	c := newChain(t, 1, 0, 0)
	defer c.close()
	good := c.nodes[0].cfg
	for name, change := range map[string]func(*Config){
		"no name":      func(c *Config) { c.Name = "" },
		"no router":    func(c *Config) { c.Router = nil },
		"no dialer":    func(c *Config) { c.Dial = nil },
		"no key":       func(c *Config) { c.Key = (&Config{}).Key },
		"many lanes":   func(c *Config) { c.Lanes.Bulk = MaxLanes + 1 },
		"minus a lane": func(c *Config) { c.Lanes.Interactive = -1 },
		"big elephant": func(c *Config) { c.ElephantBytes = interactiveWindow + 1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := c.nodes[0]
	if err := n.SetElephantBytes(64 << 10); err != nil || n.moveAt(Interactive) != 64<<10 || n.moveAt(Bulk) != bulkElephantBytes || n.moveAt(Realtime) >= 0 {
		t.Errorf("elephants of 64 KiB: %v, interactive at %d, bulk at %d, realtime at %d", err, n.moveAt(Interactive), n.moveAt(Bulk), n.moveAt(Realtime))
	}
	if err := n.SetElephantBytes(interactiveWindow + 1); !errors.Is(err, ErrConfig) || n.moveAt(Interactive) != 64<<10 {
		t.Errorf("too large: %v, at %d", err, n.moveAt(Interactive))
	}
	if err := c.nodes[0].AddPeer("x", c.keys[0].Public(), nil); err == nil {
		t.Error("own key taken for a peer")
	}
	_ = net.ErrClosed
	_ = context.Background
}

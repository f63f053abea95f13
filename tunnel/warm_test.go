package tunnel

import (
	"io"
	"testing"
	"time"

	"github.com/landbridge/landbridge/tunnel/bond"
)

func warm(_ int, c *Config) { c.NoWarmUp = false }

func lanes(n *Node, class string) (out []LaneStats) {
	for _, l := range n.Stats().Peers[0].Lanes {
		if l.Class == class && !l.Draining {
			out = append(out, l)
		}
	}
	return out
}

// TestWarmUp fills idle lanes on both sides until their windows are what the bond needs, and no further.
func TestWarmUp(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const mbit, rtt = 20, 200 * time.Millisecond
		c := newChain(t, 2, mbit, rtt, warm)
		defer c.close()
		c.up()
		time.Sleep(30 * time.Second)
		bdp := uint64(mbit * 1e6 / 8 * rtt.Seconds())
		filled := map[string]int64{}
		for _, n := range c.nodes {
			for _, l := range lanes(n, "bulk") {
				// Where slow start ends just below the target, stuntedAfter passes at the link's rate before that is known.
				if l.Window < 2*bdp*8/10 || l.Filler > 16*int64(bdp)+int64(mbit*1e6/8*stuntedAfter.Seconds()) {
					t.Errorf("%s, bulk: window %d for a product of %d, filler %d", n.cfg.Name, l.Window, bdp, l.Filler)
				}
				filled[n.cfg.Name] += l.Filler
			}
			for _, l := range lanes(n, "interactive") {
				// They share the link with the bulk lane's filler, which may end their slow start before the target.
				if !l.Ready || l.Window < warmInteractive/4 || l.Filler > 16*int64(bdp) {
					t.Errorf("%s, interactive: ready %v, window %d, filler %d", n.cfg.Name, l.Ready, l.Window, l.Filler)
				}
			}
		}
		time.Sleep(time.Minute)
		for _, n := range c.nodes {
			more := -filled[n.cfg.Name]
			for _, l := range lanes(n, "bulk") {
				more += l.Filler
			}
			if more > warmAttempts*warmBytes {
				t.Errorf("%s: %d bytes more filler while idle", n.cfg.Name, more)
			}
		}
	})
}

// TestWarmOnce moves the bond's estimate up and down while it is idle: lanes that were full are filled again only when they
// have less than what the bond carries, and by then they are.
func TestWarmOnce(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const mbit = 200
		c := newChain(t, 2, mbit, 200*time.Millisecond, warm, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		filled := func() (sum int64) {
			for _, n := range c.nodes {
				for _, l := range n.Stats().Peers[0].Lanes {
					sum += l.Filler
				}
			}
			return sum
		}
		estimate := func(share float64) {
			for _, s := range c.ends[0] {
				s.capacity.Store(int64(share * mbit * 1e6))
			}
			time.Sleep(30 * time.Second)
		}
		estimate(0.3)
		c.up()
		for _, tt := range []struct {
			share float64
			more  bool
		}{{0.45, false}, {0.25, false}, {0.45, false}, {0.6, true}} {
			before := filled()
			estimate(tt.share)
			if more := filled() - before; (more > 0) != tt.more {
				t.Errorf("estimate of %v times the link: %d bytes of filler more, want some: %v", tt.share, more, tt.more)
			}
		}
	})
}

// TestWarmBudget has a link that loses what fills a lane: lanes are replaced and filled again and again, but not for ever.
func TestWarmBudget(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const mbit = 4
		c := newChain(t, 2, mbit, 200*time.Millisecond, warm, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		for _, s := range c.ends[0] {
			s.capacity.Store(100e6) // what the link never carries, so that no lane is ever warm
		}
		c.up()
		sent := func() (n int64) {
			for _, s := range c.ends[0] {
				s.out.mu.Lock()
				n += s.out.bytes
				s.out.mu.Unlock()
			}
			return n
		}
		rate := func(d time.Duration) float64 { // of both links together
			before := sent()
			time.Sleep(d)
			return float64(sent()-before) * 8 / 1e6 / d.Seconds()
		}
		if r := rate(time.Minute); r < mbit/4.0 {
			t.Errorf("%.2f Mbit/s in the first minute: nothing tried to warm lanes", r)
		}
		time.Sleep(10 * time.Minute)
		if r := rate(10 * time.Minute); r > 2*2*mbit/warmShare+0.1 { // two classes a direction, and keep-alives
			t.Errorf("%.3f Mbit/s of filler on an idle bond, want at most %.3f", r, 2.0*2*mbit/warmShare)
		}
	})
}

// TestWarmStops has a flow need the lane in the middle of its warm-up: the filler ends at once and does not come back
// while the flow runs.
func TestWarmStops(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 20, 200*time.Millisecond, warm, raw, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		c.serve = source64k
		for {
			if s, _ := c.nodes[1].peers["one"].current(); s != nil {
				if l := s.warming.Load(); l != nil && l.class == Bulk && l.warm.running.Load() {
					break
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(200 * time.Millisecond)
		conn, done := c.open()
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{conn}) }()
		for c.nodes[1].Stats().Moved == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		before := lanes(c.nodes[1], "bulk")[0]
		time.Sleep(5 * time.Second)
		after := lanes(c.nodes[1], "bulk")[0]
		if before.Filler == 0 || after.Filler > before.Filler+int64(len(filler)) { // the write that was interrupted
			t.Errorf("filler %d when the elephant came, %d later", before.Filler, after.Filler)
		}
		if mbit := float64(after.Payload-before.Payload) * 8 / 1e6 / 5; mbit < 5 {
			t.Errorf("the elephant runs at %.1f Mbit/s of 20", mbit)
		}
		_ = conn.Reset()
		<-done
	})
}

// TestReplace makes a bulk lane lose packets: QUIC cuts its window, and the lane is replaced without its flow noticing.
func TestReplace(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 20, 200*time.Millisecond, warm, raw, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
		defer c.close()
		c.serve = source64k
		c.up()
		time.Sleep(10 * time.Second)
		conn, done := c.open()
		n := make(chan int64, 1)
		go func() {
			got, _ := io.Copy(io.Discard, struct{ io.Reader }{conn})
			n <- got
		}()
		time.Sleep(3 * time.Second)
		for range 6 { // the server's side sends
			c.ends[0][1].out.lose.Store(30)
			time.Sleep(500 * time.Millisecond)
		}
		c.ends[0][1].out.lose.Store(0)
		time.Sleep(12 * time.Second)
		st := c.nodes[1].Stats()
		if st.Replaced == 0 {
			t.Fatalf("no lane replaced: %+v", st.Peers[0].Lanes)
		}
		c2, done2 := c.open()
		go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{c2}) }()
		time.Sleep(3 * time.Second)
		_ = conn.Reset()
		<-done
		if got := <-n; got < 1<<20 {
			t.Errorf("the flow on the old lane got %d bytes", got)
		}
		time.Sleep(10 * time.Second)
		ls := lanes(c.nodes[1], "bulk")
		if len(ls) != 1 || len(c.nodes[1].Stats().Peers[0].Lanes) != 2 || ls[0].Payload < 1<<20 {
			t.Errorf("lanes after the replacement: %+v", c.nodes[1].Stats().Peers[0].Lanes)
		}
		_ = c2.Reset()
		<-done2
	})
}

// TestLanesFollowPacketSize: lanes whose packets do not fit all paths any more are replaced, all of them, and not again right
// away; one whose packets fit no path ends, and its flows with it.
func TestLanesFollowPacketSize(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 20, 50*time.Millisecond, raw, func(_ int, c *Config) { c.Lanes = LanePlan{2, 1} })
		defer c.close()
		c.serve = source64k
		c.up()
		time.Sleep(time.Second)
		fit := func(f bond.Fit) (n int) {
			s, _ := c.nodes[1].peers["one"].current()
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, l := range s.lanes {
				if !l.draining.Load() {
					l.l.(*fakeLane).fit.Store(int32(f))
					n++
				}
			}
			return n
		}
		if n := fit(bond.FitBadly); n != 3 {
			t.Fatalf("%d lanes, want 3", n)
		}
		time.Sleep(2 * time.Second)
		if n := c.nodes[1].Stats().Replaced; n != 3 {
			t.Fatalf("%d lanes replaced, want 3", n)
		}
		fit(bond.FitBadly)
		time.Sleep(replaceInterval / 2)
		if n := c.nodes[1].Stats().Replaced; n != 3 {
			t.Fatalf("%d lanes replaced, want the new ones to be left alone for a while", n-3)
		}
		fit(bond.FitWell)
		time.Sleep(replaceInterval)
		if st := c.nodes[1].Stats(); st.Replaced != 3 || len(st.Peers[0].Lanes) != 3 {
			t.Fatalf("%d lanes replaced, want 3; left are %+v", st.Replaced, st.Peers[0].Lanes)
		}

		conn, done := c.open()
		ended := make(chan error, 1)
		go func() {
			_, err := io.Copy(io.Discard, struct{ io.Reader }{conn})
			ended <- err
		}()
		time.Sleep(time.Second)
		fit(bond.FitNowhere)
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a flow ended well on a lane that no path took")
			}
		case <-time.After(2 * nowhereTicks * manageInterval):
			t.Fatal("a flow hangs on a lane that no path takes")
		}
		<-done
		time.Sleep(2 * time.Second)
		if st := c.nodes[1].Stats(); len(st.Peers[0].Lanes) != 3 {
			t.Errorf("lanes afterwards: %+v, want 3 new ones", st.Peers[0].Lanes)
		}
	})
}

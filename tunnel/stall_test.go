package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// download starts a flow on which the server sends without end, and counts what the client gets.
func download(t *testing.T, c *chain, d time.Duration) (mbit float64) {
	t.Helper()
	conn, done := c.open()
	got := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(io.Discard, struct{ io.Reader }{conn})
		got <- n
	}()
	time.Sleep(d)
	_ = conn.Reset()
	<-done
	return float64(<-got) * 8 / 1e6 / d.Seconds()
}

func source64k(s *memConn) {
	buf := make([]byte, 64<<10)
	for {
		if _, err := s.Write(buf); err != nil {
			_ = s.Reset()
			return
		}
	}
}

// TestStalledReceiver has clients that stop reading: flows beside them keep their speed.
func TestStalledReceiver(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		if raceOn && nodes == 3 {
			continue // the relay's windows take long to fill
		}
		bubble(t, func(t *testing.T) {
			c := newChain(t, nodes, 20, 50*time.Millisecond, raw)
			defer c.close()
			c.serve = source64k
			c.up()
			_ = download(t, c, 2*time.Second) // opens the congestion windows
			alone := download(t, c, 3*time.Second)
			var stuck []*memConn
			for range 2 {
				conn, _ := c.open()
				stuck = append(stuck, conn)
			}
			time.Sleep(time.Duration(nodes*nodes) * 3 * time.Second) // their windows fill
			beside := download(t, c, 3*time.Second)
			if alone < 15 || beside < 0.95*alone {
				t.Errorf("%d nodes: %.0f Mbit/s alone, %.0f beside stalled flows", nodes, alone, beside)
			}
			st := c.nodes[0].Stats()
			if st.StalledBytes < 2*bulkWindow || st.Shed != 0 {
				t.Errorf("%d nodes: %d bytes stalled, %d flows shed", nodes, st.StalledBytes, st.Shed)
			}
			// Who reads again gets everything.
			n, err := io.ReadFull(stuck[0], make([]byte, 6<<20))
			if err != nil {
				t.Errorf("%d nodes: stalled flow reads %d bytes, then %v", nodes, n, err)
			}
			for _, s := range stuck {
				_ = s.Reset()
			}
		})
	}
}

// TestShed has more stalled receivers than the budget holds: those that stood still longest are reset, and the lane
// keeps moving.
func TestShed(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 40, 20*time.Millisecond, raw, func(_ int, c *Config) {
			c.Limits.BufferedBytes = 64 << 20
			c.Lanes = LanePlan{1, 1}
		})
		defer c.close()
		c.serve = source64k
		c.up()
		var stuck []*memConn
		var dones []<-chan error
		for range 8 {
			conn, done := c.open()
			stuck, dones = append(stuck, conn), append(dones, done)
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		st := c.nodes[0].Stats()
		if st.Shed == 0 || st.StalledBytes > 32<<20 {
			t.Errorf("%d flows shed, %d bytes stalled", st.Shed, st.StalledBytes)
		}
		for i, d := range dones {
			select {
			case err := <-d:
				wantReset(t, err, CodeStalled, false)
				if i >= int(st.Shed) {
					t.Errorf("flow %d was shed, %d in all: not the longest stalled", i, st.Shed)
				}
			default:
			}
		}
		if mbit := download(t, c, 2*time.Second); mbit < 20 {
			t.Errorf("a flow beside them gets %.0f Mbit/s", mbit)
		}
		for _, s := range stuck {
			_ = s.Reset()
		}
	})
}

// TestBudget spends the window budget: later lanes get small windows, and none grows.
func TestBudget(t *testing.T) {
	b := budget{limit: 512 << 20}
	sum := int64(0)
	for i := range 40 {
		n := b.take(bulkConnWindowMin, bulkConnWindow)
		if n < bulkConnWindowMin || n > bulkConnWindow || (i == 0 && n != bulkConnWindow) || (i > 30 && n != bulkConnWindowMin) {
			t.Errorf("lane %d gets %d", i, n)
		}
		sum += n
	}
	if b.more(512 << 20) {
		t.Error("more than the limit given")
	}
	b.give(sum)
	if b.taken.Load() != 0 || !b.more(1<<20) {
		t.Error("what is given back is not there again")
	}
}

// TestElephant moves a transfer to a bulk lane while small flows stay on the interactive ones.
func TestElephant(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		c := newChain(t, 3, 100, 50*time.Millisecond, raw)
		defer c.close()
		c.serve = source64k
		c.up()
		conn, done := c.open()
		if _, err := io.ReadFull(conn, make([]byte, 8<<20)); err != nil {
			t.Fatal(err)
		}
		for i, n := range c.nodes {
			fl := n.Flows(0)
			if len(fl) != 1 || !fl[0].Bulk || fl[0].Tenant != "acme" || fl[0].Role != []string{"ingress", "relay", "exit"}[i] {
				t.Errorf("%s: %+v", n.cfg.Name, fl)
			}
		}
		for _, n := range c.nodes[1:] { // they send
			var bulk, interactive uint64
			for _, p := range n.Stats().Peers {
				for _, l := range p.Lanes {
					if l.Class == "bulk" {
						bulk += l.Payload
					} else {
						interactive += l.Payload
					}
				}
			}
			if bulk < 7<<20 || interactive > 2*DefaultElephantBytes {
				t.Errorf("%s: %d bytes on bulk lanes, %d on interactive ones", n.cfg.Name, bulk, interactive)
			}
		}
		_ = conn.Reset()
		<-done
	})
}

// TestManyFlows fills the interactive lanes with flows none of which is large: they move on for the time they take.
func TestManyFlows(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		const flows = 40
		c := newChain(t, 2, 10, 100*time.Millisecond, raw)
		defer c.close()
		c.serve = source64k
		c.up()
		var conns []*memConn
		var ends []<-chan error
		for range flows {
			conn, done := c.open()
			conns, ends = append(conns, conn), append(ends, done)
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{conn}) }()
		}
		time.Sleep(5 * time.Second) // 150 KB a flow
		var moved int
		for _, f := range c.nodes[1].Flows(0) {
			if f.Bulk {
				moved++
			}
		}
		if moved < flows*9/10 {
			t.Errorf("%d of %d flows moved to bulk lanes", moved, flows)
		}
		for i, conn := range conns {
			_ = conn.Reset()
			<-ends[i]
		}
	})
}

// TestClasses: realtime flows never move, bulk flows move early.
func TestClasses(t *testing.T) {
	for class, want := range map[Class]uint64{Realtime: 0, Bulk: 1, Interactive: 0} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, 2, 100, 10*time.Millisecond, raw, func(_ int, cfg *Config) {
				r := cfg.Router.(table)
				r.class = class
				cfg.Router = r
			})
			defer c.close()
			c.serve = echo
			c.up()
			conn, done := c.open()
			size := 100 << 10
			if class == Realtime {
				size = 1 << 20
			}
			go send(t, conn, make([]byte, size))
			if got, err := io.ReadAll(conn); len(got) != size || err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got := c.nodes[0].Stats().Moved; got != want {
				t.Errorf("%v: moved %d times, want %d", class, got, want)
			}
		})
	}
}

// TestContinuations delivers continuations that nobody waits for, too many, twice, and before their flow.
func TestContinuations(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 10*time.Millisecond)
		defer c.close()
		c.up()
		here, _ := c.nodes[0].peers["two"].current()
		there, _ := c.nodes[1].peers["one"].current()
		parked := func() int {
			there.mu.Lock()
			defer there.mu.Unlock()
			return len(there.parked)
		}
		open := func(id int) *quic.SendStream {
			l, str := here.openContinuation(here.lanes[0], uint64(id), forward)
			if str == nil {
				t.Fatal("no bulk lane")
			}
			l.release()
			return str
		}
		for i := range parkMax {
			open(i)
		}
		time.Sleep(time.Second)
		for i := range 10 {
			open(parkMax + i)
		}
		twice := open(3)
		time.Sleep(time.Second)
		if n := parked(); n != parkMax {
			t.Errorf("%d parked, want %d", n, parkMax)
		}
		if n := c.nodes[1].Stats().Orphans; n != 11 {
			t.Errorf("%d orphans, want 11", n)
		}
		if _, err := twice.Write(make([]byte, 10)); err == nil {
			t.Error("a second continuation of a flow is still open")
		}
		// A flow that comes later finds its continuation.
		lane, _ := there.pick(Bulk)
		str, err := lane.conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		h := newRecvHalf(there, lane, str, 5, forward)
		if err := there.register(h); err != nil {
			t.Fatal(err)
		}
		if len(h.cont) != 1 || parked() != parkMax-1 {
			t.Errorf("the flow has %d continuations, %d are parked", len(h.cont), parked())
		}
		other := newRecvHalf(there, lane, str, 5, forward)
		if err := there.register(other); !errors.Is(err, errDuplicate) {
			t.Errorf("the same flow id again: %v", err)
		}
		other.cancel(CodeReset)
		h.finish()
		str.CancelWrite(1)
		time.Sleep(parkWait)
		if n := parked(); n != 0 {
			t.Errorf("%d parked after the wait", n)
		}
		for _, l := range there.lanes {
			if n := l.refs.Load(); n > 1 { // the control stream
				t.Errorf("%v has %d directions", l, n)
			}
		}
	})
}

// cancelAtEnd is a stream whose direction is cancelled while it ends.
type cancelAtEnd struct {
	sink
	h *sendHalf
}

func (s *cancelAtEnd) Close() error {
	s.h.cancel(CodeReset)
	return nil
}

// TestCancelledInMove has a direction cancelled while it moves: each lane gets back what was claimed on it, once.
func TestCancelledInMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 10*time.Millisecond)
		defer c.close()
		c.up()
		here, _ := c.nodes[0].peers["two"].current()
		claims := func() (out [][2]int32) {
			for _, l := range here.lanes {
				out = append(out, [2]int32{l.load.Load(), l.refs.Load()})
			}
			return out
		}
		before := claims()
		l, _ := here.pick(Interactive)
		str := &cancelAtEnd{}
		str.h = newSendHalf(here, l, str, 1, forward, 1)
		err := str.h.batch([]byte{1}, 0, 1)
		if re := (*ResetError)(nil); !errors.As(err, &re) || re.Code != CodeReset {
			t.Errorf("moved with %v, want a reset", err)
		}
		if after := claims(); !slices.Equal(after, before) {
			t.Errorf("load and directions of the lanes: %v, before %v", after, before)
		}
	})
}

// TestLostContinuation has a direction move whose continuation never comes: the flow is reset.
func TestLostContinuation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 10*time.Millisecond)
		defer c.close()
		c.serve = echo
		c.up()
		here, _ := c.nodes[0].peers["two"].current()
		hp, err := c.nodes[0].openHop(context.Background(), "two", Header{ID: 7, Tenant: "acme", Src: client, Dst: origin})
		if err != nil {
			t.Fatal(err)
		}
		_ = here
		if err := hp.send.flush(); err != nil {
			t.Fatal(err)
		}
		if err := hp.send.cur.Close(); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, _, err = hp.recv.chunk()
		var re *ResetError
		if !errors.As(err, &re) || re.Code != CodeProtocol {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(start); d < continuationWait || d > continuationWait+time.Second {
			t.Errorf("reset after %v", d)
		}
		hp.close(CodeReset)
	})
}

// TestResetAfterMove has a direction reset before the first packet of its continuation has arrived: the peer learns of it at
// once, and does not wait for the continuation.
func TestResetAfterMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 10*time.Millisecond)
		defer c.close()
		began, saw := make(chan struct{}), make(chan error, 1)
		c.serve = func(s *memConn) {
			_, _ = io.ReadFull(s, make([]byte, 1))
			close(began)
			_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
			saw <- err
		}
		c.up()
		hp, err := c.nodes[0].openHop(context.Background(), "two", Header{ID: 7, Tenant: "acme", HopLimit: 1, Src: client, Dst: origin})
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, bufRoom+1)
		if err := hp.send.frame(frameRaw, buf, bufRoom, 1); err != nil {
			t.Fatal(err)
		}
		<-began
		c.ends[0][0].out.lose.Store(3)
		if err := hp.send.move(); err != nil || hp.send.moveAt != -1 {
			t.Fatalf("moved: %v", err)
		}
		start := time.Now()
		hp.send.cancel(CodeReset)
		if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server saw %v, want a reset", err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("the server was told after %v", d)
		}
		hp.close(CodeReset)
	})
}

// TestBadPeer sends what no peer should: the node answers with a reset and goes on.
func TestBadPeer(t *testing.T) {
	frames := func(kinds ...frameKind) []byte {
		h := Header{ID: 9, Tenant: "acme", HopLimit: 1, Src: client, Dst: origin, Codec: CodecZstd}
		b, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range kinds {
			n := 0
			if k == frameRaw || k == frameZstd || k == frameZstdStart {
				n = 5
			}
			b = append(b, byte(k), 0, 0, byte(n))
			b = append(b, make([]byte, n)...)
		}
		return b
	}
	version := frames()
	version[0] = 77
	huge := frames()
	huge = append(huge, byte(frameRaw), 0xff, 0xff, 0xff)
	for name, tc := range map[string]struct {
		bytes []byte
		code  Code
	}{
		"nonsense":           {bytes.Repeat([]byte{1}, 200), CodeProtocol},
		"version":            {version, CodeVersion},
		"unknown frame":      {frames(99), CodeProtocol},
		"huge frame":         {huge, CodeProtocol},
		"zstd without start": {frames(frameZstd), CodeProtocol},
		"corrupt zstd":       {frames(frameZstdStart), CodeProtocol},
		"no end":             {frames(frameRaw), CodeProtocol},
		"half a header":      {frames()[:20], CodeProtocol},
	} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, 2, 100, 10*time.Millisecond)
			defer c.close()
			saw := make(chan error, 1)
			c.serve = func(s *memConn) {
				_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
				saw <- err
			}
			c.up()
			here, _ := c.nodes[0].peers["two"].current()
			l, _ := here.pick(Interactive)
			str, err := l.conn.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := str.Write(tc.bytes); err != nil {
				t.Fatal(err)
			}
			_ = str.Close()
			h := newRecvHalf(here, l, str, 9, backward)
			defer h.finish()
			_, _, err = h.chunk()
			if codeOf(err) != tc.code {
				t.Errorf("%s: answered with %v, want %v", name, err, tc.code)
			}
			select {
			case err := <-saw:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s: the server saw %v", name, err)
				}
			default:
			}
		})
	}
}

package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestDialFails has the exit fail to connect: the client sees a reset, the ingress the reason, over any number of nodes.
func TestDialFails(t *testing.T) {
	for _, tc := range []struct {
		name string
		dial func(context.Context) (net.Conn, error)
		code Code
	}{
		{"refused", func(context.Context) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}, CodeRefused},
		{"unreachable", func(context.Context) (net.Conn, error) { return nil, syscall.EHOSTUNREACH }, CodeUnreachable},
		{"other", func(context.Context) (net.Conn, error) { return nil, errors.New("no") }, CodeDialFailed},
		{"timeout", func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, CodeDialTimeout},
	} {
		for _, nodes := range []int{2, 3} {
			t.Run(fmt.Sprintf("%s/nodes=%d", tc.name, nodes), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := newChain(t, nodes, 200, 100*time.Millisecond)
					defer c.close()
					c.dial = tc.dial
					c.up()
					conn, done := c.open()
					if _, err := conn.Write([]byte("hello")); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("client read: %v, want a reset", err)
					}
					wantReset(t, <-done, tc.code, true)
					if got := c.nodes[0].Stats().Resets[tc.code.String()]; got != 1 {
						t.Errorf("ingress counts %d resets %q", got, tc.code)
					}
				})
			})
		}
	}
}

// TestGivesUpWhileDialling resets the client while the exit still connects: the exit stops.
func TestGivesUpWhileDialling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 3, 200, 100*time.Millisecond)
		defer c.close()
		gaveUp := make(chan time.Time, 1)
		c.dial = func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			gaveUp <- time.Now()
			return nil, ctx.Err()
		}
		c.up()
		start := time.Now()
		conn, done := c.open()
		time.Sleep(time.Second)
		_ = conn.Reset()
		wantReset(t, <-done, CodeReset, false)
		if d := (<-gaveUp).Sub(start); d > 1300*time.Millisecond {
			t.Errorf("the exit gave up after %v", d)
		}
	})
}

// refusing is a table that sends origin somewhere special.
type refusing struct {
	table
	route func() (string, error)
}

func (r refusing) Route(src, dst netip.Addr) (string, Class, string, error) {
	next, err := r.route()
	return "acme", Interactive, next, err
}

func TestRefused(t *testing.T) {
	to := func(next string, err error) Router {
		return refusing{route: func() (string, error) { return next, err }}
	}
	for _, tc := range []struct {
		name    string
		routers map[int]Router // by node
		code    Code
		remote  bool
	}{
		{"no route here", map[int]Router{0: to("", errNoRoute)}, CodeNoRoute, false},
		{"no route there", map[int]Router{1: to("", errNoRoute)}, CodeNoRoute, true},
		{"no route at the end", map[int]Router{2: to("", errNoRoute)}, CodeNoRoute, true},
		{"unknown peer here", map[int]Router{0: to("nobody", nil)}, CodeNoRoute, false},
		{"unknown peer there", map[int]Router{1: to("nobody", nil)}, CodeNoRoute, true},
		{"denied there", map[int]Router{1: table{next: map[netip.Addr]string{origin.Addr(): "three"}, denied: "one"}}, CodeDenied, true},
		{"denied at the end", map[int]Router{2: table{next: map[netip.Addr]string{origin.Addr(): ""}, denied: "two"}}, CodeDenied, true},
		{"back where it came from", map[int]Router{1: to("one", nil)}, CodeHopLimit, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newChain(t, 3, 200, 20*time.Millisecond)
				defer c.close()
				c.serve = echo
				c.up()
				for i, r := range tc.routers {
					c.nodes[i].SetRouter(r)
				}
				conn, done := c.open()
				if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("client read: %v, want a reset", err)
				}
				wantReset(t, <-done, tc.code, tc.remote)
			})
		})
	}
}

// TestHopLimit sends a flow over more nodes than a flow may.
func TestHopLimit(t *testing.T) {
	for nodes, code := range map[int]Code{MaxHops + 2: 0, MaxHops + 3: CodeHopLimit} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, nodes, 200, 2*time.Millisecond, func(_ int, c *Config) { c.Lanes = LanePlan{1, 1} })
			defer c.close()
			c.serve = echo
			c.up()
			conn, done := c.open()
			_ = conn.CloseWrite()
			_, _ = io.ReadAll(conn)
			if err := <-done; code == 0 && err != nil {
				t.Errorf("%d nodes: %v", nodes, err)
			} else if code != 0 {
				wantReset(t, err, code, true)
			}
		})
	}
}

// TestServerResets has the server reset the connection in the middle: what it said before arrives first.
func TestServerResets(t *testing.T) {
	for _, said := range []int{0, 100, 600 << 10} {
		for _, nodes := range []int{2, 3} {
			data := randomBytes(seeded(t), said)
			bubble(t, func(t *testing.T) {
				c := newChain(t, nodes, 200, 100*time.Millisecond)
				defer c.close()
				c.serve = func(s *memConn) {
					_, _ = s.Write(data)
					_ = s.Reset()
				}
				c.up()
				conn, done := c.open()
				got := make([]byte, said)
				if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%d bytes before the reset: got %d, %v", said, n, err)
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("after %d bytes: %v, want a reset", said, err)
				}
				wantReset(t, <-done, CodeReset, true)
			})
		}
	}
}

// TestClientResets has the client reset the connection in the middle of transfers both ways: the server sees it.
func TestClientResets(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 3} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, nodes, 10, 100*time.Millisecond, raw)
			defer c.close()
			saw := make(chan error, 2)
			c.serve = func(s *memConn) {
				go func() {
					_, err := io.Copy(struct{ io.Writer }{s}, zeros{})
					saw <- err
				}()
				_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
				saw <- err
			}
			c.up()
			conn, done := c.open()
			go func() { _, _ = io.Copy(struct{ io.Writer }{conn}, zeros{}) }()
			go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{conn}) }()
			time.Sleep(3 * time.Second)
			start := time.Now()
			_ = conn.Reset()
			for range 2 {
				if err := <-saw; !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("server saw %v, want a reset", err)
				}
			}
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("the server saw the reset after %v", d)
			}
			wantReset(t, <-done, CodeReset, false)
		})
	}
}

// raw makes zeros take as long as other bytes.
func raw(_ int, c *Config) { c.NoCompression = true }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestServerStopsReading has the server answer early and close while the client still sends: the client gets the whole
// answer.
func TestServerStopsReading(t *testing.T) {
	t.Parallel()
	answer := randomBytes(seeded(t), 100<<10)
	for _, nodes := range []int{2, 3} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, nodes, 100, 100*time.Millisecond, raw)
			defer c.close()
			c.serve = func(s *memConn) {
				_, _ = io.ReadFull(s, make([]byte, 1000))
				_, _ = s.Write(answer)
				_ = s.CloseWrite()
				time.Sleep(time.Second)
				_ = s.Close()
			}
			c.up()
			conn, done := c.open()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.Copy(struct{ io.Writer }{conn}, io.LimitReader(zeros{}, 50<<20))
				_ = conn.CloseWrite()
			}()
			got, err := io.ReadAll(conn)
			if err != nil || !bytes.Equal(got, answer) {
				t.Errorf("answer: %d bytes of %d, %v", len(got), len(answer), err)
			}
			<-sent
			_ = conn.Close()
			<-done
		})
	}
}

// TestCancelledContext resets a flow whose context ends.
func TestCancelledContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 100*time.Millisecond)
		defer c.close()
		c.serve = echo
		c.up()
		near, far := connPair(1000)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- c.nodes[0].HandleFlow(ctx, Flow{Src: client, Dst: origin, Conn: near}) }()
		time.Sleep(time.Second)
		cancel()
		wantReset(t, <-done, CodeReset, false)
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read: %v", err)
		}
	})
}

// TestLimits refuses flows beyond MaxFlows, and flows while the next hop is not connected.
func TestLimits(t *testing.T) {
	for _, limits := range [][]int{{2, 3}, {3, 2}} {
		bubble(t, func(t *testing.T) {
			c := newChain(t, 2, 100, 100*time.Millisecond, func(i int, c *Config) { c.Limits.MaxFlows = limits[i] })
			defer c.close()
			c.serve = echo
			c1, done1 := c.open() // before the lanes are up: it waits
			if _, err := c1.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if n, err := c1.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("read: %d, %v", n, err)
			}
			c2, done2 := c.open()
			time.Sleep(time.Second)
			_, done3 := c.open()
			wantReset(t, <-done3, CodeLimit, limits[1] == 2)
			_, _ = c1.Reset(), c2.Reset()
			_, _ = <-done1, <-done2
		})
	}
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 100, 100*time.Millisecond)
		defer c.close()
		c.up()
		c.ends[0][0].end()
		time.Sleep(time.Second)
		_, done := c.open()
		start := time.Now()
		wantReset(t, <-done, CodeNoTunnel, false)
		if d := time.Since(start); d != DefaultOpenWait {
			t.Errorf("gave up after %v", d)
		}
	})
}

// TestDirect has the first node be the exit itself.
func TestDirect(t *testing.T) {
	data := randomBytes(seeded(t), 1<<20)
	bubble(t, func(t *testing.T) {
		c := newChain(t, 1, 0, 0)
		defer c.close()
		conn, done := c.open()
		wantReset(t, <-done, CodeRefused, false)
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client read: %v", err)
		}
		c.serve = echo
		conn, done = c.open()
		go send(t, conn, data)
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

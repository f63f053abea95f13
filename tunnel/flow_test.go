package tunnel

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func echo(c *memConn) {
	defer c.Close()
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		_ = c.CloseWrite()
	}
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func send(t testing.TB, c *memConn, data []byte) {
	if _, err := c.Write(data); err != nil {
		t.Errorf("write: %v", err)
	}
	_ = c.CloseWrite()
}

// TestEcho carries data of every size both ways at once over two to four nodes.
func TestEcho(t *testing.T) {
	t.Parallel()
	for _, nodes := range []int{2, 4} {
		for _, size := range []int{0, 1, 5000, 300 << 10, 2 << 20} {
			if raceOn {
				size = min(size, 700<<10)
			}
			for _, compressible := range []bool{false, true} {
				r := seeded(t)
				data := randomBytes(r, size)
				if compressible {
					data = bytes.Repeat([]byte("all work and no play makes jack a dull boy. "), size/44+1)[:size]
				}
				bubble(t, func(t *testing.T) {
					c := newChain(t, nodes, 200, 100*time.Millisecond)
					defer c.close()
					c.serve = echo
					c.up()
					conn, done := c.open()
					c.wg.Go(func() { send(t, conn, data) })
					got, err := io.ReadAll(conn)
					if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
						t.Errorf("%d nodes, %d bytes: got %d bytes, %v", nodes, size, len(got), err)
					}
					if err := <-done; err != nil {
						t.Errorf("%d nodes, %d bytes: flow ended with %v", nodes, size, err)
					}
					_ = conn.Close()
					st := c.nodes[0].Stats()
					if want := size > DefaultElephantBytes && !compressible; (st.Moved > 0) != want {
						t.Errorf("%d nodes, %d bytes, compressible %v: moved %d times", nodes, size, compressible, st.Moved)
					}
					if compressible && size > 1<<20 && st.PackedOut > st.PackedIn/10 {
						t.Errorf("%d compressible bytes became %d", st.PackedIn, st.PackedOut)
					}
				})
			}
		}
	}
}

// TestOneRoundTrip proves that the first bytes travel with the open request: request and answer of a new flow take one
// border round trip, the dial included.
func TestOneRoundTrip(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const rtt = 200 * time.Millisecond
		c := newChain(t, 3, 200, rtt/2)
		defer c.close()
		c.serve = echo
		c.up()
		time.Sleep(20 * time.Second) // the warm-up is over
		start := time.Now()
		conn, done := c.open()
		if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		_ = conn.CloseWrite()
		got, err := io.ReadAll(conn)
		if err != nil || len(got) != 18 {
			t.Fatalf("answer of %d bytes, %v", len(got), err)
		}
		if d := time.Since(start); d > rtt+3*time.Millisecond {
			t.Errorf("first answer after %v over a round trip of %v", d, rtt)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestServerFirst has the server speak before the client, and the client never speak at all.
func TestServerFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 2, 200, 100*time.Millisecond)
		defer c.close()
		c.serve = func(s *memConn) {
			defer s.Close()
			_, _ = s.Write([]byte("220 ready\r\n"))
			_ = s.CloseWrite()
			if b, err := io.ReadAll(s); len(b) != 3 || err != nil {
				t.Errorf("server read %q, %v", b, err)
			}
		}
		c.up()
		conn, done := c.open()
		b, err := io.ReadAll(conn)
		if string(b) != "220 ready\r\n" || err != nil {
			t.Errorf("client read %q, %v", b, err)
		}
		time.Sleep(time.Minute) // half-open for a while
		send(t, conn, []byte("bye"))
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestSmallWrites proves that nothing is held back: each byte of a slow conversation arrives one way's delay later.
func TestSmallWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChain(t, 3, 200, 100*time.Millisecond)
		defer c.close()
		c.serve = echo
		c.up()
		time.Sleep(20 * time.Second)
		conn, done := c.open()
		msg := bytes.Repeat([]byte("compressible "), 20)
		buf := make([]byte, len(msg))
		for i := range 40 {
			if i == 20 {
				time.Sleep(2 * codecIdle) // the compressor is given back meanwhile
			}
			start := time.Now()
			if _, err := conn.Write(msg); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, buf); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 206*time.Millisecond {
				t.Errorf("message %d took %v over a round trip of 200 ms", i, d)
			}
			if !bytes.Equal(buf, msg) {
				t.Fatalf("message %d differs", i)
			}
		}
		_, _, enc, _ := c.nodes[0].pool.Stats()
		if enc != 1 {
			t.Errorf("%d compressors in use, want 1", enc)
		}
		time.Sleep(2 * codecIdle)
		for i, n := range []*Node{c.nodes[0], c.nodes[2]} {
			if _, _, enc, dec := n.pool.Stats(); enc != 0 || dec != 0 {
				t.Errorf("end %d: %d compressors and %d decompressors in use by an idle flow", i, enc, dec)
			}
		}
		_ = conn.CloseWrite()
		if b, err := io.ReadAll(conn); len(b) != 0 || err != nil {
			t.Errorf("at the end: %q, %v", b, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func wantReset(t *testing.T, err error, c Code, remote bool) {
	t.Helper()
	var re *ResetError
	if !errors.As(err, &re) || re.Code != c || re.Remote != remote {
		t.Errorf("flow ended with %v, want %v, remote %v", err, c, remote)
	}
}

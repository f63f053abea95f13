package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/tunnel/bond"
)

// udpLane is a lane over a pair of loopback sockets: real system calls, real clocks.
type udpLane struct {
	*net.UDPConn
	class Class
	far   *net.UDPAddr
}

func (l *udpLane) Class() Class         { return l.class }
func (l *udpLane) ID() int              { return 0 }
func (l *udpLane) MaxPacketSize() int   { return 1280 }
func (l *udpLane) Fit() bond.Fit        { return bond.FitWell }
func (l *udpLane) RemoteAddr() net.Addr { return l.far }
func (l *udpLane) SetConn(*quic.Conn)   {}

// udpSession is one end of a session of such lanes.
type udpSession struct {
	first  bool
	accept chan Lane
	far    *udpSession
	done   chan struct{}
}

func newUDPSessions() (a, b *udpSession) {
	done := make(chan struct{})
	a = &udpSession{first: true, accept: make(chan Lane, 16), done: done}
	b = &udpSession{accept: make(chan Lane, 16), far: a, done: done}
	a.far = b
	return a, b
}

func (s *udpSession) Initiator() bool                  { return s.first }
func (s *udpSession) Done() <-chan struct{}            { return s.done }
func (s *udpSession) Capacity() (int64, time.Duration) { return 1e8, 2 * time.Millisecond }

func (s *udpSession) OpenLane(c Class) (Lane, error) {
	open := func() (*net.UDPConn, error) {
		return net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	}
	a, err := open()
	if err != nil {
		return nil, err
	}
	b, err := open()
	if err != nil {
		return nil, errors.Join(err, a.Close())
	}
	s.far.accept <- &udpLane{b, c, a.LocalAddr().(*net.UDPAddr)}
	return &udpLane{a, c, b.LocalAddr().(*net.UDPAddr)}, nil
}

func (s *udpSession) AcceptLane(ctx context.Context) (Lane, error) {
	select {
	case l := <-s.accept:
		return l, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// loopback is a chain over real sockets, with a real TCP origin and real TCP clients.
func loopback(t testing.TB, nodes int, serve func(*net.TCPConn)) (open func() *net.TCPConn, done func()) {
	t.Helper()
	listen := func() *net.TCPListener {
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	var wg sync.WaitGroup
	loop := func(ln *net.TCPListener, f func(*net.TCPConn)) {
		wg.Go(func() {
			for {
				c, err := ln.AcceptTCP()
				if err != nil {
					return
				}
				wg.Go(func() { f(c) })
			}
		})
	}
	far, near := listen(), listen()
	loop(far, serve)
	dial := func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
		var d net.Dialer
		d.SetMultipathTCP(false)
		return d.DialContext(ctx, "tcp4", far.Addr().String())
	}
	c := newChain(t, nodes, 1, time.Millisecond, func(_ int, c *Config) { c.Dial = dial })
	for i := range nodes - 1 { // in place of the sessions in memory
		c.ends[i][0].end()
		a, b := newUDPSessions()
		c.srcs[i].a <- a
		c.srcs[i].b <- b
	}
	loop(near, func(conn *net.TCPConn) {
		_ = c.nodes[0].HandleFlow(context.Background(), Flow{Src: client, Dst: origin, Conn: WrapConn(conn)})
	})
	time.Sleep(50 * time.Millisecond)
	c.up()
	open = func() *net.TCPConn {
		conn, err := net.DialTCP("tcp4", nil, near.Addr().(*net.TCPAddr))
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	return open, func() {
		_, _ = near.Close(), far.Close()
		c.close()
		wg.Wait()
	}
}

func echoTCP(c *net.TCPConn) {
	defer c.Close()
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		_ = c.CloseWrite()
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("counting descriptors needs /proc: %v", err)
	}
	return len(d)
}

// TestLoopback carries real connections over real sockets: content, half-close, resets, and no descriptor left.
func TestLoopback(t *testing.T) {
	r := seeded(t)
	noise := randomBytes(r, 3<<20)
	before := descriptors(t)
	open, done := loopback(t, 3, echoTCP)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			conn := open()
			defer conn.Close()
			data := noise[:[]int{0, 1, 30 << 10, len(noise)}[i%4]]
			go func() {
				_, _ = conn.Write(data)
				_ = conn.CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
				t.Errorf("flow %d: %d bytes of %d, %v", i, len(got), len(data), err)
			}
		})
	}
	wg.Wait()
	done()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestWaiting asks a real socket, and a connection without one, what can be read from it.
func TestWaiting(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux is asked")
	}
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	waiting := waitingIn(WrapConn(near))
	const size = 10000
	if _, err := far.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	for waiting() < size { // the test's own time limit ends it
		time.Sleep(time.Millisecond)
	}
	if _, err := io.ReadFull(near, make([]byte, size-1)); err != nil || waiting() != 1 {
		t.Errorf("%d bytes waiting, want 1 (%v)", waiting(), err)
	}
	if _, c := connPair(1); waitingIn(c)() != 0 {
		t.Error("bytes waiting in a connection without a socket")
	}
}

// TestLoopbackReset has a real server reset after it spoke: a real client reads what it said, then the reset.
func TestLoopbackReset(t *testing.T) {
	said := bytes.Repeat([]byte("last words "), 500)
	open, done := loopback(t, 2, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = c.Write(said)
		time.Sleep(50 * time.Millisecond)
		_ = WrapConn(c).Reset()
	})
	defer done()
	conn := open()
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if !bytes.Equal(got, said) || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes of %d, %v", len(got), len(said), err)
	}
}

// BenchmarkChain moves a payload through nodes in one process over loopback sockets: what one flow costs, not how fast
// a bond is.
func BenchmarkChain(b *testing.B) {
	payload := randomBytes(seeded(b), 4<<20)
	for _, nodes := range []int{2, 3} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			open, done := loopback(b, nodes, func(c *net.TCPConn) {
				defer c.Close()
				n, _ := io.Copy(io.Discard, struct{ io.Reader }{c})
				_, _ = fmt.Fprint(c, n)
			})
			defer done()
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				conn := open()
				_, _ = conn.Write(payload)
				_ = conn.CloseWrite()
				if n, err := io.ReadAll(conn); string(n) != fmt.Sprint(len(payload)) || err != nil {
					b.Fatalf("server got %q, %v", n, err)
				}
				_ = conn.Close()
			}
		})
	}
}

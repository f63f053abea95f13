package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/internal/testport"
	"github.com/landbridge/landbridge/tunnel"
)

// testTimeout bounds every wait of the tests.
const testTimeout = 30 * time.Second

func testKey(i byte) identity.PrivateKey { return identity.FromSeed([32]byte{i}) }

var keySHA, keyFRA, keyPlant = testKey(1), testKey(2), testKey(3)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually waits until f returns nil.
func eventually(t testing.TB, within time.Duration, f func() error) {
	t.Helper()
	end := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// logBook keeps what is logged.
type logBook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBook) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// lines returns those that contain all parts.
func (l *logBook) lines(parts ...string) (out []string) {
	for line := range strings.Lines(l.String()) {
		ok := true
		for _, p := range parts {
			ok = ok && strings.Contains(line, p)
		}
		if ok {
			out = append(out, line)
		}
	}
	return out
}

func (l *logBook) waitFor(t testing.TB, parts ...string) string {
	t.Helper()
	eventually(t, testTimeout, func() error {
		if len(l.lines(parts...)) == 0 {
			return fmt.Errorf("no log line with %q in\n%s", parts, l.String())
		}
		return nil
	})
	return l.lines(parts...)[0]
}

// takePorts returns ports of loopback that nobody has, for nodes with the two after each.
func takePorts(t testing.TB, n int) (out []int) {
	t.Helper()
	for range n {
		out = append(out, testport.Take(t))
	}
	return out
}

// fleetOf has gateways sha and fra, joined by two carriers over loopback, and the tenants.
func fleetOf(ports []int, tenants string) string {
	return fmt.Sprintf(`regions: [cn, eu]
gateways:
  sha:
    region: cn
    public_key: %s
    carriers:
      ct: {interface: lo, address: 127.0.0.1:%d, rate: 8Mbit}
      cu: {interface: lo, address: 127.0.0.1:%d, rate: 8Mbit}
    lan: [lan0]
  fra:
    region: eu
    public_key: %s
    carriers:
      ct: {interface: lo, address: 127.0.0.1:%d, rate: 8Mbit}
      cu: {interface: lo, address: 127.0.0.1:%d, rate: 8Mbit}
    lan: [lan0]
borders:
  - between: [sha, fra]
    paths: [ct-ct, cu-cu]
tenants:
%s`, keySHA.Public(), ports[0], ports[1], keyFRA.Public(), ports[2], ports[3], tenants)
}

const acme = `  acme:
    cross_border: true
    sites:
      hq:  {at: sha, prefixes: [10.10.0.0/24]}
      fra: {at: fra, prefixes: [10.20.0.0/24]}
`

func nodeConfig(t testing.TB, fleet, name string) *config.NodeConfig {
	t.Helper()
	f, err := config.Parse([]byte(fleet))
	must(t, err)
	cfg, err := f.Node(name)
	must(t, err)
	return cfg
}

// origin is a server that the exits' dialer leads to.
type origin struct {
	ln *net.TCPListener
	wg sync.WaitGroup
}

// serve runs f for every connection to a new origin.
func serve(t testing.TB, f func(*net.TCPConn)) *origin {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	must(t, err)
	o := &origin{ln: ln.(*net.TCPListener)}
	o.wg.Go(func() {
		for {
			c, err := o.ln.AcceptTCP()
			if err != nil {
				return
			}
			o.wg.Go(func() { f(c) })
		}
	})
	t.Cleanup(func() { o.ln.Close(); o.wg.Wait() })
	return o
}

func (o *origin) dial(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp4", o.ln.Addr().String())
}

// echo returns what it reads, then ends.
func echo(c *net.TCPConn) {
	defer c.Close()
	if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err == nil {
		_ = c.CloseWrite()
	}
}

// startNode starts a node over loopback; it ends with the test.
func startNode(t testing.TB, cfg *config.NodeConfig, opts Options) (*Node, *logBook) {
	t.Helper()
	book := &logBook{}
	opts.Log = book.logger()
	if opts.Role == "" {
		opts.Role, opts.NoCapture = RoleGateway, true
	}
	n, err := Start(context.Background(), cfg, opts)
	must(t, err)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", cfg.Name, book)
		}
	})
	return n, book
}

// tcpPair is a connection over loopback: the client's end, and the end that was captured.
func tcpPair(t testing.TB) (client, captured *net.TCPConn) {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	a, err := net.DialTCP("tcp4", nil, ln.Addr().(*net.TCPAddr))
	must(t, err)
	b, err := ln.(*net.TCPListener).AcceptTCP()
	must(t, err)
	return a, b
}

// open carries a new connection through the node as coming from src, and returns the client's end.
func open(t testing.TB, n *Node, src, dst string) *net.TCPConn {
	t.Helper()
	client, captured := tcpPair(t)
	go func() {
		_ = n.Handle(context.Background(), tunnel.Flow{
			Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst), Conn: tunnel.WrapConn(captured),
		})
	}()
	return client
}

// ask sends text and wants it back, with the end.
func ask(c *net.TCPConn, text string) error { return askWithin(testTimeout, c, text) }

func askWithin(d time.Duration, c *net.TCPConn, text string) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%d bytes came back, want the %d sent", len(got), len(text))
	}
	return nil
}

// turn sends a byte and wants it back, on a connection that stays.
func turn(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(testTimeout)); err != nil {
		return err
	}
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err := io.ReadFull(c, b)
	return err
}

// wantReset reads until the connection is reset.
func wantReset(t testing.TB, c net.Conn) {
	t.Helper()
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(testTimeout)))
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client reads %v, want a reset", err)
	}
}

func descriptors(t testing.TB) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(e)
}

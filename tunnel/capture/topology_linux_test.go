package capture

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The test network: client - gateway - origin, one veth each.
//
//	client  10.77.1.2  fd77:1::2   gateway lan0    10.77.1.1  fd77:1::1
//	gateway wan0    10.77.2.1  fd77:2::1   origin  10.77.2.2  fd77:2::2
//
// The namespaces have no names and live as long as the test's handles, so that
// nothing stays behind, not even when the test is killed.
type topology struct {
	client, gateway, origin *namespace
}

const (
	client4, client6   = "10.77.1.2", "fd77:1::2"
	gateway4, gateway6 = "10.77.1.1", "fd77:1::1"
	origin4, origin6   = "10.77.2.2", "fd77:2::2"
)

// testTimeout bounds every wait of the tests.
const testTimeout = 30 * time.Second

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() == 0 {
		return
	}
	const why = "needs root: network namespaces, BPF"
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// newNamespace makes one with lo up.
func newNamespace(t testing.TB) *namespace {
	t.Helper()
	here, err := currentNamespace()
	must(t, err)
	defer here.close()
	var ns *namespace
	must(t, here.do(func() error {
		// enter has locked the thread; New moves it, so put it back.
		before, err := netns.Get()
		if err != nil {
			return err
		}
		defer before.Close()
		h, err := netns.New()
		if err != nil {
			return err
		}
		ns = &namespace{h}
		return netns.Set(before)
	}))
	t.Cleanup(func() { _ = ns.close() })
	must(t, ns.do(func() error {
		// Link-local addresses would be tentative, and IPv6 dumb, for two
		// seconds.
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}))
	return ns
}

func newTopology(t testing.TB) *topology {
	t.Helper()
	requireRoot(t)
	topo := &topology{newNamespace(t), newNamespace(t), newNamespace(t)}
	topo.connectClient(t)
	must(t, veth(topo.gateway, "wan0", topo.origin, "eth0", "10.77.2", "fd77:2"))
	must(t, topo.gateway.do(func() error {
		for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	return topo
}

// connectClient makes the client's link, which some tests delete.
func (topo *topology) connectClient(t testing.TB) {
	t.Helper()
	must(t, veth(topo.gateway, "lan0", topo.client, "eth0", "10.77.1", "fd77:1"))
}

// veth connects router and host; the host's default route goes to the router.
func veth(router *namespace, routerNIC string, host *namespace, hostNIC, net4, net6 string) error {
	err := router.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: routerNIC},
			PeerName:      hostNIC,
			PeerNamespace: netlink.NsFd(int(host.handle)),
		})
	})
	if err != nil {
		return fmt.Errorf("add veth %s: %w", routerNIC, err)
	}
	if err := router.do(func() error { return address(routerNIC, net4+".1/24", net6+"::1/64") }); err != nil {
		return err
	}
	return host.do(func() error {
		if err := address(hostNIC, net4+".2/24", net6+"::2/64"); err != nil {
			return err
		}
		for _, gw := range []string{net4 + ".1", net6 + "::1"} {
			if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
				return fmt.Errorf("add route via %s: %w", gw, err)
			}
		}
		return nil
	})
}

func address(nic string, addrs ...string) error {
	l, err := netlink.LinkByName(nic)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return err
	}
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = 0x02 // IFA_F_NODAD: usable at once
		if err := netlink.AddrAdd(l, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, nic, err)
		}
	}
	return nil
}

// dial connects from a namespace to an address.
func (n *namespace) dial(addr string) (*net.TCPConn, error) {
	var c net.Conn
	err := n.do(func() (err error) {
		d := net.Dialer{Timeout: testTimeout}
		c, err = d.Dial("tcp", addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	tc := c.(*net.TCPConn)
	return tc, tc.SetDeadline(time.Now().Add(testTimeout))
}

// listen listens in a namespace until the test ends.
func (n *namespace) listen(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	var l net.Listener
	must(t, n.do(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	}))
	t.Cleanup(func() { _ = l.Close() })
	tl := l.(*net.TCPListener)
	must(t, tl.SetDeadline(time.Now().Add(4*testTimeout)))
	return tl
}

// serveEcho answers every connection with "peer ADDRESS\n" and then echoes,
// half-close included.
func serveEcho(l net.Listener) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(4 * testTimeout))
				fmt.Fprintf(c, "peer %s\n", c.RemoteAddr())
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// flowLog is a handler that hands flows to the test and holds them until the
// source closes or the test says so.
type flowLog struct {
	flows chan heldFlow
}

type heldFlow struct {
	Flow
	done func()
}

func newFlowLog() *flowLog { return &flowLog{make(chan heldFlow, 64)} }

func (l *flowLog) handle(ctx context.Context, f Flow) {
	release := make(chan struct{})
	_ = f.Conn.SetDeadline(time.Now().Add(testTimeout))
	l.flows <- heldFlow{f, sync.OnceFunc(func() { close(release) })}
	select {
	case <-release:
	case <-ctx.Done():
	}
}

func (l *flowLog) next(t testing.TB) heldFlow {
	t.Helper()
	select {
	case f := <-l.flows:
		return f
	case <-time.After(testTimeout):
		t.Fatal("no flow was captured")
		panic("unreachable")
	}
}

func (l *flowLog) none(t testing.TB) {
	t.Helper()
	select {
	case f := <-l.flows:
		t.Fatalf("captured %v to %v", f.Src, f.Dst)
	case <-time.After(50 * time.Millisecond):
	}
}

func prefixes(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, p := range s {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

// startTransparent starts capture in the gateway and closes it at the end.
func (topo *topology) startTransparent(t testing.TB, tr *Transparent, h Handler) {
	t.Helper()
	if tr.Log == nil {
		tr.Log = testLog(t)
	}
	must(t, topo.gateway.do(func() error { return tr.Start(context.Background(), h) }))
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error("close:", err)
		}
	})
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// expect reads exactly want.
func expect(t testing.TB, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

func send(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for cond.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out waiting for: " + what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func families(t *testing.T, f func(t *testing.T, client, gateway, origin string)) {
	t.Run("family=4", func(t *testing.T) { f(t, client4, gateway4, origin4) })
	t.Run("family=6", func(t *testing.T) { f(t, client6, gateway6, origin6) })
}

func isReset(err error) bool {
	return err != nil && strings.Contains(err.Error(), "connection reset by peer")
}

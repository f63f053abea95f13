package node

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
)

// TestStartOrder: gateways need no order, and one that was away is found again.
func TestStartOrder(t *testing.T) {
	o := serve(t, echo)
	for _, order := range [][]string{{"sha", "fra"}, {"fra", "sha"}} {
		t.Run(strings.Join(order, " "), func(t *testing.T) {
			fleet := fleetOf(takePorts(t, 4), acme)
			keys := map[string]Options{"sha": {Key: keySHA}, "fra": {Key: keyFRA, Dial: o.dial}}
			nodes := map[string]*Node{}
			for i, name := range order {
				if i > 0 {
					time.Sleep(300 * time.Millisecond) // the first finds nobody
				}
				nodes[name], _ = startNode(t, nodeConfig(t, fleet, name), keys[name])
			}
			if err := ask(open(t, nodes["sha"], "10.10.0.2:1000", "10.20.0.2:80"), "first"); err != nil {
				t.Fatal(err)
			}
			must(t, nodes["fra"].Close())
			began := time.Now()
			startNode(t, nodeConfig(t, fleet, "fra"), keys["fra"])
			eventually(t, testTimeout, func() error { // TestBack says how soon
				return ask(open(t, nodes["sha"], "10.10.0.2:1000", "10.20.0.2:80"), "second")
			})
			t.Logf("back after %v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// twoGateways are sha and fra, with the origin behind fra.
func twoGateways(t testing.TB, o *origin, tenants string) (sha, fra *Node, ports []int, book *logBook) {
	t.Helper()
	ports = takePorts(t, 4)
	fleet := fleetOf(ports, tenants)
	fra, book = startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA, Dial: o.dial})
	sha, _ = startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA})
	return sha, fra, ports, book
}

// TestLeaks: 1,000 flows over real sockets, ended in every way, leave no goroutine and no descriptor behind.
func TestLeaks(t *testing.T) {
	began := time.Now()
	o := serve(t, func(c *net.TCPConn) {
		defer c.Close()
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		switch b[0] {
		case 'e':
			echo(c)
		case 'r':
			_ = c.SetLinger(0)
		case 'q': // ends at once, reads nothing
		}
	})
	refused := func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
		if dst.Port() == 1 {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
		}
		return o.dial(ctx, src, dst)
	}
	fleet := fleetOf(takePorts(t, 4), acme) // which are held
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	fra, err := Start(context.Background(), nodeConfig(t, fleet, "fra"), Options{Role: RoleGateway, Key: keyFRA, NoCapture: true, Dial: refused, Log: (&logBook{}).logger()})
	must(t, err)
	defer fra.Close()
	sha, err := Start(context.Background(), nodeConfig(t, fleet, "sha"), Options{Role: RoleGateway, Key: keySHA, NoCapture: true, Log: (&logBook{}).logger()})
	must(t, err)
	defer sha.Close()

	one := func(i int) {
		dst := "10.20.0.2:80"
		if i%5 == 4 {
			dst = "10.20.0.2:1"
		}
		c := open(t, sha, "10.10.0.2:1000", dst)
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(testTimeout))
		_, werr := io.WriteString(c, []string{"echo", "r", "q", "e", "x"}[i%5])
		if i%5 == 3 { // the client goes away without a word
			_ = c.SetLinger(0)
			return
		}
		_ = c.CloseWrite()
		got, err := io.ReadAll(c)
		if i%5 == 0 && (err != nil || string(got) != "cho") {
			t.Errorf("flow %d: %q, %v", i, got, err)
		}
		// Whichever comes first after the reset is told of it, and only that.
		if i%5 == 4 && !errors.Is(werr, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("flow %d, refused: %v and %v, want a reset", i, werr, err)
		}
	}
	run := func(flows int) {
		var wg sync.WaitGroup
		turns := make(chan struct{}, 50)
		for i := range flows {
			turns <- struct{}{}
			wg.Go(func() { one(i); <-turns })
		}
		wg.Wait()
	}
	// settled waits until the counts are down to what was before.
	settled := func(what string, goroutines, files int) {
		t.Helper()
		end := time.Now().Add(testTimeout)
		for runtime.NumGoroutine() > goroutines || descriptors(t) > files {
			if time.Now().After(end) {
				var b strings.Builder
				_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
				t.Fatalf("%s: %d goroutines, %d before; %d descriptors, %d before\n%s", what, runtime.NumGoroutine(), goroutines, descriptors(t), files, b.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// The first flows bring the lanes up; their goroutines and those of the warm-up are not a flow's.
	eventually(t, testTimeout, func() error {
		if p := sha.Status().Peers[0]; len(p.Lanes) < 4 {
			return fmt.Errorf("%d lanes", len(p.Lanes))
		}
		return nil
	})
	run(20)
	eventually(t, testTimeout, func() error {
		if a, b := sha.Status().Flows.Active, fra.Status().Flows.Active; a+b > 0 {
			return fmt.Errorf("%d and %d flows open", a, b)
		}
		return nil
	})
	time.Sleep(time.Until(began.Add(time.Second))) // one warm-up goroutine a lane may still come and go
	idle, idleFiles := runtime.NumGoroutine(), descriptors(t)
	run(1000)
	settled("after 1,000 flows", idle+8, idleFiles) // 4 lanes on each side may be filled just now
	eventually(t, testTimeout, func() error {
		if st := sha.Status().Flows; st.Active != 0 || st.Total < 1000 {
			return fmt.Errorf("flows %+v, want none open of more than 1,000", st)
		}
		return nil
	})
	must(t, sha.Close(), fra.Close())
	settled("after the end", goroutines, files)
}

// TestRefusedDial: the client sees a reset, the log the reason.
func TestRefusedDial(t *testing.T) {
	for _, tc := range []struct {
		name   string
		err    error
		reason string
	}{
		{"refused", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "connection refused"},
		{"timeout", &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}, "i/o timeout"},
		{"unreachable", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, "no route to host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fleet := fleetOf(takePorts(t, 4), acme)
			_, book := startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA,
				Dial: func(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) { return nil, tc.err }})
			sha, entry := startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA})
			wantReset(t, open(t, sha, "10.10.0.2:1000", "10.20.0.2:80"))
			book.waitFor(t, "flow refused", "dst=10.20.0.2:80", tc.reason)
			entry.waitFor(t, "flow reset", "dst=10.20.0.2:80")
		})
	}
}

// TestFaithful: content, half-close in both directions, and a reset after the last bytes.
func TestFaithful(t *testing.T) {
	said := strings.Repeat("last words ", 500)
	heard := make(chan string, 1)
	o := serve(t, func(c *net.TCPConn) {
		defer c.Close()
		b := make([]byte, 1)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		switch b[0] {
		case 'e':
			echo(c)
		case 'r':
			_, _ = io.WriteString(c, said)
			time.Sleep(100 * time.Millisecond)
			_ = c.SetLinger(0)
		case 'h': // says all and closes its direction, then still listens
			_, _ = io.WriteString(c, said)
			_ = c.CloseWrite()
			after, err := io.ReadAll(c)
			heard <- fmt.Sprintf("%s %v", after, err)
		}
	})
	sha, _, _, _ := twoGateways(t, o, acme)
	dial := func() *net.TCPConn {
		c := open(t, sha, "10.10.0.2:1000", "10.20.0.2:80")
		must(t, c.SetDeadline(time.Now().Add(testTimeout)))
		return c
	}
	t.Run("content", func(t *testing.T) {
		data := make([]byte, 1<<20)
		_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
		c := dial()
		defer c.Close()
		go func() {
			_, _ = c.Write(append([]byte{'e'}, data...))
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(data) {
			t.Errorf("%d of %d bytes came back: %v", len(got), len(data), err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c := dial()
		defer c.Close()
		_, _ = io.WriteString(c, "r")
		got, err := io.ReadAll(c)
		if string(got) != said || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d bytes of %d, then %v; want all, then a reset", len(got), len(said), err)
		}
	})
	t.Run("half-close", func(t *testing.T) {
		c := dial()
		defer c.Close()
		_, _ = io.WriteString(c, "h")
		got, err := io.ReadAll(c)
		if string(got) != said || err != nil {
			t.Errorf("read %d bytes of %d, then %v", len(got), len(said), err)
		}
		time.Sleep(50 * time.Millisecond)
		if _, err := io.WriteString(c, "after"); err != nil {
			t.Error(err)
		}
		must(t, c.CloseWrite())
		select {
		case got := <-heard:
			if got != "after <nil>" {
				t.Errorf("the origin heard %q after its half-close, want all and the end", got)
			}
		case <-time.After(testTimeout):
			t.Error("the origin hears nothing after its half-close")
		}
	})
}

// TestForeignSource: a LAN host cannot send as a site that is elsewhere.
func TestForeignSource(t *testing.T) {
	o := serve(t, echo)
	sha, _, _, _ := twoGateways(t, o, acme+"      hq2: {at: sha, prefixes: [10.12.0.0/24]}\n      fr2: {at: fra, prefixes: [10.21.0.0/24]}\n")
	must(t, ask(open(t, sha, "10.12.0.2:1000", "10.20.0.2:80"), "own"))
	for _, src := range []string{"10.21.0.2:1000", "192.0.2.1:1000"} {
		wantReset(t, open(t, sha, src, "10.20.0.2:80"))
	}
	if st := sha.Status().Flows; st.Refused != 2 {
		t.Errorf("%d refused, want 2", st.Refused)
	}
}

// TestCloseBound: an end with flows open comes soon, and the clients see a reset.
func TestCloseBound(t *testing.T) {
	o := serve(t, echo)
	sha, fra, _, _ := twoGateways(t, o, acme)
	var conns []*net.TCPConn
	for range 20 {
		c := open(t, sha, "10.10.0.2:1000", "10.20.0.2:80")
		must(t, turn(c))
		conns = append(conns, c)
	}
	for _, n := range []*Node{sha, fra} {
		began := time.Now()
		must(t, n.Close())
		if d := time.Since(began); d >= stopTimeout { // TestVirtualCloseBound wants a second
			t.Errorf("closing took %v, want less than %v", d, stopTimeout)
		}
	}
	for _, c := range conns {
		wantReset(t, c)
	}
}

// TestAgent: an agent with proxies only, its site's flows out, and flows to a host of its site in.
func TestAgent(t *testing.T) {
	o := serve(t, echo)
	ports := takePorts(t, 7)
	plant := fmt.Sprintf("      plant: {at: sha, prefixes: [10.11.0.0/24], public_key: %s}\n", keyPlant.Public())
	access := fmt.Sprintf("    access:\n      acc1: {interface: lo, address: 127.0.0.1:%d}\n    lan: [lan0]\n  fra:", ports[4])
	fleet := strings.Replace(fleetOf(ports, acme+plant), "    lan: [lan0]\n  fra:", access, 1)
	fra, _ := startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA, Dial: o.dial})
	startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA})
	file, err := config.ParseAgent(fmt.Appendf(nil, `tenant: acme
site: plant
key: plant.key
gateway:
  name: sha
  public_key: %s
  addresses: [127.0.0.1:%d]
uplinks: {isp1: {interface: lo}}
prefixes: [10.11.0.0/24]
socks5: 127.0.0.1:%d
http_connect: 127.0.0.1:%d
`, keySHA.Public(), ports[4], ports[5], ports[6]))
	must(t, err)
	cfg, err := file.Node(nil)
	must(t, err)
	agent, book := startNode(t, cfg, Options{Role: RoleAgent, Key: keyPlant, Dial: o.dial, SOCKS5: file.SOCKS5, HTTPConnect: file.HTTPConnect})
	book.waitFor(t, "routes learned", "from=sha")

	t.Run("socks5", func(t *testing.T) {
		c := dialTCP(t, file.SOCKS5)
		_, err := c.Write([]byte{5, 1, 0, 5, 1, 0, 1, 10, 20, 0, 2, 0, 80})
		must(t, err)
		if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
			t.Fatal(err)
		}
		must(t, ask(c, "through socks"))
	})
	t.Run("http connect", func(t *testing.T) {
		c := dialTCP(t, file.HTTPConnect)
		_, err := io.WriteString(c, "CONNECT 10.20.0.2:80 HTTP/1.1\r\nHost: 10.20.0.2:80\r\n\r\n")
		must(t, err)
		answer := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
		if _, err := io.ReadFull(c, answer); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
			t.Fatalf("%q, %v", answer, err)
		}
		must(t, ask(c, "through http"))
	})
	t.Run("no such site", func(t *testing.T) {
		c := dialTCP(t, file.SOCKS5)
		_, err := c.Write([]byte{5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 80})
		must(t, err)
		_, _ = io.ReadFull(c, make([]byte, 12))
		wantReset(t, c)
	})
	t.Run("into the site", func(t *testing.T) {
		must(t, ask(open(t, fra, "10.20.0.2:1000", "10.11.0.7:80"), "to the plant"))
	})
	t.Run("foreign source", func(t *testing.T) {
		wantReset(t, open(t, agent, "10.20.0.2:1000", "10.20.0.2:80"))
	})
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(testTimeout)))
	return c.(*net.TCPConn)
}

// TestWrongKey: a peer with another key than configured is told of in the log, once.
func TestWrongKey(t *testing.T) {
	fleet := fleetOf(takePorts(t, 4), acme)
	_, book := startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA})
	wrong := strings.Replace(fleet, keyFRA.Public().String(), keyPlant.Public().String(), 1)
	sha, _ := startNode(t, nodeConfig(t, wrong, "sha"), Options{Key: keySHA})
	book.waitFor(t, "a peer uses another key than configured", "peer=sha", "hint=")
	eventually(t, testTimeout, func() error {
		if n := sha.Status().Drops["unknown_bond"]; n < 4 {
			return fmt.Errorf("%d unknown datagrams", n)
		}
		return nil
	})
	if lines := book.lines("another key than configured"); len(lines) != 1 {
		t.Errorf("%d lines, want 1:\n%s", len(lines), strings.Join(lines, ""))
	}
}

// TestUnreachable: a gateway that does not answer is told of, once.
func TestUnreachable(t *testing.T) {
	n, book := startNode(t, nodeConfig(t, fleetOf(takePorts(t, 4), acme), "sha"), Options{Key: keySHA})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.watchPeers(ctx, time.Millisecond) }()
	book.waitFor(t, "peer does not answer", "peer=fra", "hint=")
	time.Sleep(watchInterval)
	cancel()
	<-done
	if lines := book.lines("peer does not answer"); len(lines) != 1 {
		t.Errorf("%d lines, want 1", len(lines))
	}
}

func TestPortInUse(t *testing.T) {
	ports := takePorts(t, 4)
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ports[0]})
	must(t, err)
	defer c.Close()
	_, err = Start(context.Background(), nodeConfig(t, fleetOf(ports, acme), "sha"), Options{Role: RoleGateway, Key: keySHA, NoCapture: true, Log: (&logBook{}).logger()})
	if !errors.Is(err, syscall.EADDRINUSE) || hint.Of(err) != "another program has 127.0.0.1:"+strconv.Itoa(ports[0])+"; find it with: ss -lunp" {
		t.Errorf("%v, hint %q", err, hint.Of(err))
	}
}

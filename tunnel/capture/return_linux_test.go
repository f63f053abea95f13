package capture

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/bpf"
)

// dialTransparent dials from the gateway.
func (topo *topology) dialTransparent(src, dst string) (c Conn, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	err = topo.gateway.do(func() (err error) {
		c, err = DialTransparent(ctx, netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst))
		return err
	})
	return c, err
}

// TestPreserveSource: the origin sees the client, and its replies come back to
// the gateway although they are addressed to the client.
func TestPreserveSource(t *testing.T) {
	for _, method := range []bpf.Method{bpf.TCX, bpf.Clsact} {
		t.Run("method="+method.String(), func(t *testing.T) {
			topo := newTopology(t)
			ret := &Return{Interfaces: []string{"wan0"}, Attach: method, Log: testLog(t)}
			must(t, topo.gateway.do(ret.Start))
			defer func() { must(t, ret.Close()) }()
			families(t, func(t *testing.T, client, _, origin string) {
				l := topo.origin.listen(t, hostPort(origin, 0))
				for _, port := range []int{0, 20123} { // below those that the kernel picks
					c, err := topo.dialTransparent(hostPort(client, port), l.Addr().String())
					must(t, err)
					defer c.Close()
					o, err := l.AcceptTCP()
					must(t, err)
					defer o.Close()
					src := addrPort(o.RemoteAddr())
					if src.Addr().String() != client || port != 0 && int(src.Port()) != port {
						t.Errorf("origin sees %v, want %s", src, hostPort(client, port))
					}
					send(t, c, "request")
					expect(t, o, "request")
					must(t, c.CloseWrite())
					if _, err := o.Read(make([]byte, 1)); err != io.EOF {
						t.Errorf("after FIN: %v", err)
					}
					send(t, o, "reply")
					expect(t, c, "reply")
					must(t, o.SetLinger(0), o.Close())
					if _, err := c.Read(make([]byte, 1)); !isReset(err) {
						t.Errorf("after reset: %v", err)
					}
				}
				// Refused by the origin: the reset finds the dialling socket.
				dead := l.Addr().String()
				l.Close()
				if _, err := topo.dialTransparent(hostPort(client, 0), dead); err == nil || !strings.Contains(err.Error(), "connection refused") {
					t.Errorf("dial a closed port: %v", err)
				}
			})
			v, err := ret.Verdicts()
			must(t, err)
			if v[bpf.Captured] == 0 || v[bpf.AssignFailed] != 0 {
				t.Errorf("verdicts %v", v)
			}
			if _, err := topo.dialTransparent(hostPort(client4, 0), hostPort(origin6, 1)); err == nil {
				t.Error("dialled IPv6 from IPv4")
			}
		})
	}
}

// TestReturnLeavesOthersAlone: forwarded connections and the host's own pass.
func TestReturnLeavesOthersAlone(t *testing.T) {
	topo := newTopology(t)
	ret := &Return{Interfaces: []string{"wan0"}, Log: testLog(t)}
	must(t, topo.gateway.do(ret.Start))
	defer func() { must(t, ret.Close()) }()
	families(t, func(t *testing.T, _, _, origin string) {
		l := topo.origin.listen(t, hostPort(origin, 0))
		serveEcho(l)
		for _, from := range []*namespace{topo.client, topo.gateway} {
			c, err := from.dial(l.Addr().String())
			must(t, err)
			expect(t, c, "peer "+c.LocalAddr().String()+"\n")
			c.Close()
		}
	})
	v, err := ret.Verdicts()
	must(t, err)
	if v[bpf.Captured] != 0 || v[bpf.NoSocket] == 0 || v[bpf.Excluded] == 0 {
		t.Errorf("verdicts %v: want no-socket for the forwarded, excluded for the host's own", v)
	}
}

// TestReturnPrefixes: only the given clients.
func TestReturnPrefixes(t *testing.T) {
	topo := newTopology(t)
	ret := &Return{Interfaces: []string{"wan0"}, Prefixes: prefixes("192.0.2.0/24"), Log: testLog(t)}
	must(t, topo.gateway.do(ret.Start))
	defer func() { must(t, ret.Close()) }()
	l := topo.origin.listen(t, hostPort(origin4, 0))
	serveEcho(l)
	c, err := topo.dialTransparent("192.0.2.9:0", l.Addr().String())
	must(t, err)
	expect(t, c, "peer 192.0.2.9")
	c.Close()
	err = topo.gateway.do(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		c, err := DialTransparent(ctx, netip.MustParseAddrPort(hostPort(client4, 0)), addrPort(l.Addr()))
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Error("a reply to a client that is not ours was taken")
	}
	must(t, ret.SetPrefixes(nil))
	c, err = topo.dialTransparent(hostPort(client4, 0), l.Addr().String())
	must(t, err)
	c.Close()
}

// TestCaptureAndPreserve joins both ends in one host: captured on lan0, dialled from the
// client's address and port, replies taken on wan0.
func TestCaptureAndPreserve(t *testing.T) {
	topo := newTopology(t)
	ret := &Return{Interfaces: []string{"wan0"}, Log: testLog(t)}
	must(t, topo.gateway.do(ret.Start))
	defer func() { must(t, ret.Close()) }()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24", "fd77:2::/64")}
	topo.startTransparent(t, tr, func(_ context.Context, f Flow) {
		out, err := topo.dialTransparent(netip.AddrPortFrom(f.Src.Addr(), 0).String(), f.Dst.String())
		if err != nil {
			t.Error(err)
			_ = f.Conn.Reset()
			return
		}
		defer out.Close()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(out, f.Conn)
			_ = out.CloseWrite()
		}()
		_, _ = io.Copy(f.Conn, out)
		_ = f.Conn.CloseWrite()
		<-done
	})
	const size = 8 << 20
	families(t, func(t *testing.T, client, _, origin string) {
		l := topo.origin.listen(t, hostPort(origin, 0))
		serveEcho(l)
		c, err := topo.client.dial(l.Addr().String())
		must(t, err)
		defer c.Close()
		go func() {
			_, _ = io.CopyN(c, zeros{}, size)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		must(t, err)
		head, body, _ := strings.Cut(string(got), "\n")
		if ap, err := netip.ParseAddrPort(strings.TrimPrefix(head, "peer ")); err != nil || ap.Addr().String() != client {
			t.Errorf("origin saw %q, want %s", head, client)
		}
		if len(body) != size {
			t.Errorf("%d bytes came back, want %d", len(body), size)
		}
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestReturnBesideTransparent: both on one NIC, as at a gateway that is entry and exit. What belongs to a connection dialled
// from here is for no rule, and no deny rule either; and what ends first leaves the other in place.
func TestReturnBesideTransparent(t *testing.T) {
	for _, method := range []bpf.Method{bpf.TCX, bpf.Clsact} {
		for _, first := range []string{"return", "transparent"} {
			t.Run("method="+method.String()+"/closed-first="+first, func(t *testing.T) {
				topo := newTopology(t)
				ret := &Return{Interfaces: []string{"lan0"}, Attach: method, Log: testLog(t)}
				must(t, topo.gateway.do(ret.Start))
				log := newFlowLog()
				tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24", "fd77:2::/64"), Attach: method, Policy: bpf.Policy{
					Strangers: bpf.Allow,
					Rules:     []bpf.Rule{{ID: 1, Prefix: netip.MustParsePrefix("192.0.2.0/24"), Action: bpf.Deny}, {ID: 1, Prefix: netip.MustParsePrefix("2001:db8::/32"), Action: bpf.Deny}},
				}}
				topo.startTransparent(t, tr, log.handle)
				defer func() { must(t, ret.Close()) }()
				dialled := func(t *testing.T, client string) {
					t.Helper()
					l := topo.client.listen(t, hostPort(client, 0))
					c, err := topo.dialTransparent(hostPort(map[string]string{client4: "192.0.2.9", client6: "2001:db8::9"}[client], 0), l.Addr().String())
					must(t, err)
					defer c.Close()
					o, err := l.AcceptTCP()
					must(t, err)
					defer o.Close()
					send(t, o, "reply")
					expect(t, c, "reply")
				}
				captured := func(t *testing.T, origin string) {
					t.Helper()
					c, err := topo.client.dial(hostPort(origin, 7000))
					must(t, err)
					defer c.Close()
					log.next(t).done()
				}
				families(t, func(t *testing.T, client, _, origin string) {
					dialled(t, client)
					captured(t, origin)
				})
				if v, err := tr.Verdicts(); err != nil || v[bpf.Denied] != 0 {
					t.Errorf("the classifier has denied answers: %v, %v", v, err)
				}
				if first == "return" {
					must(t, ret.Close())
					captured(t, origin4)
				} else {
					must(t, tr.Close())
					dialled(t, client4)
				}
				must(t, ret.Close(), tr.Close())
				must(t, topo.gateway.do(func() error {
					nic, err := netlink.LinkByName("lan0")
					if err != nil {
						return err
					}
					all, err := netlink.QdiscList(nic)
					for _, q := range all {
						if q.Type() == "clsact" {
							err = errors.Join(err, errors.New("the clsact qdisc stays"))
						}
					}
					return err
				}))
			})
		}
	}
}

package capture

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/landbridge/landbridge/bpf"
)

func TestTransparentCapture(t *testing.T) {
	for _, method := range []bpf.Method{bpf.TCX, bpf.Clsact} {
		t.Run("method="+method.String(), func(t *testing.T) {
			topo := newTopology(t)
			log := newFlowLog()
			tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24", "fd77:2::/64"), Attach: method}
			topo.startTransparent(t, tr, log.handle)
			families(t, func(t *testing.T, client, _, origin string) {
				// Nobody listens at the origin: only capture can accept.
				c, err := topo.client.dial(hostPort(origin, 4711))
				must(t, err)
				defer c.Close()
				f := log.next(t)
				defer f.done()
				if f.Src != addrPort(c.LocalAddr()) || f.Src.Addr().String() != client {
					t.Errorf("Src = %v, client is %v", f.Src, c.LocalAddr())
				}
				if f.Dst.String() != hostPort(origin, 4711) {
					t.Errorf("Dst = %v", f.Dst)
				}
				if f.Kind != KindTransparent {
					t.Errorf("Kind = %q", f.Kind)
				}
				send(t, c, "ping")
				expect(t, f.Conn, "ping")
				// Half-close in one direction, data in the other.
				must(t, c.CloseWrite())
				if _, err := f.Conn.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("after FIN: %v", err)
				}
				send(t, f.Conn, "pong")
				expect(t, c, "pong")
				must(t, f.Conn.CloseWrite())
				if _, err := c.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("after FIN: %v", err)
				}
			})
			v, err := tr.Verdicts()
			must(t, err)
			if v[bpf.CapturedNew] < 2 || v[bpf.Captured] < 4 {
				t.Errorf("verdicts %v: want at least 2 new and 4 captured", v)
			}
		})
	}
}

func TestTransparentReset(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	topo.startTransparent(t, &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("0.0.0.0/0", "::/0")}, log.handle)
	families(t, func(t *testing.T, _, _, origin string) {
		c, err := topo.client.dial(hostPort(origin, 1))
		must(t, err)
		defer c.Close()
		f := log.next(t)
		must(t, f.Conn.Reset())
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("client reads %v, want a reset", err)
		}
		f.done()

		c, err = topo.client.dial(hostPort(origin, 1))
		must(t, err)
		f = log.next(t)
		defer f.done()
		must(t, c.SetLinger(0), c.Close())
		if _, err := f.Conn.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("gateway reads %v, want a reset", err)
		}
	})
}

// TestTransparentLeavesOthersAlone: the host's own services, excluded and
// uncaptured destinations work as if nothing were there.
func TestTransparentLeavesOthersAlone(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"},
		Prefixes: prefixes("0.0.0.0/0", "::/0"),
		Exclude:  prefixes("10.77.2.2/32", "fd77:2::2/128")}
	topo.startTransparent(t, tr, log.handle)
	families(t, func(t *testing.T, client, gateway, origin string) {
		o := topo.origin.listen(t, hostPort(origin, 0))
		serveEcho(o)
		for _, l := range []net.Listener{o, topo.gateway.listen(t, hostPort(gateway, 0))} {
			if l != net.Listener(o) {
				serveEcho(l)
			}
			c, err := topo.client.dial(l.Addr().String())
			must(t, err)
			expect(t, c, "peer "+c.LocalAddr().String()+"\n")
			c.Close()
		}
		log.none(t)
	})
	// A service on the wildcard address has the port of a captured flow: the
	// flow is captured all the same.
	l := topo.gateway.listen(t, ":0")
	c, err := topo.client.dial(hostPort("10.77.2.99", l.Addr().(*net.TCPAddr).Port))
	must(t, err)
	defer c.Close()
	f := log.next(t)
	f.done()
	v, err := tr.Verdicts()
	must(t, err)
	if v[bpf.Excluded] < 12 || v[bpf.CapturedNew] == 0 {
		t.Errorf("verdicts %v: want at least 12 excluded, some new", v)
	}
}

// TestSetPrefixes: new connections follow the new set, old ones stay.
func TestSetPrefixes(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("192.0.2.0/24")}
	topo.startTransparent(t, tr, log.handle)
	families(t, func(t *testing.T, _, _, origin string) {
		l := topo.origin.listen(t, hostPort(origin, 0))
		serveEcho(l)
		direct := func() {
			t.Helper()
			c, err := topo.client.dial(l.Addr().String())
			must(t, err)
			defer c.Close()
			expect(t, c, "peer ")
			log.none(t)
		}
		direct()
		must(t, tr.SetPrefixes(prefixes("10.77.0.0/16", "fd77::/16"), nil))
		c, err := topo.client.dial(l.Addr().String())
		must(t, err)
		defer c.Close()
		f := log.next(t)
		defer f.done()

		must(t, tr.SetPrefixes(nil, nil))
		direct()
		send(t, c, "still captured")
		expect(t, f.Conn, "still captured")

		must(t, tr.SetPrefixes(prefixes("10.0.0.0/8", "fd00::/8"), prefixes("10.77.2.0/24", "fd77:2::/64")))
		direct()
		send(t, f.Conn, "both ways")
		expect(t, c, "both ways")
		must(t, tr.SetPrefixes(nil, nil))
	})
	if err := tr.SetPrefixes(prefixes("10.77.1.1/16"), nil); err == nil {
		t.Error("took a prefix with bits beyond its length")
	}
}

// TestTransparentErrors: what an operator gets wrong has one clear line.
func TestTransparentErrors(t *testing.T) {
	topo := newTopology(t)
	start := func(tr *Transparent) error {
		return topo.gateway.do(func() error { return tr.Start(context.Background(), newFlowLog().handle) })
	}
	busy := topo.gateway.listen(t, "127.0.0.1:0")
	tests := []struct {
		name string
		tr   *Transparent
		want string
	}{
		{"no interface", &Transparent{}, "start transparent capture: no interfaces given: at least one is needed"},
		{"unknown interface", &Transparent{Interfaces: []string{"lan9"}}, "start transparent capture: interface lan9: route ip+net: no such network interface"},
		{"host bits", &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.1.2.3/8")}, "start transparent capture: captured prefix: 10.1.2.3/8: bits set beyond the length, meant 10.0.0.0/8?"},
		{"port in use", &Transparent{Interfaces: []string{"lan0"}, ListenPort: uint16(addrPort(busy.Addr()).Port())},
			"start transparent capture: listen on tcp4 port " + itoa(addrPort(busy.Addr()).Port()) + ": listen tcp4 " + busy.Addr().String() + ": bind: address already in use"},
		{"negative flows", &Transparent{Interfaces: []string{"lan0"}, MaxFlows: -1}, "start transparent: max flows -1: must not be negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := start(tt.tr)
			if err == nil {
				tt.tr.Close()
				t.Fatal("started")
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
	var hint interface{ Hint() string }
	if err := start(&Transparent{Interfaces: []string{"lan9"}}); !errors.As(err, &hint) || hint.Hint() != "this network namespace has lo, lan0, wan0" {
		t.Errorf("hint: %v", hint)
	}
	if rules := topo.rules(t); rules != 0 {
		t.Errorf("%d rules left behind", rules)
	}
}

func itoa(p uint16) string {
	return netip.AddrPortFrom(netip.IPv4Unspecified(), p).String()[len("0.0.0.0:"):]
}

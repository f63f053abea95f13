package capture

import (
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/vishvananda/netlink"
)

// rules counts ours in the gateway, over both families.
func (topo *topology) rules(t testing.TB) (n int) {
	t.Helper()
	must(t, topo.gateway.do(func() error {
		all, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, r := range all {
			if r.Mark == DefaultMark || r.Mark == DefaultReturnMark {
				n++
			}
		}
		return err
	}))
	return n
}

// routes counts those in our tables.
func (topo *topology) routes(t testing.TB) (n int) {
	t.Helper()
	must(t, topo.gateway.do(func() error {
		for _, table := range []int{DefaultTable, DefaultReturnTable} {
			all, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
			if err != nil {
				return err
			}
			n += len(all)
		}
		return nil
	}))
	return n
}

// qdiscs counts clsact on lan0.
func (topo *topology) qdiscs(t testing.TB) (n int) {
	t.Helper()
	must(t, topo.gateway.do(func() error {
		l, err := netlink.LinkByName("lan0")
		if err != nil {
			return err
		}
		all, err := netlink.QdiscList(l)
		for _, q := range all {
			if q.Type() == "clsact" {
				n++
			}
		}
		return err
	}))
	return n
}

func TestCloseLeavesNothing(t *testing.T) {
	for _, method := range []bpf.Method{bpf.TCX, bpf.Clsact} {
		t.Run("method="+method.String(), func(t *testing.T) {
			topo := newTopology(t)
			l := topo.origin.listen(t, ":7")
			serveEcho(l)
			log := newFlowLog()
			tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24"), Attach: method}
			ret := &Return{Interfaces: []string{"lan0", "wan0"}, Attach: method, Log: testLog(t)}
			for range 2 { // and it can be started again
				topo.startTransparent(t, tr, log.handle)
				must(t, topo.gateway.do(ret.Start))
				if rules, routes := topo.rules(t), topo.routes(t); rules != 4 || routes != 4 {
					t.Errorf("%d rules and %d routes, want 4 each", rules, routes)
				}
				c, err := topo.client.dial(hostPort(origin4, 7))
				must(t, err)
				log.next(t)
				must(t, tr.Close(), ret.Close(), tr.Close())
				if _, err := c.Read(make([]byte, 1)); !isReset(err) {
					t.Errorf("a flow in progress ends with %v, want a reset", err)
				}
				if rules, routes, qdiscs := topo.rules(t), topo.routes(t), topo.qdiscs(t); rules+routes+qdiscs != 0 {
					t.Errorf("left behind: %d rules, %d routes, %d clsact", rules, routes, qdiscs)
				}
				c, err = topo.client.dial(hostPort(origin4, 7))
				must(t, err)
				expect(t, c, "peer "+client4)
				c.Close()
			}
		})
	}
}

// TestInterfaceComesBack: a NIC that goes away costs only itself, and is
// captured on again when it is back under another index.
func TestInterfaceComesBack(t *testing.T) {
	for _, method := range []bpf.Method{bpf.TCX, bpf.Clsact} {
		t.Run("method="+method.String(), func(t *testing.T) {
			topo := newTopology(t)
			log := newFlowLog()
			tr := &Transparent{Interfaces: []string{"lan0", "wan0"}, Prefixes: prefixes("192.0.2.0/24"), Attach: method}
			topo.startTransparent(t, tr, log.handle)
			attached := func() string { return strings.Join(tr.Attached(), " ") }
			if got := attached(); got != "lan0 wan0" {
				t.Fatalf("attached to %q", got)
			}
			must(t, topo.gateway.do(func() error {
				l, err := netlink.LinkByName("lan0")
				if err != nil {
					return err
				}
				return netlink.LinkDel(l)
			}))
			eventually(t, "lan0 noticed as gone", func() bool { return attached() == "wan0" })
			c, err := topo.origin.dial("192.0.2.1:80")
			must(t, err)
			defer c.Close()
			log.next(t).done()

			topo.connectClient(t)
			eventually(t, "lan0 captured again", func() bool { return attached() == "lan0 wan0" })
			c, err = topo.client.dial("192.0.2.1:80")
			must(t, err)
			defer c.Close()
			log.next(t).done()

			// Another interface under the name is another interface.
			must(t, topo.gateway.do(func() error {
				l, err := netlink.LinkByName("lan0")
				if err != nil {
					return err
				}
				if err := netlink.LinkSetDown(l); err != nil {
					return err
				}
				return netlink.LinkSetName(l, "lan1")
			}))
			eventually(t, "renamed lan0 noticed", func() bool { return attached() == "wan0" })
		})
	}
}

// TestInterfaceLate: of several NICs one may be missing at the start.
func TestInterfaceLate(t *testing.T) {
	topo := newTopology(t)
	must(t, topo.gateway.do(func() error {
		l, err := netlink.LinkByName("lan0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	}))
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0", "wan0"}, Prefixes: prefixes("192.0.2.0/24")}
	topo.startTransparent(t, tr, log.handle)
	attached := func() string { return strings.Join(tr.Attached(), " ") }
	if got := attached(); got != "wan0" {
		t.Fatalf("attached to %q", got)
	}
	topo.connectClient(t)
	eventually(t, "lan0 captured", func() bool { return attached() == "lan0 wan0" })
	c, err := topo.client.dial("192.0.2.1:80")
	must(t, err)
	defer c.Close()
	log.next(t).done()
}

// TestLocalAddressAdded: an address the host gets later is its own at once.
func TestLocalAddressAdded(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("0.0.0.0/0")}
	topo.startTransparent(t, tr, log.handle)
	must(t, topo.gateway.do(func() error { return address("lan0", "192.0.2.77/32") }))
	l := topo.gateway.listen(t, "192.0.2.77:0")
	serveEcho(l)
	eventually(t, "connection to the host itself", func() bool {
		c, err := topo.client.dial(l.Addr().String())
		must(t, err)
		defer c.Close()
		b := make([]byte, 4)
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, _ := c.Read(b)
		return string(b[:n]) == "peer"
	})
}

// TestKilled: what a killed process leaves behind, rules, routes and a filter,
// does not stop the next one, which also cleans it up.
func TestKilled(t *testing.T) {
	topo := newTopology(t)
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24"), Attach: bpf.Clsact}
	must(t, topo.gateway.do(func() error {
		route := policyRoute{mark: DefaultMark, table: DefaultTable, priority: DefaultRulePriority}
		if _, err := route.install(); err != nil {
			return err
		}
		p, err := bpf.LoadClassifier(bpf.ClassifierConfig{Config: bpf.Config{Mark: DefaultMark}})
		if err != nil {
			return err
		}
		defer p.Close()
		l, err := netlink.LinkByName("lan0")
		if err != nil {
			return err
		}
		_, err = p.Attach(l.Attrs().Index, bpf.Clsact) // and no Close
		return err
	}))
	topo.startTransparent(t, tr, log.handle)
	c, err := topo.client.dial(hostPort(origin4, 7))
	must(t, err)
	defer c.Close()
	log.next(t).done()
	must(t, tr.Close())
	if rules, routes := topo.rules(t), topo.routes(t); rules+routes != 0 {
		t.Errorf("left behind: %d rules, %d routes", rules, routes)
	}
}

func TestLoopbackDown(t *testing.T) {
	topo := newTopology(t)
	must(t, topo.gateway.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	}))
	tr := &Transparent{Interfaces: []string{"lan0"}}
	err := topo.gateway.do(func() error { return tr.Start(t.Context(), newFlowLog().handle) })
	if err == nil || !strings.Contains(err.Error(), "interface lo is down") {
		t.Errorf("start: %v", err)
	}
}

package node

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// tellSource lets a machine answer each TCP connection and each datagram with the address it sees it come from.
func (m *machines) tellSource(machine, at string) {
	m.t.Helper()
	m.serve(machine, at, func(c *net.TCPConn) {
		defer c.Close()
		for r := bufio.NewReader(c); ; {
			if _, err := r.ReadString('\n'); err != nil {
				return
			}
			fmt.Fprintln(c, c.RemoteAddr())
		}
	})
	u, err := wan.ListenUDPIn(m.ns(machine), netip.MustParseAddrPort(at))
	must(m.t, err)
	m.t.Cleanup(func() { u.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = u.WriteToUDPAddrPort(fmt.Appendln(nil, from), from)
		}
	}()
}

// asker asks tellSource again and again over one connection or one socket.
type asker struct {
	net.Conn
	r *bufio.Reader
}

func newAsker(c net.Conn) *asker { return &asker{c, bufio.NewReader(c)} }

func (a *asker) source(within time.Duration) (netip.Addr, error) {
	_ = a.SetDeadline(time.Now().Add(within))
	if _, err := fmt.Fprintln(a, "who am I?"); err != nil {
		return netip.Addr{}, err
	}
	s, err := a.r.ReadString('\n')
	if err != nil {
		return netip.Addr{}, err
	}
	ap, err := netip.ParseAddrPort(strings.TrimSpace(s))
	return ap.Addr().Unmap(), err
}

// TestDirectMasqueraded: with direct: route, direct flows leave by the picked carrier under its address, which the host's own
// nftables give them, and answers come back; the rest of the host's routing does not matter, and nothing is left of it.
func TestDirectMasqueraded(t *testing.T) {
	t.Parallel()
	requireNFT(t)
	m := newMachines(t)
	m.dualCarriers()
	for _, host := range []string{"10.20.0.2", "[fd00:20::2]"} {
		m.tellSource("origin", host+":7001")
	}
	m.serve("origin", "10.20.0.2:80", echo)
	// Where the host would send them by itself: nowhere.
	m.in("sha", func() error {
		_, dst, err := net.ParseCIDR("10.20.0.0/24")
		return errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}))
	})
	m.nft("sha", `table inet natted {
		counter ef { }
		counter verdict { }
		chain pre { type filter hook prerouting priority mangle; meta mark & 0xff00000f == 2 udp dport 9999 counter name verdict; }
		chain pass { type filter hook forward priority filter; ip dscp ef udp dport 7001 counter name ef; }
		chain post { type nat hook postrouting priority srcnat; oifname { "ct0", "cu0" } masquerade; }
	}`)
	document := m.fleet(withRules(directTCP[:strings.IndexByte(directTCP, '\n')+1]))
	routed := strings.NewReplacer("10.1.1.1:4500, rate", "10.1.1.1:4500, direct: route, rate", "10.1.2.1:4500, rate", "10.1.2.1:4500, direct: route, rate",
		"    exit: {preserve_source: true}\n  fra:", "    exit: {preserve_source: true}\n    guard: enforce\n  fra:").Replace(document) +
		"marks: {dscp: {realtime: ef}, verdicts: true}\n"
	m.write("fleet.yaml", routed)
	sha, _ := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")

	under := map[string][]string{"ct0": {"10.1.1.1", "fd00:1:1::1"}, "cu0": {"10.1.2.1", "fd00:1:2::1"}}
	family := func(a netip.Addr) int {
		if a.Is4() {
			return 0
		}
		return 1
	}
	// from waits until what the asker sends comes from the carrier's address. An answer that was late for the question
	// before is the first one to the next.
	from := func(a *asker, dev func() (string, error)) {
		t.Helper()
		eventually(t, testTimeout, func() error {
			got, err := a.source(200 * time.Millisecond)
			if err != nil {
				return err
			}
			nic, err := dev()
			if err == nil && under[nic][family(got)] != got.String() {
				err = fmt.Errorf("%s over %s comes from %v, want %v", a.LocalAddr(), nic, got, under[nic])
			}
			return err
		})
	}
	var dev string
	var calls []*asker
	for _, tc := range []struct{ network, from, to string }{
		{"tcp", "", "10.20.0.2:7001"}, {"tcp", "", "[fd00:20::2]:7001"},
		{"udp", "10.10.0.2:6000", "10.20.0.2:7001"}, {"udp", "[fd00:10::2]:6000", "[fd00:20::2]:7001"},
	} {
		var c net.Conn
		m.in("client", func() (err error) {
			d := net.Dialer{Timeout: testTimeout}
			if tc.from != "" {
				d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(tc.from))
			}
			c, err = d.Dial(tc.network, tc.to)
			return err
		})
		defer c.Close()
		a := newAsker(c)
		from(a, func() (string, error) {
			f := m.fate("sha", fmt.Sprintf("%s %s %s", tc.network, c.LocalAddr(), tc.to))
			if len(f.Path) < 2 {
				return "", fmt.Errorf("%s to %s: %+v", tc.network, tc.to, f)
			}
			dev = f.Path[:2] + "0" // ct-ct over ct0
			return dev, nil
		})
		if tc.network == "udp" {
			calls = append(calls, a)
		}
	}
	if v := m.verdicts("sha", "classifier"); v["routed"] == 0 || v["sent-direct"] != 0 {
		t.Errorf("verdicts %v, want all direct packets left to the host", v)
	}

	// Marks: DSCP of the class on direct packets, the verdict on those that the host gets.
	m.in("client", func() error {
		c, err := net.Dial("udp", "10.20.0.2:9999")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("none of ours"))
		return err
	})
	eventually(t, testTimeout, func() error {
		if ef, verdict := m.counted("sha", "ef"), m.counted("sha", "verdict"); ef == 0 || verdict == 0 {
			return fmt.Errorf("%d packets with DSCP ef, %d with a verdict, want some of both", ef, verdict)
		}
		return nil
	})

	// Calls go on over the other carrier, under its address.
	m.setDown("sha", dev, true)
	other := map[string]string{"ct0": "cu0", "cu0": "ct0"}[dev]
	for _, a := range calls {
		from(a, func() (string, error) { return other, nil })
	}
	m.setDown("sha", dev, false)

	if n := len(m.directTables("sha")); n != 2 {
		t.Errorf("%d tables for direct flows, want one a path, 2", n)
	}
	must(t, sha.cmd.Process.Signal(syscall.SIGTERM))
	sha.end(testTimeout)
	if n := m.rules("sha"); n != 0 || len(m.directTables("sha")) != 0 {
		t.Errorf("%d rules and tables %v are left behind", n, m.directTables("sha"))
	}
}

// counted is how many packets a counter of the table natted has seen.
func (m *machines) counted(machine, counter string) (n int) {
	m.t.Helper()
	m.in(machine, func() error {
		out, err := exec.Command("nft", "list", "counter", "inet", "natted", counter).CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		_, rest, _ := strings.Cut(string(out), "packets ")
		_, err = fmt.Sscan(rest, &n)
		return err
	})
	return n
}

// directTables are the tables for direct flows that have an IPv4 route, with their number.
func (m *machines) directTables(machine string) map[int]int {
	m.t.Helper()
	out := map[int]int{}
	m.in(machine, func() error {
		all, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		for _, r := range all {
			if r.Table&^0xffff == directMark {
				out[r.Table]++
			}
		}
		return err
	})
	return out
}

// TestDirectRoutes: what a path's table has, as its interface's routes change.
func TestDirectRoutes(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.dualCarriers()
	var d *directRoutes
	table := func(family int) string {
		all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: directTable(7)}, netlink.RT_FILTER_TABLE)
		must(t, err)
		var out []string
		for _, r := range all {
			v := toDirectRoutes(family, &r)[0]
			switch {
			case v.nic == 0:
				out = append(out, fmt.Sprintf("%v refused", v.dst))
			case v.gw.IsValid():
				out = append(out, fmt.Sprintf("%v via %v", v.dst, v.gw))
			default:
				out = append(out, v.dst.String())
			}
		}
		return strings.Join(out, ", ")
	}
	add := func(table, nic int, dst, gw string) *netlink.Route {
		r := &netlink.Route{LinkIndex: nic, Table: table, Gw: net.ParseIP(gw)}
		if dst != "" {
			_, r.Dst, _ = net.ParseCIDR(dst)
		}
		must(t, netlink.RouteAdd(r))
		return r
	}
	m.in("sha", func() error {
		d = newDirectRoutes(slog.New(slog.DiscardHandler))
		nic, err := netlink.LinkByName("ct0")
		if err != nil {
			return err
		}
		i := nic.Attrs().Index
		peer := netip.MustParseAddr("10.1.1.2")
		set := func(dev string) error {
			v := routesNow(t, peer)
			return d.set(7, v.hopTo(dev, peer), v)
		}
		check := func(what, v4, v6 string) {
			t.Helper()
			must(t, set("ct0"))
			if got := table(unix.AF_INET); got != v4 {
				t.Errorf("%s: IPv4 %s, want %s", what, got, v4)
			}
			if got := table(unix.AF_INET6); got != v6 {
				t.Errorf("%s: IPv6 %s, want %s", what, got, v6)
			}
		}
		const link6 = "fd00:1:1::/64, fd00:20::/64 via fd00:1:1::2, "
		// IPv6 has one router on this link, IPv4 none: then the peer is it.
		check("no default", "0.0.0.0/0 via 10.1.1.2, 0.0.0.0/0 refused, 10.1.1.0/24", link6+"::/0 via fd00:1:1::2, ::/0 refused")
		_, all, err := net.ParseCIDR("0.0.0.0/0")
		must(t, err)
		own := add(201, i, "", "10.1.1.9")
		check("default in a table of the host's own", "0.0.0.0/0 via 10.1.1.9, 0.0.0.0/0 refused, 10.1.1.0/24", link6+"::/0 via fd00:1:1::2, ::/0 refused")
		add(unix.RT_TABLE_MAIN, i, "", "10.1.1.8")
		add(unix.RT_TABLE_MAIN, i, "::/0", "fd00:1:1::8")
		add(unix.RT_TABLE_MAIN, i, "10.30.0.0/16", "10.1.1.7")
		check("default", "0.0.0.0/0 via 10.1.1.8, 0.0.0.0/0 refused, 10.1.1.0/24, 10.30.0.0/16 via 10.1.1.7", link6+"::/0 via fd00:1:1::8, ::/0 refused")
		// Of two routers on two carriers each table has its own; an IPv6 router leads to IPv4 too (RFC 5549).
		must(t, netlink.RouteDel(&netlink.Route{LinkIndex: i, Table: unix.RT_TABLE_MAIN, Dst: all, Gw: net.ParseIP("10.1.1.8")}))
		cu, err := netlink.LinkByName("cu0")
		must(t, err)
		_, far, err := net.ParseCIDR("10.40.0.0/16")
		must(t, err,
			netlink.RouteAdd(&netlink.Route{Dst: all, MultiPath: []*netlink.NexthopInfo{{LinkIndex: cu.Attrs().Index, Gw: net.ParseIP("10.1.2.6")}, {LinkIndex: i, Gw: net.ParseIP("10.1.1.6")}}}),
			netlink.RouteAdd(&netlink.Route{LinkIndex: i, Dst: far, Via: &netlink.Via{AddrFamily: unix.AF_INET6, Addr: net.ParseIP("fd00:1:1::7")}}))
		check("several routers, and one of the other family", "0.0.0.0/0 via 10.1.1.6, 0.0.0.0/0 refused, 10.1.1.0/24, 10.30.0.0/16 via 10.1.1.7, 10.40.0.0/16 via fd00:1:1::7",
			link6+"::/0 via fd00:1:1::8, ::/0 refused")
		check("the same again", "0.0.0.0/0 via 10.1.1.6, 0.0.0.0/0 refused, 10.1.1.0/24, 10.30.0.0/16 via 10.1.1.7, 10.40.0.0/16 via fd00:1:1::7",
			link6+"::/0 via fd00:1:1::8, ::/0 refused")
		must(t, netlink.RouteDel(own), netlink.LinkSetDown(nic))
		check("down", "0.0.0.0/0 refused", "::/0 refused")
		// Whoever cleans up the host's rules does not send direct flows elsewhere for long.
		must(t, netlink.RuleDel(directRule(unix.AF_INET, directTable(7))))
		must(t, set("ct0"))
		must(t, netlink.RuleDel(directRule(unix.AF_INET, directTable(7))))
		must(t, set("gone0"), d.remove(7))
		if v4, v6 := table(unix.AF_INET), table(unix.AF_INET6); v4+v6 != "" {
			t.Errorf("left: %s %s", v4, v6)
		}
		// Without IPv6 on the NIC there is nothing to tell; but where a route is wanted and not to be had, packets are refused.
		must(t, netlink.LinkSetUp(nic), os.WriteFile("/proc/sys/net/ipv6/conf/ct0/disable_ipv6", []byte("1"), 0))
		must(t, set("ct0"), d.remove(7))
		v := routesNow(t, peer)
		hop := v.hopTo("ct0", peer)
		if hop.NextHop6 = netip.MustParseAddr("fd00:1:1::2"); d.set(7, hop, v) == nil {
			t.Error("an IPv6 route that is not to be had is no error")
		}
		if got := table(unix.AF_INET6); got != "::/0 refused" {
			t.Errorf("IPv6 without its route: %s, want refused", got)
		}
		if err := netlink.RuleDel(directRule(unix.AF_INET6, directTable(7))); err != nil {
			t.Errorf("the rule of a table without its route: %v", err)
		}
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0))
		must(t, set("ct0"), d.remove(7))
		must(t, set("gone0"))
		// A process without direct flows on the same host leaves them alone.
		k, err := newKernel(slog.New(slog.DiscardHandler), false)
		must(t, err, k.close())
		if v4 := table(unix.AF_INET); v4 != "0.0.0.0/0 refused" {
			t.Errorf("after a process without direct flows: %s", v4)
		}
		newDirectRoutes(slog.New(slog.DiscardHandler)) // after a killed process
		if v4, v6 := table(unix.AF_INET), table(unix.AF_INET6); v4+v6 != "" {
			t.Errorf("left by another process: %s %s", v4, v6)
		}
		return nil
	})
	if n := m.rules("sha"); n != 0 {
		t.Errorf("%d rules are left", n)
	}
}

// TestDirectRoutesAgain: a path that gets the number of one that has just gone has its table at once, though the routes were read
// when that was still the other's.
func TestDirectRoutesAgain(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.in("sha", func() error {
		d := newDirectRoutes(slog.New(slog.DiscardHandler))
		defer d.close()
		peer := netip.MustParseAddr("10.1.1.2")
		v := routesNow(t, peer)
		must(t, d.set(7, v.hopTo("ct0", peer), v))
		v = routesNow(t, peer)
		at := familyOf{unix.AF_INET, directTable(7)}
		before := v.direct[at]
		must(t, d.remove(7), d.set(7, v.hopTo("ct0", peer), v))
		if after := routesNow(t, peer).direct[at]; len(before) == 0 || !slices.Equal(after, before) {
			t.Errorf("table %v, want %v as before", after, before)
		}
		// What such a view does show is not written again: that would be news, and another view.
		v = routesNow(t, peer)
		wrote := d.wrote[at]
		if must(t, d.set(7, v.hopTo("ct0", peer), v)); d.wrote[at] != wrote {
			t.Error("what was there was written again")
		}
		return nil
	})
}

package node

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/internal/admin"
)

// directTCP sends what each site opens directly, on ports of its own, so that no rule is for the answers by chance.
const directTCP = `      - {from: [10.10.0.0/24, "fd00:10::/64"], protocol: [tcp, udp], ports: 7000-7999, action: direct, class: realtime}
      - {from: [10.20.0.0/24, "fd00:20::/64"], protocol: [tcp, udp], ports: 8000-8999, action: direct, class: realtime}
      - {from: [10.20.0.0/24], to: 10.10.0.0/24, protocol: tcp, ports: 40000-65535, action: deny}
`

// dualCarriers gives the carriers IPv6 and routes to the sites' on both.
func (m *machines) dualCarriers() {
	m.t.Helper()
	for n, dev := range []string{"ct0", "cu0"} {
		for machine, v := range map[string]struct{ own, hop, site string }{
			"sha": {"fd00:1:%d::1/64", "fd00:1:%d::2", "fd00:20::/64"}, "fra": {"fd00:1:%d::2/64", "fd00:1:%d::1", "fd00:10::/64"},
		} {
			m.in(machine, func() error {
				nic, err := netlink.LinkByName(dev)
				if err != nil {
					return err
				}
				a, err := netlink.ParseAddr(fmt.Sprintf(v.own, n+1))
				if err != nil {
					return err
				}
				a.Flags = syscall.IFA_F_NODAD
				_, dst, err := net.ParseCIDR(v.site)
				if err != nil {
					return err
				}
				return errors.Join(netlink.AddrAdd(nic, a), netlink.RouteAdd(&netlink.Route{
					LinkIndex: nic.Attrs().Index, Dst: dst, Gw: net.ParseIP(fmt.Sprintf(v.hop, n+1)), Priority: 100 + n,
				}))
			})
		}
	}
}

// TestHopTo: where direct flows go on an interface, in both families.
func TestHopTo(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.in("sha", func() error {
		nic, err := netlink.LinkByName("ct0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr("fd00:1:1::1/64")
		if err != nil {
			return err
		}
		a.Flags = syscall.IFA_F_NODAD
		return netlink.AddrAdd(nic, a)
	})
	peer4, peer6, none := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("fd00:1:1::2"), netip.Addr{}
	for _, tc := range []struct {
		name   string
		routes []string
		remote netip.Addr
		v4, v6 netip.Addr
	}{
		{"nothing but the link", nil, peer4, peer4, none},
		{"of the other family", nil, peer6, peer6, peer6},
		{"far away", []string{"10.9.0.0/16 via 10.1.1.7"}, netip.MustParseAddr("10.9.1.1"), netip.MustParseAddr("10.1.1.7"), none},
		{"default", []string{"default via 10.1.1.7", "default via fd00:1:1::7"}, peer4, none, netip.MustParseAddr("fd00:1:1::7")},
		{"one router of the other family", []string{"fd00:20::/64 via fd00:1:1::7", "fd00:30::/64 via fd00:1:1::7"}, peer4, peer4, netip.MustParseAddr("fd00:1:1::7")},
		{"two routers of the other family", []string{"fd00:20::/64 via fd00:1:1::7", "fd00:30::/64 via fd00:1:1::8"}, peer4, peer4, none},
		{"one of several routers", []string{"default via 10.1.1.7, 10.1.1.8", "default via fd00:1:1::7, fd00:1:1::8"}, peer4, none, netip.MustParseAddr("fd00:1:1::7")},
		{"IPv4 by an IPv6 router", []string{"10.9.0.0/16 via fd00:1:1::7"}, netip.MustParseAddr("10.9.1.1"), netip.MustParseAddr("fd00:1:1::7"), none},
		{"IPv4 by default, IPv6 peer", []string{"default via 10.1.1.7"}, peer6, none, peer6},
	} {
		m.in("sha", func() error {
			nic, err := netlink.LinkByName("ct0")
			if err != nil {
				return err
			}
			var all []*netlink.Route
			for _, text := range tc.routes {
				dst, gw, _ := strings.Cut(text, " via ")
				r := &netlink.Route{LinkIndex: nic.Attrs().Index, Gw: net.ParseIP(gw)}
				if first, second, several := strings.Cut(gw, ", "); several {
					_, all, _ := net.ParseCIDR(map[bool]string{true: "::/0", false: "0.0.0.0/0"}[strings.Contains(gw, ":")])
					r = &netlink.Route{Dst: all, MultiPath: []*netlink.NexthopInfo{
						{LinkIndex: nic.Attrs().Index, Gw: net.ParseIP(first)}, {LinkIndex: nic.Attrs().Index, Gw: net.ParseIP(second)},
					}}
				} else if strings.Contains(gw, ":") && !strings.Contains(dst, ":") && dst != "default" {
					r.Gw, r.Via = nil, &netlink.Via{AddrFamily: syscall.AF_INET6, Addr: r.Gw}
				}
				if dst != "default" {
					if _, r.Dst, err = net.ParseCIDR(dst); err != nil {
						return err
					}
				}
				if err := netlink.RouteAdd(r); err != nil {
					return fmt.Errorf("%s: %w", text, err)
				}
				all = append(all, r)
			}
			if p := routesNow(t, tc.remote).hopTo("ct0", tc.remote); p.Ifindex != nic.Attrs().Index || p.NextHop != tc.v4 || p.NextHop6 != tc.v6 {
				t.Errorf("%s: %+v, want %v and %v", tc.name, p, tc.v4, tc.v6)
			}
			for _, r := range all {
				if err := netlink.RouteDel(r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	m.in("sha", func() error {
		if p := routesNow(t, peer4).hopTo("none0", peer4); p.Ifindex != 0 {
			t.Errorf("no interface: %+v", p)
		}
		return nil
	})
}

// routesNow are the routes of the calling thread's namespace.
func routesNow(t testing.TB, remotes ...netip.Addr) *routeView {
	t.Helper()
	v, err := readRoutes(remotes)
	must(t, err)
	return v
}

// fate is what a node says of one flow.
func (m *machines) fate(node, flow string) admin.ExplainedFlow {
	m.t.Helper()
	x, err := m.explained(node, flow)
	if err != nil || len(x.Flows) != 1 {
		m.t.Fatalf("%s about %s: %+v, %v", node, flow, x, err)
	}
	return x.Flows[0]
}

// TestDirectTCP: connections between two captured LANs go directly over the carriers, whoever opens them, beside tunnelled
// ones, with guards that enforce; and a restart of the far gateway does not end them.
func TestDirectTCP(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.dualCarriers()
	for _, host := range []string{"10.20.0.2", "[fd00:20::2]"} {
		m.serve("origin", host+":80", echo)
		m.serve("origin", host+":7001", echo)
	}
	for _, host := range []string{"10.10.0.2", "[fd00:10::2]"} {
		m.serve("client", host+":80", echo)
		m.serve("client", host+":8001", echo)
	}
	m.write("fleet.yaml", m.fleet(withRules(directTCP))+"guard: enforce\n")
	_, fra := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	m.works(testTimeout, "origin", "10.10.0.2:80")
	text := strings.Repeat("directly ", 30000)
	var held []*net.TCPConn
	for _, tc := range []struct{ from, to, near, far string }{
		{"client", "10.20.0.2:7001", "sha", "fra"}, {"origin", "10.10.0.2:8001", "fra", "sha"},
		{"client", "[fd00:20::2]:7001", "sha", "fra"}, {"origin", "[fd00:10::2]:8001", "fra", "sha"},
	} {
		must(t, m.ask(tc.from, tc.to, text))
		c, err := m.dial(tc.from, tc.to)
		must(t, err, turn(c))
		defer c.Close()
		held = append(held, c)
		if f := m.fate(tc.near, fmt.Sprintf("tcp %s %s", c.LocalAddr(), tc.to)); f.Fate != admin.FlowDirect || f.Path == "" || f.Note != "" {
			t.Errorf("%s: %+v, want direct", tc.to, f)
		}
		// The far side has the answers, with the rule that they are for.
		if f := m.fate(tc.far, fmt.Sprintf("tcp %s %s", tc.to, c.LocalAddr())); f.Fate != admin.FlowDirect || f.Path == "" || f.Class != "realtime" ||
			f.RuleNumber == 0 || f.Peer != tc.near || !strings.Contains(f.Note, "answers a flow") {
			t.Errorf("answers of %s: %+v, want direct", tc.to, f)
		}
	}
	for _, tc := range []struct{ from, to, node string }{
		{"client", "10.20.0.2:80", "sha"}, {"origin", "10.10.0.2:80", "fra"}, {"client", "[fd00:20::2]:80", "sha"}, {"origin", "[fd00:10::2]:80", "fra"},
	} {
		c, err := m.dial(tc.from, tc.to)
		must(t, err, turn(c))
		if f := m.fate(tc.node, fmt.Sprintf("tcp %s %s", c.LocalAddr(), tc.to)); f.Fate != admin.FlowTunnelled {
			t.Errorf("%s: %+v, want tunnelled", tc.to, f)
		}
		c.Close()
	}
	for _, node := range []string{"sha", "fra"} {
		if v := m.verdicts(node, "classifier"); v["sent-direct"] == 0 || v["assign-failed"] != 0 {
			t.Errorf("%s: verdicts %v", node, v)
		}
	}
	// Calls without a rule for the port of the caller.
	m.udpEcho("origin", "10.20.0.2:7004")
	m.call("client", "10.10.0.2:6000", "10.20.0.2:7004").flowing(t, testTimeout)

	fra.kill()
	fra = m.gateway("fra")
	fra.log.waitFor(t, "msg=running")
	for _, c := range held {
		must(t, turn(c))
	}
}

// TestDirectAfterRestart: a far host that speaks first after its gateway was restarted is known by the rule.
func TestDirectAfterRestart(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	speak := make(chan string)
	m.serve("origin", "10.20.0.2:7001", func(c *net.TCPConn) {
		defer c.Close()
		for s := range speak {
			_, _ = io.WriteString(c, s)
		}
	})
	defer close(speak)
	m.write("fleet.yaml", m.fleet(withRules(directTCP[:strings.LastIndexByte(directTCP[:len(directTCP)-1], '\n')+1])))
	_, fra := m.border()
	var c *net.TCPConn
	eventually(t, testTimeout, func() (err error) { c, err = m.dialWithin(5*time.Second, "client", "10.20.0.2:7001"); return err })
	defer c.Close()
	hear := func() {
		t.Helper()
		speak <- "x"
		must(t, c.SetDeadline(time.Now().Add(testTimeout)))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	hear()
	fra.kill()
	fra = m.gateway("fra")
	fra.log.waitFor(t, "msg=running")
	hear()
}

func requireNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err == nil {
		return
	}
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal("LANDBRIDGE_REQUIRE_ROOT=1, but there is no nft")
	}
	t.Skip("needs nft, for the host's NAT")
}

// nft loads rules for the host's NAT on a machine.
func (m *machines) nft(machine, rules string) {
	m.t.Helper()
	m.in(machine, func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	})
}

// TestInboundNAT: what the host lets in through its NAT, directly from a site or from anybody, is answered through it, also
// where everything is captured.
func TestInboundNAT(t *testing.T) {
	t.Parallel()
	requireNFT(t)
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	m.serve("origin", "10.20.0.2:7001", echo)
	m.serve("worker", "10.11.0.2:80", echo)
	m.write("fleet.yaml", m.fleet(withRules(directTCP)))
	m.border()
	m.site()
	m.works(testTimeout, "client", "10.20.0.2:80")
	m.works(testTimeout, "worker", "10.20.0.2:80")
	m.nft("fra", `table ip lb { chain post { type nat hook postrouting priority srcnat; oifname "lan0" tcp dport 7001 masquerade; }; }`)
	m.in("fra", func() error { // the way back is the host's
		return netlink.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.ParseIP("10.10.0.0").To4(), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP("10.1.1.1")})
	})
	must(t, m.ask("client", "10.20.0.2:7001", strings.Repeat("translated ", 10000)))

	// Somebody on the Internet, for a port that the site's own NAT forwards.
	m.address("sha", "lo", "203.0.113.9/32")
	m.in("plant", func() error { return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.2.1.1")}) })
	m.nft("plant", `table ip lb { chain pre { type nat hook prerouting priority dstnat; tcp dport 8080 dnat to 10.11.0.2:80; }; }`)
	var c net.Conn
	m.in("sha", func() (err error) {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.9:0")), Timeout: testTimeout}
		c, err = d.Dial("tcp", "10.2.1.2:8080")
		return err
	})
	must(t, ask(c.(*net.TCPConn), strings.Repeat("forwarded ", 10000)))
	m.works(testTimeout, "worker", "10.20.0.2:80")
}

package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// TestInterfaces: a carrier's interface goes and comes back, and so does the LAN's.
func TestInterfaces(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	sha, _ := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	flow, err := m.dial("client", "10.20.0.2:80")
	must(t, err, turn(flow))
	path := func(name string) admin.Path {
		st, err := admin.Fetch(t.Context(), m.file("sha.sock"))
		must(t, err)
		for _, p := range st.Peers[0].Paths {
			if p.Name == name {
				return p
			}
		}
		t.Fatalf("no path %s in %+v", name, st.Peers[0].Paths)
		return admin.Path{}
	}
	for _, l := range []struct {
		link
		path string
	}{{linkCT, "ct-ct"}, {linkCU, "cu-cu"}} {
		m.cut(l.link)
		must(t, turn(flow)) // over the other carrier
		sha.log.waitFor(t, "level=WARN", "interface is gone", "interface="+l.aDev)
		eventually(t, testTimeout, func() error {
			if p := path(l.path); p.State == admin.PathUp || p.Note != "interface "+l.aDev+" is gone" {
				return fmt.Errorf("path %s is %s, note %q", p.Name, p.State, p.Note)
			}
			return nil
		})
		m.connect(l.link)
		sha.log.waitFor(t, "interface is back", "interface="+l.aDev)
		eventually(t, testTimeout, func() error {
			if p := path(l.path); p.State != admin.PathUp || p.Note != "" {
				return fmt.Errorf("path %s is %s, note %q", p.Name, p.State, p.Note)
			}
			return nil
		})
		must(t, turn(flow))
	}
	// One that flaps, and one whose address is taken away: said once each, and back by itself.
	address := func(change func(netlink.Link, *netlink.Addr) error) {
		m.in("sha", func() error {
			nic, err := netlink.LinkByName("ct0")
			if err != nil {
				return err
			}
			a, err := netlink.ParseAddr("10.1.1.1/24")
			return errors.Join(err, change(nic, a))
		})
	}
	for _, c := range []struct {
		name, note, warned string
		do, undo           func()
	}{
		{"down", "interface ct0 is down", "interface is down", func() { m.setDown("sha", "ct0", true) }, func() { m.setDown("sha", "ct0", false) }},
		{"address", "interface ct0 has lost address 10.1.1.1", "interface has lost the uplink's address", func() { address(netlink.AddrDel) }, func() { address(netlink.AddrAdd) }},
	} {
		before := len(sha.log.lines("level=WARN", c.warned, "interface=ct0")) // it was not up yet when it was new
		c.do()
		must(t, turn(flow))
		eventually(t, testTimeout, func() error {
			if len(sha.log.lines("level=WARN", c.warned, "interface=ct0")) == before {
				return fmt.Errorf("%s: no warning", c.name)
			}
			return nil
		})
		eventually(t, testTimeout, func() error {
			if p := path("ct-ct"); p.State == admin.PathUp || p.Note != c.note {
				return fmt.Errorf("%s: path %s is %s, note %q", c.name, p.Name, p.State, p.Note)
			}
			return nil
		})
		c.undo()
		eventually(t, testTimeout, func() error {
			if p := path("ct-ct"); p.State != admin.PathUp || p.Note != "" {
				return fmt.Errorf("%s: path %s is %s, note %q", c.name, p.Name, p.State, p.Note)
			}
			return nil
		})
		must(t, turn(flow))
		if n := len(sha.log.lines("level=WARN", c.warned, "interface=ct0")) - before; n != 1 {
			t.Errorf("%s: %d warnings, want one", c.name, n)
		}
	}
	flow.Close()
	m.cut(linkClient)
	sha.log.waitFor(t, "interface is gone, not capturing there", "interface=lan0")
	m.connect(linkClient)
	m.works(testTimeout, "client", "10.20.0.2:80")
}

// TestLateInterfaces: a node starts without some of its carriers' interfaces, says so, and takes them when they are there: with
// the guard, probes at the NIC, and those to and from agents.
func TestLateInterfaces(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	m.cut(linkCU)
	m.cut(linkAccess)
	fleet := strings.Replace(m.fleet(programTenants), "    exit: {preserve_source: true}\n  fra:", "    exit: {preserve_source: true}\n    guard: enforce\n  fra:", 1)
	m.write("fleet.yaml", fleet)
	sha, _ := m.border()
	sha.log.waitFor(t, "level=WARN", "interface is missing", "uplink=cu", "interface=cu0")
	sha.log.waitFor(t, "level=WARN", "interface is missing", "uplink=acc1", "interface=acc0")
	m.works(testTimeout, "client", "10.20.0.2:80")
	flow, err := m.dial("client", "10.20.0.2:80")
	must(t, err, turn(flow))
	path := func(node, peer, name string) (p admin.PathEstimate, note string) {
		c := admin.NewClient(m.file(node + ".sock"))
		defer c.Close()
		st, err := c.Fetch(t.Context())
		must(t, err)
		paths, err := c.Paths(t.Context())
		must(t, err)
		for _, q := range st.Peers {
			for _, s := range q.Paths {
				if q.Name == peer && s.Name == name {
					note = s.Note
				}
			}
		}
		for _, q := range paths.Peers {
			for _, s := range q.Paths {
				if q.Name == peer && (s.Name == name || name == "") {
					p = s
				}
			}
		}
		return p, note
	}
	const missing = "interface cu0 is missing"
	eventually(t, testTimeout, func() error {
		if p, note := path("sha", "fra", "cu-cu"); p.State != admin.PathDown || p.Why != missing || note != missing {
			return fmt.Errorf("path without its interface: %+v, note %q", p, note)
		}
		return nil
	})
	m.hup(sha, fleet) // no change of the interfaces, and so no refusal
	must(t, turn(flow))

	m.connect(linkCU)
	m.connect(linkAccess)
	sha.log.waitFor(t, "interface is there", "uplink=cu", "interface=cu0")
	sha.log.waitFor(t, "interface is there", "uplink=acc1", "interface=acc0")
	m.site()
	for _, want := range []struct{ node, peer, path, probe string }{
		{"sha", "fra", "cu-cu", admin.ProbeXDP}, {"fra", "sha", "cu-cu", admin.ProbeXDP}, {"sha", "acme/plant", "", admin.ProbeUser}, {"plant", "sha", "isp1-0", admin.ProbeXDP},
	} {
		eventually(t, testTimeout, func() error {
			p, note := path(want.node, want.peer, want.path)
			if p.State != admin.PathUp || p.Probe != want.probe || p.Out.Packets < 20 || p.Back.Packets < 20 || p.FreshMs > 500 || p.Why != "" || note != "" {
				return fmt.Errorf("%s: path %s to %s: %+v, note %q", want.node, want.path, want.peer, p, note)
			}
			return nil
		})
	}
	// Guarded too: a stranger's port is not even refused.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var timeout net.Error
	if c, err := wan.DialIn(ctx, m.ns("fra"), "tcp", "10.1.2.1:9"); err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("what is not for the bond got through on cu0: %v, %v", c, err)
	}
	m.cut(linkCT) // the other one carries on
	must(t, turn(flow))
}

// TestReloadLateUplink: an agent whose file names no paths keeps its pairs, and so its flows, at a reload after another of its
// interfaces has come with an address near one of the gateway's.
func TestReloadLateUplink(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	file := strings.NewReplacer("[10.2.1.1:4500]", "[10.2.1.1:4500, 10.3.1.2:4500]", "lan: [lan0]", "  isp2: {interface: late0, rate: 8Mbit}\nlan: [lan0]").Replace(m.agent())
	m.write("agent.yaml", file)
	m.border()
	plant := m.site()
	plant.log.waitFor(t, "level=WARN", "interface is missing", "uplink=isp2")
	m.works(testTimeout, "worker", "10.20.0.2:80")
	flow, err := m.dial("worker", "10.20.0.2:80")
	must(t, err, turn(flow))
	m.connect(link{"plant", "late0", "fra", "late0", "10.3.1", ""})
	plant.log.waitFor(t, "interface is there", "uplink=isp2")
	must(t, turn(flow), plant.cmd.Process.Signal(syscall.SIGHUP))
	plant.log.waitFor(t, "msg=reloaded")
	must(t, turn(flow))
}

// TestSharedCarrier: of two uplinks on one interface the address of one comes late: the interface keeps the programs, and their
// guard, that the other one needs too.
func TestSharedCarrier(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.in("sha", func() error {
		log := slog.New(slog.DiscardHandler)
		k, err := newKernel(log, false)
		if err != nil {
			return err
		}
		defer k.close()
		late := config.NodeUplink{Name: "late", Interface: "ct0", Address: netip.MustParseAddrPort("10.1.1.9:4500")}
		cfg := &config.NodeConfig{Uplinks: []config.NodeUplink{late, {Name: "ct", Interface: "ct0", Address: netip.MustParseAddrPort("10.1.1.1:4500")}}}
		c, _, err := startCarriers(cfg, k, log)
		if err != nil || c == nil {
			return fmt.Errorf("no programs: %w", err)
		}
		defer c.close()
		guarded := func() bool {
			nic, err := netlink.LinkByName("ct0")
			must(t, err)
			return nic.Attrs().Xdp != nil && nic.Attrs().Xdp.Attached
		}
		before := guarded()
		c.reopen(late)
		if after := guarded(); !before || !after {
			t.Errorf("programs on the interface before: %v, after: %v", before, after)
		}
		return nil
	})
}

// TestGuardLate: where the programs cannot be attached to an interface that has come, they are when that is possible, if the
// guard is to enforce.
func TestGuardLate(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.cut(linkCU)
	late := config.NodeUplink{Name: "cu", Interface: "cu0", Address: netip.MustParseAddrPort("10.1.2.1:4500")}
	cfg := &config.NodeConfig{Uplinks: []config.NodeUplink{{Name: "ct", Interface: "ct0", Address: netip.MustParseAddrPort("10.1.1.1:4500")}, late}}
	for _, mode := range []config.GuardMode{config.GuardEnforce, config.GuardOff} {
		cfg.Guard.Mode = mode
		var k *kernel
		var c *carriers
		m.in("sha", func() (err error) {
			log := slog.New(slog.DiscardHandler)
			if k, err = newKernel(log, false); err == nil {
				c, _, err = startCarriers(cfg, k, log)
			}
			return err
		})
		m.connect(linkCU)
		m.in("sha", func() error {
			defer k.close()
			defer c.close()
			other, err := bpf.LoadCarrier(bpf.CarrierConfig{Paths: k.table, Epoch: monotonicEpoch})
			must(t, err)
			defer other.Close()
			nic, err := netlink.LinkByName(late.Interface)
			must(t, err)
			inTheWay, err := other.Attach(nic.Attrs().Index, bpf.XDPGeneric, bpf.Auto)
			must(t, err)
			c.reopen(late)
			c.retry(late)
			before, told := c.on(late.Name), len(c.lostText())
			must(t, inTheWay.Close())
			c.retry(late)
			if after := c.on(late.Name); before || told != 1 || after != (mode == config.GuardEnforce) || after == (len(c.lostText()) > 0) {
				t.Errorf("guard %v: attached beside another program %v (%d notes), after it %v (%q)", mode, before, told, after, c.lostText())
			}
			return nil
		})
		m.cut(linkCU)
	}
}

// TestComesWhileOpened: an interface that comes just before its socket is opened, or is another one by then, is no change: there
// would be no second socket on it.
func TestComesWhileOpened(t *testing.T) {
	t.Parallel()
	for _, there := range []bool{false, true} {
		t.Run(fmt.Sprintf("there before: %v", there), func(t *testing.T) {
			m := newMachines(t)
			if !there {
				m.cut(linkCT)
			}
			var log logBook
			host, err := bond.NewHost(bond.HostConfig{Key: keySHA, Log: log.logger()})
			must(t, err)
			defer host.Close()
			opened := 0
			n := &Node{log: log.logger(), host: host}
			n.opts.Listen = func(u config.NodeUplink) (bond.Uplink, error) {
				if opened++; opened == 1 {
					if there {
						m.cut(linkCT)
					}
					m.connect(linkCT)
				}
				return listenUDP(u)
			}
			m.in("sha", func() error {
				u := config.NodeUplink{Name: "ct", Interface: "ct0", Address: netip.MustParseAddrPort("10.1.1.1:4500")}
				err := n.addUplinks([]config.NodeUplink{u}, true)
				n.checkUplinks()
				return err
			})
			if said := log.String(); said != "" || len(n.uplinkNotes()) > 0 || opened != 2 {
				t.Errorf("opened %d times, notes %v:\n%s", opened, n.uplinkNotes(), said)
			}
		})
	}
}

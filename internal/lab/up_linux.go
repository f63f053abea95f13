package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/hint"
)

// Lab is a topology that is up. Its methods are for one goroutine.
type Lab struct {
	state state
	dir   string
	links []wan.Carrier // the border links in use
	em    *emulatorClient
	cold  string // what was not warm when it was waited for, for Prove
}

// state is lab.json: what it takes to use the lab from another process and to remove it after a crash.
type state struct {
	Options   Options    `json:"options"`
	Started   time.Time  `json:"started"`
	Processes []*process `json:"processes"`
}

// emulatorProcess and originProcess are the names of the lab's own helpers in the state and in results.
const (
	emulatorProcess = "emulator"
	originProcess   = "origin"
)

// stateDir is where a lab keeps its documents, keys, logs and sockets.
func stateDir(name string) string { return "/run/landbridge-lab-" + name }

// start brings a lab up. A detached one stays when this process ends. On error nothing is left behind.
func start(ctx context.Context, o Options, detached bool) (lab *Lab, err error) {
	o, err = o.normalise()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, hint.With(fmt.Errorf("%w: it makes network namespaces and TAP devices", ErrPrivilege),
			"run it with sudo; only \"landbridge lab demo\" has a way without")
	}
	if o.Programs, err = o.programDir(); err != nil {
		return nil, err
	}
	if !o.bare {
		if err := o.via().check(o); err != nil {
			return nil, err
		}
	}
	for _, m := range o.machines() {
		if _, err := os.Stat("/run/netns/" + o.namespace(m)); err == nil {
			return nil, inUse(o.Name, "network namespace "+o.namespace(m)+" exists")
		}
	}
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return nil, err
	}
	dir := stateDir(o.Name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, inUse(o.Name, dir+" exists")
		}
		return nil, fmt.Errorf("lab state: %w", err)
	}
	lab = &Lab{state: state{Options: o, Started: time.Now()}, dir: dir, links: pick(links, o.Carriers)}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.down())
			lab = nil
		}
	}()
	if err := lab.save(); err != nil {
		return lab, err
	}
	p := makePlan(o)
	if err := lab.machines(p); err != nil {
		return lab, err
	}
	if err := lab.startEmulator(ctx, p, detached); err != nil {
		return lab, err
	}
	// The devices of the wires are there now, and with them the networks the routes lead over.
	for _, r := range p.routes {
		if err := wan.InNamespace(o.namespace(r.machine), func() error { return addRoute(r) }); err != nil {
			return lab, err
		}
	}
	if o.bare {
		return lab, nil
	}
	return lab, o.via().start(ctx, lab, detached)
}

func inUse(name, why string) error {
	err := fmt.Errorf("a lab named %q is up already: %s", name, why)
	return hint.With(err, "take it down with \"landbridge lab down --name %s\", or choose another --name", name)
}

// machines makes the namespaces with their settings and the LANs.
func (lab *Lab) machines(p plan) error {
	o := lab.state.Options
	for _, m := range o.machines() {
		if err := wan.CreateNamespace(o.namespace(m)); err != nil {
			return err
		}
		if err := wan.InNamespace(o.namespace(m), func() error { return configure(m) }); err != nil {
			return fmt.Errorf("machine %s: %w", m, err)
		}
	}
	for _, l := range p.lans {
		if err := lab.addLAN(l); err != nil {
			return err
		}
	}
	return nil
}

// configure sets a machine's kernel up; it runs inside the namespace.
func configure(machine string) error {
	memory := fmt.Sprintf("4096 262144 %d", tcpMemory)
	set := [][2]string{
		{"net/ipv4/conf/all/rp_filter", "0"},
		{"net/ipv4/conf/default/rp_filter", "0"},
		{"net/ipv4/tcp_rmem", memory},
		{"net/ipv4/tcp_wmem", memory},
		{"net/ipv4/tcp_notsent_lowat", fmt.Sprint(tcpUnsent)},
	}
	if machine != machineClient && machine != machineOrigin {
		set = append(set, [2]string{"net/ipv4/ip_forward", "1"}, [2]string{"net/ipv6/conf/all/forwarding", "1"})
	}
	for _, s := range set {
		if err := os.WriteFile("/proc/sys/"+s[0], []byte(s[1]), 0); err != nil {
			return fmt.Errorf("set %s to %q: %w", s[0], s[1], err)
		}
	}
	return nil
}

func (lab *Lab) addLAN(l lan) error {
	o := lab.state.Options
	far, err := netns.GetFromName(o.namespace(l.b.machine))
	if err != nil {
		return fmt.Errorf("machine %s: %w", l.b.machine, err)
	}
	defer far.Close()
	err = wan.InNamespace(o.namespace(l.a.machine), func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.a.dev
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: l.b.dev, PeerNamespace: netlink.NsFd(int(far))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("LAN of %s: %w", l.a.machine, err)
		}
		return setUp(l.a)
	})
	if err != nil {
		return err
	}
	return wan.InNamespace(o.namespace(l.b.machine), func() error { return setUp(l.b) })
}

// setUp gives a LAN device its addresses and switches it on; it runs inside the namespace.
func setUp(e end) error {
	link, err := netlink.LinkByName(e.dev)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", e.dev, e.machine, err)
	}
	for _, p := range e.addrs {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD // usable at once: nobody else is on this wire
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s of %s: add %v: %w", e.dev, e.machine, p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s of %s: %w", e.dev, e.machine, err)
	}
	return nil
}

func addRoute(r route) error {
	// No device is named: the kernel finds it by the next hop, whose network it knows.
	rt := &netlink.Route{Dst: ipNet(r.dst), Gw: r.via.AsSlice()}
	if r.from.IsValid() {
		rule := netlink.NewRule()
		rule.Src = ipNet(netip.PrefixFrom(r.from, r.from.BitLen()))
		rule.Table = sourceTable + int(r.from.As4()[3])
		rt.Table = rule.Table
		if err := netlink.RuleAdd(rule); err != nil {
			return fmt.Errorf("rule for %v on %s: %w", r.from, r.machine, err)
		}
	}
	if err := netlink.RouteAdd(rt); err != nil {
		return fmt.Errorf("route %v via %v on %s: %w", r.dst, r.via, r.machine, err)
	}
	return nil
}

// sourceTable is the first of the routing tables by source address: one for each last byte of one.
const sourceTable = 1000

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// startEmulator starts the emulated links and waits until they answer.
func (lab *Lab) startEmulator(ctx context.Context, p plan, detached bool) error {
	o := lab.state.Options
	spec := linksSpec{Seed: o.Seed}
	for _, w := range p.wires {
		imp := accessImpairment
		if w.border {
			i := slices.IndexFunc(lab.links, func(c wan.Carrier) bool { return c.Name == w.name })
			imp = lab.links[i].Impairment
		}
		spec.Links = append(spec.Links, wan.LinkConfig{
			Name: w.name, AtoB: imp, BtoA: imp,
			A: wan.End{Namespace: o.namespace(w.a.machine), Interface: w.a.dev, Addresses: w.a.addrs},
			B: wan.End{Namespace: o.namespace(w.b.machine), Interface: w.b.dev, Addresses: w.b.addrs},
		})
	}
	text, err := json.MarshalIndent(spec, "", " ")
	if err != nil {
		return fmt.Errorf("links: %w", err)
	}
	specPath, socket := filepath.Join(lab.dir, linksFile), lab.socket(emulatorProcess)
	if err := os.WriteFile(specPath, text, 0o600); err != nil {
		return fmt.Errorf("links: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the running program: %w", err)
	}
	proc, err := lab.start(emulatorProcess, "", detached, self, "lab", "emulate", "--links", specPath, "--socket", socket)
	if err != nil {
		return err
	}
	for wait := time.Now().Add(emulatorTimeout); ; {
		if lab.em, err = dialEmulator(socket); err == nil {
			return nil
		}
		if !proc.alive() {
			return proc.failure()
		}
		if time.Now().After(wait) {
			return err
		}
		if err := sleep(ctx, pollEvery); err != nil {
			return err
		}
	}
}

// start starts a program on a machine ("" for this one) and notes it in the state.
func (lab *Lab) start(name, machine string, detached bool, path string, args ...string) (*process, error) {
	ns := ""
	if machine != "" {
		ns = lab.state.Options.namespace(machine)
	}
	p, err := startProcess(lab.dir, name, ns, detached, path, args...)
	if err != nil {
		return nil, err
	}
	lab.state.Processes = append(lab.state.Processes, p)
	return p, lab.save()
}

func (lab *Lab) save() error {
	b, err := json.MarshalIndent(&lab.state, "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(lab.dir, stateFile), append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("lab state: %w", err)
	}
	return nil
}

// socket is where a program of the lab answers.
func (lab *Lab) socket(name string) string { return filepath.Join(lab.dir, name+sockSuffix) }

// alive fails when one of the lab's programs has ended.
func (lab *Lab) alive() error {
	for _, p := range lab.state.Processes {
		if !p.alive() {
			return p.failure()
		}
	}
	return nil
}

// down removes the lab.
func (lab *Lab) down() error {
	if lab.em != nil {
		lab.em.Close()
		lab.em = nil
	}
	// In reverse: the tunnel ends while its links still work, and the emulator's devices go before the namespaces.
	for _, p := range slices.Backward(lab.state.Processes) {
		p.stop()
	}
	_, err := remove(lab.state.Options.Name)
	return err
}

// Down takes a lab down, whatever state it is in, and reports whether there was anything to take down.
func Down(name string) (bool, error) {
	if name == "" {
		name = DefaultName
	}
	if !nameShape.MatchString(name) {
		return false, fmt.Errorf("%w: name %q, want 1 to 8 lower-case letters and digits", ErrOptions, name)
	}
	if os.Geteuid() != 0 {
		return false, hint.With(ErrPrivilege, "run it with sudo")
	}
	if lab, err := open(name); err == nil {
		for _, p := range slices.Backward(lab.state.Processes) {
			p.stop()
		}
	}
	return remove(name)
}

// remove deletes what a lab of that name may have left: its programs, namespaces and files.
func remove(name string) (found bool, err error) {
	o := Options{Name: name}
	for _, pid := range strays(o) {
		if st, err := readStat(pid); err == nil {
			found = true
			(&process{PID: pid, Start: st.start}).stop()
		}
	}
	for _, m := range o.machines() {
		ns := o.namespace(m)
		switch e := wan.DeleteNamespace(ns); {
		case e == nil:
			found = true
		case !errors.Is(e, os.ErrNotExist):
			err = errors.Join(err, e)
		}
	}
	for _, v := range vias {
		err = errors.Join(err, v.clear(name))
	}
	if _, e := os.Stat(stateDir(name)); e == nil {
		found = true
		if e := os.RemoveAll(stateDir(name)); e != nil {
			err = errors.Join(err, fmt.Errorf("lab state: %w", e))
		}
	}
	return found, err
}

// open reads the state of a lab that another process brought up.
func open(name string) (*Lab, error) {
	lab := &Lab{dir: stateDir(name)}
	b, err := os.ReadFile(filepath.Join(lab.dir, stateFile))
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = hint.With(fmt.Errorf("no lab named %q is up", name), "bring one up with \"landbridge lab up\"")
		}
		return nil, err
	}
	if err := json.Unmarshal(b, &lab.state); err != nil {
		return nil, fmt.Errorf("lab state: %w", err)
	}
	links, err := scenarioLinks(lab.state.Options.Scenario)
	if err != nil {
		return nil, err
	}
	lab.links = pick(links, lab.state.Options.Carriers)
	return lab, nil
}

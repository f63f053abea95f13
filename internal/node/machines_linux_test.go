package node

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// machines are network namespaces joined by veth pairs:
//
//	client 10.10.0.2 - lan0 sha ct0 10.1.1.1 = 10.1.1.2 ct0 fra lan0 - 10.20.0.2 origin
//	                        sha cu0 10.1.2.1 = 10.1.2.2 cu0 fra
//	worker 10.11.0.2 - lan0 plant eth0 10.2.1.2 = 10.2.1.1 acc0 sha
type machines struct {
	t      testing.TB
	prefix string
	dir    string // documents, keys and sockets
}

// machineSets numbers the machines of tests that run at once.
var machineSets atomic.Int32

// link is a veth pair; addresses end in .1 and .2 of the networks.
type link struct {
	a, aDev, b, bDev string
	net4, net6       string // "10.1.1", "fd00:1:1:"; net6 may be empty
}

var (
	linkClient = link{"sha", "lan0", "client", "eth0", "10.10.0", "fd00:10:"}
	linkCT     = link{"sha", "ct0", "fra", "ct0", "10.1.1", ""}
	linkCU     = link{"sha", "cu0", "fra", "cu0", "10.1.2", ""}
	linkAccess = link{"sha", "acc0", "plant", "eth0", "10.2.1", ""}
	linkOrigin = link{"fra", "lan0", "origin", "eth0", "10.20.0", "fd00:20:"}
	linkWorker = link{"plant", "lan0", "worker", "eth0", "10.11.0", "fd00:11:"}
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal("LANDBRIDGE_REQUIRE_ROOT=1, but not root")
	}
	t.Skip("needs root: network namespaces, BPF")
}

// newMachines makes them and writes keys and documents.
func newMachines(t testing.TB) *machines {
	t.Helper()
	requireRoot(t)
	dir, err := os.MkdirTemp("", "lbn") // short: it holds sockets
	must(t, err)
	m := &machines{t: t, prefix: fmt.Sprintf("lbn%d.%d-", os.Getpid(), machineSets.Add(1)), dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"client", "sha", "fra", "origin", "plant", "worker"} {
		_ = wan.DeleteNamespace(m.ns(name)) // left by a killed run that had this process's number
		must(t, wan.CreateNamespace(m.ns(name)))
		t.Cleanup(func() { _ = wan.DeleteNamespace(m.ns(name)) })
		m.in(name, func() error {
			for file, v := range map[string]string{
				"ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
				"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0",
			} {
				if err := os.WriteFile("/proc/sys/net/"+file, []byte(v), 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for _, l := range []link{linkClient, linkCT, linkCU, linkAccess, linkOrigin, linkWorker} {
		m.connect(l)
	}
	// Where other users can run it, too.
	self, err := os.Executable()
	must(t, err)
	binary, err := os.ReadFile(self)
	// A child that another test forks meanwhile would hold the file open for writing: "text file busy".
	syscall.ForkLock.RLock()
	werr := os.WriteFile(m.file("program"), binary, 0o755)
	syscall.ForkLock.RUnlock()
	must(t, err, werr, os.Chmod(dir, 0o755))
	for name, key := range map[string]interface{ Save(string) error }{"sha": keySHA, "fra": keyFRA, "plant": keyPlant} {
		must(t, key.Save(m.file(name+".key")))
	}
	m.write("fleet.yaml", m.fleet(programTenants))
	m.write("agent.yaml", m.agent())
	return m
}

func (m *machines) ns(name string) string { return m.prefix + name }

func (m *machines) file(name string) string { return filepath.Join(m.dir, name) }

func (m *machines) write(name, text string) {
	m.t.Helper()
	must(m.t, os.WriteFile(m.file(name), []byte(text), 0o644))
}

func (m *machines) in(name string, f func() error) {
	m.t.Helper()
	if err := wan.InNamespace(m.ns(name), f); err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
}

// connect makes a link, and the far machine's default route over it if it is a LAN.
func (m *machines) connect(l link) {
	m.t.Helper()
	far, err := netns.GetFromName(m.ns(l.b))
	must(m.t, err)
	defer far.Close()
	m.in(l.a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = l.aDev
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: l.bDev, PeerNamespace: netlink.NsFd(int(far))})
	})
	up := func(dev string, host int) func() error {
		return func() error {
			nic, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			addrs := []string{fmt.Sprintf("%s.%d/24", l.net4, host)}
			if l.net6 != "" {
				addrs = append(addrs, fmt.Sprintf("%s:%d/64", l.net6, host))
			}
			for _, a := range addrs {
				addr, err := netlink.ParseAddr(a)
				if err != nil {
					return err
				}
				if addr.IP.To4() == nil {
					addr.Flags = unix.IFA_F_NODAD
				}
				if err := netlink.AddrAdd(nic, addr); err != nil {
					return fmt.Errorf("%s: %w", a, err)
				}
			}
			return netlink.LinkSetUp(nic)
		}
	}
	m.in(l.a, up(l.aDev, 1))
	m.in(l.b, up(l.bDev, 2))
	if l.net6 == "" {
		return
	}
	m.in(l.b, func() error {
		for _, gw := range []string{l.net4 + ".1", l.net6 + ":1"} {
			ip := net.ParseIP(gw)
			if err := netlink.RouteAdd(&netlink.Route{Gw: ip}); err != nil {
				return fmt.Errorf("default route via %s: %w", gw, err)
			}
		}
		return nil
	})
}

func (m *machines) cut(l link) {
	m.t.Helper()
	m.in(l.a, func() error {
		nic, err := netlink.LinkByName(l.aDev)
		if err != nil {
			return err
		}
		return netlink.LinkDel(nic)
	})
}

var programTenants = `  acme:
    cross_border: true
    sites:
      hq:    {at: sha, prefixes: [10.10.0.0/24, "fd00:10::/64"]}
      plant: {at: sha, prefixes: [10.11.0.0/24, "fd00:11::/64"], public_key: ` + keyPlant.Public().String() + `}
      fra:   {at: fra, prefixes: [10.20.0.0/24, "fd00:20::/64"]}
`

func (m *machines) fleet(tenants string) string {
	return fmt.Sprintf(`regions: [cn, eu]
gateways:
  sha:
    region: cn
    public_key: %s
    carriers:
      ct: {interface: ct0, address: 10.1.1.1:4500, rate: 8Mbit}
      cu: {interface: cu0, address: 10.1.2.1:4500, rate: 8Mbit}
    access:
      acc1: {interface: acc0, address: 10.2.1.1:4500, rate: 8Mbit}
    lan: [lan0]
    exit: {preserve_source: true}
  fra:
    region: eu
    public_key: %s
    carriers:
      ct: {interface: ct0, address: 10.1.1.2:4500, rate: 8Mbit}
      cu: {interface: cu0, address: 10.1.2.2:4500, rate: 8Mbit}
    lan: [lan0]
    exit: {preserve_source: true}
borders:
  - between: [sha, fra]
    paths: [ct-ct, cu-cu]
tenants:
%s`, keySHA.Public(), keyFRA.Public(), tenants)
}

func (m *machines) agent() string {
	return fmt.Sprintf(`tenant: acme
site: plant
key: plant.key
gateway:
  name: sha
  public_key: %s
  addresses: [10.2.1.1:4500]
uplinks:
  isp1: {interface: eth0, address: 10.2.1.2, rate: 8Mbit}
lan: [lan0]
prefixes: [10.11.0.0/24, "fd00:11::/64"]
exit: {preserve_source: true}
`, keySHA.Public())
}

// program is one of the programs in a namespace.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  logBook
	done chan struct{} // closed when it has ended
}

// run starts a program; it is killed with the test.
func (m *machines) run(role, machine string, uid uint32, args ...string) *program {
	m.t.Helper()
	return m.runWith(role, machine, uid, nil, args...)
}

// nobody is a user without privileges.
const nobody = 65534

// runWith starts a program as a user with capabilities.
func (m *machines) runWith(role, machine string, uid uint32, caps []uintptr, args ...string) *program {
	m.t.Helper()
	p := &program{t: m.t, cmd: exec.Command(m.file("program"), args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), programEnv+"="+role)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Dir = m.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, AmbientCaps: caps}
	if uid != 0 {
		p.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	m.in(machine, p.cmd.Start)
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	m.t.Cleanup(func() {
		p.kill()
		if m.t.Failed() {
			m.t.Logf("%s on %s printed:\n%s", role, machine, &p.log)
		}
	})
	return p
}

func (m *machines) gateway(name string) *program {
	m.t.Helper()
	return m.run(RoleGateway, name, 0, "--fleet", "fleet.yaml", "--node", name, "--key", name+".key", "--socket", m.file(name+".sock"))
}

// border starts both gateways and waits until they run. Each carries what the other sends it before it takes flows from its
// own LAN and can be asked for its status, by seconds on a busy machine.
func (m *machines) border() (sha, fra *program) {
	m.t.Helper()
	sha, fra = m.gateway("sha"), m.gateway("fra")
	for _, p := range []*program{sha, fra} {
		p.log.waitFor(m.t, "msg=running")
	}
	return sha, fra
}

func (m *machines) site() *program {
	m.t.Helper()
	return m.run(RoleAgent, "plant", 0, "--config", "agent.yaml", "--socket", m.file("plant.sock"))
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// end waits for the program's end and returns its exit code.
func (p *program) end(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		p.t.Fatalf("still runs after %v", within)
		return -1
	}
}

// address gives a machine's NIC one more address.
func (m *machines) address(machine, nic, prefix string) {
	m.t.Helper()
	m.in(machine, func() error {
		l, err := netlink.LinkByName(nic)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
}

// dial connects from a machine.
func (m *machines) dial(machine, to string) (*net.TCPConn, error) {
	return m.dialWithin(testTimeout, machine, to)
}

func (m *machines) dialWithin(d time.Duration, machine, to string) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	c, err := wan.DialIn(ctx, m.ns(machine), "tcp", to)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// ask sends text from a machine and wants it back.
func (m *machines) ask(machine, to, text string) error {
	c, err := m.dial(machine, to)
	if err != nil {
		return err
	}
	return ask(c, text)
}

// works waits until flows come through.
func (m *machines) works(within time.Duration, machine, to string) {
	m.t.Helper()
	const patience = 5 * time.Second // with one of them
	eventually(m.t, within, func() error {
		c, err := m.dialWithin(patience, machine, to)
		if err != nil {
			return err
		}
		return askWithin(patience, c, "hello")
	})
}

// serve runs f for each connection to an address on a machine.
func (m *machines) serve(machine, addr string, f func(*net.TCPConn)) {
	m.t.Helper()
	ln, err := wan.ListenIn(m.ns(machine), "tcp", addr)
	must(m.t, err)
	m.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go f(c.(*net.TCPConn))
		}
	}()
}

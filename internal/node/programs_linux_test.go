package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
)

// programEnv makes the test binary one of the programs.
const programEnv = "LANDBRIDGE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	switch os.Getenv(programEnv) {
	case RoleGateway:
		os.Exit(cli.Main(GatewayCommand()))
	case RoleAgent:
		os.Exit(cli.Main(AgentCommand()))
	}
	os.Exit(m.Run())
}

// backWithin is when a program that was killed and started again must be back on a machine that is busy with other tests:
// the promise is 3 s, of which a second or two are used where nothing else runs. TestBack is about the nodes alone.
const backWithin = 10 * time.Second

// TestCrash: a node that was killed and started again is back, whichever it is.
func TestCrash(t *testing.T) {
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	programs := map[string]*program{"plant": m.site(), "fra": m.gateway("fra"), "sha": m.gateway("sha")}
	m.works(testTimeout, "client", "10.20.0.2:80")
	m.works(testTimeout, "worker", "10.20.0.2:80")
	for _, tc := range []struct{ name, from string }{{"fra", "client"}, {"sha", "client"}, {"sha", "worker"}, {"plant", "worker"}} {
		programs[tc.name].kill()
		if tc.name == "plant" {
			programs[tc.name] = m.site()
		} else {
			programs[tc.name] = m.gateway(tc.name)
		}
		began := time.Now()
		m.works(testTimeout, tc.from, "10.20.0.2:80")
		d := time.Since(began)
		t.Logf("%s killed and started: flows from %s again after %v", tc.name, tc.from, d.Round(time.Millisecond))
		if d > backWithin {
			t.Errorf("%s killed and started: flows from %s after %v, want %v", tc.name, tc.from, d, backWithin)
		}
	}
}

// TestSignals: SIGHUP with good and with broken documents, SIGTERM with flows open.
func TestSignals(t *testing.T) {
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	sha, fra := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	stays, err := m.dial("client", "10.20.0.2:80")
	must(t, err, turn(stays))
	hup := func(p *program, fleet string, parts ...string) string {
		t.Helper()
		m.write("fleet.yaml", fleet)
		n := len(p.log.lines(parts...))
		must(t, p.cmd.Process.Signal(syscall.SIGHUP))
		eventually(t, testTimeout, func() error {
			if len(p.log.lines(parts...)) == n {
				return fmt.Errorf("no line with %q in\n%s", parts, &p.log)
			}
			return nil
		})
		must(t, turn(stays))
		all := p.log.lines(parts...)
		return all[len(all)-1]
	}
	// Broken in three ways: two problems, not readable, needs a restart.
	line := hup(sha, strings.Replace(m.fleet(programTenants), "region: ", "regoin: ", 2), "reload refused")
	for _, want := range []string{`level=ERROR`, `gateway sha: \"region\" is missing`, `and 3 more; landbridge check shows all`} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in %s", want, line)
		}
	}
	must(t, os.Remove(m.file("fleet.yaml")), sha.cmd.Process.Signal(syscall.SIGHUP))
	sha.log.waitFor(t, "reload refused", "no such file or directory")
	line = hup(sha, strings.Replace(m.fleet(programTenants), "lan: [lan0]", "lan: [lan1]", 1), "reload refused", "lan: change needs a restart")
	if !strings.Contains(line, "hint=\"restart the program") {
		t.Errorf("no hint in %s", line)
	}
	m.works(testTimeout, "client", "10.20.0.2:80")

	// A new site, which was nobody's before: captured at once.
	wider := strings.Replace(m.fleet(programTenants), "[10.20.0.0/24, ", "[10.20.0.0/24, 10.21.0.0/24, ", 1)
	m.address("origin", "eth0", "10.21.0.2/32")
	m.in("fra", func() error {
		_, dst, err := net.ParseCIDR("10.21.0.0/24")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: net.ParseIP("10.20.0.2")})
	})
	m.serve("origin", "10.21.0.2:80", echo)
	hup(sha, wider, "msg=reloaded")
	hup(fra, wider, "msg=reloaded")
	must(t, m.ask("client", "10.21.0.2:80", "the new prefix"))
	hup(sha, m.fleet(programTenants), "msg=reloaded")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if c, err := wan.DialIn(ctx, m.ns("client"), "tcp", "10.21.0.2:80"); err == nil {
		c.Close()
		t.Error("a prefix that left the document is still captured")
	}

	// The end: quick, in order, and the socket goes with it.
	for name, p := range map[string]*program{"sha": sha, "fra": fra} {
		began := time.Now()
		must(t, p.cmd.Process.Signal(syscall.SIGTERM))
		if code := p.end(testTimeout); code != 0 {
			t.Errorf("%s: exit code %d after SIGTERM, want 0", name, code)
		}
		t.Logf("%s: stopped after %v", name, time.Since(began).Round(time.Millisecond)) // within stopTimeout, says its exit code
		if _, err := os.Stat(m.file(name + ".sock")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: its socket stays: %v", name, err)
		}
		if rules := m.rules(name); rules != 0 {
			t.Errorf("%s leaves %d policy rules behind", name, rules)
		}
	}
	wantReset(t, stays)
}

// rules counts the policy rules that are not the kernel's own.
func (m *machines) rules(machine string) (n int) {
	m.in(machine, func() error {
		rs, err := netlink.RuleList(netlink.FAMILY_V4)
		for _, r := range rs {
			if r.Mark != 0 {
				n++
			}
		}
		return err
	})
	return n
}

// TestBadInput: what a person may get wrong ends a program with a clear line, a hint and an exit code.
func TestBadInput(t *testing.T) {
	m := newMachines(t)
	fleet := m.fleet(programTenants)
	gateway := []string{"--fleet", "bad.yaml", "--node", "sha", "--key", "sha.key", "--socket", m.file("bad.sock")}
	agent := []string{"--config", "bad.yaml", "--socket", m.file("bad.sock")}
	proxies := strings.NewReplacer("lan: [lan0]\n", "", "exit: {preserve_source: true}\n", "socks5: 127.0.0.1:1080\n").Replace(m.agent())
	for _, tc := range []struct {
		name     string
		role     string
		uid      uint32
		old, new string // an edit of the document
		args     []string
		before   func(t *testing.T) // makes the machine unfit
		code     int
		want     []string // the lines printed, from the start
	}{
		{name: "wrong key", role: RoleGateway, args: []string{"--fleet", "fleet.yaml", "--node", "sha", "--key", "fra.key"}, code: 2, want: []string{
			"landbridge-gateway: error: key fra.key has public key " + keyFRA.Public().String() + ", but fleet.yaml says that sha has " + keySHA.Public().String(),
			"hint: give the key of sha with --key, or put its public key into the document"}},
		{name: "no key", role: RoleGateway, args: []string{"--fleet", "fleet.yaml", "--node", "sha", "--key", "none.key"}, code: 2, want: []string{
			"landbridge-gateway: error: load key: open none.key: no such file or directory", "hint: make one with: landbridge keygen none.key"}},
		{name: "no flag", role: RoleGateway, args: []string{"--fleet", "fleet.yaml", "--node", "sha"}, code: 2, want: []string{
			`landbridge-gateway: error: required flag(s) "key" not set`, "hint: landbridge-gateway --help"}},
		{name: "unknown key", role: RoleGateway, args: gateway, old: "    lan: [lan0]", new: "    lans: [lan0]", code: 2, want: []string{
			`landbridge-gateway: error: bad.yaml:11:5: gateway sha: unknown key "lans" (hint: did you mean "lan"?)`}},
		{name: "prefix twice", role: RoleGateway, args: gateway, old: "10.20.0.0/24", new: "10.10.0.0/24", code: 2, want: []string{
			"landbridge-gateway: error: bad.yaml:30:35: site acme/fra: prefix 10.10.0.0/24 is claimed twice, first by site acme/hq on line 28"}},
		{name: "foreign address", role: RoleGateway, args: gateway, old: "10.1.1.1:4500", new: "10.1.1.9:4500", code: 2, want: []string{
			"landbridge-gateway: error: configuration does not fit this machine: uplink ct: 10.1.1.9 is no address of interface ct0", "hint: ct0 has 10.1.1.1"}},
		{name: "no such interface", role: RoleGateway, args: gateway, old: "    lan: [lan0]", new: "    lan: [lan1]", code: 2, want: []string{
			"landbridge-gateway: error: configuration does not fit this machine: lan: there is no interface lan1", "hint: this machine has lo, lan0, ct0, cu0, acc0"}},
		{name: "agent: no such interface", role: RoleAgent, args: agent, old: "interface: eth0", new: "interface: eth1", code: 2, want: []string{ // its only one
			"landbridge-agent: error: configuration does not fit this machine: uplink isp1: there is no interface eth1", "hint: this machine has lo, eth0, lan0"}},
		{name: "no such node", role: RoleGateway, args: []string{"--fleet", "fleet.yaml", "--node", "shb", "--key", "sha.key"}, code: 2, want: []string{
			`landbridge-gateway: error: node "shb" is no gateway of the fleet`, `hint: did you mean "sha"?`}},
		{name: "port in use", role: RoleGateway, args: gateway, code: 1, before: func(t *testing.T) {
			c, err := wan.ListenUDPIn(m.ns("sha"), netip.MustParseAddrPort("10.1.1.1:4500"))
			must(t, err)
			t.Cleanup(func() { c.Close() })
		}, want: []string{
			`landbridge-gateway: error: uplink ct: open uplink socket 10.1.1.1:4500 on "ct0": listen udp4 10.1.1.1:4500: bind: address already in use`,
			"hint: another program has 10.1.1.1:4500; find it with: ss -lunp"}},
		{name: "small MTU", role: RoleGateway, args: gateway, code: 1, before: func(t *testing.T) {
			setMTU := func(n int) {
				m.in("sha", func() error {
					nic, err := netlink.LinkByName("ct0")
					if err != nil {
						return err
					}
					return netlink.LinkSetMTU(nic, n)
				})
			}
			setMTU(1200)
			t.Cleanup(func() { setMTU(1500) })
		}, want: []string{`landbridge-gateway: error: add uplink "ct": MTU 1200, allowed 1280 to 1500`, "hint: ip link set ct0 mtu 1500, or as large as the link allows"}},
		{name: "no capability", role: RoleGateway, uid: nobody, args: gateway, code: 3, want: []string{
			"landbridge-gateway: error: start transparent capture: ", "hint: "}},
		{name: "another runs", role: RoleGateway, args: []string{"--fleet", "fleet.yaml", "--node", "fra", "--key", "fra.key", "--socket", m.file("fra.sock")}, code: 1, before: func(t *testing.T) {
			s, err := admin.Start(m.file("fra.sock"), admin.Source{Status: func() admin.Status { return admin.Status{} }})
			must(t, err)
			t.Cleanup(func() { s.Close() })
		}, want: []string{"landbridge-gateway: error: status socket " + m.file("fra.sock") + ": another process answers on the status socket",
			"hint: another gateway runs as fra; stop it, or give this one another --socket"}},
		{name: "agent: no file", role: RoleAgent, args: []string{"--config", "none.yaml"}, code: 2, want: []string{
			"landbridge-agent: error: agent file: open none.yaml: no such file or directory"}},
		{name: "agent: unknown key", role: RoleAgent, args: agent, old: "uplinks:", new: "uplink:", code: 2, want: []string{
			`landbridge-agent: error: bad.yaml:1:1: document: "uplinks" is missing`,
			`landbridge-agent: error: bad.yaml:8:1: document: unknown key "uplink" (hint: did you mean "uplinks"?)`}},
		{name: "agent: proxy port in use", role: RoleAgent, args: agent, old: m.agent(), new: proxies, code: 1, before: func(t *testing.T) {
			ln, err := wan.ListenIn(m.ns("plant"), "tcp", "127.0.0.1:1080")
			must(t, err)
			t.Cleanup(func() { ln.Close() })
		}, want: []string{"landbridge-agent: error: start socks5: listen tcp 127.0.0.1:1080: bind: address already in use",
			"hint: another program has 127.0.0.1:1080; find it with: ss -ltnp, or give socks5 another port"}},
		{name: "agent: proxy on a foreign address", role: RoleAgent, args: agent, old: m.agent(), new: strings.Replace(proxies, "127.0.0.1:1080", "192.0.2.1:1080", 1), code: 1, want: []string{
			"landbridge-agent: error: start socks5: listen tcp 192.0.2.1:1080: bind: cannot assign requested address",
			"hint: 192.0.2.1:1080 is no address of this machine; correct socks5 in the agent's file"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			base := fleet
			if tc.role == RoleAgent {
				base = m.agent()
			}
			text := strings.Replace(base, tc.old, tc.new, 1)
			if tc.old != "" && text == base {
				t.Fatalf("%q is not in the document", tc.old)
			}
			m.write("bad.yaml", text)
			if tc.before != nil {
				tc.before(t)
			}
			machine := "plant"
			if tc.role == RoleGateway {
				machine = "sha"
				for i, a := range tc.args {
					if a == "--node" && tc.args[i+1] == "fra" {
						machine = "fra"
					}
				}
			}
			if tc.uid != 0 {
				must(t, os.Chown(m.file("sha.key"), int(tc.uid), -1))
				defer os.Chown(m.file("sha.key"), 0, -1)
			}
			p := m.run(tc.role, machine, tc.uid, tc.args...)
			if code := p.end(testTimeout); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			var lines []string // what the log says before the end is not the point
			for line := range strings.Lines(p.log.String()) {
				if line = strings.TrimSuffix(line, "\n"); !strings.HasPrefix(line, "time=") {
					lines = append(lines, line)
				}
			}
			t.Log(strings.Join(lines, "\n"))
			if len(lines) != len(tc.want) {
				t.Fatalf("%d lines, want %d:\n%s", len(lines), len(tc.want), strings.Join(tc.want, "\n"))
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("printed %q, want %q", lines[i], want)
				}
			}
		})
	}
}

// TestPreserveSource: between sites, in both directions and both families, the destination sees the client itself.
func TestPreserveSource(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	peer := func(c *net.TCPConn) {
		defer c.Close()
		_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
	}
	for machine, nets := range map[string]link{"origin": linkOrigin, "client": linkClient, "worker": linkWorker} {
		m.serve(machine, nets.net4+".2:80", peer)
		m.serve(machine, "["+nets.net6+":2]:80", peer)
	}
	m.serve("origin", "10.20.0.2:81", echo)
	m.site()
	m.border()
	m.works(testTimeout, "worker", "10.20.0.2:81")
	for _, tc := range []struct {
		from, to         string
		fromLink, toLink link
	}{
		{"client", "origin", linkClient, linkOrigin}, {"origin", "client", linkOrigin, linkClient},
		{"worker", "origin", linkWorker, linkOrigin}, {"origin", "worker", linkOrigin, linkWorker},
		{"worker", "client", linkWorker, linkClient}, {"client", "worker", linkClient, linkWorker},
	} {
		for _, a := range [][2]string{
			{tc.fromLink.net4 + ".2", tc.toLink.net4 + ".2:80"},
			{tc.fromLink.net6 + ":2", "[" + tc.toLink.net6 + ":2]:80"},
		} {
			c, err := m.dial(tc.from, a[1])
			if err != nil {
				t.Errorf("%s to %s: %v", tc.from, a[1], err)
				continue
			}
			_ = c.SetDeadline(time.Now().Add(testTimeout))
			got, err := io.ReadAll(c)
			c.Close()
			if err != nil || string(got) != a[0] {
				t.Errorf("%s to %s: the destination sees %q, %v; want %s", tc.from, a[1], got, err, a[0])
			}
		}
	}
}

// TestClosedPort: the client sees a reset, and the exit's log the reason.
func TestClosedPort(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	_, fra := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	c, err := m.dial("client", "10.20.0.2:81")
	must(t, err)
	wantReset(t, c)
	fra.log.waitFor(t, "flow refused", "dst=10.20.0.2:81", "connection refused")
}

// TestUnprivilegedAgent: without root, an agent offers its proxies.
func TestUnprivilegedAgent(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	m.border()
	must(t, os.Chmod(m.dir, 0o777))
	m.write("agent.yaml", strings.NewReplacer("lan: [lan0]\n", "", "exit: {preserve_source: true}\n", "socks5: 127.0.0.1:1080\nhttp_connect: 127.0.0.1:8080\n").Replace(m.agent()))
	must(t, os.Chown(m.file("plant.key"), nobody, nobody))
	agent := m.run(RoleAgent, "plant", nobody, "--config", "agent.yaml", "--socket", m.file("plant.sock"))
	agent.log.waitFor(t, "routes learned")
	eventually(t, testTimeout, func() error {
		c, err := m.dial("plant", "127.0.0.1:1080")
		if err != nil {
			return err
		}
		_ = c.SetDeadline(time.Now().Add(testTimeout))
		if _, err := c.Write([]byte{5, 1, 0, 5, 1, 0, 1, 10, 20, 0, 2, 0, 80}); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 12)); err != nil {
			return err
		}
		return ask(c, "from a plain user")
	})
	if _, err := admin.Fetch(t.Context(), m.file("plant.sock")); err != nil {
		t.Errorf("status: %v", err)
	}
	// Its only carrier goes and comes back: no privilege is needed for a new socket.
	m.cut(linkAccess)
	agent.log.waitFor(t, "interface is gone")
	m.connect(linkAccess)
	agent.log.waitFor(t, "interface is back")
	must(t, agent.cmd.Process.Signal(syscall.SIGTERM))
	if code := agent.end(testTimeout); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestProgramLeaks: 1,000 captured flows leave the programs with the descriptors they had.
func TestProgramLeaks(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	sha, fra := m.border()
	programs := []*program{sha, fra}
	m.works(testTimeout, "client", "10.20.0.2:80")
	files := func(p *program) (links []string) {
		dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
		e, err := os.ReadDir(dir)
		must(t, err)
		for _, f := range e {
			link, _ := os.Readlink(filepath.Join(dir, f.Name())) // it may be closed by now
			links = append(links, f.Name()+" "+link)
		}
		return links
	}
	flows := func(n int) {
		turns := make(chan error, 25)
		for range cap(turns) {
			go func() {
				var err error
				for range n / cap(turns) {
					err = errors.Join(err, m.ask("client", "10.20.0.2:80", "hello"))
				}
				turns <- err
			}()
		}
		for range cap(turns) {
			if err := <-turns; err != nil {
				t.Error(err)
			}
		}
	}
	flows(25)
	var before [][]string
	for _, p := range programs {
		before = append(before, files(p))
	}
	flows(1000)
	for i, p := range programs {
		eventually(t, testTimeout, func() error {
			if now := files(p); len(now) > len(before[i]) {
				return fmt.Errorf("%d descriptors, %d before\n%q\n%q", len(now), len(before[i]), now, before[i])
			}
			return nil
		})
	}
}

package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
)

// withRules gives tenant acme rules.
func withRules(rules string) string {
	return strings.Replace(programTenants, "    cross_border: true\n", "    cross_border: true\n    rules:\n"+rules, 1)
}

// hup lets a gateway read its document again.
func (m *machines) hup(p *program, fleet string) {
	m.t.Helper()
	m.write("fleet.yaml", fleet)
	n := len(p.log.lines("msg=reloaded"))
	must(m.t, p.cmd.Process.Signal(syscall.SIGHUP))
	eventually(m.t, testTimeout, func() error {
		if len(p.log.lines("msg=reloaded")) == n {
			return fmt.Errorf("not reloaded:\n%s", &p.log)
		}
		return nil
	})
}

// answers reports whether something answers in time.
func (m *machines) answers(within time.Duration, machine, at string) bool {
	c, err := m.dialWithin(within, machine, at)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// udpEcho answers datagrams on a machine with themselves.
func (m *machines) udpEcho(machine, at string) {
	m.t.Helper()
	c, err := wan.ListenUDPIn(m.ns(machine), netip.MustParseAddrPort(at))
	must(m.t, err)
	m.t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
}

// call sends a datagram every 10 ms and keeps the time of the last answer.
type call struct {
	last atomic.Int64 // Unix nanoseconds
	gap  atomic.Int64 // the longest between two answers since reset
	sent atomic.Int64
	got  sync.Map // numbers of the datagrams answered
}

// lost counts the datagrams from one on, and before another, that were not answered.
func (k *call) lost(from, before int64) (n int) {
	for i := from; i < before; i++ {
		if _, ok := k.got.Load(i); !ok {
			n++
		}
	}
	return n
}

func (m *machines) call(machine, from, to string) *call {
	m.t.Helper()
	c, err := wan.ListenUDPIn(m.ns(machine), netip.MustParseAddrPort(from))
	must(m.t, err)
	m.t.Cleanup(func() { c.Close() })
	k, dst := &call{}, netip.MustParseAddrPort(to)
	go func() {
		b := make([]byte, 1500)
		for {
			if n, _, err := c.ReadFromUDPAddrPort(b); errors.Is(err, net.ErrClosed) {
				return
			} else if err == nil && n >= 8 {
				now := time.Now().UnixNano()
				k.got.Store(int64(binary.BigEndian.Uint64(b)), true)
				if was := k.last.Swap(now); was != 0 {
					k.gap.Store(max(k.gap.Load(), now-was))
				}
			}
		}
	}()
	go func() {
		b := append(make([]byte, 8), "twenty milliseconds of speech"...)
		for ; ; k.sent.Add(1) {
			binary.BigEndian.PutUint64(b, uint64(k.sent.Load()))
			if _, err := c.WriteToUDPAddrPort(b, dst); errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return k
}

// flowing waits until answers come.
func (k *call) flowing(t testing.TB, within time.Duration) {
	t.Helper()
	began := time.Now()
	eventually(t, within, func() error {
		if last := k.last.Load(); last < began.UnixNano() || time.Since(time.Unix(0, last)) > 100*time.Millisecond {
			return errors.New("no answers")
		}
		return nil
	})
	k.gap.Store(0)
}

const directCalls = `      - {protocol: udp, ports: 5000-5999, action: direct, class: realtime}
`

// TestProgramRules: rules deny, give classes and send directly; they change without a gap.
func TestProgramRules(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	for _, a := range []string{"10.20.0.2:80", "10.20.0.2:81", "10.20.0.2:82"} {
		m.serve("origin", a, echo)
	}
	m.udpEcho("origin", "10.20.0.2:5004")
	deny81 := "      - {name: nopost, from: 10.10.0.0/25, to: 10.20.0.0/24, protocol: tcp, ports: 81, action: deny}\n"
	m.write("fleet.yaml", m.fleet(withRules(deny81+directCalls)))
	sha, fra := m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	held, err := m.dial("client", "10.20.0.2:82")
	must(t, err, turn(held))
	defer held.Close()
	if m.answers(400*time.Millisecond, "client", "10.20.0.2:81") {
		t.Error("a denied connection is answered")
	}
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)

	// In whichever order the rules are swapped: what both deny stays denied, what both allow stays allowed.
	stop := make(chan struct{})
	leaked := make(chan bool, 1)
	go func() {
		got := false
		for {
			select {
			case <-stop:
				leaked <- got
				return
			default:
				got = m.answers(50*time.Millisecond, "client", "10.20.0.2:81") || got
			}
		}
	}()
	from, noPath := k.sent.Load(), m.noPath()
	for i := range 6 {
		rules := deny81 + directCalls
		if i%2 == 0 {
			rules = directCalls + "      - {to: 10.20.0.0/24, protocol: tcp, ports: [81, 90-99], action: deny}\n"
		}
		m.hup(sha, m.fleet(withRules(rules)))
		must(t, turn(held), m.ask("client", "10.20.0.2:82", "between"))
	}
	close(stop)
	if <-leaked {
		t.Error("a connection that old and new rules deny came through while they changed")
	}
	// Counted, not timed: a packet that a busy machine delays is no gap in the rules. Nor is one dropped because all paths
	// were silent, when a gateway had no processor to probe them.
	before := k.sent.Load()
	eventually(t, testTimeout, func() error {
		if lost, starved := k.lost(from, before), m.noPath()-noPath; lost > 15+starved {
			return fmt.Errorf("%d of %d call packets not answered while the rules changed, want 15 at most, 150 ms of them, and %d that had no path",
				lost, before-from, starved)
		}
		return nil
	})
	m.hup(sha, m.fleet(withRules(directCalls)))
	if err := m.ask("client", "10.20.0.2:81", "no"); err == nil { // captured, and turned away by fra, which has the old document
		t.Error("the exit carries what its document denies")
	}
	m.hup(fra, m.fleet(withRules(directCalls)))
	must(t, m.ask("client", "10.20.0.2:81", "allowed now"))

	m.allUp("sha")
	if got := m.probedBy("sha"); len(got) != 2 {
		t.Errorf("paths %v, want two", got)
	}
}

// noPath is how many direct packets the gateways dropped because no path was alive.
func (m *machines) noPath() (n int) {
	m.t.Helper()
	for _, node := range []string{"sha", "fra"} {
		n += int(m.verdicts(node, "classifier")["no-path"])
	}
	return n
}

// setDown switches a NIC off or on.
func (m *machines) setDown(machine, dev string, down bool) {
	m.t.Helper()
	m.in(machine, func() error {
		nic, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		if down {
			return netlink.LinkSetDown(nic)
		}
		return netlink.LinkSetUp(nic)
	})
}

// carrierOf is the interface that the class is sent out of now.
func (m *machines) carrierOf(node, class string) string {
	m.t.Helper()
	c := admin.NewClient(m.file(node + ".sock"))
	defer c.Close()
	var dev string
	eventually(m.t, testTimeout, func() error {
		p, err := c.Paths(m.t.Context())
		if err != nil {
			return err
		}
		for _, ch := range p.Peers[0].Classes {
			if ch.Class == class && len(ch.Next) > 2 {
				dev = ch.Next[:2] + "0" // ct-ct over ct0
				return nil
			}
		}
		return fmt.Errorf("%s has no path: %+v", class, p.Peers[0])
	})
	return dev
}

// probedBy returns who measures each path of a node.
func (m *machines) probedBy(node string) map[string]string {
	m.t.Helper()
	c := admin.NewClient(m.file(node + ".sock"))
	defer c.Close()
	p, err := c.Paths(m.t.Context())
	must(m.t, err)
	out := map[string]string{}
	for _, peer := range p.Peers {
		for _, path := range peer.Paths {
			out[path.Name] = path.Probe
		}
	}
	return out
}

// allUp waits until all paths of a node are up.
func (m *machines) allUp(node string) {
	m.t.Helper()
	c := admin.NewClient(m.file(node + ".sock"))
	defer c.Close()
	eventually(m.t, testTimeout, func() error {
		p, err := c.Paths(m.t.Context())
		if err != nil {
			return err
		}
		for _, peer := range p.Peers {
			for _, path := range peer.Paths {
				if path.State != admin.PathUp {
					return fmt.Errorf("%s is %s", path.Name, path.State)
				}
			}
		}
		return nil
	})
}

// TestStopped: while the daemon stands still, the kernel refuses the carrier that goes dark, and calls go on over the
// other one.
func TestStopped(t *testing.T) {
	m := newMachines(t)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls)))
	sha, _ := m.border()
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)
	time.Sleep(2 * time.Second)
	if got := fmt.Sprint(m.probedBy("sha")); got != "map[ct-ct:xdp cu-cu:xdp]" {
		t.Errorf("probed by %s, want xdp for both", got)
	}
	dev := m.carrierOf("sha", "realtime")
	must(t, sha.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(time.Second)
	k.flowing(t, testTimeout) // the peer's probes speak for the paths
	m.setDown("fra", dev, true)
	time.Sleep(600 * time.Millisecond)
	t.Logf("%s dark while the daemon stands still: no answers for %v", dev, time.Duration(k.gap.Load()).Round(time.Millisecond))
	k.flowing(t, testTimeout) // TestDarkNewFlows says how soon
	must(t, sha.cmd.Process.Signal(syscall.SIGCONT))
	m.setDown("fra", dev, false)
}

// TestGuard: what is not ours is dropped when the guard enforces, and what is ours is not.
func TestGuard(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	m.udpEcho("origin", "10.20.0.2:5004")
	for _, port := range []int{2222, 2223} {
		m.serve("sha", fmt.Sprintf("10.1.1.1:%d", port), echo)
	}
	fleet := func(mode string) string {
		return m.fleet(withRules(directCalls)) + "guard:\n  mode: " + mode + "\n  allow:\n    - {from: 10.1.0.0/16, protocol: tcp, ports: 2223}\n"
	}
	m.write("fleet.yaml", fleet("enforce"))
	sha, _ := m.border()
	m.serve("plant", "10.2.1.2:2222", echo)
	m.write("agent.yaml", m.agent()+"guard: enforce\n")
	plant := m.site()
	m.works(testTimeout, "client", "10.20.0.2:80")
	m.works(testTimeout, "worker", "10.20.0.2:80")
	k := m.call("client", "10.10.0.2:5004", "10.20.0.2:5004")
	k.flowing(t, testTimeout)

	// Junk: to the bond's port, to other ports, as fast as one sender can.
	stop := make(chan struct{})
	done := make(chan int)
	go func() {
		n := 0
		c, err := wan.ListenUDPIn(m.ns("fra"), netip.MustParseAddrPort("10.1.1.2:0"))
		if err == nil {
			defer c.Close()
			for {
				select {
				case <-stop:
					done <- n
					return
				default:
				}
				for port := range uint16(200) {
					_, _ = c.WriteToUDPAddrPort(make([]byte, 64), netip.AddrPortFrom(netip.MustParseAddr("10.1.1.1"), 20000+port))
					n++
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		done <- n
	}()
	for range 20 {
		must(t, m.ask("client", "10.20.0.2:80", strings.Repeat("under fire ", 1000)))
	}
	if m.answers(300*time.Millisecond, "fra", "10.1.1.1:2222") {
		t.Error("enforcing, the guard lets an unwanted connection in")
	}
	must(t, m.ask("fra", "10.1.1.1:2223", "on the list"))
	if m.answers(300*time.Millisecond, "sha", "10.2.1.2:2222") {
		t.Error("enforcing, the agent's guard lets an unwanted connection in")
	}
	m.write("agent.yaml", m.agent()+"guard: observe\n")
	must(t, plant.cmd.Process.Signal(syscall.SIGHUP))
	plant.log.waitFor(t, "msg=reloaded")
	must(t, m.ask("sha", "10.2.1.2:2222", "only observed"), m.ask("worker", "10.20.0.2:80", "as before"))
	k.flowing(t, testTimeout)
	close(stop)
	junk := <-done
	if v := m.verdicts("sha", "guard"); v["unwanted"] < uint64(junk)/2 || v["bond"] == 0 || v["allowed"] == 0 || junk == 0 {
		t.Errorf("%d junk packets, verdicts %v", junk, v)
	}
	if v := m.verdicts("sha", "reflector"); v["reflected"] == 0 || v["reply"] == 0 {
		t.Errorf("probe verdicts %v", v)
	}
	m.hup(sha, fleet("observe"))
	must(t, m.ask("fra", "10.1.1.1:2222", "only observed"))
	m.hup(sha, fleet("enforce"))
	if m.answers(300*time.Millisecond, "fra", "10.1.1.1:2222") {
		t.Error("enforcing again, the guard lets an unwanted connection in")
	}
	m.works(testTimeout, "client", "10.20.0.2:80")
}

// verdicts returns what a node's program counted.
func (m *machines) verdicts(node, program string) map[string]uint64 {
	m.t.Helper()
	c := admin.NewClient(m.file(node + ".sock"))
	defer c.Close()
	p, err := c.Paths(m.t.Context())
	must(m.t, err)
	return p.Verdicts[program]
}

// explained asks a node about flows.
func (m *machines) explained(node, flow string) (admin.Explanation, error) {
	m.t.Helper()
	q, err := admin.ParseFlow(flow)
	must(m.t, err)
	c := admin.NewClient(m.file(node + ".sock"))
	defer c.Close()
	return c.Explain(m.t.Context(), q)
}

// TestExplain: why each flow is where it is.
func TestExplain(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	m.udpEcho("origin", "10.20.0.2:5004")
	m.write("fleet.yaml", m.fleet(withRules(directCalls+"      - {protocol: tcp, ports: 25, action: deny}\n")))
	m.border()
	m.works(testTimeout, "client", "10.20.0.2:80")
	m.call("client", "10.10.0.2:5004", "10.20.0.2:5004").flowing(t, testTimeout)
	held, err := m.dial("client", "10.20.0.2:80")
	must(t, err, turn(held))
	defer held.Close()
	m.allUp("sha")
	for _, tc := range []struct {
		flow string
		want admin.ExplainedFlow
	}{
		{"10.10.0.2:5004", admin.ExplainedFlow{Protocol: "udp", Fate: admin.FlowDirect, Source: "classifier", Class: "realtime", RuleNumber: 1}},
		{held.LocalAddr().String(), admin.ExplainedFlow{Protocol: "tcp", Fate: admin.FlowTunnelled, Source: "classifier", Class: "interactive"}},
		{"tcp 10.10.0.9:1 10.20.0.2:443", admin.ExplainedFlow{Protocol: "tcp", Fate: admin.FlowTunnelled, Source: "rules", Class: "interactive"}},
		{"10.10.0.9:1 10.20.0.2:25", admin.ExplainedFlow{Protocol: "tcp", Fate: admin.FlowDenied, Source: "rules", RuleNumber: 2}},
	} {
		x, err := m.explained("sha", tc.flow)
		if err != nil || len(x.Flows) != 1 {
			t.Errorf("%s: %+v, %v", tc.flow, x, err)
			continue
		}
		got := x.Flows[0]
		if w := tc.want; got.Protocol != w.Protocol || got.Fate != w.Fate || got.Source != w.Source || got.Class != w.Class || got.RuleNumber != w.RuleNumber ||
			got.Tenant != "acme" || got.Site != "hq" || (got.RuleNumber == 0) != (got.Rule == "") {
			t.Errorf("%s: %+v, want %+v", tc.flow, got, w)
		}
		if got.Fate != admin.FlowDenied && (got.Peer != "fra" || got.Path != "ct-ct" && got.Path != "cu-cu" || got.Choice == nil || len(got.Choice.Candidates) != 2) {
			t.Errorf("%s: peer %q, path %q, choice %+v", tc.flow, got.Peer, got.Path, got.Choice)
		}
	}
	for _, flow := range []string{"10.10.0.2:1", "udp 10.10.0.2:1 10.20.0.2:2", "10.99.0.2:1 10.20.0.2:2"} {
		if x, err := m.explained("sha", flow); !errors.Is(err, admin.ErrNoFlow) {
			t.Errorf("%s: %+v, %v, want %v", flow, x, err, admin.ErrNoFlow)
		}
	}
}

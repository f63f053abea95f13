package capture

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bpf"
)

// tryDial connects from the client and gives up soon: what is denied is not answered.
func (topo *topology) tryDial(addr string) error {
	return topo.client.do(func() error {
		d := net.Dialer{Timeout: 400 * time.Millisecond}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// TestRules: what the rules say of a flow is done before it is captured, the class is known to the handler, and new rules
// leave what they still allow alone.
func TestRules(t *testing.T) {
	topo := newTopology(t)
	origin := topo.origin.listen(t, ":7003")
	serveEcho(origin)
	var wan0 int
	must(t, topo.gateway.do(func() error {
		nic, err := net.InterfaceByName("wan0")
		if err == nil {
			wan0 = nic.Index
		}
		return err
	}))
	paths, err := bpf.NewPaths()
	must(t, err)
	t.Cleanup(func() { _ = paths.Close() })
	must(t, paths.Set(1, bpf.Path{Ifindex: wan0, State: bpf.PathUp, MaxAge: -1}), paths.SetCandidates(1, bpf.Interactive, []bpf.PathID{1}))

	port := func(n uint16) bpf.PortRange { return bpf.PortRange{From: n, To: n} }
	policy := bpf.Policy{
		Tenants: []bpf.Tenant{{ID: 1, Prefixes: prefixes("10.77.1.0/24", "fd77:1::/64"), Group: 1}},
		Rules: []bpf.Rule{
			{ID: 1, Protocol: 6, Ports: port(7001), Action: bpf.Deny},
			{ID: 2, Protocol: 6, Ports: port(7002), Action: bpf.Allow, Class: bpf.Realtime},
			{ID: 3, Protocol: 6, Ports: port(7003), Action: bpf.Direct},
		},
		Strangers: bpf.Allow,
	}
	log := newFlowLog()
	tr := &Transparent{Interfaces: []string{"lan0"}, Prefixes: prefixes("10.77.2.0/24", "fd77:2::/64"), Policy: policy, Paths: paths}
	if err := tr.SetPolicy(policy); !errors.Is(err, errNotStarted) {
		t.Errorf("set policy before start: %v", err)
	}
	topo.startTransparent(t, tr, log.handle)
	families(t, func(t *testing.T, _, _, origin string) {
		if err := topo.tryDial(hostPort(origin, 7001)); !timedOut(err) {
			t.Errorf("denied: %v, want no answer", err)
		}
		for _, tc := range []struct {
			port  int
			class bpf.Class
		}{{7002, bpf.Realtime}, {7000, bpf.Interactive}} {
			c, err := topo.client.dial(hostPort(origin, tc.port))
			must(t, err)
			f := log.next(t)
			if f.Class != tc.class {
				t.Errorf("port %d: class %v, want %v", tc.port, f.Class, tc.class)
			}
			f.done()
			must(t, c.Close())
		}
		c, err := topo.client.dial(hostPort(origin, 7003))
		must(t, err)
		expect(t, c, "peer "+c.LocalAddr().String()+"\n")
		must(t, c.Close())
		log.none(t)
	})

	// A connection that is there goes on under rules that do not name it, and ends under those that deny it.
	held, err := topo.client.dial(hostPort(origin4, 7000))
	must(t, err)
	defer held.Close()
	f := log.next(t)
	defer f.done()
	policy.Rules[0].Ports, policy.Rules[1].Ports = port(7002), port(7001)
	must(t, tr.SetPolicy(policy))
	send(t, held, "still")
	expect(t, f.Conn, "still")
	if err := topo.tryDial(hostPort(origin4, 7002)); !timedOut(err) {
		t.Errorf("denied by the new rules: %v, want no answer", err)
	}
	now, err := topo.client.dial(hostPort(origin4, 7001))
	must(t, err, now.Close())
	log.next(t).done()
	flows := map[uint16]bpf.Flow{}
	must(t, tr.ReadFlows(func(k bpf.Flow) bool { flows[k.Dst.Port()] = k; return true }))
	if k := flows[7000]; !k.Captured || k.Tenant != 1 || k.Rule != 0 || k.Packets == 0 {
		t.Errorf("captured flow %+v", k)
	}
	if k := flows[7003]; k.Captured || k.Rule != 3 || k.Action != bpf.Direct || k.Path != 1 {
		t.Errorf("direct flow %+v", k)
	}
	policy.Rules[0].Ports = port(7000)
	must(t, tr.SetPolicy(policy))
	send(t, held, "never")
	must(t, f.Conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if _, err := f.Conn.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("denied in the middle: read %v, want nothing", err)
	}
	eventually(t, "4 denied and 6 sent out at least", func() bool {
		v, err := tr.Verdicts()
		must(t, err)
		return v[bpf.Denied] >= 4 && v[bpf.SentDirect] >= 6
	})
	bad := policy
	bad.Rules = []bpf.Rule{{ID: 0}}
	if err := tr.SetPolicy(bad); err == nil {
		t.Error("a rule without a number was taken")
	}
}

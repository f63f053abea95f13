package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
)

// natConn is a probe socket behind a NAT of the strict kind: each destination sees a port of its own, and only the
// destination gets in by it.
type natConn struct {
	in    chan natDatagram
	done  chan struct{}
	once  sync.Once
	moved *atomic.Int32 // its number of times: then all ports are new

	mu   sync.Mutex
	out  map[netip.AddrPort]*net.UDPConn
	life int32
}

type natDatagram struct {
	b    []byte
	from netip.AddrPort
}

func newNATConn(moved *atomic.Int32) *natConn {
	return &natConn{in: make(chan natDatagram, 64), done: make(chan struct{}), moved: moved, out: map[netip.AddrPort]*net.UDPConn{}}
}

func (c *natConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.moved.Load(); now != c.life {
		for _, o := range c.out {
			o.Close()
		}
		clear(c.out)
		c.life = now
	}
	o := c.out[to]
	if o == nil {
		var err error
		if o, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to)); err != nil {
			return 0, err
		}
		c.out[to] = o
		go func() {
			buf := make([]byte, 1500)
			for {
				n, err := o.Read(buf)
				if err != nil {
					if _, aerr := o.Write(nil); aerr != nil { // closed, and not just an ICMP error
						return
					}
					continue
				}
				select {
				case c.in <- natDatagram{append([]byte(nil), buf[:n]...), to}:
				case <-c.done:
					return
				}
			}
		}()
	}
	return o.Write(b)
}

func (c *natConn) ReadProbe(b []byte) (int, uint8, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), 64, d.from, nil
	case <-c.done:
		return 0, 0, netip.AddrPort{}, net.ErrClosed
	}
}

func (c *natConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.out {
		o.Close()
	}
	c.once.Do(func() { close(c.done) })
	return nil
}

// TestProbesToAgent: a gateway measures the paths to an agent behind a strict NAT, both ways, and goes on when the NAT
// forgets and gives the agent new ports.
func TestProbesToAgent(t *testing.T) {
	t.Parallel()
	ports := takePorts(t, 5)
	plant := fmt.Sprintf("      plant: {at: sha, prefixes: [10.11.0.0/24], public_key: %s}\n", keyPlant.Public())
	fleet := fleetOf(ports, acme+plant)
	o := serve(t, echo)
	sha, _ := startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA, Dial: o.dial, ListenProbe: listenProbe})
	file, err := config.ParseAgent(fmt.Appendf(nil, `tenant: acme
site: plant
key: plant.key
gateway: {name: sha, public_key: %s, addresses: ["127.0.0.1:%d", "127.0.0.1:%d"]}
uplinks:
  isp1: {interface: lo, address: 127.0.0.1}
  isp2: {interface: lo, address: 127.0.0.1}
paths: [isp1-0, isp2-1]
prefixes: [10.11.0.0/24]
socks5: 127.0.0.1:%d
`, keySHA.Public(), ports[0], ports[1], ports[4]))
	must(t, err)
	cfg, err := file.Node(nil)
	must(t, err)
	var moved atomic.Int32
	agent, _ := startNode(t, cfg, Options{Role: RoleAgent, Key: keyPlant, ListenProbe: func(config.NodeUplink, uint16) (probe.Conn, error) {
		return newNATConn(&moved), nil
	}})
	waitStates(t, agent, "sha", testTimeout, map[string]pathsel.State{"isp1-0": pathsel.StateUp, "isp2-1": pathsel.StateUp})
	settled := func() error {
		states, d := pathStates(sha, "acme/plant")
		if len(states) != 2 {
			return fmt.Errorf("paths to the agent %v, want two", states)
		}
		for name, s := range states {
			if s != pathsel.StateUp {
				return fmt.Errorf("%s is %v, want up", name, s)
			}
		}
		for _, c := range d.Classes {
			if !c.OK || len(c.Order) != 2 {
				return fmt.Errorf("%v: %+v, want two paths in order", c.Class, c)
			}
		}
		return nil
	}
	eventually(t, testTimeout, settled)
	moved.Add(1)
	since := probe.Now()
	eventually(t, testTimeout, func() error { // both paths are heard at their new ports
		for _, p := range sha.watch.all() {
			if p.cfg.Name != "acme/plant" {
				continue
			}
			_, states, _ := p.snapshot()
			for i := range states {
				if states[i].Heard < since+2*time.Second {
					return fmt.Errorf("%s was heard last at %v, moved at %v", states[i].Name, states[i].Heard, since)
				}
			}
		}
		return settled()
	})
}

// heldConn is a probe socket that counts as open until it is closed.
type heldConn struct {
	*natConn
	open *atomic.Int32
	shut sync.Once
}

func (c *heldConn) Close() error {
	c.shut.Do(func() { c.open.Add(-1) })
	return c.natConn.Close()
}

// TestAgentSockets: an uplink that comes and goes leaves nothing behind, and the last agent takes the socket with it.
func TestAgentSockets(t *testing.T) {
	var open, moved atomic.Int32
	listen := func(_ config.NodeUplink, port uint16) (probe.Conn, error) {
		if port == 4502 {
			open.Add(1)
			return &heldConn{natConn: newNATConn(&moved), open: &open}, nil
		}
		return newNATConn(&moved), nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	u := config.NodeUplink{Name: "acc1", Interface: "acc0", Address: netip.MustParseAddrPort("10.2.1.1:4500")}
	w := newWatch(ctx, &wg, &config.NodeConfig{Uplinks: []config.NodeUplink{u}}, RoleGateway, listen, nil, nil, slog.New(slog.DiscardHandler))
	for _, name := range []string{"acme/plant", "acme/shop"} {
		w.add(config.Peer{Name: name, Kind: config.PeerAgent, Uplinks: []string{"acc1"}}, nil)
	}
	w.reopen(u) // the first time, whatever starts has started
	before := runtime.NumGoroutine()
	for range 50 {
		w.reopen(u)
	}
	eventually(t, testTimeout, func() error {
		if n := runtime.NumGoroutine(); n > before+5 {
			return fmt.Errorf("%d goroutines after 50 new sockets, %d before", n, before)
		}
		return nil
	})
	w.remove("acme/shop")
	if n := open.Load(); n != 1 {
		t.Errorf("%d sockets for one agent", n)
	}
	w.remove("acme/plant")
	if n := open.Load(); n != 0 {
		t.Errorf("%d sockets without an agent", n)
	}
	w.add(config.Peer{Name: "acme/plant", Kind: config.PeerAgent, Uplinks: []string{"acc1"}}, nil)
	if n := open.Load(); n != 1 {
		t.Errorf("%d sockets for an agent that is back", n)
	}
	cancel()
	wg.Wait()
	if n := open.Load(); n != 0 {
		t.Errorf("%d sockets after the end", n)
	}
}

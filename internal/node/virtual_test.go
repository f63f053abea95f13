package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// What nodes promise in seconds is measured here, in virtual time: there no other load of the machine counts.

// virtual is two gateways over a network in memory, with an origin behind fra. It is made inside a bubble.
type virtual struct {
	t       *testing.T
	network *wan.Network
	fleet   string
	sockets map[string][]*wan.Conn
	nodes   map[string]*Node
}

func newVirtual(t *testing.T, imp wan.Impairment) *virtual {
	t.Helper()
	v := &virtual{t: t, network: wan.NewNetwork(1), sockets: map[string][]*wan.Conn{}, nodes: map[string]*Node{}}
	at := []string{"10.1.1.1", "10.1.2.1", "10.1.1.2", "10.1.2.2"}
	for i := range 2 {
		_, err := v.network.Connect(netip.MustParseAddr(at[i]), netip.MustParseAddr(at[i+2]), imp, imp)
		must(t, err)
	}
	v.fleet = fleetOf([]int{4500, 4501, 4502, 4503}, acme)
	for i, a := range at {
		v.fleet = strings.Replace(v.fleet, fmt.Sprintf("127.0.0.1:%d", 4500+i), a+":4500", 1)
	}
	for _, name := range []string{"sha", "fra"} {
		v.start(name)
	}
	return v
}

func (v *virtual) start(name string) {
	v.t.Helper()
	opts := Options{Role: RoleGateway, NoCapture: true, Key: keySHA, Log: (&logBook{}).logger(), Dial: dialEcho, Listen: func(u config.NodeUplink) (bond.Uplink, error) {
		c, err := v.network.Listen(u.Address)
		if err != nil {
			return bond.Uplink{}, err
		}
		v.sockets[name] = append(v.sockets[name], c)
		// QUIC's packets are no larger than quic-go's default, else its pacer waits for a clock that stands still.
		return bond.Uplink{Name: u.Name, Socket: bond.NewPacketSocket(c, u.Address), Rate: int64(u.Rate), MTU: 1280}, nil
	}}
	if name == "fra" {
		opts.Key = keyFRA
	}
	n, err := Start(context.Background(), nodeConfig(v.t, v.fleet, name), opts)
	must(v.t, err)
	v.nodes[name] = n
}

// crash takes a node from the network without a word.
func (v *virtual) crash(name string) {
	for _, c := range v.sockets[name] {
		c.Close()
	}
	delete(v.sockets, name)
	go v.nodes[name].Close()
}

func (v *virtual) close() {
	for _, n := range v.nodes {
		must(v.t, n.Close())
	}
	time.Sleep(time.Minute) // what is left of crashed ones ends by itself
}

// dialEcho is an origin without sockets.
func dialEcho(context.Context, netip.AddrPort, netip.AddrPort) (net.Conn, error) {
	far, near := net.Pipe()
	go func() {
		defer far.Close()
		_, _ = io.Copy(far, far)
	}()
	return near, nil
}

// flow opens a flow at sha; what the client has of it is closed with it.
func (v *virtual) flow() net.Conn {
	client, captured := net.Pipe()
	go func() {
		_ = v.nodes["sha"].Handle(context.Background(), tunnel.Flow{
			Src: netip.MustParseAddrPort("10.10.0.2:1000"), Dst: netip.MustParseAddrPort("10.20.0.2:80"), Conn: tunnel.WrapConn(captured),
		})
	}()
	return client
}

// works returns after which time flows come through.
func (v *virtual) works() time.Duration {
	v.t.Helper()
	began := time.Now()
	for {
		c := v.flow()
		err := turn(c)
		c.Close()
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			v.t.Fatalf("no flow comes through: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestBack: flows come through within 3 s of the start of a gateway that had crashed, whichever it is, and whether it was
// away for a moment or for long.
func TestBack(t *testing.T) {
	for _, name := range []string{"sha", "fra"} {
		for _, loss := range []float64{0, 0.02} {
			t.Run(fmt.Sprintf("%s, loss %v", name, loss), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := newVirtual(t, wan.Impairment{Rate: 20e6, Delay: 80 * time.Millisecond, Loss: loss})
					defer v.close()
					v.works()
					var worst time.Duration
					for i := range 12 {
						time.Sleep(time.Duration(i) * 370 * time.Millisecond)
						v.crash(name)
						time.Sleep([]time.Duration{50 * time.Millisecond, 700 * time.Millisecond, 20 * time.Second}[i%3])
						v.start(name)
						d := v.works()
						worst = max(worst, d)
						if d > 3*time.Second {
							t.Errorf("crash %d: flows again after %v, want 3s", i, d)
						}
					}
					t.Logf("the latest of all was after %v", worst)
				})
			})
		}
	}
}

// TestVirtualCloseBound: an end with flows open is quick, also while the paths' rates are being found, which takes 4 s.
func TestVirtualCloseBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, order := range [][]string{{"sha", "fra"}, {"fra", "sha"}} {
			v := newVirtual(t, wan.Impairment{Rate: 20e6, Delay: 80 * time.Millisecond})
			t.Logf("flows come through after %v", v.works())
			var held []net.Conn
			var turns sync.WaitGroup
			for range 20 {
				c := v.flow()
				turns.Go(func() {
					if err := turn(c); err != nil {
						t.Error(err)
					}
				})
				held = append(held, c)
			}
			turns.Wait()
			for _, name := range order {
				began := time.Now()
				must(t, v.nodes[name].Close())
				if d := time.Since(began); d > time.Second {
					t.Errorf("closing %s took %v, want a second", name, d)
				} else {
					t.Logf("closing %s took %v", name, d)
				}
			}
			for _, c := range held {
				if err := turn(c); err == nil {
					t.Error("a flow goes on without its nodes")
				}
				c.Close()
			}
			v.nodes = nil
			v.close()
		}
	})
}

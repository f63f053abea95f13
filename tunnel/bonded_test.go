package tunnel

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// smallLanes keeps QUIC's packets to 1280 bytes; see fakeLane.MaxPacketSize.
type smallLanes struct{ Session }

type smallLane struct{ Lane }

func (l smallLane) MaxPacketSize() int { return min(l.Lane.MaxPacketSize(), 1280) }

func (s smallLanes) OpenLane(c Class) (Lane, error) {
	l, err := s.Session.OpenLane(c)
	if err != nil {
		return nil, err
	}
	return smallLane{l}, nil
}

func (s smallLanes) AcceptLane(ctx context.Context) (Lane, error) {
	l, err := s.Session.AcceptLane(ctx)
	if err != nil {
		return nil, err
	}
	return smallLane{l}, nil
}

type smallSource struct{ SessionSource }

func (s smallSource) AcceptSession(ctx context.Context) (Session, error) {
	ses, err := s.SessionSource.AcceptSession(ctx)
	if err != nil {
		return nil, err
	}
	return smallLanes{ses}, nil
}

// newBonded returns a chain joined by real bonds over a network in memory: hops[i] are the links between node i and the
// next. It must be made inside a bubble.
func newBonded(t testing.TB, seed uint64, hops [][]wan.Impairment, opts ...chainOpt) (c *chain, done func()) {
	t.Helper()
	c = newNodes(t, len(hops)+1, opts...)
	network := wan.NewNetwork(seed)
	var hosts []*bond.Host
	for i := range c.nodes {
		h, err := bond.NewHost(bond.HostConfig{Key: c.keys[i], Log: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	for i, links := range hops {
		var ends [2]bond.PeerConfig
		for k, imp := range links {
			at := func(side byte) netip.AddrPort {
				return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(k), side}), 4500)
			}
			if _, err := network.Connect(at(0).Addr(), at(1).Addr(), imp, imp); err != nil {
				t.Fatal(err)
			}
			for side := range ends {
				sock, err := network.Listen(at(byte(side)))
				if err != nil {
					t.Fatal(err)
				}
				name := names[i] + names[k]
				if err := hosts[i+side].AddUplink(bond.Uplink{Name: name, Socket: bond.NewPacketSocket(sock, at(byte(side)))}); err != nil {
					t.Fatal(err)
				}
				ends[side].Paths = append(ends[side].Paths, bond.PathConfig{Name: name, Uplink: name, Remote: at(byte(1 - side))})
			}
		}
		var sources [2]SessionSource
		for side := range ends {
			other := i + 1 - side
			ends[side].Name, ends[side].Key = names[other], c.keys[other].Public()
			b, err := hosts[i+side].Bond(ends[side])
			if err != nil {
				t.Fatal(err)
			}
			c.bonds = append(c.bonds, b)
			sources[side] = smallSource{Sessions(b)}
		}
		c.join(i, sources[0], sources[1])
	}
	return c, func() {
		c.close()
		for _, h := range hosts {
			h.Close()
		}
		time.Sleep(time.Second)
	}
}

// warmed waits until all lanes are there and ready.
func (c *chain) warmed() {
	c.t.Helper()
	for range 600 {
		time.Sleep(100 * time.Millisecond)
		cold := false
		for _, n := range c.nodes {
			for _, p := range n.Stats().Peers {
				lanes := 0
				for _, l := range p.Lanes {
					if !l.Draining {
						lanes++
						cold = cold || !l.Ready
					}
				}
				cold = cold || lanes != n.cfg.Lanes.Interactive+n.cfg.Lanes.Bulk
			}
		}
		if !cold {
			return
		}
	}
	for _, n := range c.nodes {
		c.t.Logf("%s: %+v", n.cfg.Name, n.Stats().Peers)
	}
	c.t.Fatal("lanes not warm after a minute")
}

// fairness is Jain's index of the shares.
func fairness(shares []int64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// TestCrowd has many flows begin at once, each with more to send than its share: all get the same of it, though the first
// of them finds the bond empty.
func TestCrowd(t *testing.T) {
	t.Parallel()
	access := []string{"200mbit queue 50ms delay 2ms"}
	for name, tc := range map[string]struct {
		hops   [][]string
		upload bool
	}{
		"download": {hops: [][]string{nil}},
		// Frames come to the relay as large as its fast first hop made them.
		"upload over a relay": {hops: [][]string{access, nil}, upload: true},
	} {
		if raceOn && tc.upload {
			continue // two hops to warm
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(t *testing.T) {
				flows, mbit, window := 200, 10, 8*time.Second
				if raceOn {
					flows, window = 60, 3*time.Second
				}
				var hops [][]wan.Impairment
				for _, texts := range tc.hops {
					var links []wan.Impairment
					if texts == nil {
						for _, delay := range []int{90, 110, 80} {
							texts = append(texts, fmt.Sprintf("%dmbit queue 100ms delay %dms", mbit, delay))
						}
					}
					for _, text := range texts {
						imp, err := wan.ParseImpairment(text)
						if err != nil {
							t.Fatal(err)
						}
						links = append(links, imp)
					}
					hops = append(hops, links)
				}
				c, done := newBonded(t, seeded(t).Uint64(), hops, warm, raw)
				defer done()
				got := make([]atomic.Int64, flows)
				count := func(i int, conn *memConn) {
					buf := make([]byte, 64<<10)
					for {
						n, err := conn.Read(buf)
						got[i].Add(int64(n))
						if err != nil {
							return
						}
					}
				}
				var served atomic.Int64
				c.serve = source64k
				if tc.upload {
					c.serve = func(conn *memConn) { count(int(served.Add(1)-1), conn) }
				}
				c.warmed()
				var wg sync.WaitGroup
				for i := range flows {
					conn, done := c.open()
					wg.Go(func() {
						if tc.upload {
							source64k(conn)
						} else {
							_, _ = conn.Write([]byte("please"))
							count(i, conn)
						}
						<-done
					})
					time.AfterFunc(window, func() { _ = conn.Reset() })
				}
				time.Sleep(window)
				shares := make([]int64, flows)
				var sum int64
				for i := range got {
					shares[i] = got[i].Load()
					sum += shares[i]
				}
				wg.Wait()
				for _, n := range c.nodes {
					if st := n.Stats(); st.Shed > 0 {
						t.Errorf("%s: %d flows were reset for standing still", n.cfg.Name, st.Shed)
					}
				}
				if f := fairness(shares); f < 0.95 {
					t.Errorf("fairness %.3f: %d to %d bytes", f, slices.Min(shares), slices.Max(shares))
				}
				if rate := float64(sum) * 8 / 1e6 / window.Seconds(); rate < 0.75*3*float64(mbit) {
					t.Errorf("%.1f Mbit/s in all, of %d", rate, 3*mbit)
				}
			})
		})
	}
}

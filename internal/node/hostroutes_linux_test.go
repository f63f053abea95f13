package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/config"
)

// TestHostRoutesPace: routes are read when they change, at most once a second, and where that takes long, for a small part of
// the time; a new peer's at once.
func TestHostRoutesPace(t *testing.T) {
	for _, tc := range []struct {
		name        string
		cost        time.Duration
		news        time.Duration // between two changes, for a minute; 0: none
		least, most int           // readings
	}{
		{"quiet", 0, 0, 1, 1},
		{"a change now and then", 0, 10 * time.Second, 5, 6},
		{"always", 0, 10 * time.Millisecond, 58, 61},
		{"always, and a full table", 500 * time.Millisecond, 10 * time.Millisecond, 5, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex // of what follows
				reads, fail := 0, false
				var asked []netip.Addr
				h := &hostRoutes{
					log: slog.New(slog.DiscardHandler), news: make(chan struct{}, 1), want: make(chan struct{}, 1), done: make(chan struct{}),
					from: func(remotes []netip.Addr) (*routeView, error) {
						time.Sleep(tc.cost)
						mu.Lock()
						defer mu.Unlock()
						reads, asked = reads+1, remotes
						if fail {
							fail = false
							return nil, errors.New("out of memory") // the view of before stays
						}
						return &routeView{remotes: remotes}, nil
					},
				}
				h.start()
				defer h.close()
				mu.Lock()
				reads, fail = 0, true
				mu.Unlock()
				for begin := time.Now(); time.Since(begin) < time.Minute; {
					if tc.news == 0 {
						time.Sleep(time.Minute)
						break
					}
					tell(h.news)
					time.Sleep(tc.news)
				}
				mu.Lock()
				n := reads
				mu.Unlock()
				if n < tc.least || n > tc.most {
					t.Errorf("%d readings in a minute, want %d to %d", n, tc.least, tc.most)
				}
				time.Sleep(10 * time.Second)
				peer := netip.MustParseAddr("10.1.1.2")
				h.toward(peer)
				time.Sleep(2*tc.cost + time.Millisecond) // one may be under way
				mu.Lock()
				defer mu.Unlock()
				if !slices.Contains(asked, peer) || !h.toward(peer).knows(peer) {
					t.Errorf("the way to a new peer is not known at once: asked for %v", asked)
				}
			})
		})
	}
}

// TestHostRoutesFollow: what the host does to its routes is seen, also what it says nothing of.
func TestHostRoutesFollow(t *testing.T) {
	t.Parallel()
	m := newMachines(t)
	peer := netip.MustParseAddr("10.9.1.1")
	read := func(remotes []netip.Addr) (v *routeView, err error) {
		err = wan.InNamespace(m.ns("sha"), func() error {
			var err error
			v, err = readRoutes(remotes)
			return err
		})
		return v, err
	}
	var h *hostRoutes
	m.in("sha", func() error { h = newHostRoutes(slog.New(slog.DiscardHandler), read, []netip.Addr{peer}); return nil })
	defer h.close()
	var nic netlink.Link
	m.in("sha", func() (err error) { nic, err = netlink.LinkByName("ct0"); return err })
	_, far, err := net.ParseCIDR("10.9.0.0/16")
	must(t, err)
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	must(t, err)
	several := &netlink.Route{Dst: all, MultiPath: []*netlink.NexthopInfo{{LinkIndex: nic.Attrs().Index, Gw: net.IPv4(10, 1, 1, 7)}, {LinkIndex: nic.Attrs().Index + 1000, Gw: net.IPv4(10, 1, 2, 7)}}}
	m.in("sha", func() error {
		cu, err := netlink.LinkByName("cu0")
		if err == nil {
			several.MultiPath[1].LinkIndex = cu.Attrs().Index
		}
		return err
	})
	route := &netlink.Route{LinkIndex: nic.Attrs().Index, Dst: far, Gw: net.IPv4(10, 1, 1, 7)}
	addr, err := netlink.ParseAddr("10.1.1.1/24")
	must(t, err)
	for _, tc := range []struct {
		name string
		do   func() error
		want string // of ct0: the router to the peer, the default's, and the routes beside it
	}{
		{"at first", func() error { return nil }, "- - [10.1.1.0/24]"},
		{"a route", func() error { return netlink.RouteAdd(route) }, "10.1.1.7 - [10.1.1.0/24 10.9.0.0/16]"},
		{"a default over both carriers", func() error { return netlink.RouteAdd(several) }, "- 10.1.1.7 [10.1.1.0/24 10.9.0.0/16]"},
		{"none again", func() error { return netlink.RouteDel(several) }, "10.1.1.7 - [10.1.1.0/24 10.9.0.0/16]"},
		{"the link goes down", func() error { return netlink.LinkSetDown(nic) }, "- - []"},
		{"and up", func() error { return netlink.LinkSetUp(nic) }, "- - [10.1.1.0/24]"},
		{"the address goes", func() error { return netlink.AddrDel(nic, addr) }, "- - []"},
		{"and comes", func() error { return netlink.AddrAdd(nic, addr) }, "- - [10.1.1.0/24]"},
		{"the link is another's", func() error { return netlink.LinkSetName(nic, "ct1") }, "none"},
	} {
		m.in("sha", tc.do)
		eventually(t, testTimeout, func() error {
			v := h.toward(peer)
			got := "none"
			if p := v.hopTo("ct0", peer); p.Ifindex != 0 {
				text := func(a netip.Addr) string {
					if !a.IsValid() {
						return "-"
					}
					return a.String()
				}
				var gate netip.Addr
				dsts := []netip.Prefix{}
				if o := v.out[familyOf{unix.AF_INET, p.Ifindex}]; o != nil {
					for _, r := range o.main {
						dsts = append(dsts, r.dst)
					}
					if o.gate != nil {
						gate = o.gate.gw
					}
				}
				got = fmt.Sprint(text(p.NextHop), " ", text(gate), " ", dsts)
			}
			if got != tc.want {
				return fmt.Errorf("%s: %s, want %s", tc.name, got, tc.want)
			}
			return nil
		})
	}
}

// TestLook: a path's next hop is of its own uplink and remote, also after a reload has made another path of it, and stays while
// the routes' view has forgotten its remote.
func TestLook(t *testing.T) {
	a, b, c := netip.MustParseAddr("10.1.1.2"), netip.MustParseAddr("10.1.2.2"), netip.MustParseAddr("10.1.3.2")
	via := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	view := func(remotes ...netip.Addr) *routeView {
		v := &routeView{nics: map[string]int{"ct0": 1, "cu0": 2}, remotes: remotes, out: map[familyOf]*routesOut{}}
		for nic := range 2 {
			o := &routesOut{}
			for _, r := range remotes {
				o.toward = append(o.toward, towardRoute{32, via(10*byte(nic+1) + r.As4()[2])})
			}
			v.out[familyOf{unix.AF_INET, nic + 1}] = o
		}
		return v
	}
	h := &hostRoutes{want: make(chan struct{}, 1), remotes: []netip.Addr{a, b}}
	h.view.Store(view(a, b))
	k := &kernel{log: slog.New(slog.DiscardHandler), host: h}
	ct, cu := config.NodeUplink{Name: "ct", Interface: "ct0"}, config.NodeUplink{Name: "cu", Interface: "cu0"}
	kp := &kernelPath{}
	for _, tc := range []struct {
		name   string
		uplink config.NodeUplink
		remote netip.Addr
		view   *routeView // from now on; nil: that of before
		nic    int
		hop    netip.Addr
	}{
		{"at first", ct, a, nil, 1, via(11)},
		{"to another remote", ct, b, nil, 1, via(12)},
		{"of another uplink", cu, b, nil, 2, via(22)},
		{"forgotten", cu, b, view(a), 2, via(22)},
		{"known again", cu, b, view(b), 2, via(22)},
		{"to one that nobody knows", cu, c, nil, 0, netip.Addr{}},
	} {
		if tc.view != nil {
			h.view.Store(tc.view)
		}
		k.look(0, kp, tc.uplink, tc.remote)
		if kp.hop.Ifindex != tc.nic || kp.hop.NextHop != tc.hop {
			t.Errorf("%s: interface %d by %v, want %d by %v", tc.name, kp.hop.Ifindex, kp.hop.NextHop, tc.nic, tc.hop)
		}
	}
	if !slices.Contains(h.remotes, c) || len(h.want) == 0 {
		t.Errorf("%v are asked for", h.remotes)
	}
}

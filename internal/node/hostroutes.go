package node

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
)

const (
	// routesEvery is how often the host's routes are read at the most, however often they change.
	routesEvery = time.Second
	// routesShare bounds what reading them costs: a table of the Internet's takes seconds, and changes all the time. The next
	// reading waits so many times as long as the last one took.
	routesShare = 20
	// routesAnyway is when they are read again without news.
	routesAnyway = 30 * time.Second
)

// hostRoutes are the host's routes out of its interfaces, as far as direct flows need them. They are read when the host tells
// of a change.
//
// Stages: netlink socket -> receive (goroutine) -> news (latest wins) -> run (goroutine) -> the view.
type hostRoutes struct {
	log  *slog.Logger
	from func(remotes []netip.Addr) (*routeView, error) // readRoutes
	sock *nl.NetlinkSocket                              // nil: the host tells nothing
	news chan struct{}                                  // capacity 1: something changed
	want chan struct{}                                  // capacity 1: there is a remote that the view does not know
	done chan struct{}
	wg   sync.WaitGroup
	view atomic.Pointer[routeView]

	mu      sync.Mutex
	remotes []netip.Addr // peers' addresses, whose routers are wanted
}

// newHostRoutes reads them for the first time and follows them.
func newHostRoutes(log *slog.Logger, from func([]netip.Addr) (*routeView, error), remotes []netip.Addr) *hostRoutes {
	h := &hostRoutes{log: log, from: from, news: make(chan struct{}, 1), want: make(chan struct{}, 1), done: make(chan struct{}), remotes: remotes}
	// Subscribe before looking, so that no change falls in between.
	var err error
	if h.sock, err = subscribeRoutes(); err != nil {
		log.Warn("changes of the host's routes are seen late", "err", err, "every", routesAnyway)
	} else {
		h.wg.Go(h.receive)
	}
	h.start()
	return h
}

func (h *hostRoutes) start() {
	h.read()
	h.wg.Go(h.run)
}

// subscribeRoutes asks for news of all that views are made of. Going down, an interface takes its IPv4 routes along without a
// word of them.
func subscribeRoutes() (*nl.NetlinkSocket, error) {
	return nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
}

// receive ends when the socket is closed.
func (h *hostRoutes) receive() {
	for {
		_, _, err := h.sock.Receive()
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADF) {
			return
		}
		tell(h.news) // ENOBUFS, news were lost, is news too
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			select { // do not spin on an error nobody expects
			case <-time.After(time.Second):
			case <-h.done:
				return
			}
		}
	}
}

func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (h *hostRoutes) run() {
	for h.wait(routesAnyway, h.news) {
		for again := true; again; {
			began := time.Now()
			h.read()
			rest := max(routesEvery, routesShare*time.Since(began))
			began = time.Now()
			if !h.wait(rest, nil) {
				return
			}
			again = time.Since(began) < rest // a new remote does not wait
		}
	}
}

// wait waits for so long, or for news, or until a remote is wanted; false is the end.
func (h *hostRoutes) wait(d time.Duration, news <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-news:
	case <-h.want:
	case <-t.C:
	case <-h.done:
		return false
	}
	return true
}

func (h *hostRoutes) read() {
	h.mu.Lock()
	remotes := slices.Clone(h.remotes)
	h.mu.Unlock()
	v, err := h.from(remotes)
	if err != nil {
		h.log.Warn("the host's routes cannot be read; direct flows go by those of before", "err", err)
		if h.view.Load() != nil {
			return
		}
	}
	h.view.Store(v)
}

// toward is the latest view, which before long knows the way to the remote.
func (h *hostRoutes) toward(remote netip.Addr) *routeView {
	v := h.view.Load()
	if v.knows(remote) {
		return v
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.remotes, remote) {
		if len(h.remotes) >= bpf.MaxPaths { // of peers that are gone
			h.remotes = h.remotes[:0]
		}
		h.remotes = append(h.remotes, remote)
	}
	tell(h.want)
	return v
}

func (h *hostRoutes) close() {
	if h == nil {
		return
	}
	close(h.done)
	if h.sock != nil {
		h.sock.Close()
	}
	h.wg.Wait()
}

// routeView is what was read at one time. It does not change.
type routeView struct {
	began   time.Time // the reading
	nics    map[string]int
	remotes []netip.Addr
	out     map[familyOf]*routesOut    // by interface
	direct  map[familyOf][]directRoute // by table, of those for direct flows
}

type familyOf struct{ family, of int }

// routesOut are the routes out of an interface, of all tables but those for direct flows.
type routesOut struct {
	gate     *directRoute  // the default, of the main table rather than of another
	gateMain bool          // it is the main table's
	main     []directRoute // of the main table, at most maxDirectRoutes
	routers  []netip.Addr  // different ones, at most two
	toward   []towardRoute // by remote
}

// towardRoute is the longest one that leads to a remote.
type towardRoute struct {
	bits int // -1: there is none
	via  netip.Addr
}

// readRoutes reads all once. A host with millions of them keeps few here.
func readRoutes(remotes []netip.Addr) (*routeView, error) {
	v := &routeView{began: time.Now(), nics: map[string]int{}, remotes: remotes, out: map[familyOf]*routesOut{}, direct: map[familyOf][]directRoute{}}
	ifs, err := net.Interfaces()
	for _, i := range ifs {
		v.nics[i.Name] = i.Index
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		e := netlink.RouteListFilteredIter(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			v.add(family, &r)
			return true
		})
		// What changed while it was read is news, and read again. Not every host has IPv6.
		if e != nil && !errors.Is(e, netlink.ErrDumpInterrupted) && family == unix.AF_INET {
			err = errors.Join(err, e)
		}
	}
	return v, err
}

func (v *routeView) add(family int, r *netlink.Route) {
	if r.Table&^0xffff == directMark {
		at := familyOf{family, r.Table}
		v.direct[at] = append(v.direct[at], toDirectRoutes(family, r)...)
		return
	}
	if r.Type != unix.RTN_UNICAST {
		return
	}
	main := r.Table == unix.RT_TABLE_MAIN
	for _, d := range toDirectRoutes(family, r) {
		at := familyOf{family, d.nic}
		o := v.out[at]
		if o == nil {
			o = &routesOut{toward: slices.Repeat([]towardRoute{{bits: -1}}, len(v.remotes))}
			v.out[at] = o
		}
		o.add(d, main, v.remotes)
	}
}

func (o *routesOut) add(d directRoute, main bool, remotes []netip.Addr) {
	if d.gw.IsValid() && len(o.routers) < 2 && !slices.Contains(o.routers, d.gw) {
		o.routers = append(o.routers, d.gw)
	}
	bits := d.dst.Bits()
	if bits == 0 {
		if o.gate == nil || main && !o.gateMain || main == o.gateMain && d.metric < o.gate.metric {
			o.gate, o.gateMain = &d, main
		}
		return
	}
	if main && len(o.main) < maxDirectRoutes && !d.dst.Addr().IsLinkLocalUnicast() &&
		!slices.ContainsFunc(o.main, func(m directRoute) bool { return m.dst == d.dst && m.metric == d.metric }) {
		o.main = append(o.main, d)
	}
	for i, remote := range remotes {
		if bits > o.toward[i].bits && d.dst.Contains(remote) {
			o.toward[i] = towardRoute{bits, d.gw}
		}
	}
}

func (v *routeView) knows(remote netip.Addr) bool { return slices.Contains(v.remotes, remote) }

// hopTo finds where direct flows go on an interface, IPv4 and IPv6: to its default router, or, where it has no default
// route, to the router that leads to the peer, or to the peer itself. A peer of the other family leads nowhere; then it is the
// one router that all the interface's routes have.
func (v *routeView) hopTo(name string, remote netip.Addr) (p bpf.Path) {
	nic, ok := v.nics[name]
	if !ok || !v.knows(remote) {
		return p
	}
	p.Ifindex = nic
	v4, found := v.hopOf(nic, unix.AF_INET, remote)
	p.NextHop = v4
	if p.NextHop6, _ = v.hopOf(nic, unix.AF_INET6, remote); !found && remote.Is6() {
		p.NextHop = p.NextHop6
	}
	return p
}

// hopOf is that of one family; an invalid one that was found is whatever the routing table has.
func (v *routeView) hopOf(nic, family int, remote netip.Addr) (hop netip.Addr, found bool) {
	o := v.out[familyOf{family, nic}]
	if o == nil {
		return hop, false
	}
	if o.gate != nil {
		if family == unix.AF_INET { // the kernel finds it, and several of them
			return netip.Addr{}, true
		}
		return o.gate.gw, true
	}
	if t := o.toward[slices.Index(v.remotes, remote)]; t.bits >= 0 {
		hop = remote
		if t.via.IsValid() {
			hop = t.via
		}
	} else if len(o.routers) == 1 {
		hop = o.routers[0]
	}
	return hop, hop.IsValid()
}

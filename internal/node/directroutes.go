package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/tunnel/capture"
)

// Direct flows of an uplink with "direct: route" go through the host's stack, where netfilter and so its NAT sees them. The
// classifier puts the path's mark on them, and a rule for each such path leads them to a table of its own, with what the
// uplink's interface leads to and nothing else:
//
//	ip rule:  101: from all fwmark 0x4c440007 lookup 0x4c440007
//	table:    the interface's routes of the main table; default by the hop that direct flows take there; else unreachable
//
// Packets of a path whose interface has gone are refused, and do not leave by another one under its address.
const (
	// directMark and the path's number are mark and table. As capture's marks are, it is no mark of a verdict (bpf.Mark).
	directMark = 0x4c44_0000 // "LD"
	// directPriority puts the rules right behind capture's.
	directPriority = capture.DefaultRulePriority + 1
	// maxDirectRoutes bounds what is copied of an interface's routes: a full table of the Internet's would be copied for each
	// path. What is beyond goes by the default.
	maxDirectRoutes = 256
	// lastMetric is that of the route which refuses; directMetric that of a default which no table has.
	lastMetric, directMetric = 1<<32 - 2, 1024
)

// directRoutes are the rules and tables; nil has none and makes none. The caller sees to it that methods do not run at once.
type directRoutes struct {
	log   *slog.Logger
	paths map[bpf.PathID]bool    // that have them
	wrote map[familyOf]time.Time // by table: when it was last changed here; views of before do not show that
}

// newDirectRoutes begins with none: what is there is of a process that was killed. As with capture's own rule, there is one such
// process in a network namespace.
func newDirectRoutes(log *slog.Logger) *directRoutes {
	d := &directRoutes{log: log, paths: map[bpf.PathID]bool{}, wrote: map[familyOf]time.Time{}}
	if err := d.close(); err != nil {
		log.Warn("rules for direct flows of an earlier run are still there", "err", err, "hint", hint.Of(err))
	}
	return d
}

// directRoute is a route of such a table, as far as it matters.
type directRoute struct {
	nic    int // 0: refuse
	dst    netip.Prefix
	gw     netip.Addr // invalid: on the link
	metric int
}

// set makes a path's rules and tables what its interface and its hop ask for. What they have and what the interface leads to
// is the view's to know.
func (d *directRoutes) set(id bpf.PathID, hop bpf.Path, v *routeView) error {
	d.paths[id] = true
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		next := hop.NextHop
		if family == unix.AF_INET6 {
			next = hop.NextHop6
		}
		err := d.fill(directTable(id), family, hop.Ifindex, next, v)
		if e := netlink.RuleAdd(directRule(family, directTable(id))); !errors.Is(e, os.ErrExist) {
			err = errors.Join(err, e)
		}
		if err != nil && (family == unix.AF_INET || hasIPv6()) {
			return fmt.Errorf("route direct flows of path %d: %w", id, err)
		}
	}
	return nil
}

// hasIPv6 tells whether the host routes IPv6: it has rules of its own then.
func hasIPv6() bool {
	rules, err := netlink.RuleList(unix.AF_INET6)
	return err == nil && len(rules) > 0
}

// fill makes a table of one family what it should be.
func (d *directRoutes) fill(table, family, nic int, hop netip.Addr, v *routeView) error {
	at := familyOf{family, table}
	want := v.directRoutes(family, nic, hop)
	missing := slices.Clone(want)
	var stale []directRoute
	for _, old := range v.direct[at] {
		if !slices.Contains(want, old) {
			stale = append(stale, old)
		} else if v.began.After(d.wrote[at]) {
			missing = slices.DeleteFunc(missing, func(r directRoute) bool { return r == old })
		}
	}
	if len(missing)+len(stale) == 0 {
		return nil
	}
	defer func() { d.wrote[at] = time.Now() }()
	// New ones first: with none, packets would leave by the host's other tables.
	var errs []error
	for _, r := range missing {
		if err := netlink.RouteReplace(r.route(family, table)); err != nil {
			errs = append(errs, fmt.Errorf("route to %v: %w", r.dst, err))
		}
	}
	for _, r := range stale {
		if err := netlink.RouteDel(r.route(family, table)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %v: %w", r.dst, err))
		}
	}
	return errors.Join(errs...)
}

func everythingOf(family int) netip.Prefix {
	if family == unix.AF_INET6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// directRoutes is what a table should have. hop is the next one where the interface has no default route.
func (v *routeView) directRoutes(family, nic int, hop netip.Addr) (out []directRoute) {
	all := everythingOf(family)
	if nic != 0 {
		gate := &directRoute{nic: nic, dst: all, gw: hop}
		if !hop.IsValid() || hop.Is4() && family == unix.AF_INET6 {
			gate = nil
		}
		if o := v.out[familyOf{family, nic}]; o != nil {
			out = slices.Clone(o.main)
			if o.gate != nil {
				gate = o.gate
			}
		}
		if gate != nil {
			r := *gate
			r.metric = directMetric
			out = append(out, r)
		}
	}
	return append(out, directRoute{dst: all, metric: lastMetric})
}

// toDirectRoutes takes a route apart: one for each interface that it leads to, by the first of its routers there. A link that is
// down leads nowhere.
func toDirectRoutes(family int, r *netlink.Route) []directRoute {
	v := directRoute{dst: everythingOf(family), metric: r.Priority}
	if r.Dst != nil {
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			bits, _ := r.Dst.Mask.Size()
			if family == unix.AF_INET {
				a = a.Unmap()
			}
			v.dst = netip.PrefixFrom(a, bits)
		}
	}
	if r.Type != unix.RTN_UNICAST {
		return []directRoute{v} // IPv6 gives these the loopback interface
	}
	if len(r.MultiPath) == 0 {
		v.nic, v.gw = r.LinkIndex, routerOf(r.Gw, r.Via)
		return []directRoute{v}
	}
	var out []directRoute
	for _, hop := range r.MultiPath {
		if hop.Flags&unix.RTNH_F_DEAD == 0 && !slices.ContainsFunc(out, func(o directRoute) bool { return o.nic == hop.LinkIndex }) {
			v.nic, v.gw = hop.LinkIndex, routerOf(hop.Gw, hop.Via)
			out = append(out, v)
		}
	}
	return out
}

// routerOf is a route's router, which may be of the other family (RFC 5549). Invalid: what it leads to is on the link.
func routerOf(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok && v != nil {
		gw = v.Addr
	}
	a, _ := netip.AddrFromSlice(gw)
	return a.Unmap()
}

func (v directRoute) route(family, table int) *netlink.Route {
	r := &netlink.Route{
		Family: family, Table: table, LinkIndex: v.nic, Priority: v.metric, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC,
		Dst: &net.IPNet{IP: v.dst.Addr().AsSlice(), Mask: net.CIDRMask(v.dst.Bits(), v.dst.Addr().BitLen())},
	}
	switch {
	case v.nic == 0:
		r.Type = unix.RTN_UNREACHABLE
	case v.gw.IsValid():
		if v.gw.Is6() == (family == unix.AF_INET6) {
			r.Gw = v.gw.AsSlice()
		} else {
			r.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: v.gw.AsSlice()}
		}
		r.Flags = int(netlink.FLAG_ONLINK) // whatever the link's own routes say
	case family == unix.AF_INET:
		r.Scope = unix.RT_SCOPE_LINK
	}
	return r
}

// remove takes back what set did for a path.
func (d *directRoutes) remove(id bpf.PathID) error {
	if d == nil || !d.paths[id] {
		return nil
	}
	delete(d.paths, id)
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		errs = append(errs, dropDirect(family, directTable(id)))
		d.wrote[familyOf{family, directTable(id)}] = time.Now()
	}
	return errors.Join(errs...)
}

// close takes back everything.
func (d *directRoutes) close() error {
	if d == nil {
		return nil
	}
	clear(d.paths)
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			continue // a host without that family
		}
		for _, r := range rules {
			if r.Priority == directPriority && r.Mark&^0xffff == directMark && uint32(r.Table) == r.Mark {
				errs = append(errs, dropDirect(family, r.Table))
			}
		}
	}
	return errors.Join(errs...)
}

// dropDirect removes the rule first: without a table it would lead past the route that refuses.
func dropDirect(family, table int) error {
	var errs []error
	if err := netlink.RuleDel(directRule(family, table)); err != nil && !errors.Is(err, unix.ENOENT) && family == unix.AF_INET {
		errs = append(errs, fmt.Errorf("remove rule of table %#x: %w", table, err))
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	if err != nil && family == unix.AF_INET {
		errs = append(errs, err)
	}
	for _, r := range routes {
		for _, v := range toDirectRoutes(family, &r) {
			if err := netlink.RouteDel(v.route(family, table)); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("remove route from table %#x: %w", table, err))
			}
		}
	}
	return errors.Join(errs...)
}

func directTable(id bpf.PathID) int { return directMark | int(id) }

func directRule(family, table int) *netlink.Rule {
	mask := ^uint32(0)
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority, r.Mark, r.Mask = family, table, directPriority, uint32(table), &mask
	return r
}

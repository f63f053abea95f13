package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"

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
	paths map[bpf.PathID]bool // that have them
}

// newDirectRoutes begins with none: what is there is of a process that was killed. As with capture's own rule, there is one such
// process in a network namespace.
func newDirectRoutes(log *slog.Logger) *directRoutes {
	d := &directRoutes{log: log, paths: map[bpf.PathID]bool{}}
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

// set makes a path's rules and tables what its interface and its hop ask for.
func (d *directRoutes) set(id bpf.PathID, hop bpf.Path) error {
	d.paths[id] = true
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		next := hop.NextHop
		if family == unix.AF_INET6 {
			next = hop.NextHop6
		}
		err := d.fill(directTable(id), family, hop.Ifindex, next)
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
func (d *directRoutes) fill(table, family, nic int, hop netip.Addr) error {
	want, err := directRoutesOf(family, nic, hop)
	if err != nil {
		return err
	}
	old, err := netlink.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	var stale []directRoute
	for _, r := range old {
		v := toDirectRoute(family, &r)
		if i := slices.Index(want, v); i >= 0 {
			want = slices.Delete(want, i, i+1)
		} else {
			stale = append(stale, v)
		}
	}
	// New ones first: with none, packets would leave by the host's other tables.
	var errs []error
	for _, r := range want {
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

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func everythingOf(family int) netip.Prefix {
	if family == unix.AF_INET6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// directRoutesOf is what a table should have. hop is the next one where the interface has no default route.
func directRoutesOf(family, nic int, hop netip.Addr) (out []directRoute, err error) {
	all := everythingOf(family)
	var gate *netlink.Route // of the default
	if nic != 0 {
		routes, err := routesOn(nic, family)
		if err != nil {
			return nil, err
		}
		rank := func(r *netlink.Route) int { return boolInt(r.Table != unix.RT_TABLE_MAIN) }
		for i := range routes {
			r, v := &routes[i], toDirectRoute(family, &routes[i])
			if v.dst.Bits() == 0 {
				if gate == nil || rank(r) < rank(gate) || rank(r) == rank(gate) && r.Priority < gate.Priority {
					gate = r
				}
			} else if r.Table == unix.RT_TABLE_MAIN && len(out) < maxDirectRoutes && !v.dst.Addr().IsLinkLocalUnicast() &&
				!slices.ContainsFunc(out, func(o directRoute) bool { return o.dst == v.dst && o.metric == v.metric }) {
				out = append(out, v)
			}
		}
		switch {
		case gate != nil:
			v := toDirectRoute(family, gate)
			v.metric = directMetric
			out = append(out, v)
		case hop.IsValid() && hop.Is6() == (family == unix.AF_INET6):
			out = append(out, directRoute{nic: nic, dst: all, gw: hop, metric: directMetric})
		}
	}
	return append(out, directRoute{dst: all, metric: lastMetric}), nil
}

func toDirectRoute(family int, r *netlink.Route) directRoute {
	v := directRoute{nic: r.LinkIndex, dst: everythingOf(family), metric: r.Priority}
	if r.Dst != nil {
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			bits, _ := r.Dst.Mask.Size()
			if family == unix.AF_INET {
				a = a.Unmap()
			}
			v.dst = netip.PrefixFrom(a, bits)
		}
	}
	if a, ok := netip.AddrFromSlice(r.Gw); ok {
		v.gw = a.Unmap()
	}
	if r.Type != unix.RTN_UNICAST {
		v.nic = 0 // IPv6 gives these the loopback interface
	}
	return v
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
		r.Gw = v.gw.AsSlice()
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
		if err := netlink.RouteDel(toDirectRoute(family, &r).route(family, table)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route from table %#x: %w", table, err))
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

// routesOn are the routes that lead out of an interface, in all tables but those for direct flows.
func routesOn(nic, family int) ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: nic, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	return slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Type != unix.RTN_UNICAST || r.Table&^0xffff == directMark
	}), err
}

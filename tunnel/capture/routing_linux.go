package capture

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/landbridge/landbridge/bpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of the policy route. Two sources in one network namespace need
// different ones, also when they are in different processes: what is found
// there with the same numbers is taken for the remains of a killed process.
const (
	DefaultMark       = 0x4c42 // "LB"
	DefaultTable      = 0x4c42
	DefaultReturnMark = 0x4c43
	// DefaultReturnTable is that of Return.
	DefaultReturnTable = 0x4c43
	// DefaultRulePriority puts the rule behind that of the local table (0) and
	// in front of anything usual.
	DefaultRulePriority = 100
)

// policyRoute delivers packets with a mark to this host, whatever their
// destination: "ip rule add fwmark MARK lookup TABLE" and "ip route add local
// default dev lo table TABLE".
type policyRoute struct {
	mark     uint32
	table    int
	priority int
	families []int // installed, for remove
}

// install acts in the namespace of the calling thread. When it succeeds without
// IPv6, without6 says why.
func (p *policyRoute) install() (without6, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("find loopback interface: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return nil, &bpf.Error{Op: "install policy route", Err: errors.New("interface lo is down"), Advice: "ip link set lo up"}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		err := p.add(lo, family)
		if err == nil {
			p.families = append(p.families, family)
			continue
		}
		// A host may well be without IPv6, which can look like EACCES.
		if family == unix.AF_INET6 && !errors.Is(err, unix.EPERM) {
			return err, nil
		}
		advice := ""
		if errors.Is(err, os.ErrPermission) {
			advice = "needs CAP_NET_ADMIN: run as root or grant it in the service unit"
		}
		return nil, errors.Join(&bpf.Error{Op: "install policy route", Err: err, Advice: advice}, p.remove())
	}
	return nil, nil
}

func (p *policyRoute) add(lo netlink.Link, family int) error {
	if err := netlink.RouteReplace(p.route(lo, family)); err != nil {
		return fmt.Errorf("add local route to table %d: %w", p.table, err)
	}
	if err := netlink.RuleAdd(p.rule(family)); err != nil && !errors.Is(err, os.ErrExist) {
		return errors.Join(fmt.Errorf("add rule for mark %#x: %w", p.mark, err), netlink.RouteDel(p.route(lo, family)))
	}
	return nil
}

func (p *policyRoute) route(lo netlink.Link, family int) *netlink.Route {
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if family == unix.AF_INET6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: all, Table: p.table, Family: family,
		Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST,
	}
}

func (p *policyRoute) rule(family int) *netlink.Rule {
	mask := ^uint32(0)
	r := netlink.NewRule()
	r.Family, r.Table, r.Priority, r.Mark, r.Mask = family, p.table, p.priority, p.mark, &mask
	return r
}

// remove takes back what install did, in the namespace of the calling thread.
func (p *policyRoute) remove() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback interface: %w", err)
	}
	var errs []error
	for _, family := range p.families {
		if err := netlink.RuleDel(p.rule(family)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule for mark %#x: %w", p.mark, err))
		}
		// Setting lo down has removed the route already.
		if err := netlink.RouteDel(p.route(lo, family)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove local route from table %d: %w", p.table, err))
		}
	}
	p.families = nil
	return errors.Join(errs...)
}

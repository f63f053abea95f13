package node

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/config"
)

// ruleFor finds the tenant's rule for a TCP flow that the classifier did not see: one of a proxy, or of a peer. number
// counts from 1; 0 for none. Rules that want a DSCP are not for it, as nobody knows its packets'.
func ruleFor(tenants []config.NodeTenant, tenant string, src, dst netip.AddrPort) (rule *config.Rule, number int) {
	for i := range tenants {
		if tenants[i].Name != tenant {
			continue
		}
		for j := range tenants[i].Rules {
			if r := &tenants[i].Rules[j]; matches(r, src, dst) {
				return r, j + 1
			}
		}
	}
	return nil, 0
}

func denied(tenant string, number int, r *config.Rule) error {
	return fmt.Errorf("rule %d of tenant %s denies it: %v", number, tenant, r)
}

func matches(r *config.Rule, src, dst netip.AddrPort) bool {
	in := func(list []netip.Prefix, a netip.Addr) bool {
		return len(list) == 0 || slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return len(r.DSCP) == 0 && in(r.From, src.Addr().Unmap()) && in(r.To, dst.Addr().Unmap()) &&
		(len(r.Protocols) == 0 || slices.Contains(r.Protocols, unix.IPPROTO_TCP)) &&
		(len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p config.PortRange) bool { return p.First <= dst.Port() && dst.Port() <= p.Last }))
}

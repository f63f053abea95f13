package node

import (
	"fmt"
	"net/netip"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/tunnel"
)

// router decides by one configuration where flows go and what peers may ask for. It never changes.
type router struct {
	name    string
	routes  []config.Route // most specific first
	sources []config.Source
	peers   map[string]config.Peer
	blocked []config.Blocked
	tenants []config.NodeTenant
}

func newRouter(cfg *config.NodeConfig) *router {
	r := &router{name: cfg.Name, routes: cfg.Routes, sources: cfg.Sources, blocked: cfg.Blocked, tenants: cfg.Tenants, peers: map[string]config.Peer{}}
	for _, p := range cfg.Peers {
		r.peers[p.Name] = p
	}
	return r
}

// Route finds the tenant by the flow's source and the next hop by its destination.
func (r *router) Route(src, dst netip.Addr) (tenant string, class tunnel.Class, next string, err error) {
	src, dst = src.Unmap(), dst.Unmap()
	tenant, ok := tenantOf(r.sources, src)
	if !ok { // a flow that is passed on: its tenant is that of the peer's site
		for _, p := range r.peers {
			if tenant, ok = tenantOf(p.Sources, src); ok {
				break
			}
		}
	}
	if !ok {
		return "", 0, "", fmt.Errorf("source %v belongs to no site known to %s", src, r.name)
	}
	best := -1
	for _, t := range r.routes {
		if t.Tenant == tenant && t.Prefix.Contains(dst) && t.Prefix.Bits() > best {
			best, next = t.Prefix.Bits(), t.Via
		}
	}
	if best < 0 {
		for _, b := range r.blocked {
			if b.Tenant == tenant && b.Prefix.Contains(dst) {
				return "", 0, "", fmt.Errorf("destination %v is closed to tenant %s: %s", dst, tenant, b.Reason)
			}
		}
		return "", 0, "", fmt.Errorf("tenant %s has no site with %v", tenant, dst)
	}
	return tenant, tunnel.Interactive, next, nil
}

func tenantOf(sources []config.Source, a netip.Addr) (string, bool) {
	for _, s := range sources {
		for _, p := range s.Prefixes {
			if p.Contains(a) {
				return s.Tenant, true
			}
		}
	}
	return "", false
}

// Authorise lets a peer send only flows of the sites behind it, of the tenant that owns them. Sites whose tenant has not
// opted in to crossing the border are not among those of a peer across it. What a rule denies is denied here too.
func (r *router) Authorise(from string, h tunnel.Header) error {
	p, ok := r.peers[from]
	if !ok {
		return fmt.Errorf("peer %s is not in the configuration of %s", from, r.name)
	}
	src := h.Src.Addr().Unmap()
	tenant, ok := tenantOf(p.Sources, src)
	switch {
	case !ok:
		return fmt.Errorf("no site behind %s has source %v", from, src)
	case tenant != h.Tenant:
		return fmt.Errorf("source %v belongs to tenant %s, not %q", src, tenant, h.Tenant)
	}
	// The classifier where the flow came in has judged its packets; an agent's may know less than this document.
	if rule, number := ruleFor(r.tenants, tenant, h.Src, h.Dst); rule != nil && rule.Action == config.ActionDeny {
		return denied(tenant, number, rule)
	}
	return nil
}

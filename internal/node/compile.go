package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/config"
)

// rules is a node's rules as the classifier has them, and what its numbers stand for.
type rules struct {
	policy  bpf.Policy
	tenants []string   // by number, from 1
	rules   []ruleName // by number, from 1
}

type ruleName struct {
	tenant string
	number int // within the tenant's, from 1
	text   string
}

// compileRules makes the classifier's rules: all sources that are entered here, the rules of their tenants, and for direct
// flows the candidates of the peer that leads to their destination; and the same for sources behind peers, whose direct flows
// are answered directly.
func compileRules(cfg *config.NodeConfig, group func(peer string) bpf.Group) (*rules, error) {
	out := &rules{policy: bpf.Policy{Strangers: bpf.Allow}} // whoever is no tenant is turned away, not let past the tunnel
	var fallback bpf.Group
	gateways := 0
	for _, p := range cfg.Peers {
		if len(p.Paths) > 0 {
			if gateways++; gateways == 1 {
				fallback = group(p.Name)
			}
		}
	}
	for _, t := range cfg.Tenants {
		var sites []netip.Prefix
		for _, s := range cfg.Sources {
			if s.Tenant == t.Name {
				sites = append(sites, s.Prefixes...)
			}
		}
		if len(sites) == 0 {
			continue
		}
		first := len(out.rules)
		for i := range t.Rules {
			out.rules = append(out.rules, ruleName{t.Name, i + 1, t.Rules[i].String()})
		}
		add := func(sites []netip.Prefix, rs []config.Rule, g bpf.Group, inbound bool) error {
			// The classifier knows a source by its tenant alone: sources that other rules are for are tenants of their own there.
			for _, part := range parts(sites, rs) {
				out.tenants = append(out.tenants, t.Name)
				id := uint32(len(out.tenants))
				out.policy.Tenants = append(out.policy.Tenants, bpf.Tenant{ID: id, Prefixes: part.prefixes, Group: g, Inbound: inbound})
				for _, i := range part.rules {
					ex := expand(&rs[i], bpf.Rule{ID: uint32(first + i + 1), Tenant: id})
					if rs[i].Action == config.ActionDirect && gateways > 1 && !inbound {
						ex = byRoute(ex, cfg, t.Name, group)
					}
					if out.policy.Rules = append(out.policy.Rules, ex...); len(out.policy.Rules) > bpf.MaxRules {
						return fmt.Errorf("rules of tenant %s: more than %d for the classifier, one for each prefix, protocol and port range", t.Name, bpf.MaxRules)
					}
				}
			}
			return nil
		}
		if err := add(sites, t.Rules, fallback, false); err != nil {
			return nil, err
		}
		// Sites elsewhere, for the answers to what they send directly. No rule behind the last of those matters.
		last := len(t.Rules)
		for last > 0 && t.Rules[last-1].Action != config.ActionDirect {
			last--
		}
		for _, p := range cfg.Peers {
			var there []netip.Prefix
			for _, r := range cfg.Routes {
				// Everything, which an agent has beyond its gateway, is nobody's site: the host may have let it in through its NAT.
				if r.Tenant == t.Name && r.Via == p.Name && r.Prefix.Bits() > 0 {
					there = append(there, r.Prefix)
				}
			}
			if len(there) == 0 || len(p.Paths) == 0 || last == 0 {
				continue
			}
			if err := add(there, t.Rules[:last], group(p.Name), true); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// part is a set of sources that the same rules are for.
type part struct {
	prefixes []netip.Prefix
	rules    []int
}

// parts divides a tenant's prefixes by the rules that are for them.
func parts(sites []netip.Prefix, rs []config.Rule) (out []part) {
	all := map[netip.Prefix]bool{}
	for _, s := range sites {
		all[s] = true
		for i := range rs {
			for _, f := range rs[i].From {
				if f.Bits() > s.Bits() && s.Contains(f.Addr()) {
					all[f] = true
				}
			}
		}
	}
	order := slices.SortedFunc(maps.Keys(all), func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	for _, p := range order {
		var mine []int
		for i := range rs {
			if len(rs[i].From) == 0 || slices.ContainsFunc(rs[i].From, func(f netip.Prefix) bool { return f.Bits() <= p.Bits() && f.Contains(p.Addr()) }) {
				mine = append(mine, i)
			}
		}
		if i := slices.IndexFunc(out, func(o part) bool { return slices.Equal(o.rules, mine) }); i >= 0 {
			out[i].prefixes = append(out[i].prefixes, p)
			continue
		}
		out = append(out, part{[]netip.Prefix{p}, mine})
	}
	return out
}

// expand makes a rule for each combination of the lists of r.
func expand(r *config.Rule, base bpf.Rule) []bpf.Rule {
	base.DSCP = r.DSCP
	if r.HasClass {
		base.Class = kernelClass(r.Class)
	}
	base.Action = map[config.Action]bpf.RuleAction{config.ActionAllow: bpf.Allow, config.ActionDeny: bpf.Deny, config.ActionDirect: bpf.Direct}[r.Action]
	out := []bpf.Rule{base}
	out = cross(out, r.To, func(b *bpf.Rule, p netip.Prefix) { b.Prefix = p })
	out = cross(out, r.Protocols, func(b *bpf.Rule, p uint8) { b.Protocol = p })
	return cross(out, r.Ports, func(b *bpf.Rule, p config.PortRange) { b.Ports = bpf.PortRange{From: p.First, To: p.Last} })
}

func cross[T any](rs []bpf.Rule, values []T, set func(*bpf.Rule, T)) []bpf.Rule {
	if len(values) == 0 {
		return rs
	}
	out := make([]bpf.Rule, 0, len(rs)*len(values))
	for _, r := range rs {
		for _, v := range values {
			set(&r, v)
			out = append(out, r)
		}
	}
	return out
}

// byRoute puts in front of direct rules those for the tenant's destinations behind a peer, with its candidates.
func byRoute(rs []bpf.Rule, cfg *config.NodeConfig, tenant string, group func(string) bpf.Group) (out []bpf.Rule) {
	for _, r := range rs {
		for _, route := range cfg.Routes {
			if route.Tenant != tenant || route.Via == "" || r.Prefix.IsValid() && !r.Prefix.Overlaps(route.Prefix) {
				continue
			}
			if p := cfg.Peer(route.Via); p == nil || len(p.Paths) == 0 {
				continue
			}
			v := r
			if v.Group = group(route.Via); !r.Prefix.IsValid() || r.Prefix.Bits() < route.Prefix.Bits() {
				v.Prefix = route.Prefix
			}
			out = append(out, v)
		}
		out = append(out, r)
	}
	return out
}

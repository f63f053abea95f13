package config

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/landbridge/landbridge/internal/identity"
)

// validate checks what no single value shows. Parts that already failed are left out, so that one mistake is one
// line.
func (p *problems) validate(f *Fleet) {
	p.checkGateways(f)
	p.checkBorders(f)
	p.checkKeys(f)
	p.checkSites(f)
	p.checkPrefixes(f)
	p.checkAllRules(f)
}

func (p *problems) checkAllRules(f *Fleet) {
	p.checkRules(f.Rules, "rules", nil)
	all := 0
	for _, t := range f.Tenants {
		p.checkRules(t.Rules, "tenant "+t.Name, t.Sites)
		all += len(t.Rules) + len(f.Rules)
	}
	p.tooMany(position{}, "rules, with the fleet's for each tenant", all, MaxAllRules)
}

func gatewayNames(f *Fleet) []string {
	names := make([]string, len(f.Gateways))
	for i, g := range f.Gateways {
		names[i] = g.Name
	}
	return names
}

func (f *Fleet) gateway(name string) *Gateway {
	for _, g := range f.Gateways {
		if g.Name == name {
			return g
		}
	}
	return nil
}

func (p *problems) checkGateways(f *Fleet) {
	type owner struct {
		name string
		line int
	}
	addresses := make(map[netip.AddrPort]owner)
	for _, g := range f.Gateways {
		if g.Region != "" && !slices.Contains(f.Regions, g.Region) {
			p.add(g.regionAt, cmp.Or(didYouMean(g.Region, f.Regions), "list it under regions"), "gateway %s: unknown region %q", g.Name, g.Region)
		}
		uplinks := slices.Concat(g.Carriers, g.Access)
		if len(uplinks) == 0 {
			p.add(g.at, "", "gateway %s: no carriers", g.Name)
		}
		if len(uplinks) > MaxUplinks {
			p.add(g.at, "", "gateway %s: %d uplinks, the limit is %d", g.Name, len(uplinks), MaxUplinks)
		}
		names := make(map[string]int)
		for _, u := range uplinks {
			if line, dup := names[u.Name]; dup {
				p.add(u.at, "give each of the gateway's uplinks its own name", "gateway %s: uplink %q is already there on line %d", g.Name, u.Name, line)
			}
			names[u.Name] = u.at.line
			if u.Interface != "" && slices.Contains(g.LAN, u.Interface) {
				p.add(u.at, "", "gateway %s: interface %s is both a LAN interface and uplink %s", g.Name, u.Interface, u.Name)
			}
			if !u.Address.IsValid() {
				continue
			}
			if o, dup := addresses[u.Address]; dup {
				p.add(u.addrAt, "", "gateway %s: address %s is used twice, first by %s on line %d", g.Name, u.Address, o.name, o.line)
				continue
			}
			addresses[u.Address] = owner{g.Name + "'s uplink " + u.Name, u.addrAt.line}
		}
	}
}

func (p *problems) checkBorders(f *Fleet) {
	type pair [2]string
	seen := make(map[pair]int)
	for _, b := range f.Borders {
		label := "border " + b.Between[0] + "-" + b.Between[1]
		var ends [2]*Gateway
		for i, name := range b.Between {
			if ends[i] = f.gateway(name); ends[i] == nil {
				p.add(b.betweenAt[i], didYouMean(name, gatewayNames(f)), "border: unknown gateway %q", name)
			}
		}
		if ends[0] == nil || ends[1] == nil {
			continue
		}
		if ends[0] == ends[1] {
			p.add(b.at, "", "%s: joins a gateway with itself", label)
			continue
		}
		key := pair{min(b.Between[0], b.Between[1]), max(b.Between[0], b.Between[1])}
		if line, dup := seen[key]; dup {
			p.add(b.at, "list all paths in one border", "%s: these gateways already have a border on line %d", label, line)
			continue
		}
		seen[key] = b.at.line
		if b.pathText == nil {
			p.defaultPaths(b, ends, label)
			continue
		}
		for i, text := range b.pathText {
			p.checkPath(b, ends, label, text, b.pathAt[i])
		}
	}
}

func (p *problems) defaultPaths(b *Border, ends [2]*Gateway, label string) {
	for _, l := range ends[0].Carriers {
		for _, r := range ends[1].Carriers {
			if sameFamily(l.Address.Addr(), r.Address.Addr()) {
				b.Paths = append(b.Paths, [2]string{l.Name, r.Name})
			}
		}
	}
	if len(b.Paths) > MaxPaths {
		p.add(b.at, "list the ones to use under paths", "%s: %d pairings of uplinks, the limit is %d", label, len(b.Paths), MaxPaths)
	}
	if len(b.Paths) == 0 && len(p.list) == 0 {
		p.add(b.at, "give both gateways carriers of one address family", "%s: no two carriers can be paired", label)
	}
}

func sameFamily(a, b netip.Addr) bool { return a.IsValid() && b.IsValid() && a.Is4() == b.Is4() }

func (p *problems) checkPath(b *Border, ends [2]*Gateway, label, text string, where position) {
	left, right, ok := strings.Cut(text, "-")
	if !ok || left == "" || right == "" {
		p.add(where, "write the two carriers' names: "+b.Between[0]+"'s, '-', "+b.Between[1]+"'s", "%s: path %q", label, text)
		return
	}
	var up [2]*Uplink
	for i, name := range []string{left, right} {
		names := make([]string, 0, len(ends[i].Carriers))
		for _, u := range ends[i].Carriers {
			names = append(names, u.Name)
			if u.Name == name {
				up[i] = u
			}
		}
		if up[i] == nil {
			hint := didYouMean(name, names)
			if hint == "" && len(names) > 0 {
				hint = b.Between[i] + " has " + strings.Join(names, ", ")
			}
			p.add(where, hint, "%s: path %s: gateway %s has no carrier %q", label, text, b.Between[i], name)
		}
	}
	if up[0] == nil || up[1] == nil {
		return
	}
	if l, r := up[0].Address.Addr(), up[1].Address.Addr(); l.IsValid() && r.IsValid() && !sameFamily(l, r) {
		p.add(where, "", "%s: path %s joins %s with %s, of another address family", label, text, l, r)
		return
	}
	if slices.Contains(b.Paths, [2]string{left, right}) {
		p.add(where, "", "%s: path %s is listed twice", label, text)
		return
	}
	b.Paths = append(b.Paths, [2]string{left, right})
}

// checkKeys refuses a key held twice: two nodes with one key are one node to every peer.
func (p *problems) checkKeys(f *Fleet) {
	type owner struct {
		name string
		line int
	}
	seen := make(map[identity.PublicKey]owner)
	check := func(k identity.PublicKey, where position, name string) {
		if k.IsZero() {
			return
		}
		if o, dup := seen[k]; dup {
			p.add(where, "every node needs a key of its own: landbridge keygen", "%s: public key is used twice, first by %s on line %d", name, o.name, o.line)
			return
		}
		seen[k] = owner{name, where.line}
	}
	for _, g := range f.Gateways {
		check(g.PublicKey, g.keyAt, "gateway "+g.Name)
	}
	for _, t := range f.Tenants {
		for _, s := range t.Sites {
			check(s.PublicKey, s.keyAt, "site "+t.Name+"/"+s.Name)
		}
	}
}

func (p *problems) checkSites(f *Fleet) {
	for _, t := range f.Tenants {
		for _, s := range t.Sites {
			name := "site " + t.Name + "/" + s.Name
			g := f.gateway(s.At)
			switch {
			case s.At == "":
			case g == nil:
				p.add(s.atAt, didYouMean(s.At, gatewayNames(f)), "%s: unknown gateway %q", name, s.At)
			case s.PublicKey.IsZero() && s.keyAt == (position{}) && len(g.LAN) == 0 && len(p.list) == 0: // else "lan" may be what failed
				p.add(s.at, "add lan to the gateway, or the public_key of the site's agent", "%s: gateway %s has no LAN interface it could be behind", name, s.At)
			}
			if len(s.Prefixes) == 0 && len(p.list) == 0 {
				p.add(s.at, "", "%s: no prefixes", name)
			}
		}
	}
}

type claim struct {
	prefix netip.Prefix
	owner  string
	at     position
}

// checkPrefixes finds prefixes claimed twice, within a tenant or between tenants: the source address is what tells
// tenants apart. Prefixes nest or are disjoint, so after sorting an overlap is always with the last one still open.
func (p *problems) checkPrefixes(f *Fleet) {
	var all []claim
	for _, t := range f.Tenants {
		for _, s := range t.Sites {
			for i, pfx := range s.Prefixes {
				all = append(all, claim{pfx, "site " + t.Name + "/" + s.Name, s.prefixAt[i]})
			}
		}
	}
	if len(all) > MaxRoutes {
		p.add(position{}, "", "%d prefixes in all, the limit is %d", len(all), MaxRoutes)
		return
	}
	p.overlaps(all)
}

func (p *problems) overlaps(all []claim) {
	slices.SortStableFunc(all, func(a, b claim) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	for i, open := 1, 0; i < len(all); i++ {
		o, c := all[open], all[i]
		if !o.prefix.Overlaps(c.prefix) {
			open = i
			continue
		}
		// Blame the one that comes later in the document.
		first, second := o, c
		if cmp.Or(cmp.Compare(o.at.line, c.at.line), cmp.Compare(o.at.col, c.at.col)) > 0 {
			first, second = c, o
		}
		what := "is claimed twice, first"
		if first.prefix != second.prefix {
			what = "overlaps " + first.prefix.String() + ", claimed"
		}
		p.add(second.at, "", "%s: prefix %s %s by %s on line %d", second.owner, second.prefix, what, first.owner, first.at.line)
	}
}

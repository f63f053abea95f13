package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/pathsel"
)

// PeerKind says what a peer is.
type PeerKind uint8

const (
	// PeerGateway is another gateway, at known addresses.
	PeerGateway PeerKind = iota
	// PeerAgent is a site's agent; its addresses are learned from its authenticated datagrams.
	PeerAgent
)

func (k PeerKind) String() string {
	if k == PeerAgent {
		return "agent"
	}
	return "gateway"
}

// NodeConfig is what one node has to do: the fleet document, or an agent's file, seen from there. All names are
// those of the document, and paths have the same name on both sides.
type NodeConfig struct {
	Name           string
	Region         string             // "" for an agent
	PublicKey      identity.PublicKey // zero for an agent, which has its key file
	Uplinks        []NodeUplink
	Peers          []Peer
	LAN            []string // interfaces whose flows are captured
	Routes         []Route
	Blocked        []Blocked
	Tenants        []NodeTenant
	Sources        []Source // sites behind this node's own LAN
	PreserveSource bool
	Policy         pathsel.Policy
	Guard          Guard
	Marks          Marks
}

// NodeUplink is one local uplink: one UDP socket.
type NodeUplink struct {
	Name      string
	Interface string
	Address   netip.AddrPort // of an agent: may be invalid (any address) or have port 0 (any port)
	Rate      Rate           // cap, 0 for none
	Access    bool           // towards agents rather than gateways
	Direct    DirectWay
}

// Peer is a node this one has a bond with.
type Peer struct {
	Name      string // gateway name, or tenant/site of an agent
	PublicKey identity.PublicKey
	Kind      PeerKind
	Uplinks   []string // local uplinks the bond may use
	Paths     []Path   // empty for an agent seen from its gateway
	Sources   []Source // whose flows may enter from this peer
}

// Path is one pairing of a local uplink with a remote address.
type Path struct {
	Name   string // the same on both nodes, such as ct-ct
	Uplink string // local
	Remote netip.AddrPort
	Rate   Rate // the smaller of both ends' caps, 0 for none
}

// Route says where flows to a prefix go. A flow's tenant is known from its source; a route of another tenant is not
// for it.
type Route struct {
	Prefix netip.Prefix
	Tenant string
	Site   string
	Via    string // peer's name, or "" for the exit here
}

// Blocked is a prefix of the fleet that this node must not or cannot send to, and why.
type Blocked struct {
	Prefix netip.Prefix
	Tenant string
	Site   string
	Reason string
}

// NodeTenant is what a node knows of a tenant.
type NodeTenant struct {
	Name        string
	CrossBorder bool
	Rules       []Rule // in the order they are tried, the fleet's last
}

// Source is a site whose flows may enter at a place.
type Source struct {
	Tenant   string
	Site     string
	Prefixes []netip.Prefix
}

// Peer returns the peer with this name, or nil.
func (n *NodeConfig) Peer(name string) *Peer {
	for i := range n.Peers {
		if n.Peers[i].Name == name {
			return &n.Peers[i]
		}
	}
	return nil
}

// Uplink returns the local uplink with this name, or nil.
func (n *NodeConfig) Uplink(name string) *NodeUplink {
	for i := range n.Uplinks {
		if n.Uplinks[i].Name == name {
			return &n.Uplinks[i]
		}
	}
	return nil
}

// Node derives the view of one gateway. The document must come from Load or Parse.
func (f *Fleet) Node(name string) (*NodeConfig, error) {
	g := f.gateway(name)
	if g == nil {
		advice := didYouMean(name, gatewayNames(f))
		if advice == "" {
			advice = "the fleet's gateways: " + join(gatewayNames(f))
		}
		return nil, hint.With(fmt.Errorf("node %q is %w", name, ErrUnknownNode), "%s", advice)
	}
	n := &NodeConfig{
		Name: g.Name, Region: g.Region, PublicKey: g.PublicKey,
		LAN: slices.Clone(g.LAN), PreserveSource: g.PreserveSource,
		Policy: f.Policy, Guard: f.Guard.clone(), Marks: f.Marks.clone(),
	}
	if g.Guard != nil {
		n.Guard = g.Guard.clone()
	}
	var carriers, access []string
	for _, u := range g.Carriers {
		n.Uplinks = append(n.Uplinks, NodeUplink{u.Name, u.Interface, u.Address, u.Rate, false, u.Direct})
		carriers = append(carriers, u.Name)
	}
	for _, u := range g.Access {
		n.Uplinks = append(n.Uplinks, NodeUplink{u.Name, u.Interface, u.Address, u.Rate, true, u.Direct})
		access = append(access, u.Name)
	}
	for _, t := range f.Tenants {
		n.Tenants = append(n.Tenants, NodeTenant{t.Name, t.CrossBorder, rulesOf(t.Rules, f.Rules)})
	}
	f.gatewayPeers(n, g)
	f.sites(n, g, carriers, access)
	slices.SortStableFunc(n.Routes, func(a, b Route) int { return comparePrefix(a.Prefix, b.Prefix) })
	slices.SortStableFunc(n.Blocked, func(a, b Blocked) int { return comparePrefix(a.Prefix, b.Prefix) })
	return n, nil
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func join(names []string) string {
	const most = 12 // a hint is one line
	s := ""
	for i, n := range names {
		if i == most {
			return s + ", ..."
		}
		if i > 0 {
			s += ", "
		}
		s += n
	}
	return s
}

// gatewayPeers adds the gateways this one has a border with.
func (f *Fleet) gatewayPeers(n *NodeConfig, g *Gateway) {
	for _, b := range f.Borders {
		local, remote := 0, 1
		if b.Between[1] == g.Name {
			local, remote = 1, 0
		} else if b.Between[0] != g.Name {
			continue
		}
		other := f.gateway(b.Between[remote])
		peer := Peer{Name: other.Name, PublicKey: other.PublicKey, Kind: PeerGateway, Sources: f.sourcesFrom(g, other)}
		for _, names := range b.Paths {
			l, r := carrier(g, names[local]), carrier(other, names[remote])
			peer.Paths = append(peer.Paths, Path{
				Name: names[0] + "-" + names[1], Uplink: l.Name, Remote: r.Address, Rate: least(l.Rate, r.Rate),
			})
			if !slices.Contains(peer.Uplinks, l.Name) {
				peer.Uplinks = append(peer.Uplinks, l.Name)
			}
		}
		n.Peers = append(n.Peers, peer)
	}
}

func carrier(g *Gateway, name string) *Uplink {
	for _, u := range g.Carriers {
		if u.Name == name {
			return u
		}
	}
	return nil
}

// sourcesFrom lists the sites whose flows gateway from may hand to gateway at: those elsewhere that may enter its
// region. Relays make no difference: every gateway checks again.
func (f *Fleet) sourcesFrom(at, from *Gateway) (out []Source) {
	for _, t := range f.Tenants {
		for _, s := range t.Sites {
			home := f.gateway(s.At)
			if home != at && (t.CrossBorder || home.Region == at.Region && from.Region == at.Region) {
				out = append(out, source(t, s))
			}
		}
	}
	return out
}

func source(t *Tenant, s *Site) Source { return Source{t.Name, s.Name, slices.Clone(s.Prefixes)} }

// sites adds routes to all sites, and the agents among them that are ours.
func (f *Fleet) sites(n *NodeConfig, g *Gateway, carriers, access []string) {
	inRegion := f.nextHops(g, func(o *Gateway) bool { return o.Region == g.Region })
	anywhere := f.nextHops(g, func(*Gateway) bool { return true })
	for _, t := range f.Tenants {
		for _, s := range t.Sites {
			via, reason := "", ""
			switch {
			case s.At == g.Name && !s.PublicKey.IsZero():
				via = t.Name + "/" + s.Name
				uplinks := access
				if len(uplinks) == 0 {
					uplinks = carriers
				}
				n.Peers = append(n.Peers, Peer{
					Name: via, PublicKey: s.PublicKey, Kind: PeerAgent,
					Uplinks: slices.Clone(uplinks), Sources: []Source{source(t, s)},
				})
			case s.At == g.Name:
				n.Sources = append(n.Sources, source(t, s))
			case inRegion[s.At] != "": // never leave a region on the way within it
				via = inRegion[s.At]
			case anywhere[s.At] == "":
				reason = fmt.Sprintf("no border leads from %s to %s", g.Name, s.At)
			case !t.CrossBorder:
				reason = fmt.Sprintf("tenant %s has not opted in to cross the border (cross_border)", t.Name)
			default:
				via = anywhere[s.At]
			}
			for _, pfx := range s.Prefixes {
				if reason != "" {
					n.Blocked = append(n.Blocked, Blocked{pfx, t.Name, s.Name, reason})
				} else {
					n.Routes = append(n.Routes, Route{pfx, t.Name, s.Name, via})
				}
			}
		}
	}
}

// nextHops finds, breadth first over the borders, the neighbour on a shortest way from g to every other gateway that
// can be reached through allowed ones. Every gateway computes it from the same document, and each hop is one nearer,
// so hop-by-hop forwarding cannot loop.
func (f *Fleet) nextHops(g *Gateway, allowed func(*Gateway) bool) map[string]string {
	neighbours := make(map[string][]string)
	for _, b := range f.Borders {
		neighbours[b.Between[0]] = append(neighbours[b.Between[0]], b.Between[1])
		neighbours[b.Between[1]] = append(neighbours[b.Between[1]], b.Between[0])
	}
	hops := make(map[string]string)
	queue := []string{g.Name}
	for len(queue) > 0 {
		here := queue[0]
		queue = queue[1:]
		for _, next := range neighbours[here] {
			if _, seen := hops[next]; seen || next == g.Name || !allowed(f.gateway(next)) {
				continue
			}
			hops[next] = next
			if here != g.Name {
				hops[next] = hops[here]
			}
			queue = append(queue, next)
		}
	}
	return hops
}

package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/pathsel"
)

// MaxAddresses bounds an agent's list of its gateway's addresses: one per access link of the gateway.
const MaxAddresses = MaxUplinks

// Agent is an agent's file as written.
type Agent struct {
	Name         string // own name, for logs and the status socket; default tenant-site
	Tenant, Site string // as in the fleet document
	Key          string // private key file; LoadAgent resolves it against the file's directory
	Gateway      AgentGateway
	Uplinks      []*Uplink
	Paths        [][2]string // uplink name and index into Gateway.Addresses; nil for the default pairing
	LAN          []string    // NICs whose flows are captured
	Prefixes     []netip.Prefix
	SOCKS5       string // ip:port to listen on, or ""
	HTTPConnect  string // ip:port to listen on, or ""
	// PreserveSource dials the site's hosts from the client's own address, as a gateway's exit does.
	PreserveSource bool
	Rules          []*Rule
	Policy         pathsel.Policy
	Guard          Guard // of its uplinks
	Marks          Marks

	prefixAt []position
	pathText []string
	pathAt   []position
}

// AgentGateway is the gateway an agent belongs to.
type AgentGateway struct {
	Name      string
	PublicKey identity.PublicKey
	Addresses []netip.AddrPort

	addrAt []position
}

// LoadAgent reads the agent's file at path. Errors of its content satisfy errors.Is(err, ErrInvalid).
func LoadAgent(path string) (*Agent, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("agent file: %w", unreadable{err})
	}
	a, err := parseAgent(path, data)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(a.Key) {
		a.Key = filepath.Join(filepath.Dir(path), a.Key)
	}
	return a, nil
}

// ParseAgent reads an agent's file; its problems name it agent.yaml. Key stays as written.
func ParseAgent(data []byte) (*Agent, error) { return parseAgent("agent.yaml", data) }

func parseAgent(file string, data []byte) (*Agent, error) {
	p := &problems{file: file}
	root := p.parseYAML(data)
	if root == nil {
		return nil, p.err()
	}
	a := &Agent{Policy: pathsel.DefaultPolicy(), Guard: defaultGuard()}
	start := at(root)
	p.object(root, start, "document",
		field{"node", false, func(n ast.Node) { a.Name, _ = p.name(n, "node") }},
		field{"tenant", true, func(n ast.Node) { a.Tenant, _ = p.name(n, "tenant") }},
		field{"site", true, func(n ast.Node) { a.Site, _ = p.name(n, "site") }},
		field{"key", true, func(n ast.Node) { a.Key, _ = p.text(n, "key") }},
		field{"gateway", true, func(n ast.Node) { a.Gateway = p.agentGateway(n) }},
		field{"uplinks", true, func(n ast.Node) {
			a.Uplinks = p.uplinks(n, "uplink", false)
			if len(a.Uplinks) == 0 && len(p.list) == 0 {
				p.add(at(n), "", "uplinks: none, want at least one")
			}
		}},
		field{"paths", false, func(n ast.Node) {
			p.sequence(n, "paths", MaxPaths, func(n ast.Node) {
				if s, ok := p.text(n, "path"); ok {
					a.pathText, a.pathAt = append(a.pathText, s), append(a.pathAt, at(n))
				}
			})
		}},
		field{"lan", false, func(n ast.Node) { a.LAN = p.interfaces(n, "lan") }},
		field{"prefixes", true, func(n ast.Node) {
			a.Prefixes, a.prefixAt = p.prefixes(n, "agent")
			if len(a.Prefixes) == 0 && len(p.list) == 0 {
				p.add(at(n), "write those of the site in the fleet document", "prefixes: none, want the site's")
			}
		}},
		field{"socks5", false, func(n ast.Node) { a.SOCKS5 = p.listenAddress(n, "socks5") }},
		field{"http_connect", false, func(n ast.Node) { a.HTTPConnect = p.listenAddress(n, "http_connect") }},
		field{"exit", false, func(n ast.Node) { a.PreserveSource = p.exit(n, "exit") }},
		field{"rules", false, func(n ast.Node) { a.Rules = p.rules(n, "rules") }},
		field{"classes", false, func(n ast.Node) { p.classes(n, &a.Policy) }},
		field{"guard", false, func(n ast.Node) { a.Guard = p.guard(n, "guard") }},
		field{"marks", false, func(n ast.Node) { a.Marks = p.marks(n) }},
	)
	p.validateAgent(a, start)
	if err := p.err(); err != nil {
		return nil, err
	}
	if a.Name == "" {
		a.Name = a.Tenant + "-" + a.Site
		a.Name = a.Name[:min(len(a.Name), maxName)]
	}
	return a, nil
}

func (p *problems) agentGateway(n ast.Node) (g AgentGateway) {
	seen := make(map[netip.AddrPort]bool)
	p.object(n, at(n), "gateway",
		field{"name", true, func(n ast.Node) { g.Name, _ = p.name(n, "gateway: name") }},
		field{"public_key", true, func(n ast.Node) { g.PublicKey = p.publicKey(n, "gateway") }},
		field{"addresses", true, func(n ast.Node) {
			p.sequence(n, "gateway: addresses", MaxAddresses, func(n ast.Node) {
				ap := p.address(n, "gateway", true)
				if ap.IsValid() && seen[ap] {
					p.add(at(n), "", "gateway: address %s is listed twice", ap)
				}
				seen[ap] = true
				g.Addresses, g.addrAt = append(g.Addresses, ap), append(g.addrAt, at(n))
			})
			if len(g.Addresses) == 0 && len(p.list) == 0 {
				p.add(at(n), "", "gateway: addresses: none, want at least one")
			}
		}},
	)
	return g
}

func (p *problems) validateAgent(a *Agent, start position) {
	for _, u := range a.Uplinks {
		if u.Interface != "" && slices.Contains(a.LAN, u.Interface) {
			p.add(u.at, "", "interface %s is both a LAN interface and uplink %s", u.Interface, u.Name)
		}
	}
	var claims []claim
	for i, pfx := range a.Prefixes {
		claims = append(claims, claim{pfx, "agent", a.prefixAt[i]})
	}
	p.overlaps(claims)
	p.checkRules(a.Rules, "rules", nil)
	for i, text := range a.pathText {
		p.agentPath(a, text, a.pathAt[i])
	}
	if len(a.LAN) == 0 && a.SOCKS5 == "" && a.HTTPConnect == "" && len(p.list) == 0 {
		p.add(start, "add lan, socks5 or http_connect", "no flow could enter: neither LAN interfaces nor a proxy address")
	}
	if a.PreserveSource && len(a.LAN) == 0 {
		p.add(start, "add lan: the replies to the clients' addresses are taken there", "exit: preserve_source without LAN interfaces")
	}
	if a.SOCKS5 != "" && a.SOCKS5 == a.HTTPConnect {
		p.add(start, "", "socks5 and http_connect both listen on %s", a.SOCKS5)
	}
}

func (p *problems) agentPath(a *Agent, text string, where position) {
	name, index, ok := strings.Cut(text, "-")
	i, err := strconv.Atoi(index)
	if !ok || err != nil || strconv.Itoa(i) != index {
		p.add(where, "write the uplink's name, '-' and the position of the gateway's address, from 0", "path %q", text)
		return
	}
	names := make([]string, len(a.Uplinks))
	for j, u := range a.Uplinks {
		names[j] = u.Name
	}
	j := slices.Index(names, name)
	if j < 0 {
		p.add(where, didYouMean(name, names), "path %s: there is no uplink %q", text, name)
		return
	}
	if n := len(a.Gateway.Addresses); i < 0 || i >= n {
		if n > 0 {
			p.add(where, "", "path %s: the gateway has no address %d, want 0 to %d", text, i, n-1)
		}
		return
	}
	l, r := a.Uplinks[j].Address.Addr(), a.Gateway.Addresses[i].Addr()
	if l.IsValid() && r.IsValid() && !sameFamily(l, r) {
		p.add(where, "", "path %s joins %s with %s, of another address family", text, l, r)
		return
	}
	if slices.Contains(a.Paths, [2]string{name, index}) {
		p.add(where, "", "path %s is listed twice", text)
		return
	}
	a.Paths = append(a.Paths, [2]string{name, index})
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// Node derives the agent's view: one peer, its gateway, which everything goes to that is not for the site itself.
//
// Without paths in the file every uplink is paired with those gateway addresses that lie in one of its networks, and
// where there are none, with all of its address family. local lists the machine's interfaces (SystemInterfaces); nil
// leaves out the networks. The same file and list give the same pairs: who reloads the file keeps the list.
func (a *Agent) Node(local []Interface) (*NodeConfig, error) {
	n := &NodeConfig{
		Name:    a.Name,
		LAN:     slices.Clone(a.LAN),
		Tenants: []NodeTenant{{a.Tenant, true, rulesOf(a.Rules)}}, // the gateway decides what may cross
		Sources: []Source{{a.Tenant, a.Site, slices.Clone(a.Prefixes)}},
		Policy:  a.Policy,
		Guard:   a.Guard.clone(),
		Marks:   a.Marks.clone(),

		PreserveSource: a.PreserveSource,
	}
	// The gateway has authorised what it passes on to the site, from wherever it comes.
	peer := Peer{
		Name: a.Gateway.Name, PublicKey: a.Gateway.PublicKey, Kind: PeerGateway,
		Sources: []Source{{Tenant: a.Tenant, Prefixes: slices.Clone(everywhere)}},
	}
	for _, u := range a.Uplinks {
		n.Uplinks = append(n.Uplinks, NodeUplink{u.Name, u.Interface, u.Address, u.Rate, true, u.Direct})
		for _, i := range a.pairing(u, local) {
			peer.Paths = append(peer.Paths, Path{
				Name: u.Name + "-" + strconv.Itoa(i), Uplink: u.Name, Remote: a.Gateway.Addresses[i], Rate: u.Rate,
			})
			if !slices.Contains(peer.Uplinks, u.Name) {
				peer.Uplinks = append(peer.Uplinks, u.Name)
			}
		}
	}
	if len(peer.Paths) == 0 {
		return nil, fmt.Errorf("agent %s: no uplink can be paired with an address of gateway %s", a.Name, a.Gateway.Name)
	}
	if len(peer.Paths) > MaxPaths {
		return nil, fmt.Errorf("agent %s: %d paths, the limit is %d", a.Name, len(peer.Paths), MaxPaths)
	}
	n.Peers = []Peer{peer}
	for _, pfx := range a.Prefixes {
		n.Routes = append(n.Routes, Route{pfx, a.Tenant, a.Site, ""})
	}
	for _, pfx := range everywhere {
		n.Routes = append(n.Routes, Route{pfx, a.Tenant, "", a.Gateway.Name})
	}
	slices.SortStableFunc(n.Routes, func(a, b Route) int { return comparePrefix(a.Prefix, b.Prefix) })
	return n, nil
}

// pairing returns the indexes of the gateway addresses that u is used with.
func (a *Agent) pairing(u *Uplink, local []Interface) (out []int) {
	if a.Paths != nil {
		for _, pair := range a.Paths {
			if i, err := strconv.Atoi(pair[1]); err == nil && pair[0] == u.Name {
				out = append(out, i)
			}
		}
		return out
	}
	var all, near []int
	for i, gw := range a.Gateway.Addresses {
		if u.Address.IsValid() && !sameFamily(u.Address.Addr(), gw.Addr()) {
			continue
		}
		all = append(all, i)
		for _, ifc := range local {
			if ifc.Name == u.Interface && slices.ContainsFunc(ifc.Addrs, func(p netip.Prefix) bool { return p.Masked().Contains(gw.Addr()) }) {
				near = append(near, i)
				break
			}
		}
	}
	if near != nil {
		return near
	}
	return all
}

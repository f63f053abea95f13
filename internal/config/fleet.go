// Package config reads the two documents people write: the fleet document, the same file on both sides of a border,
// and an agent's own small file.
//
//   - [Load] and [Parse] read a fleet document; [Fleet.Node] derives what one gateway has to do from it.
//   - [LoadAgent] and [ParseAgent] read an agent's file; [Agent.Node] derives the same view for the agent.
//   - [CheckLocal] compares a derived view with the machine it is to run on.
//
// Both formats are strict: an unknown key is an error. All findings of a document are reported at once, each with its
// line, as [Problem] values joined into one error. What a call returns is the caller's; nothing is shared or cached,
// and the values are safe for concurrent use as long as nobody changes them.
package config

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/pathsel"
)

// Limits of a document. Each is well above any fleet this format suits, and low enough that whatever passes can be
// held, compared pairwise where needed, and shown on a page.
const (
	MaxRegions  = 64   // regions of a fleet
	MaxGateways = 256  // gateways of a fleet; the routes of a node are computed over all of them
	MaxBorders  = 1024 // borders of a fleet
	MaxUplinks  = 16   // carriers plus access links of one node: one socket and one reader each
	MaxPaths    = 64   // paths of one bond: every one is probed 20 times a second
	MaxLAN      = 16   // LAN NICs of one node: one classifier each
	MaxTenants  = 1024 // tenants of a fleet
	MaxSites    = 1024 // sites of a tenant
	MaxPrefixes = 256  // prefixes of a site
	MaxRoutes   = 16384
)

// Fleet is a whole document, in its order.
type Fleet struct {
	Regions  []string
	Gateways []*Gateway
	Borders  []*Border
	Tenants  []*Tenant
	Rules    []*Rule        // of all tenants, behind their own
	Policy   pathsel.Policy // how the classes choose their paths
	Guard    Guard          // of gateways without one of their own
	Marks    Marks
}

// Gateway is one gateway as written.
type Gateway struct {
	Name           string
	Region         string
	PublicKey      identity.PublicKey
	Carriers       []*Uplink // towards other gateways
	Access         []*Uplink // towards the site agents; without any, agents use the carriers
	LAN            []string  // NICs whose flows are captured
	PreserveSource bool      // dial destinations from the client's own address
	Guard          *Guard    // instead of the fleet's, nil for that

	at, keyAt, regionAt position
}

// Uplink is one NIC of a node on one carrier or access link.
type Uplink struct {
	Name      string
	Interface string
	Address   netip.AddrPort // of an agent: may be invalid (any address) or have port 0 (any port)
	Rate      Rate           // cap, 0 for none
	Direct    DirectWay

	at, addrAt position
}

// DirectWay is how direct flows leave by an uplink.
type DirectWay uint8

const (
	// DirectRedirect forwards them in the kernel, past the host's routing and netfilter.
	DirectRedirect DirectWay = iota
	// DirectRoute leaves them to the host's routing, which is told the uplink, and so to its netfilter: for hosts that
	// masquerade.
	DirectRoute
)

var directWays = []string{"redirect", "route"}

func (w DirectWay) String() string { return directWays[w] }

// Border joins two gateways.
type Border struct {
	Between [2]string
	Paths   [][2]string // uplink names in the order of Between; never empty after Parse

	at        position
	betweenAt [2]position
	pathText  []string
	pathAt    []position
}

// Tenant is one customer.
type Tenant struct {
	Name        string
	CrossBorder bool // opt-in: without it no flow leaves its region
	Sites       []*Site
	Rules       []*Rule // tried in order, before the fleet's
}

// Site is one place of a tenant, behind a gateway's LAN NIC or behind an agent.
type Site struct {
	Name      string
	At        string // gateway
	Prefixes  []netip.Prefix
	PublicKey identity.PublicKey // of the site's agent; zero for a site behind the gateway's LAN NIC

	at, atAt, keyAt position
	prefixAt        []position
}

// Load reads the fleet document at path. Errors of its content satisfy errors.Is(err, ErrInvalid).
func Load(path string) (*Fleet, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("fleet document: %w", unreadable{err})
	}
	return parse(path, data)
}

// Parse reads a fleet document; its problems name it fleet.yaml.
func Parse(data []byte) (*Fleet, error) { return parse("fleet.yaml", data) }

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// One byte more than the limit, so that the parser sees that it is exceeded.
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

func parse(file string, data []byte) (*Fleet, error) {
	p := &problems{file: file}
	root := p.parseYAML(data)
	if root == nil {
		return nil, p.err()
	}
	f := &Fleet{Policy: pathsel.DefaultPolicy(), Guard: defaultGuard()}
	p.object(root, position{1, 1}, "document",
		field{"regions", true, func(n ast.Node) { f.Regions = p.regions(n) }},
		field{"gateways", true, func(n ast.Node) { f.Gateways = p.gateways(n) }},
		field{"borders", false, func(n ast.Node) { f.Borders = p.borders(n) }},
		field{"tenants", false, func(n ast.Node) { f.Tenants = p.tenants(n) }},
		field{"rules", false, func(n ast.Node) { f.Rules = p.rules(n, "rules") }},
		field{"classes", false, func(n ast.Node) { p.classes(n, &f.Policy) }},
		field{"guard", false, func(n ast.Node) { f.Guard = p.guard(n, "guard") }},
		field{"marks", false, func(n ast.Node) { f.Marks = p.marks(n) }},
	)
	p.validate(f)
	if err := p.err(); err != nil {
		return nil, err
	}
	return f, nil
}

func (p *problems) regions(n ast.Node) (out []string) {
	seen := make(map[string]bool)
	p.sequence(n, "regions", MaxRegions, func(n ast.Node) {
		s, ok := p.name(n, "region")
		if ok && seen[s] {
			p.add(at(n), "", "region %q is listed twice", s)
		} else if ok {
			seen[s] = true
			out = append(out, s)
		}
	})
	return out
}

func (p *problems) gateways(n ast.Node) (out []*Gateway) {
	es := p.entries(n, "gateways")
	if p.tooMany(at(n), "gateways", len(es), MaxGateways) {
		return nil
	}
	if len(es) == 0 && len(p.list) == 0 {
		p.add(at(n), "", "gateways: none, want at least one")
	}
	for _, e := range es {
		g := &Gateway{Name: e.key, at: e.at}
		what := "gateway " + e.key
		p.checkName(e.at, what, e.key)
		p.object(e.val, e.at, what,
			field{"region", true, func(n ast.Node) { g.Region, _ = p.text(n, what+": region"); g.regionAt = at(n) }},
			field{"public_key", true, func(n ast.Node) { g.PublicKey = p.publicKey(n, what); g.keyAt = at(n) }},
			field{"carriers", false, func(n ast.Node) { g.Carriers = p.uplinks(n, what+": carrier", true) }},
			field{"access", false, func(n ast.Node) {
				g.Access = p.uplinks(n, what+": access", true)
				for _, u := range g.Access {
					if u.Direct != DirectRedirect {
						p.add(u.at, "", "%s: access %s: direct: %v, but direct flows leave by carriers alone", what, u.Name, u.Direct)
					}
				}
			}},
			field{"lan", false, func(n ast.Node) { g.LAN = p.interfaces(n, what+": lan") }},
			field{"guard", false, func(n ast.Node) { own := p.guard(n, what+": guard"); g.Guard = &own }},
			field{"exit", false, func(n ast.Node) { g.PreserveSource = p.exit(n, what+": exit") }},
		)
		out = append(out, g)
	}
	return out
}

func (p *problems) exit(n ast.Node, what string) (preserve bool) {
	p.object(n, at(n), what,
		field{"preserve_source", false, func(n ast.Node) { preserve = p.boolean(n, what+": preserve_source") }})
	return preserve
}

// uplinks reads a map of uplinks. A gateway must say where it listens (fixed), an agent need not.
func (p *problems) uplinks(n ast.Node, what string, fixed bool) (out []*Uplink) {
	es := p.entries(n, what)
	if p.tooMany(at(n), what, len(es), MaxUplinks) {
		return nil
	}
	for _, e := range es {
		u := &Uplink{Name: e.key, at: e.at, addrAt: e.at}
		what := what + " " + e.key
		p.checkName(e.at, what, e.key)
		if strings.Contains(e.key, "-") {
			p.add(e.at, "", "%s: the name has a '-', which separates the two uplinks in the name of a path", what)
		}
		p.object(e.val, e.at, what,
			field{"interface", true, func(n ast.Node) { u.Interface = p.interfaceName(n, what) }},
			field{"address", fixed, func(n ast.Node) { u.Address = p.address(n, what, fixed); u.addrAt = at(n) }},
			field{"rate", false, func(n ast.Node) { u.Rate = p.rate(n, what) }},
			field{"direct", false, func(n ast.Node) {
				if i, ok := p.word(n, what+": direct", directWays); ok {
					u.Direct = DirectWay(i)
				}
			}},
		)
		out = append(out, u)
	}
	return out
}

func (p *problems) borders(n ast.Node) (out []*Border) {
	p.sequence(n, "borders", MaxBorders, func(n ast.Node) {
		b := &Border{at: at(n)}
		p.object(n, at(n), "border",
			field{"between", true, func(n ast.Node) {
				i := 0
				p.sequence(n, "border: between", MaxGateways, func(n ast.Node) {
					if s, ok := p.text(n, "border: between"); ok && i < 2 {
						b.Between[i], b.betweenAt[i] = s, at(n)
					}
					i++
				})
				if i != 2 {
					p.add(at(n), "write [sha, fra]", "border: between names %d gateways, want 2", i)
				}
			}},
			field{"paths", false, func(n ast.Node) {
				p.sequence(n, "border: paths", MaxPaths, func(n ast.Node) {
					if s, ok := p.text(n, "border: path"); ok {
						b.pathText, b.pathAt = append(b.pathText, s), append(b.pathAt, at(n))
					}
				})
			}},
		)
		if b.Between[0] != "" && b.Between[1] != "" {
			out = append(out, b)
		}
	})
	return out
}

func (p *problems) tenants(n ast.Node) (out []*Tenant) {
	es := p.entries(n, "tenants")
	if p.tooMany(at(n), "tenants", len(es), MaxTenants) {
		return nil
	}
	for _, e := range es {
		t := &Tenant{Name: e.key}
		what := "tenant " + e.key
		p.checkName(e.at, what, e.key)
		p.object(e.val, e.at, what,
			field{"cross_border", false, func(n ast.Node) { t.CrossBorder = p.boolean(n, what+": cross_border") }},
			field{"sites", false, func(n ast.Node) { t.Sites = p.sites(n, e.key) }},
			field{"rules", false, func(n ast.Node) { t.Rules = p.rules(n, what+": rules") }},
		)
		out = append(out, t)
	}
	return out
}

func (p *problems) sites(n ast.Node, tenant string) (out []*Site) {
	es := p.entries(n, "tenant "+tenant+": sites")
	if p.tooMany(at(n), "tenant "+tenant+": sites", len(es), MaxSites) {
		return nil
	}
	for _, e := range es {
		s := &Site{Name: e.key, at: e.at}
		what := "site " + tenant + "/" + e.key
		p.checkName(e.at, what, e.key)
		p.object(e.val, e.at, what,
			field{"at", true, func(n ast.Node) { s.At, _ = p.text(n, what+": at"); s.atAt = at(n) }},
			field{"prefixes", true, func(n ast.Node) { s.Prefixes, s.prefixAt = p.prefixes(n, what) }},
			field{"public_key", false, func(n ast.Node) { s.PublicKey = p.publicKey(n, what); s.keyAt = at(n) }},
		)
		out = append(out, s)
	}
	return out
}

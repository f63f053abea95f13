package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/landbridge/landbridge/bench/wan"
)

// The ways across the border, as --via takes them.
const (
	ViaLandbridge  = "landbridge"
	ViaTCPCubic    = "tcp-cubic"
	ViaTCPBBR      = "tcp-bbr"
	ViaMPTCPBBR    = "mptcp-bbr"
	ViaKCPTun      = "kcptun"
	ViaHysteria    = "hysteria2"     // told the link's rate
	ViaHysteriaBBR = "hysteria2-bbr" // told nothing
	ViaOpenVPN     = "openvpn"
	ViaWireGuard   = "wireguard"
)

// ErrMissing is wrapped by the complaint that this machine lacks what a way across the border needs.
var ErrMissing = errors.New("not on this machine")

// routing is what the plan has to do for a way.
type routing int

const (
	// routeNothing leaves what is not captured without a route, so that a run cannot pass by the tunnel unnoticed.
	routeNothing routing = iota
	// routePlain leads across the border over the one carrier.
	routePlain
	// routeByAddress gives the client an address for each carrier and leads each over its own, both ways.
	routeByAddress
	// routeToGateway leads the client to gateway sha, where the way's own programs or devices take over.
	routeToGateway
)

// way is one way across the border.
type way struct {
	name       string
	title      string // for tables
	routing    routing
	all        bool   // uses every carrier; the others take one
	congestion string // TCP congestion control of client and origin
	multipath  bool   // their TCP is MPTCP, of Go's dialer and listener
	forwards   bool   // carries the workload's port alone, which it takes at gateway sha
}

// ways in the order of tables: Landbridge, the kernel's own, forwarders, private networks.
var ways = []way{
	{name: ViaLandbridge, title: "Landbridge", all: true, congestion: "cubic"},
	{name: ViaTCPCubic, title: "TCP CUBIC", routing: routePlain, congestion: "cubic"},
	{name: ViaTCPBBR, title: "TCP BBR", routing: routePlain, congestion: "bbr"},
	{name: ViaMPTCPBBR, title: "MPTCP + BBR", routing: routeByAddress, all: true, congestion: "bbr", multipath: true},
	{name: ViaKCPTun, title: "kcptun fast3 10:3", routing: routeToGateway, congestion: "cubic", forwards: true},
	{name: ViaHysteria, title: "Hysteria 2, told the rate", routing: routeToGateway, congestion: "cubic", forwards: true},
	{name: ViaHysteriaBBR, title: "Hysteria 2, BBR", routing: routeToGateway, congestion: "cubic", forwards: true},
	{name: ViaOpenVPN, title: "OpenVPN, TCP CUBIC inside", routing: routeToGateway, congestion: "cubic"},
	{name: ViaWireGuard, title: "WireGuard, TCP CUBIC inside", routing: routeToGateway, congestion: "cubic"},
}

// ViaNames are the names --via takes.
func ViaNames() []string {
	names := make([]string, len(ways))
	for i, w := range ways {
		names[i] = w.name
	}
	return names
}

func wayNamed(name string) (way, error) {
	i := slices.IndexFunc(ways, func(w way) bool { return w.name == name })
	if i < 0 {
		return way{}, fmt.Errorf("%w: via %q, want one of %s", ErrOptions, name, strings.Join(ViaNames(), ", "))
	}
	return ways[i], nil
}

// way is that of normalised options.
func (o Options) way() way {
	w, err := wayNamed(o.Via)
	if err != nil {
		panic("lab: options not normalised: " + err.Error())
	}
	return w
}

// cross adds what a way needs of routes and addresses.
func (p *plan) cross(o Options) {
	w := o.way()
	if w.routing == routeNothing {
		return
	}
	origins, clients := originAddr.Masked(), clientAddr.Masked()
	if !o.NoAgent {
		p.routes = append(p.routes,
			route{machine: machineAgent, dst: origins, via: accessAddr(0, 1).Addr()},
			route{machine: machineSha, dst: clients, via: accessAddr(0, 2).Addr()},
		)
	}
	carrier := func(name string) int { return slices.Index(carriers, name) }
	switch w.routing {
	case routePlain:
		c := carrier(o.Carriers[0])
		p.routes = append(p.routes,
			route{machine: machineSha, dst: origins, via: carrierAddr(c, 2).Addr()},
			route{machine: machineFra, dst: clients, via: carrierAddr(c, 1).Addr()},
		)
	case routeByAddress:
		for i, name := range byDelay(o) {
			c, addr := carrier(name), extraClient(i)
			if i > 0 {
				p.lans[0].a.addrs = append(p.lans[0].a.addrs, netip.PrefixFrom(addr, clientAddr.Bits()))
			}
			p.routes = append(p.routes,
				route{machine: machineSha, dst: origins, via: carrierAddr(c, 2).Addr(), from: addr},
				route{machine: machineFra, dst: netip.PrefixFrom(addr, addr.BitLen()), via: carrierAddr(c, 1).Addr()},
			)
			if !o.NoAgent && i > 0 {
				// Over both access links: one alone is slower than the carriers together.
				a := i % len(accessLinks)
				p.routes = append(p.routes,
					route{machine: machineAgent, dst: origins, via: accessAddr(a, 1).Addr(), from: addr},
					route{machine: machineSha, dst: netip.PrefixFrom(addr, addr.BitLen()), via: accessAddr(a, 2).Addr()},
				)
			}
		}
	}
}

// extraClient is the client's i-th address: its usual one, then those of further MPTCP subflows.
func extraClient(i int) netip.Addr {
	a := clientAddr.Addr()
	for range i {
		a = a.Next()
	}
	return a
}

// byDelay is the carriers in use, shortest first: a connection begins on the one its user would have as default.
func byDelay(o Options) []string {
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return o.Carriers
	}
	links = pick(links, o.Carriers)
	slices.SortStableFunc(links, func(a, b wan.Carrier) int { return cmp.Compare(a.Impairment.Delay, b.Impairment.Delay) })
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Name
	}
	return names
}

// nearGateway is the address of gateway sha that the client reaches.
func nearGateway(o Options) netip.Addr {
	if o.NoAgent {
		return clientGateway.Addr()
	}
	return accessAddr(0, 1).Addr()
}

// farAddr is gateway fra's address on the one carrier in use.
func farAddr(o Options) netip.Addr {
	return carrierAddr(slices.Index(carriers, o.Carriers[0]), 2).Addr()
}

// routedNames are the ways that carry every port.
func routedNames() (names []string) {
	for _, w := range ways {
		if !w.forwards {
			names = append(names, w.name)
		}
	}
	return names
}

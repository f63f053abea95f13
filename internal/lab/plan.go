package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// The lab's machines. Each is a network namespace called LAB-MACHINE.
const (
	machineClient = "client"
	machineAgent  = "agent"
	machineSha    = "sha"
	machineFra    = "fra"
	machineOrigin = "origin"
)

// carriers are the border's links, in the order of the scenario table.
var carriers = []string{"ct", "cu", "cm"}

// accessLinks are the agent's uplinks to its gateway.
var accessLinks = []string{"acc0", "acc1"}

// DefaultName is the lab's name when none is given; labs of different names can be up at the same time.
const DefaultName = "lb"

// bondPort is where gateways and agents listen.
const bondPort = 4500

// addresses of the topology. Every wire is a network of its own, so a route names a wire.
var (
	clientAddr    = netip.MustParsePrefix("10.10.0.2/24")
	clientGateway = netip.MustParsePrefix("10.10.0.1/24")
	originAddr    = netip.MustParsePrefix("10.20.0.2/24")
	originGateway = netip.MustParsePrefix("10.20.0.1/24")

	clientAddr6    = netip.MustParsePrefix("fd00:10::2/64")
	clientGateway6 = netip.MustParsePrefix("fd00:10::1/64")
	originAddr6    = netip.MustParsePrefix("fd00:20::2/64")
	originGateway6 = netip.MustParsePrefix("fd00:20::1/64")
)

// carrierAddr is the address of a gateway (side 1 is sha, 2 is fra) on the i-th carrier.
func carrierAddr(i, side int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i + 1), byte(side)}), 24)
}

// accessAddr is the address on the i-th access link (side 1 is sha, 2 the agent).
func accessAddr(i, side int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i + 1), byte(side)}), 24)
}

// ErrOptions is wrapped by every complaint about what a lab was asked for; ErrPrivilege where root is missing.
var (
	ErrOptions   = errors.New("lab options")
	ErrPrivilege = errors.New("the lab needs root")
)

// Options say which lab to bring up. The zero value is not usable: Scenario must be set.
type Options struct {
	Name     string // "" is DefaultName
	Scenario string
	Seed     uint64
	NoAgent  bool     // the client sits straight behind gateway sha
	Via      string   // one of ViaNames; "" is ViaLandbridge
	Carriers []string // of ct, cu, cm; nil: all, or the best where the way takes one
	Guard    string   // of the gateways' carrier NICs: off, observe or enforce; "" is the fleet document's default
	// Programs is the directory of landbridge-gateway, landbridge-agent and landbridge, and of other tools that are not
	// in the PATH; "" is the running program's.
	Programs string

	bare bool // links and machines alone: no way across the border
	// opposed: realtime minds loss alone and interactive delay alone, and they move at once
	opposed bool
}

// GuardModes are the values of Options.Guard.
var GuardModes = []string{"off", "observe", "enforce"}

var nameShape = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`) // leaves room for "-origin" and the device names

// normalise fills defaults and checks the rest.
func (o Options) normalise() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !nameShape.MatchString(o.Name) {
		return o, fmt.Errorf("%w: name %q, want 1 to 8 lower-case letters and digits", ErrOptions, o.Name)
	}
	if o.Via == "" {
		o.Via = ViaLandbridge
	}
	w, err := wayNamed(o.Via)
	if err != nil {
		return o, err
	}
	if o.Guard != "" && !slices.Contains(GuardModes, o.Guard) {
		return o, fmt.Errorf("%w: guard %q, want one of %s", ErrOptions, o.Guard, strings.Join(GuardModes, ", "))
	}
	for i, c := range o.Carriers {
		if !slices.Contains(carriers, c) {
			return o, fmt.Errorf("%w: carrier %q, want one of %s", ErrOptions, c, strings.Join(carriers, ", "))
		}
		if slices.Contains(o.Carriers[:i], c) {
			return o, fmt.Errorf("%w: carrier %q named twice", ErrOptions, c)
		}
	}
	links, err := scenarioLinks(o.Scenario)
	if err != nil {
		return o, err
	}
	switch {
	case !w.all && len(o.Carriers) == 0:
		o.Carriers = []string{bestCarrier(links)}
	case !w.all && len(o.Carriers) > 1:
		return o, fmt.Errorf("%w: %s takes one carrier, not %d", ErrOptions, o.Via, len(o.Carriers))
	case len(o.Carriers) == 0:
		o.Carriers = slices.Clone(carriers)
	}
	return o, nil
}

// namespace is the network namespace of a machine.
func (o Options) namespace(machine string) string { return o.Name + "-" + machine }

// machines of this lab, client to origin.
func (o Options) machines() []string {
	if o.NoAgent {
		return []string{machineClient, machineSha, machineFra, machineOrigin}
	}
	return []string{machineClient, machineAgent, machineSha, machineFra, machineOrigin}
}

// end is one end of a link.
type end struct {
	machine, dev string
	addrs        []netip.Prefix
}

// lan is a clean, fast link: a veth pair.
type lan struct{ a, b end }

// wire is an emulated link; a is the side nearer to the client.
type wire struct {
	name   string
	border bool // a carrier, otherwise an access link
	a, b   end
}

// route is a static route on a machine.
type route struct {
	machine string
	dst     netip.Prefix
	via     netip.Addr
	from    netip.Addr // only for packets from this address; the zero Addr: for all
}

// plan is everything the kernel has to be told.
type plan struct {
	lans   []lan
	wires  []wire
	routes []route
}

var defaultRoute4, defaultRoute6 = netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")

// makePlan lays the topology out. Options must be normalised.
func makePlan(o Options) plan {
	var p plan
	first := machineAgent
	if o.NoAgent {
		first = machineSha
	}
	p.lans = []lan{
		{
			a: end{machineClient, "lan0", []netip.Prefix{clientAddr, clientAddr6}},
			b: end{first, "lan0", []netip.Prefix{clientGateway, clientGateway6}},
		},
		{
			a: end{machineFra, "lan0", []netip.Prefix{originGateway, originGateway6}},
			b: end{machineOrigin, "lan0", []netip.Prefix{originAddr, originAddr6}},
		},
	}
	if !o.NoAgent {
		for i, name := range accessLinks {
			p.wires = append(p.wires, wire{
				name: name,
				a:    end{machineAgent, name, []netip.Prefix{accessAddr(i, 2)}},
				b:    end{machineSha, name, []netip.Prefix{accessAddr(i, 1)}},
			})
		}
	}
	for i, name := range carriers {
		if slices.Contains(o.Carriers, name) {
			p.wires = append(p.wires, wire{
				name: name, border: true,
				a: end{machineSha, name + "0", []netip.Prefix{carrierAddr(i, 1)}},
				b: end{machineFra, name + "0", []netip.Prefix{carrierAddr(i, 2)}},
			})
		}
	}
	p.routes = []route{
		{machine: machineClient, dst: defaultRoute4, via: clientGateway.Addr()},
		{machine: machineClient, dst: defaultRoute6, via: clientGateway6.Addr()},
		{machine: machineOrigin, dst: defaultRoute4, via: originGateway.Addr()},
		{machine: machineOrigin, dst: defaultRoute6, via: originGateway6.Addr()},
	}
	p.cross(o)
	return p
}

// tcpMemory is the largest TCP buffer in the lab, client and origin included: more than twice the bandwidth-delay
// product of 150 Mbit/s and 500 ms, so that no measurement is one of a window.
const tcpMemory = 64 << 20

// tcpUnsent is how much a socket takes that it cannot send yet. A thousand senders that fill their buffers first keep two
// processors busy for two seconds, in which flows that have begun leave the others behind.
const tcpUnsent = 128 << 10

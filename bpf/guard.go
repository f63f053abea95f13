package bpf

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// GuardMode is whether the guard drops.
type GuardMode uint8

// The modes.
const (
	GuardOff     GuardMode = iota // not even called
	GuardObserve                  // counts what it would do
	GuardEnforce
)

// String returns the mode's name.
func (m GuardMode) String() string {
	switch m {
	case GuardOff:
		return "off"
	case GuardObserve:
		return "observe"
	case GuardEnforce:
		return "enforce"
	}
	return fmt.Sprintf("mode-%d", m)
}

// Guard is what may come in through the carriers' NICs: beside what it names,
// answers to what went out, ARP and neighbour discovery, and ICMP errors.
type Guard struct {
	Mode GuardMode
	// BondPorts are the UDP ports of bonds, and of user-space reflectors.
	BondPorts []uint16
	// Peers are addresses that may send to them without limit; everybody else's
	// packets count as strangers'.
	Peers []netip.Addr
	Allow []Inbound
	// StrangerRate is how many packets a second strangers of one /24 or /48 may
	// send to BondPorts and of ICMP errors; 0 means DefaultStrangerRate.
	// StrangerBurst is how many at once; 0 means DefaultStrangerBurst.
	StrangerRate, StrangerBurst int
	// TotalRate and TotalBurst are the same for all strangers together, for
	// BondPorts, ICMP errors and plain probes each: source addresses can be forged.
	// 0 means DefaultTotalRate and DefaultTotalBurst, or those of one network where
	// they are more.
	TotalRate, TotalBurst int
}

// Inbound allows what nothing else does.
type Inbound struct {
	From     netip.Prefix // invalid means anywhere
	Protocol uint8        // 0: TCP, UDP and, without Ports, everything else
	Ports    PortRange    // destination; the zero value is every port
}

// Limits of the guard, and its defaults. A bond's handshake is a few packets, so
// strangers need little.
const (
	DefaultStrangerRate  = 100
	DefaultStrangerBurst = 200
	DefaultTotalRate     = 2000 // twenty networks at their full rate
	DefaultTotalBurst    = 4000
	MaxInbound           = 4096  // bounds what SetGuard computes
	MaxPeers             = 16384 // entries of the map in guard.bpf.c
	maxAllowedPrefixes   = 32768 // half of the tries: two generations
)

// The axis of the map ports, as PORTS_* in guard.bpf.c.
const (
	portsUDP   = 0
	portsTCP   = 65536
	portsOther = 131072
	portsMax   = portsOther + 256
	portBond   = 0xffffffff
)

func (g *Guard) check() error {
	if g.Mode > GuardEnforce {
		return fmt.Errorf("mode %d: must be %d to %d", g.Mode, GuardOff, GuardEnforce)
	}
	if len(g.Peers) > MaxPeers || len(g.Allow) > MaxInbound {
		return fmt.Errorf("%d peers, %d inbound rules: at most %d and %d", len(g.Peers), len(g.Allow), MaxPeers, MaxInbound)
	}
	if g.StrangerRate < 0 || g.StrangerRate > 1e6 || g.StrangerBurst < 0 || g.StrangerBurst > 1e6 {
		return fmt.Errorf("stranger rate %d, burst %d: must be 0 to 1000000", g.StrangerRate, g.StrangerBurst)
	}
	if g.TotalRate < 0 || g.TotalRate > 1e6 || g.TotalBurst < 0 || g.TotalBurst > 1e6 {
		return fmt.Errorf("total rate %d, burst %d: must be 0 to 1000000", g.TotalRate, g.TotalBurst)
	}
	for _, a := range g.Peers {
		if !a.IsValid() {
			return fmt.Errorf("peer %v: must be an address", a)
		}
	}
	for _, r := range g.Allow {
		if r.From.IsValid() {
			if err := checkPrefix(r.From); err != nil {
				return err
			}
		}
		if r.Ports.To != 0 && r.Ports.To < r.Ports.From {
			return fmt.Errorf("ports %d-%d: the second must not be less", r.Ports.From, r.Ports.To)
		}
		if r.Ports != (PortRange{}) && r.Protocol != 0 && r.Protocol != portProtocolTCP && r.Protocol != portProtocolUDP {
			return fmt.Errorf("protocol %d: the guard knows the ports of TCP and UDP alone", r.Protocol)
		}
	}
	return nil
}

// rates are the limits with their defaults: of one network and of all.
func (g *Guard) rates() (rate, burst, total, totalBurst int) {
	rate, burst = cmp.Or(g.StrangerRate, DefaultStrangerRate), cmp.Or(g.StrangerBurst, DefaultStrangerBurst)
	total, totalBurst = cmp.Or(g.TotalRate, max(DefaultTotalRate, rate)), cmp.Or(g.TotalBurst, max(DefaultTotalBurst, burst))
	return rate, burst, total, totalBurst
}

func (r *Inbound) spans() (all []span) {
	low, high := uint32(r.Ports.From), uint32(max(r.Ports.From, r.Ports.To))
	everyPort := r.Ports == (PortRange{})
	if everyPort {
		high = 65535
	}
	switch r.Protocol {
	case portProtocolUDP:
		return []span{{portsUDP + low, portsUDP + high + 1}}
	case portProtocolTCP:
		return []span{{portsTCP + low, portsTCP + high + 1}}
	case 0:
		all = []span{{portsUDP + low, portsUDP + high + 1}, {portsTCP + low, portsTCP + high + 1}}
		if everyPort {
			all = append(all, span{portsOther, portsMax})
		}
		return all
	}
	return []span{{portsOther + uint32(r.Protocol), portsOther + uint32(r.Protocol) + 1}}
}

// inboundSets are sets of sources by number. A set that stays keeps its number.
type inboundSets map[uint32][]netip.Prefix

// compile returns what each point of the axis is for, and the sets. Those that
// were there before are taken from old, new ones are numbered from next.
func (g *Guard) compile(old inboundSets, next uint32) (ports []uint32, sets inboundSets, err error) {
	if err := g.check(); err != nil {
		return nil, nil, err
	}
	points := []uint32{0, portsMax}
	for _, r := range g.Allow {
		for _, s := range r.spans() {
			points = append(points, s.from, s.to)
		}
	}
	slices.Sort(points)
	points = slices.Compact(points)
	known := make(map[string]uint32)
	for n, prefixes := range old {
		known[fmt.Sprint(prefixes)] = n
	}
	ports, sets = make([]uint32, portsMax), make(inboundSets)
	total := 0
	for k, at := range points[:len(points)-1] {
		prefixes := g.sources(at)
		if prefixes == nil {
			continue
		}
		key := fmt.Sprint(prefixes)
		n, ok := known[key]
		if !ok {
			n = next
			next++
			known[key] = n
		}
		if sets[n] == nil {
			sets[n] = prefixes
			if total += len(prefixes); total > maxAllowedPrefixes {
				return nil, nil, fmt.Errorf("inbound rules overlap in more than %d ways", maxAllowedPrefixes)
			}
		}
		for i := at; i < points[k+1]; i++ {
			ports[i] = n
		}
	}
	for _, p := range g.BondPorts {
		ports[portsUDP+int(p)] = portBond
	}
	return ports, sets, nil
}

// sources are the prefixes that a point of the axis is open for, sorted.
func (g *Guard) sources(at uint32) (prefixes []netip.Prefix) {
	for _, r := range g.Allow {
		if !slices.ContainsFunc(r.spans(), func(s span) bool { return s.from <= at && at < s.to }) {
			continue
		}
		if r.From.IsValid() {
			prefixes = append(prefixes, r.From)
		} else {
			prefixes = append(prefixes, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		}
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	return slices.Compact(prefixes)
}

// GuardVerdict is what the guard said about one packet; the values are those of
// enum guard_verdict in structs.h.
type GuardVerdict uint32

// The guard's verdicts; the last five drop the packet, in mode GuardEnforce.
const (
	GuardBond         GuardVerdict = iota // to the bond, from a peer
	GuardBondStranger                     // to the bond, from elsewhere, within the rate
	GuardEstablished                      // belongs to what went out
	GuardAllowed                          // by Guard.Allow
	GuardICMP                             // an ICMP error, within the rate
	GuardNeighbour                        // ARP, neighbour and multicast listener discovery
	GuardFragment                         // later fragment of what passed
	GuardRateLimited                      // too much of one network
	GuardTotalLimited                     // too much of all strangers together
	GuardUnwanted
	GuardUnparsed
	GuardNotIP
	numGuardVerdicts
)

var guardVerdictNames = [numGuardVerdicts]string{
	"bond", "bond-stranger", "established", "allowed", "icmp", "neighbour", "fragment",
	"rate-limited", "total-limited", "unwanted", "unparsed", "not-ip",
}

// String returns the verdict's name, for status output and metrics.
func (v GuardVerdict) String() string {
	if v < numGuardVerdicts {
		return guardVerdictNames[v]
	}
	return "guard-" + strconv.FormatUint(uint64(v), 10)
}

// Drops says whether the guard drops such packets when it enforces.
func (v GuardVerdict) Drops() bool { return v >= GuardRateLimited }

// GuardVerdicts is the number of packets by [GuardVerdict].
type GuardVerdicts [numGuardVerdicts]uint64

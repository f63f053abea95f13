package bpf

import (
	"net/netip"
	"slices"
)

// naivePolicy judges packets by going through the rules one by one. It has no
// paths: direct flows find none.
type naivePolicy struct {
	Policy
	prefixes map[netip.Prefix]Action
	first    map[naiveDatagram]naiveDecision // fragmented datagrams that have begun
}

type naiveDatagram struct {
	src, dst netip.Addr
	protocol byte // 0 with IPv6
	id       uint32
}

type naiveDecision struct {
	action RuleAction
	class  Class
	rule   uint32
	tenant uint32
	group  Group
}

// tenant is that with the longest prefix around the source.
func (p *naivePolicy) tenant(src netip.Addr) Tenant {
	t := Tenant{Default: p.Strangers, Class: Interactive}
	if t.Default == Default {
		t.Default = Allow
		if len(p.Tenants) > 0 {
			t.Default = Leave
		}
	}
	best := -1
	for _, c := range p.Tenants {
		for _, prefix := range c.Prefixes {
			if !c.Inbound && prefix.Contains(src) && prefix.Bits() > best {
				best, t = prefix.Bits(), c
				if t.Default == Default {
					t.Default = Allow
				}
				if t.Class == NoClass {
					t.Class = Interactive
				}
			}
		}
	}
	return t
}

// decide is the first rule that matches. Of what is not known it assumes the
// worst.
func (p *naivePolicy) decide(s seen) (d naiveDecision) {
	if !s.addrs {
		d.action = Leave
		if p.Strangers == Deny || slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Action == Deny }) ||
			slices.ContainsFunc(p.Tenants, func(t Tenant) bool { return t.Default == Deny }) {
			d.action = Deny
		}
		return d
	}
	t := p.tenant(s.src)
	fallback := naiveDecision{action: t.Default, class: t.Class, tenant: t.ID, group: t.Group}
	for _, r := range p.Rules {
		if r.Tenant != 0 && r.Tenant != t.ID || r.Prefix.IsValid() && !r.Prefix.Contains(s.dst) {
			continue
		}
		if !s.ports {
			if r.Action == Deny && p.reachable(r, s, t) {
				fallback.action = Deny
				return fallback
			}
			continue
		}
		if len(r.DSCP) > 0 && !slices.Contains(r.DSCP, s.dscp) || !r.matchesTransport(s.protocol, s.dport) {
			continue
		}
		if r.Action == Default {
			return fallback
		}
		d = naiveDecision{action: r.Action, class: r.Class, rule: r.ID, tenant: t.ID, group: r.Group}
		if d.class == NoClass {
			d.class = t.Class
		}
		if d.group == 0 {
			d.group = t.Group
		}
		return d
	}
	return fallback
}

func (r Rule) matchesTransport(protocol byte, port uint16) bool {
	if r.Protocol != 0 && r.Protocol != protocol {
		return false
	}
	if r.Ports == (PortRange{}) {
		return true
	}
	to := max(r.Ports.From, r.Ports.To)
	return slices.Contains([]byte{protoTCP, protoUDP, protoSCTP}, protocol) && r.Ports.From <= port && port <= to
}

// reachable says whether any packet of the kind (TCP, UDP or neither) that s may
// be comes to the deny rule r, and no rule before it decides.
func (p *naivePolicy) reachable(r Rule, s seen, t Tenant) bool {
	kind := func(b byte) int {
		switch b {
		case protoTCP:
			return 0
		case protoUDP:
			return 1
		}
		return 2
	}
	s.ports = true
	for proto := range 256 {
		if s.proto && kind(s.protocol) != kind(byte(proto)) {
			continue
		}
		// Ports at which any rule begins or has just ended are enough.
		ports := []uint16{0}
		for _, o := range p.Rules {
			ports = append(ports, o.Ports.From, max(o.Ports.From, o.Ports.To)+1)
		}
		for _, port := range ports {
			for dscp := range byte(64) {
				s.protocol, s.dport, s.dscp = byte(proto), port, dscp
				for _, o := range p.Rules {
					if o.Tenant != 0 && o.Tenant != t.ID || o.Prefix.IsValid() && !o.Prefix.Contains(s.dst) ||
						len(o.DSCP) > 0 && !slices.Contains(o.DSCP, dscp) || !o.matchesTransport(s.protocol, port) {
						continue
					}
					if o.Action == Deny {
						return true
					}
					break
				}
			}
		}
	}
	return false
}

// verdict is what the classifier should count for a packet of a new flow.
func (p *naivePolicy) verdict(frame []byte) Verdict {
	s := naiveParse(frame)
	v := s.socketVerdict()
	if !s.ip {
		return v
	}
	datagram := naiveDatagram{s.src, s.dst, s.protocol, s.id}
	if s.addrs && s.src.Is6() {
		datagram.protocol = 0
	}
	var d naiveDecision
	switch {
	case s.bad || !s.addrs || !s.proto || !s.ports:
		var ok bool
		if d, ok = p.first[datagram]; !ok || !s.later || s.bad {
			if p.decide(s).action == Deny {
				return DeniedUnparsed
			}
			return v
		}
	default:
		d = p.decide(s)
		if d.action == Deny {
			return Denied
		}
		if s.first && d.action != Leave {
			p.first[datagram] = d
		}
	}
	switch {
	case d.action == Leave:
		return LeftAlone
	case d.action == Direct && !s.host:
		return OtherHost
	case d.action == Direct:
		return NoPath
	case v != Captured:
		return v
	}
	switch naiveLookup(p.prefixes, s.dst) {
	case Capture:
		if s.synAck {
			return Unasked
		}
		return CapturedNew
	case Pass, Drain:
		return Excluded
	}
	return NotCaptured
}

// socketVerdict is why the packet cannot go to a socket, or Captured.
func (s seen) socketVerdict() Verdict {
	switch {
	case s.tagged:
		return VLAN
	case !s.host:
		return OtherHost
	case !s.ip:
		return NotIP
	case s.bad:
		return Unparsed
	case s.first || s.later:
		return Fragment
	case s.protocol != protoTCP:
		return NotTCP
	}
	return Captured
}

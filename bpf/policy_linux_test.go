package bpf

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func setPolicy(t testing.TB, c *Classifier, p Policy) {
	t.Helper()
	if err := c.SetPolicy(p); err != nil {
		t.Fatal(err)
	}
}

// withDSCP writes a code point into a frame.
func withDSCP(frame []byte, dscp byte) []byte {
	if ip := frame[etherLen:]; ip[0]>>4 == 4 {
		ip[1] = dscp << 2
	} else {
		ip[0], ip[1] = 0x60|dscp>>2, dscp<<6
	}
	return frame
}

// TestRules: named packets against one rule or few.
func TestRules(t *testing.T) {
	c := newCapture(t)
	acme := Tenant{ID: 7, Prefixes: []netip.Prefix{pfx("192.0.2.0/24"), pfx("fd00::/16")}}
	syn4, syn6 := packet(client4, origin4, flagSYN), packet(client6, origin6, flagSYN)
	deny := func(r Rule) Policy {
		r.ID, r.Action = 1, Deny
		return Policy{Tenants: []Tenant{acme}, Rules: []Rule{r}}
	}
	tcp443 := Rule{Protocol: protoTCP, Ports: PortRange{From: 443}}
	for _, tt := range []struct {
		name   string
		policy Policy
		frame  []byte
		want   Verdict
	}{
		{"no rules", Policy{Tenants: []Tenant{acme}}, syn4, CapturedNew},
		{"stranger", Policy{Tenants: []Tenant{acme}}, packet(ap("192.0.3.1:1"), origin4, flagSYN), LeftAlone},
		{"stranger v6", Policy{Tenants: []Tenant{acme}}, packet(ap("[fd01::1]:1"), origin6, flagSYN), LeftAlone},
		{"strangers allowed", Policy{Tenants: []Tenant{acme}, Strangers: Allow}, packet(ap("192.0.3.1:1"), origin4, flagSYN), CapturedNew},
		{"strangers denied", Policy{Strangers: Deny}, syn4, Denied},
		{"tenant denied", Policy{Tenants: []Tenant{{ID: 7, Prefixes: acme.Prefixes, Default: Deny}}}, syn6, Denied},
		{"tenant left alone", Policy{Tenants: []Tenant{{ID: 7, Prefixes: acme.Prefixes, Default: Leave}}}, syn6, LeftAlone},
		{"longer prefix", Policy{Tenants: []Tenant{acme, {ID: 8, Prefixes: []netip.Prefix{pfx("192.0.2.1/32")}, Default: Deny}}}, syn4, Denied},
		{"rule of a tenant", deny(Rule{Tenant: 7}), syn4, Denied},
		{"rule of another tenant", Policy{Tenants: []Tenant{acme, {ID: 8}}, Rules: []Rule{{ID: 1, Tenant: 8, Action: Deny}}}, syn4, CapturedNew},
		{"destination", deny(Rule{Prefix: pfx("10.9.9.9/32")}), syn4, Denied},
		{"other destination", deny(Rule{Prefix: pfx("10.9.9.8/32")}), syn4, CapturedNew},
		{"any v4 is not v6", deny(Rule{Prefix: pfx("0.0.0.0/0")}), syn6, CapturedNew},
		{"any v6 is not v4", deny(Rule{Prefix: pfx("::/0")}), syn4, CapturedNew},
		{"anywhere", deny(Rule{}), syn6, Denied},
		{"protocol", deny(Rule{Protocol: protoTCP}), syn4, Denied},
		{"other protocol", deny(Rule{Protocol: protoUDP}), syn4, CapturedNew},
		{"port", deny(tcp443), syn4, Denied},
		{"other port", deny(Rule{Protocol: protoTCP, Ports: PortRange{From: 444}}), syn4, CapturedNew},
		{"port range", deny(Rule{Ports: PortRange{From: 400, To: 443}}), syn4, Denied},
		{"past the range", deny(Rule{Ports: PortRange{From: 400, To: 442}}), syn4, CapturedNew},
		{"from port 0", deny(Rule{Ports: PortRange{To: 443}}), syn4, Denied},
		{"to the last port", deny(Rule{Ports: PortRange{From: 443, To: 65535}}), syn4, Denied},
		{"port of no protocol with ports", deny(Rule{Ports: PortRange{To: 65535}}), withProtocol(syn4, esp), NotTCP},
		{"dscp", deny(Rule{DSCP: []uint8{1, 46}}), withDSCP(bytes.Clone(syn4), 46), Denied},
		{"dscp v6", deny(Rule{DSCP: []uint8{46}}), withDSCP(bytes.Clone(syn6), 46), Denied},
		{"other dscp", deny(Rule{DSCP: []uint8{46}}), syn4, CapturedNew},
		{"first match", Policy{Rules: []Rule{{ID: 1, Action: Allow, Prefix: pfx("10.0.0.0/8")}, {ID: 2, Action: Deny, Prefix: pfx("10.9.9.9/32")}}}, syn4, CapturedNew},
		{"first match denies", Policy{Rules: []Rule{{ID: 2, Action: Deny, Prefix: pfx("10.0.0.0/8")}, {ID: 1, Action: Allow, Prefix: pfx("10.9.9.9/32")}}}, syn4, Denied},
		{"default action", Policy{Rules: []Rule{{ID: 1, Prefix: pfx("10.9.9.9/32")}, {ID: 2, Action: Deny}}}, syn4, CapturedNew},
		{"leave", Policy{Rules: []Rule{{ID: 1, Action: Leave}}}, syn4, LeftAlone},
		{"direct without a path", Policy{Rules: []Rule{{ID: 1, Action: Direct}}}, syn4, NoPath},
		{"direct to another host", Policy{Rules: []Rule{{ID: 1, Action: Direct}}}, toOther(syn4), OtherHost},
		{"deny to another host", deny(Rule{}), toOther(syn4), Denied},
		{"deny in a VLAN", deny(tcp443), withVLAN(syn4, 0x81000005), Denied},
		{"deny in old QinQ", deny(tcp443), withVLAN(syn4, 0x91000005, 0x81000006), Denied},
		{"deny in QinQ", deny(tcp443), withVLAN(syn6, 0x88a80005, 0x81000006), Denied},
		{"deny behind extension headers", deny(tcp443), packet(client6, origin6, flagSYN, options(hopByHop, 2), options(destOptions, 1)), Denied},
		{"deny of a first fragment", deny(tcp443), packet(client6, origin6, flagSYN, ext(fragment, 0, 0, 1, 0, 0, 0, 9)), Denied},
		{"deny of a later fragment", deny(tcp443), fragment4(syn4, 9, 16), DeniedUnparsed},
		{"later fragment, deny of another protocol", deny(Rule{Protocol: protoUDP}), fragment4(syn4, 9, 16), Fragment},
		{"later fragment, deny of another destination", deny(Rule{Prefix: pfx("10.9.9.8/32")}), fragment4(syn4, 9, 16), Fragment},
		{"later v6 fragment of options", deny(Rule{Protocol: protoUDP}), packet(client6, origin6, flagSYN, ext(fragment, 0, 0, 16, 0, 0, 0, 9), options(destOptions, 1)), DeniedUnparsed},
		{"deny with too many extension headers", deny(tcp443), packet(client6, origin6, flagSYN, slices.Repeat([]extHeader{options(destOptions, 1)}, 9)...), DeniedUnparsed},
		{"deny with a broken header", deny(Rule{Prefix: pfx("203.0.113.0/24")}), changed(syn4, 0, 0x44), DeniedUnparsed},
		{"broken header, nothing denied", Policy{Tenants: []Tenant{acme}}, changed(syn4, 0, 0x44), Unparsed},
		{"deny of a truncated header", deny(tcp443), syn4[:etherLen+30], DeniedUnparsed},
		{"truncated, allowed before the deny", Policy{Rules: []Rule{{ID: 1, Action: Allow, Prefix: pfx("10.9.9.9/32")}, {ID: 2, Action: Deny}}}, syn4[:etherLen+30], Unparsed},
		{"deny of what lies in the padding", deny(tcp443), changed(packet(client6, netip.AddrPortFrom(origin6.Addr(), 80), flagSYN, ext(fragment, 0, 0, 1, 0, 0, 0, 9)), 5, 8), DeniedUnparsed},
		{"deny of what lies in the padding, v4", deny(tcp443), changed(packet(client4, netip.AddrPortFrom(origin4.Addr(), 80), flagSYN), 3, 20), DeniedUnparsed},
		{"source route past a deny", deny(Rule{Prefix: pfx("203.0.113.0/24")}), packet6Routed(), DeniedUnparsed},
		{"arp is no business of rules", deny(Rule{}), arp(), NotIP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			setPolicy(t, c, tt.policy)
			// Twice: the flow table must not say anything else.
			for range 2 {
				if got := run(t, c.Program, tt.frame); got != tt.want {
					t.Errorf("%v, want %v", got, tt.want)
				}
			}
			naive := &naivePolicy{Policy: tt.policy, prefixes: testSet, first: map[naiveDatagram]naiveDecision{}}
			if got := naive.verdict(tt.frame); got != tt.want {
				t.Errorf("the naive policy says %v, want %v", got, tt.want)
			}
		})
	}
}

func changed(frame []byte, off int, b ...byte) []byte {
	frame = bytes.Clone(frame)
	copy(frame[etherLen+off:], b)
	return frame
}

func withProtocol(frame []byte, p byte) []byte { return changed(frame, 9, p) }

func toOther(frame []byte) []byte { return changed(frame, -etherLen, 2, 2, 2, 2, 2, 2) }

func arp() []byte { return changed(packet(client4, origin4, flagSYN), -2, 0x08, 0x06) }

func packet6Routed() []byte {
	return changed(packet(client6, origin6, flagSYN, options(routing, 1)), 43, 1)
}

// fragment4 makes a later fragment, units of 8 bytes on; 0 makes the first.
func fragment4(frame []byte, id byte, units byte) []byte {
	more := byte(0)
	if units == 0 {
		more = 0x20
	}
	return changed(frame, 5, id, more, units)
}

// TestFragmentsFollow: later fragments are judged as the first one was.
func TestFragmentsFollow(t *testing.T) {
	c := newCapture(t)
	p := Policy{Rules: []Rule{{ID: 1, Action: Deny, Ports: PortRange{From: 1, To: 1000}}, {ID: 2, Action: Direct, Ports: PortRange{From: 2000}}}}
	setPolicy(t, c, p)
	tcp := func(port uint16) []byte { return packet(client4, netip.AddrPortFrom(origin4.Addr(), port), flagSYN) }
	v6 := func(port uint16, id, flags, units byte) []byte {
		return packet(client6, netip.AddrPortFrom(origin6.Addr(), port), flagSYN, ext(fragment, 0, 0, units<<3|flags, 0, 0, 0, id))
	}
	for _, tt := range []struct {
		name  string
		frame []byte
		want  Verdict
	}{
		{"before the first", fragment4(tcp(0), 1, 16), DeniedUnparsed},
		{"first, allowed", fragment4(tcp(1001), 1, 0), Fragment},
		{"later, allowed", fragment4(tcp(0), 1, 16), Fragment},
		{"of another datagram", fragment4(tcp(0), 2, 16), DeniedUnparsed},
		{"over the header", fragment4(tcp(0), 1, 1), DeniedUnparsed},
		{"first, denied", fragment4(tcp(80), 3, 0), Denied},
		{"later, denied", fragment4(tcp(0), 3, 16), DeniedUnparsed},
		{"first, direct", fragment4(tcp(2000), 4, 0), NoPath},
		{"later, direct", fragment4(tcp(0), 4, 16), NoPath},
		{"v6 before the first", v6(0, 1, 0, 16), DeniedUnparsed},
		{"v6 first", v6(1001, 1, 1, 0), Fragment},
		{"v6 later", v6(0, 1, 0, 16), Fragment},
		{"v6 of another datagram", v6(0, 2, 0, 16), DeniedUnparsed},
	} {
		if got := run(t, c.Program, tt.frame); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	setPolicy(t, c, p)
	if got := run(t, c.Program, fragment4(tcp(0), 1, 16)); got != DeniedUnparsed {
		t.Errorf("after a new policy: %v", got)
	}
}

// randomPolicy has few different values, so that rules overlap.
func randomPolicy(r *rand.Rand) Policy {
	var p Policy
	actions := []RuleAction{Allow, Deny, Direct, Leave, Default}
	for id := range uint32(r.IntN(4)) {
		t := Tenant{ID: id + 1, Default: actions[r.IntN(5)], Class: Class(r.IntN(4)), Group: Group(r.IntN(3))}
		if r.IntN(3) > 0 {
			t.Default = Allow
		}
		for _, s := range []string{"192.0.2.0/24", "192.0.2.1/32", "0.0.0.0/0", "fd00::/16", "fd00::1/128", "::/0"} {
			prefix := pfx(s)
			if r.IntN(3) == 0 && !slices.ContainsFunc(p.Tenants, func(o Tenant) bool { return slices.Contains(o.Prefixes, prefix) }) {
				t.Prefixes = append(t.Prefixes, prefix)
			}
		}
		p.Tenants = append(p.Tenants, t)
	}
	p.Strangers = actions[r.IntN(5)]
	protocols := []uint8{0, protoTCP, protoTCP, protoUDP, esp}
	ports := []uint16{0, 1, 79, 80, 442, 443, 444, 65535}
	for id := range uint32(r.IntN(12)) {
		rule := Rule{ID: id + 1, Action: actions[r.IntN(5)], Class: Class(r.IntN(4)), Protocol: protocols[r.IntN(5)], Group: Group(r.IntN(3))}
		if n := len(p.Tenants); n > 0 && r.IntN(2) == 0 {
			rule.Tenant = p.Tenants[r.IntN(n)].ID
		}
		if r.IntN(4) > 0 {
			a := []netip.Addr{origin4.Addr(), origin6.Addr(), netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("11.0.0.1")}[r.IntN(4)]
			rule.Prefix = netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
		}
		if r.IntN(2) == 0 && rule.Protocol != esp {
			a, b := ports[r.IntN(8)], ports[r.IntN(8)]
			rule.Ports = PortRange{min(a, b), max(a, b)}
		}
		for range r.IntN(3) {
			rule.DSCP = append(rule.DSCP, uint8(r.IntN(3)*23))
		}
		p.Rules = append(p.Rules, rule)
	}
	return p
}

// TestRandomPolicies compares the compiled rules in the kernel with going
// through them one by one, for whole and for damaged packets.
func TestRandomPolicies(t *testing.T) {
	c := newCapture(t)
	r := seed(t)
	all := frames()
	names := slices.Sorted(maps.Keys(all))
	got := Verdicts{}
	for range 60 {
		p := randomPolicy(r)
		setPolicy(t, c, p)
		naive := &naivePolicy{Policy: p, prefixes: testSet, first: map[naiveDatagram]naiveDecision{}}
		for range 60 {
			name := names[r.IntN(len(names))]
			frame := bytes.Clone(all[name].frame)
			if r.IntN(3) == 0 {
				frame = mutate(r, frame)
			} else if k := frame[12]; k == 8 && len(frame) > etherLen+40 || k == 0x86 {
				withDSCP(frame, byte(r.IntN(3)*23))
			}
			want := naive.verdict(frame)
			if v := run(t, c.Program, frame); v != want {
				t.Fatalf("%s: %x: %v, want %v (%+v) of %+v", name, frame, v, want, naiveParse(frame), p)
			}
			got[want]++
			checkFlow(t, c, naive, frame, want)
		}
	}
	for _, v := range []Verdict{Denied, DeniedUnparsed, LeftAlone, NoPath, CapturedNew} {
		if got[v] == 0 {
			t.Errorf("no packet was %v: the test has lost its teeth", v)
		}
	}
}

// checkFlow compares the flow table's entry with the naive decision.
func checkFlow(t *testing.T, c *Classifier, naive *naivePolicy, frame []byte, v Verdict) {
	t.Helper()
	s := naiveParse(frame)
	if !s.ip || s.bad || !s.ports {
		return
	}
	f, err := c.Flow(FlowKey{s.protocol, netip.AddrPortFrom(s.src, s.sport), netip.AddrPortFrom(s.dst, s.dport)})
	if v == Denied || v == LeftAlone {
		if err == nil {
			t.Fatalf("%v, but there is a flow: %+v", v, f)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	d := naive.decide(s)
	if f.Action != d.action || f.Class != d.class || f.Rule != d.rule || f.Tenant != d.tenant || f.Group != d.group {
		t.Fatalf("flow %+v, want %+v for %+v of %+v", f, d, s, naive.Policy)
	}
}

func TestPolicyErrors(t *testing.T) {
	var cuts, marks []Rule
	for i := range uint32(MaxNodeSplits/2 + 1) {
		cuts = append(cuts, Rule{ID: i + 1, Protocol: protoTCP, Ports: PortRange{From: uint16(i*2 + 1)}, Action: RuleAction(1 + i%2)})
	}
	for i := range uint32(17) {
		marks = append(marks, Rule{ID: i + 1, DSCP: []uint8{uint8(i)}, Action: Deny})
	}
	for _, tt := range []struct {
		p    Policy
		want string
	}{
		{Policy{Tenants: []Tenant{{ID: 0}}}, "must be 1 to 65535"},
		{Policy{Tenants: []Tenant{{ID: 1 << 16}}}, "must be 1 to 65535"},
		{Policy{Tenants: []Tenant{{ID: 1}, {ID: 1}}}, "given twice"},
		{Policy{Tenants: []Tenant{{ID: 1, Prefixes: []netip.Prefix{pfx("10.0.0.0/8")}}, {ID: 2, Prefixes: []netip.Prefix{pfx("10.0.0.0/8")}}}}, "10.0.0.0/8 is that of tenant 1"},
		{Policy{Tenants: []Tenant{{ID: 1, Prefixes: []netip.Prefix{pfx("10.0.0.1/8")}}}}, "bits set"},
		{Policy{Tenants: []Tenant{{ID: 1, Default: numRuleActions}}}, "must be below"},
		{Policy{Strangers: numRuleActions}, "must be below"},
		{Policy{Rules: []Rule{{}}}, "must not be 0"},
		{Policy{Rules: []Rule{{ID: 1, Tenant: 5}}}, "there is none"},
		{Policy{Rules: []Rule{{ID: 1, Prefix: pfx("10.0.0.1/8")}}}, "bits set"},
		{Policy{Rules: []Rule{{ID: 1, Action: numRuleActions}}}, "must be below"},
		{Policy{Rules: []Rule{{ID: 1, Class: numClasses}}}, "must be below"},
		{Policy{Rules: []Rule{{ID: 1, Group: MaxGroups}}}, "must be below"},
		{Policy{Rules: []Rule{{ID: 1, Ports: PortRange{5, 4}}}}, "ports 5-4"},
		{Policy{Rules: []Rule{{ID: 1, Protocol: 1, Ports: PortRange{From: 4}}}}, "has no ports"},
		{Policy{Rules: []Rule{{ID: 1, DSCP: []uint8{64}}}}, "must be 0 to 63"},
		{Policy{Rules: make([]Rule, MaxRules+1)}, "at most"},
		{Policy{Rules: marks}, "differ in nothing but DSCP: at most 15"},
		{Policy{Rules: cuts}, "at most 65535"},
	} {
		if _, err := compile(&tt.p); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.200s: error %v, want %q", fmt.Sprintf("%+v", tt.p), err, tt.want)
		}
	}
}

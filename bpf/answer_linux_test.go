package bpf

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

// shown shows a program a frame that came from a NIC (0: from this host itself)
// and returns the one verdict it counted, or numVerdicts for none.
func shown(t testing.TB, c *Classifier, p *ebpf.Program, frame []byte, from uint32) Verdict {
	t.Helper()
	before, err := c.Verdicts()
	must(t, err)
	ctx := &skbContext{}
	ctx.Rest[6] = from // ingress_ifindex
	_, err = p.Run(&ebpf.RunOptions{Data: frame, Repeat: 1, Context: ctx})
	must(t, err)
	after, err := c.Verdicts()
	must(t, err)
	if n := after.Total() - before.Total(); n > 1 {
		t.Fatalf("%d verdicts for %x", n, frame)
	}
	for v := range after {
		if after[v] != before[v] {
			return Verdict(v)
		}
	}
	return numVerdicts
}

// answerSites are a site behind this node, one elsewhere, and nobody's address.
type answerSites struct{ here, there, nobody, denied netip.Addr }

var answers4 = answerSites{addr("192.0.2.1"), addr("198.51.100.7"), addr("203.0.113.5"), addr("203.0.113.66")}
var answers6 = answerSites{addr("fd00::1"), addr("2001:db8:aaaa::7"), addr("2001:db8:bbbb::5"), addr("2001:db8:bbbb::66")}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func answerPolicy(extra ...Rule) Policy {
	p := Policy{
		Strangers: Allow,
		Tenants: []Tenant{
			{ID: 7, Prefixes: []netip.Prefix{pfx("192.0.2.0/24"), pfx("fd00::/16")}, Group: 2},
			{ID: 8, Prefixes: []netip.Prefix{pfx("198.51.100.0/24"), pfx("2001:db8:aaaa::/48")}, Group: 3, Inbound: true},
		},
		Rules: []Rule{
			{ID: 1, Tenant: 8, Protocol: protoTCP, Ports: PortRange{From: 443}, Action: Direct, Class: Realtime},
			{ID: 2, Tenant: 8, Protocol: protoUDP, Ports: PortRange{5000, 5999}, Action: Direct, Class: Realtime},
			{ID: 3, Tenant: 8, Protocol: protoTCP, Ports: PortRange{From: 22}, DSCP: []uint8{46}, Action: Direct, Class: Realtime},
			{ID: 4, Tenant: 7, Prefix: pfx("203.0.113.66/32"), Action: Deny},
			{ID: 4, Tenant: 7, Prefix: pfx("2001:db8:bbbb::66/128"), Action: Deny},
			{ID: 5, Tenant: 7, Protocol: protoTCP, Ports: PortRange{From: 7000}, Action: Direct, Class: Realtime},
			{ID: 6, Tenant: 7, Protocol: protoUDP, Ports: PortRange{From: 7000}, Action: Direct, Class: Realtime},
		},
	}
	p.Rules = append(p.Rules, extra...)
	return p
}

// TestAnswers: what leaves the LAN is judged as an answer or as something new.
func TestAnswers(t *testing.T) {
	requireRoot(t)
	paths, err := NewPaths()
	must(t, err)
	closeAtEnd(t, paths)
	c := loadTestClassifier(t, ClassifierConfig{Config: rehearsal.Config, Paths: paths})
	must(t, c.SetPrefixes(map[netip.Prefix]Action{pfx("0.0.0.0/0"): Capture, pfx("::/0"): Capture}),
		c.SetListeners(listenTCP(t, "tcp4", "127.0.0.1:0"), listenTCP(t, "tcp6", "[::1]:0")))
	for group := Group(2); group <= 3; group++ {
		must(t, paths.Set(PathID(group), Path{Ifindex: loopback, State: PathUp, MaxAge: -1}), paths.SetCandidates(group, Realtime, []PathID{PathID(group)}))
	}
	const synAck = flagSYN | flagACK
	type step struct {
		in    bool // forwarded to the LAN; else it comes from there
		other func(answerSites) netip.Addr
		port  uint16 // of the host here; that of the other one is 40000 less port 7000, see below
		flags byte   // 0: UDP
	}
	there, nobody, denied := func(s answerSites) netip.Addr { return s.there }, func(s answerSites) netip.Addr { return s.nobody }, func(s answerSites) netip.Addr { return s.denied }
	in := func(who func(answerSites) netip.Addr, port uint16, flags byte) step {
		return step{true, who, port, flags}
	}
	out := func(who func(answerSites) netip.Addr, port uint16, flags byte) step {
		return step{false, who, port, flags}
	}
	for _, tt := range []struct {
		name   string
		steps  []step
		want   Verdict // of the last one
		answer bool    // the flow is on record as one
	}{
		{"direct", []step{in(there, 443, flagSYN), out(there, 443, synAck)}, SentDirect, true},
		{"direct, later", []step{in(there, 443, flagSYN), out(there, 443, synAck), in(there, 443, flagACK), out(there, 443, flagACK)}, SentDirect, true},
		{"direct, first seen in the middle", []step{in(there, 443, flagACK), out(there, 443, flagACK)}, SentDirect, true},
		{"direct by the rules alone", []step{out(there, 443, synAck)}, SentDirect, true},
		{"direct by the rules alone, in the middle", []step{out(there, 443, flagACK)}, SentDirect, true},
		{"opened from here", []step{out(there, 443, flagSYN)}, CapturedNew, false},
		{"opened from here, in the middle", []step{out(there, 443, flagSYN), out(there, 443, flagACK)}, CapturedNew, false},
		{"opened from here although something came in", []step{in(there, 443, flagSYN), out(there, 443, flagSYN)}, CapturedNew, false},
		{"an answer, then opened from here", []step{in(there, 443, flagSYN), out(there, 443, synAck), out(there, 443, flagSYN)}, CapturedNew, false},
		{"opened from here, then an answer", []step{out(there, 443, flagSYN), in(there, 443, flagSYN), out(there, 443, synAck)}, SentDirect, true},
		{"not by a rule", []step{in(there, 80, flagSYN), out(there, 80, synAck)}, LeftAlone, true},
		{"not by a rule, later", []step{in(there, 80, flagSYN), out(there, 80, synAck), out(there, 80, flagACK)}, LeftAlone, true},
		{"nobody's", []step{in(nobody, 443, flagSYN), out(nobody, 443, synAck)}, LeftAlone, true},
		{"nobody's, in the middle", []step{in(nobody, 443, flagACK), out(nobody, 443, flagACK)}, LeftAlone, true},
		{"denied", []step{in(denied, 443, flagSYN), out(denied, 443, synAck)}, Denied, false},
		{"unasked", []step{out(nobody, 443, synAck)}, Unasked, false},
		{"of no connection", []step{out(nobody, 443, flagACK)}, CapturedNew, false},
		{"UDP", []step{in(there, 5004, 0), out(there, 5004, 0)}, SentDirect, true},
		{"UDP, nothing came in", []step{out(there, 5004, 0)}, NotTCP, false},
		{"UDP, both speak first", []step{out(there, 5004, 0), in(there, 5004, 0), out(there, 5004, 0)}, SentDirect, true},
		{"UDP, not by a rule", []step{in(there, 53, 0), out(there, 53, 0)}, NotTCP, false},
		{"UDP, not by a rule, both", []step{out(there, 53, 0), out(there, 53, 0), in(there, 53, 0)}, numVerdicts, false},
		{"UDP, not by a rule, both, later", []step{out(there, 53, 0), in(there, 53, 0), out(there, 53, 0)}, NotTCP, false},
		{"UDP, nobody's", []step{in(nobody, 5004, 0), out(nobody, 5004, 0)}, NotTCP, false},
		{"UDP, denied", []step{in(denied, 5004, 0), out(denied, 5004, 0)}, Denied, false},
		{"DSCP of what came in", []step{in(there, 22, flagSYN), out(there, 22, synAck)}, SentDirect, true},
		{"ours, direct", []step{out(nobody, 9000, flagSYN)}, SentDirect, false},
		{"ours, direct, answered", []step{out(nobody, 9000, flagSYN), in(nobody, 9000, synAck), out(nobody, 9000, flagACK)}, SentDirect, false},
		{"ours, direct, the answer is seen first", []step{in(nobody, 9000, flagACK), out(nobody, 9000, flagACK)}, SentDirect, false},
		{"ours, direct by rule, opened by nobody", []step{in(nobody, 9000, flagSYN), out(nobody, 9000, synAck)}, LeftAlone, true},
		{"ours, direct UDP, the answer is seen first", []step{in(nobody, 9000, 0), out(nobody, 9000, 0)}, SentDirect, false},
	} {
		for family, sites := range map[string]answerSites{"4": answers4, "6": answers6} {
			t.Run(fmt.Sprintf("%s/family=%s", tt.name, family), func(t *testing.T) {
				must(t, clearMap(c.flows), clearMap(c.inbound))
				setPolicy(t, c, answerPolicy())
				var got Verdict
				var key FlowKey
				for _, s := range tt.steps {
					here, other := netip.AddrPortFrom(sites.here, s.port), netip.AddrPortFrom(s.other(sites), 40000)
					if s.port == 9000 { // a flow of ours, to port 7000
						other = netip.AddrPortFrom(other.Addr(), 7000)
					}
					key = FlowKey{protoTCP, here, other}
					src, dst := here, other
					if s.in {
						src, dst = other, here
					}
					frame := packet(src, dst, s.flags)
					if s.flags == 0 {
						key.Protocol, frame = protoUDP, udp(frame, 1, 2, 3)
					}
					if s.in && s.port == 22 {
						frame = withDSCP(frame, 46)
					}
					if frame[12] == 8 {
						fixIPv4(frame)
					}
					prog, nic := c.ether, uint32(0)
					if s.in {
						prog, nic = c.noteEther, loopback
					}
					if got = shown(t, c, prog, frame, nic); s.in != (got == numVerdicts) {
						t.Fatalf("step %+v: %v", s, got)
					}
				}
				if got != tt.want {
					t.Fatalf("%v, want %v", got, tt.want)
				}
				var raw classifierFlow
				if k := key.kernel(); len(tt.steps) == 3 && tt.want == numVerdicts { // asked once, not for each packet
					if err := c.flows.Lookup(&k, &raw); err != nil || raw.Answer != answerNot {
						t.Errorf("%+v, %v: want it on record as no answer", raw, err)
					}
				}
				f, err := c.Flow(key)
				if (err == nil && f.Answer) != tt.answer {
					t.Errorf("flow %+v, %v; want on record as an answer: %v", f, err, tt.answer)
				}
				if want := map[bool]PathID{true: 3, false: 2}[tt.answer]; got == SentDirect && f.Path != want {
					t.Errorf("path %d, want %d", f.Path, want)
				}
			})
		}
	}
}

// TestAnswersChange: what the host itself sends is no sign, a reload judges
// answers anew, and a deny rule for the way back does not hit answers of what a
// rule sends directly.
func TestAnswersChange(t *testing.T) {
	requireRoot(t)
	paths, err := NewPaths()
	must(t, err)
	closeAtEnd(t, paths)
	must(t, paths.Set(3, Path{Ifindex: loopback, State: PathUp, MaxAge: -1}), paths.SetCandidates(3, Realtime, []PathID{3}))
	c := loadTestClassifier(t, ClassifierConfig{Config: rehearsal.Config, Paths: paths})
	must(t, c.SetPrefixes(map[netip.Prefix]Action{pfx("0.0.0.0/0"): Capture, pfx("::/0"): Capture}),
		c.SetListeners(listenTCP(t, "tcp4", "127.0.0.1:0"), listenTCP(t, "tcp6", "[::1]:0")))
	for family, s := range map[string]answerSites{"4": answers4, "6": answers6} {
		t.Run("family="+family, func(t *testing.T) {
			must(t, clearMap(c.flows), clearMap(c.inbound))
			way := func(other netip.Addr, port uint16, flags byte) (in, out []byte) {
				h, o := netip.AddrPortFrom(s.here, port), netip.AddrPortFrom(other, 40000)
				in, out = packet(o, h, flags), packet(h, o, flags)
				if in[12] == 8 {
					fixIPv4(in)
					fixIPv4(out)
				}
				return in, out
			}
			expect := func(what string, other netip.Addr, port uint16, flags byte, want Verdict) {
				t.Helper()
				if _, out := way(other, port, flags); shown(t, c, c.ether, out, 0) != want {
					v, _ := c.Verdicts()
					t.Errorf("%s: not %v: %v", what, want, v)
				}
			}
			note := func(other netip.Addr, port uint16, nic uint32) {
				t.Helper()
				in, _ := way(other, port, flagSYN)
				shown(t, c, c.noteEther, in, nic)
			}
			const synAck = flagSYN | flagACK
			setPolicy(t, c, answerPolicy())
			note(s.nobody, 443, 0)
			expect("sent by this host", s.nobody, 443, synAck, Unasked)
			note(s.there, 443, loopback)
			expect("direct", s.there, 443, synAck, SentDirect)
			setPolicy(t, c, Policy{Strangers: Allow, Tenants: answerPolicy().Tenants})
			expect("no rule any more", s.there, 443, flagACK, LeftAlone)
			setPolicy(t, c, answerPolicy(Rule{ID: 9, Tenant: 7, Action: Deny}))
			expect("no way but back", s.there, 443, flagACK, SentDirect)
			expect("no way", s.there, 444, flagACK, Denied)
			expect("no way by the rules alone", s.nobody, 443, flagACK, Denied)
			// A service of this host on any address is no connection.
			l := listenTCP(t, "tcp", ":0")
			h, o := netip.AddrPortFrom(s.here, 443), netip.AddrPortFrom(s.there, ap(l.Addr().String()).Port())
			in, out := packet(o, h, flagSYN), packet(h, o, synAck)
			if in[12] == 8 {
				fixIPv4(out)
			}
			shown(t, c, c.noteEther, in, loopback)
			if v := shown(t, c, c.ether, out, 0); v != SentDirect {
				t.Errorf("answer to the port of a service of this host: %v", v)
			}
			must(t, clearMap(c.flows), clearMap(c.inbound))
			expect("nothing came in, and denied", s.there, 443, flagACK, Denied)
		})
	}
}

// TestAnswersForged: what comes in from outside takes no connection off the
// tunnel, whatever it looks like.
func TestAnswersForged(t *testing.T) {
	c := newCapture(t)
	for _, host := range []string{"127.0.0.1", "::1"} {
		l := listenTCP(t, "tcp", net.JoinHostPort(host, "0"))
		conn, err := net.Dial("tcp", l.Addr().String())
		must(t, err)
		defer conn.Close()
		client, server := ap(conn.LocalAddr().String()), ap(l.Addr().String())
		for _, before := range []bool{false, true} { // the flow is on record, or not
			must(t, clearMap(c.flows), clearMap(c.inbound))
			if before {
				if v := shown(t, c, c.ether, packet(client, server, flagACK), 0); v != Captured {
					t.Fatal(v)
				}
			}
			for _, flags := range []byte{flagSYN, flagACK} {
				shown(t, c, c.noteEther, packet(server, client, flags), loopback)
				setPolicy(t, c, Policy{}) // and judged again
				if v := shown(t, c, c.ether, packet(client, server, flagACK), 0); v != Captured {
					t.Errorf("%s: after a forged packet with flags %#x: %v", host, flags, v)
				}
			}
		}
		// Nor do rules for answers, when the flow table has lost it.
		setPolicy(t, c, Policy{
			Strangers: Allow, Tenants: []Tenant{{ID: 1, Prefixes: []netip.Prefix{pfx("127.0.0.0/8"), pfx("::1/128")}, Inbound: true}},
			Rules: []Rule{{ID: 1, Tenant: 1, Action: Direct}},
		})
		must(t, clearMap(c.flows), clearMap(c.inbound))
		if v := shown(t, c, c.ether, packet(client, server, flagACK), 0); v != Captured {
			t.Errorf("%s: with a rule for answers: %v", host, v)
		}
		setPolicy(t, c, Policy{})
	}
}

package bpf

import (
	"net/netip"
	"testing"
)

// TestPolicySwap: while policies replace each other that both deny a packet, by
// different rules of different tenants, none gets through.
func TestPolicySwap(t *testing.T) {
	c := newCapture(t)
	policy := func(n uint32) Policy {
		p := Policy{Tenants: []Tenant{{ID: n, Prefixes: []netip.Prefix{netip.PrefixFrom(client4.Addr(), int(8+n)).Masked()}}}}
		for i := range 1 + n*50 { // the tables differ in size
			p.Rules = append(p.Rules, Rule{ID: i + 1, Tenant: n, Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, byte(n), byte(i)}), 32), Action: Allow})
		}
		p.Rules = append(p.Rules, Rule{ID: 1000 + n, Tenant: n, Prefix: netip.PrefixFrom(origin4.Addr(), int(8+n)).Masked(), Ports: PortRange{From: 443}, Action: Deny})
		return p
	}
	setPolicy(t, c, policy(1))
	before, err := c.Verdicts()
	must(t, err)
	swapped := make(chan error)
	go func() {
		for n := range uint32(20) {
			if err := c.SetPolicy(policy(1 + n%4)); err != nil {
				swapped <- err
				return
			}
		}
		swapped <- nil
	}()
	frame, sent := packet(client4, origin4, flagSYN), uint64(0)
	for done := false; !done; {
		select {
		case err := <-swapped:
			must(t, err)
			done = true
		default:
		}
		const many = 5000
		_, _, err := c.ether.Benchmark(frame, many, nil)
		must(t, err)
		sent += many
	}
	after, err := c.Verdicts()
	must(t, err)
	if got := after[Denied] - before[Denied]; got < sent || after.Total()-before.Total() != got {
		t.Errorf("%d of %d packets were denied: %v, then %v", got, sent, before, after)
	}
}

// TestMarks: what passes on carries class, path and tenant, if asked for; what
// is captured carries the mark of the policy route.
func TestMarks(t *testing.T) {
	for _, marks := range []bool{false, true} {
		c, paths := newPaths(t, ClassifierConfig{Settings: Settings{MarkVerdicts: marks}})
		must(t, paths.Set(1000, Path{State: PathUp, MaxAge: -1}), paths.SetCandidates(3, Bulk, []PathID{1000}),
			c.SetPrefixes(testSet), c.SetListeners(listenTCP(t, "tcp4", "127.0.0.1:0"), nil))
		setPolicy(t, c, Policy{
			Tenants: []Tenant{{ID: MaxTenantID, Prefixes: []netip.Prefix{pfx("192.0.2.0/24")}, Group: 3, Class: Realtime}},
			Rules:   []Rule{{ID: 5, Class: Bulk, Action: Allow, Prefix: pfx("10.9.9.9/32")}},
		})
		for _, tt := range []struct {
			name  string
			frame []byte
			want  Mark
		}{
			{"rule's class", udpFrom(1), Mark{MaxTenantID, 1000, Bulk}},
			{"tenant's class, no path", udp(packet(client4, ap("10.9.9.8:1"), 0)), Mark{MaxTenantID, 0, Realtime}},
			{"stranger", udp(packet(ap("192.0.3.1:1"), origin4, 0)), Mark{0, 0, Bulk}},
			{"left alone", udp(packet(ap("192.0.3.1:1"), ap("10.9.9.8:1"), 0)), Mark{}},
			{"arp", arp(), Mark{}},
		} {
			want := tt.want
			if !marks {
				want = Mark{}
			}
			if _, mark, _ := runRaw(t, c.ether, tt.frame); ParseMark(mark) != want || mark != want.Value() {
				t.Errorf("%s, marks %v: %+v, want %+v", tt.name, marks, ParseMark(mark), want)
			}
		}
		if _, mark, _ := runRaw(t, c.ether, packet(client4, origin4, flagSYN)); mark&testMask != testMark {
			t.Errorf("captured: mark %#x", mark)
		}
	}
}

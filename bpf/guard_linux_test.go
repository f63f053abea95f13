package bpf

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// guardVerdict shows a frame to the guard behind the reflector and returns what
// it counted, or numGuardVerdicts for nothing. It checks the code.
func guardVerdict(t testing.TB, c *Carrier, frame []byte, mode GuardMode) GuardVerdict {
	t.Helper()
	before, err := c.GuardVerdicts()
	must(t, err)
	code, out := runXDP(t, c.reflector, frame)
	after, err := c.GuardVerdicts()
	must(t, err)
	v := numGuardVerdicts
	for i := range after {
		if after[i] != before[i] {
			if v != numGuardVerdicts || after[i] != before[i]+1 {
				t.Fatalf("counted twice: %v, then %v", before, after)
			}
			v = GuardVerdict(i)
		}
	}
	want := uint32(xdpPass)
	if v < numGuardVerdicts && v.Drops() && mode == GuardEnforce {
		want = xdpDrop
	}
	if code != want || !bytes.Equal(out, frame) {
		t.Fatalf("%v in mode %v: code %d, want %d; frame %x from %x", v, mode, code, want, out, frame)
	}
	return v
}

var (
	peer4, stranger4 = ap("203.0.113.5:7000"), ap("192.0.2.77:7000")
	here4, here6     = ap("198.51.100.1:4500"), ap("[2001:db8::2]:4500")
	peer6, stranger6 = ap("[2001:db8:5::5]:7000"), ap("[2001:db8:77::77]:7000")
)

func testGuard(mode GuardMode) Guard {
	return Guard{
		Mode: mode, BondPorts: []uint16{4500, 4501}, Peers: []netip.Addr{peer4.Addr(), peer6.Addr()},
		Allow: []Inbound{
			{From: pfx("192.0.2.0/24"), Protocol: protoTCP, Ports: PortRange{From: 22}},
			{From: pfx("2001:db8:77::/48"), Ports: PortRange{8000, 8010}},
			{From: pfx("192.0.2.77/32"), Protocol: 47},
			{Protocol: protoTCP, Ports: PortRange{From: 443}},
			{From: pfx("203.0.113.9/32")},
		},
	}
}

func icmp4(src, dst netip.AddrPort, kind byte) []byte {
	f := packet(src, dst, 0)
	f[etherLen+9], f[etherLen+20] = 1, kind
	return fixIPv4(f)
}

func icmp6(src, dst netip.AddrPort, kind, hops byte) []byte {
	f := packet(src, dst, 0)
	f[etherLen+6], f[etherLen+7], f[etherLen+40] = 58, hops, kind
	return f
}

func to(a netip.AddrPort, port uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), port) }

// TestGuard: every verdict, in every mode.
func TestGuard(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	junk := []byte("junk")
	first := func(f []byte) []byte { return changed(f, 5, 7, 0x20, 0) }
	later := func(f []byte) []byte { return changed(f, 5, 7, 0, 9) }
	for _, tt := range []struct {
		name  string
		frame []byte
		want  GuardVerdict
	}{
		{"bond", datagram(peer4, here4, junk), GuardBond},
		{"bond v6", datagram(peer6, here6, junk), GuardBond},
		{"second bond port", datagram(peer4, to(here4, 4501), junk), GuardBond},
		{"bond, stranger", datagram(stranger4, here4, junk), GuardBondStranger},
		{"bond, stranger v6", datagram(stranger6, here6, junk), GuardBondStranger},
		{"tcp to the bond's port", packet(peer4, here4, flagSYN), GuardUnwanted},
		{"peer, another port", datagram(peer4, to(here4, 53), junk), GuardUnwanted},
		{"allowed", packet(stranger4, to(here4, 22), flagSYN), GuardAllowed},
		{"allowed port, other source", packet(peer4, to(here4, 22), flagSYN), GuardUnwanted},
		{"allowed port, other protocol", datagram(stranger4, to(here4, 22), junk), GuardUnwanted},
		{"next port", packet(stranger4, to(here4, 23), flagSYN), GuardUnwanted},
		{"range tcp", packet(stranger6, to(here6, 8000), flagSYN), GuardAllowed},
		{"range udp", datagram(stranger6, to(here6, 8010), junk), GuardAllowed},
		{"past the range", datagram(stranger6, to(here6, 8011), junk), GuardUnwanted},
		{"from anywhere", packet(peer4, to(here4, 443), flagSYN), GuardAllowed},
		{"from anywhere v6", packet(peer6, to(here6, 443), flagSYN), GuardAllowed},
		{"everything from one", packet(ap("203.0.113.9:1"), to(here4, 9), flagSYN), GuardAllowed},
		{"any protocol from one", withProtocol(packet(ap("203.0.113.9:1"), here4, 0), esp), GuardAllowed},
		{"protocol", withProtocol(packet(stranger4, here4, 0), 47), GuardAllowed},
		{"other protocol", withProtocol(packet(stranger4, here4, 0), esp), GuardUnwanted},
		{"too big", icmp4(stranger4, here4, 3), GuardICMP},
		{"time exceeded", icmp4(stranger4, here4, 11), GuardICMP},
		{"echo", icmp4(stranger4, here4, 8), GuardUnwanted},
		{"icmpv6 in v4", withProtocol(icmp4(stranger4, here4, 3), 58), GuardUnwanted},
		{"too big v6", icmp6(stranger6, here6, 2, 60), GuardICMP},
		{"echo v6", icmp6(stranger6, here6, 128, 60), GuardUnwanted},
		{"neighbour", icmp6(stranger6, here6, 135, 255), GuardNeighbour},
		{"neighbour from afar", icmp6(stranger6, here6, 135, 254), GuardUnwanted},
		{"redirect", icmp6(stranger6, here6, 137, 255), GuardUnwanted},
		{"listener query", icmp6(stranger6, here6, 130, 1), GuardNeighbour},
		{"arp", arp(), GuardNeighbour},
		{"lldp", changed(packet(client4, origin4, 0), -2, 0x88, 0xcc), GuardNotIP},
		{"later fragment of nothing", later(datagram(peer4, here4, junk)), GuardUnwanted},
		{"first fragment", first(datagram(peer4, here4, junk)), GuardBond},
		{"later fragment", later(datagram(peer4, here4, junk)), GuardFragment},
		{"broken header", changed(datagram(peer4, here4, junk), 0, 0x44), GuardUnparsed},
		{"truncated", datagram(peer4, here4, junk)[:etherLen+25], GuardUnparsed},
		{"tagged", withVLAN(datagram(peer4, here4, junk), 0x81000005), GuardBond},
		{"tagged, unwanted", withVLAN(datagram(peer4, to(here4, 53), junk), 0x88a80005, 0x81000006), GuardUnwanted},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "-"), func(t *testing.T) {
			for _, mode := range []GuardMode{GuardObserve, GuardEnforce} {
				if tt.name != "later fragment" { // each begins with a full bucket and nothing seen
					must(t, clearMap(c.buckets))
				}
				must(t, c.SetGuard(testGuard(mode)))
				if got := guardVerdict(t, c, tt.frame, mode); got != tt.want {
					t.Errorf("%v: %v, want %v", mode, got, tt.want)
				}
			}
			must(t, c.SetGuard(testGuard(GuardOff)))
			if got := guardVerdict(t, c, tt.frame, GuardOff); got != numGuardVerdicts {
				t.Errorf("off: %v", got)
			}
		})
	}
}

// TestGuardEstablished: what went out opens the way back, for itself alone.
func TestGuardEstablished(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	must(t, c.SetGuard(testGuard(GuardEnforce)))
	junk := []byte("junk")
	dns4, dns6 := to(stranger4, 53), to(stranger6, 53)
	local4, local6 := to(here4, 33000), to(here6, 33000)
	for _, tt := range []struct {
		name      string
		out, back []byte
		others    [][]byte
	}{
		{"udp", datagram(local4, dns4, junk), datagram(dns4, local4, junk), [][]byte{
			datagram(to(dns4, 54), local4, junk), datagram(dns4, to(local4, 33001), junk), packet(dns4, local4, flagACK)}},
		{"udp v6", datagram(local6, dns6, junk), datagram(dns6, local6, junk), [][]byte{datagram(to(dns6, 54), local6, junk)}},
		{"tcp", packet(local4, to(stranger4, 80), flagSYN), packet(to(stranger4, 80), local4, flagACK), [][]byte{packet(stranger4, local4, flagACK)}},
		{"ping", icmp4(here4, stranger4, 8), icmp4(stranger4, here4, 0), [][]byte{icmp4(peer4, here4, 0)}},
		{"ping v6", icmp6(here6, stranger6, 128, 64), icmp6(stranger6, here6, 129, 64), [][]byte{icmp6(peer6, here6, 129, 64)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := guardVerdict(t, c, tt.back, GuardEnforce); got != GuardUnwanted {
				t.Errorf("before: %v", got)
			}
			if code, _, out := runRaw(t, c.guardEgress, tt.out); code != -1 || !bytes.Equal(out, tt.out) {
				t.Errorf("egress: code %d", code)
			}
			if got := guardVerdict(t, c, tt.back, GuardEnforce); got != GuardEstablished {
				t.Errorf("after: %v", got)
			}
			for i, f := range tt.others {
				if got := guardVerdict(t, c, f, GuardEnforce); got != GuardUnwanted {
					t.Errorf("other %d: %v", i, got)
				}
			}
		})
	}
	// What the bond sends opens nothing: the port is open, at a rate.
	runRaw(t, c.guardEgress, datagram(here4, stranger4, junk))
	if got := guardVerdict(t, c, datagram(stranger4, here4, junk), GuardEnforce); got != GuardBondStranger {
		t.Errorf("bond's own: %v", got)
	}
	// Old UDP is forgotten, old TCP is not. The memory is shorter than usual: the machine may not have been up for longer.
	memory := longAgo()
	var settings guardGuardSettings
	must(t, c.guardSettings[0].Get(&settings))
	if settings.Memory != uint64(outgoingMemory) {
		t.Errorf("the memory is %v, want %v", time.Duration(settings.Memory), outgoingMemory)
	}
	settings.Memory = uint64(memory)
	must(t, c.guardSettings[0].Set(settings))
	for _, tt := range []struct {
		frame []byte
		key   FlowKey
		age   time.Duration
		want  GuardVerdict
	}{
		{datagram(dns4, local4, junk), FlowKey{protoUDP, dns4, local4}, memory + 1, GuardUnwanted},
		{datagram(dns4, local4, junk), FlowKey{protoUDP, dns4, local4}, 0, GuardEstablished},
		{datagram(dns4, local4, junk), FlowKey{protoUDP, dns4, local4}, -time.Hour, GuardEstablished}, // by another CPU, since
		{packet(to(stranger4, 80), local4, flagACK), FlowKey{protoTCP, to(stranger4, 80), local4}, memory + 1, GuardEstablished},
	} {
		key := tt.key.kernel()
		must(t, c.guardOutgoing.Put(&key, uint64(Monotonic()-tt.age)))
		if got := guardVerdict(t, c, tt.frame, GuardEnforce); got != tt.want {
			t.Errorf("protocol %d, age %v: %v, want %v", tt.key.Protocol, tt.age, got, tt.want)
		}
	}
}

// setSlowGuard lets buckets earn in an hour what is to be a second's: nothing while a test runs, however busy the machine.
func setSlowGuard(t *testing.T, c *Carrier, g Guard) {
	t.Helper()
	must(t, c.SetGuard(g))
	for _, v := range c.guardSettings {
		var s guardGuardSettings
		must(t, v.Get(&s))
		for _, n := range []*uint64{&s.Interval, &s.Burst, &s.TotalInterval, &s.TotalBurst} {
			*n *= 3600
		}
		must(t, v.Set(s))
	}
}

// TestGuardRate: strangers of one network share a bucket, peers have none.
func TestGuardRate(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	g := testGuard(GuardEnforce)
	g.StrangerRate, g.StrangerBurst = 1, 10
	setSlowGuard(t, c, g)
	count := func(n int, frame func(i int) []byte) (passed int) {
		t.Helper()
		for i := range n {
			if v := guardVerdict(t, c, frame(i), GuardEnforce); v == GuardBondStranger || v == GuardICMP {
				passed++
			} else if v != GuardRateLimited {
				t.Fatal(v)
			}
		}
		return passed
	}
	from4 := func(net byte) func(i int) []byte {
		return func(i int) []byte {
			return datagram(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, net, byte(i)}), 1), here4, nil)
		}
	}
	for _, tt := range []struct {
		name  string
		frame func(i int) []byte
		want  int
	}{
		{"a /24", from4(2), 10},
		{"the same again", from4(2), 0},
		{"its ICMP", func(i int) []byte { return icmp4(ap("192.0.2.200:0"), here4, 3) }, 0},
		{"another /24", from4(3), 10},
		{"a /48", func(i int) []byte {
			a := stranger6.Addr().As16()
			a[7] = byte(i)
			return datagram(netip.AddrPortFrom(netip.AddrFrom16(a), 1), here6, nil)
		}, 10},
		{"another /48", func(i int) []byte { return datagram(ap("[2001:db8:78::1]:1"), here6, nil) }, 10},
	} {
		if got := count(30, tt.frame); got != tt.want {
			t.Errorf("%s: %d passed, want %d", tt.name, got, tt.want)
		}
	}
	for range 50 {
		if v := guardVerdict(t, c, datagram(peer4, here4, nil), GuardEnforce); v != GuardBond {
			t.Fatalf("peer: %v", v)
		}
	}
	// What the kernel did not take is tried again.
	peers := c.peers
	full, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: peers.KeySize(), ValueSize: peers.ValueSize(), MaxEntries: 1})
	must(t, err)
	closeAtEnd(t, full)
	must(t, full.Put(peerKey(netip.MustParseAddr("192.0.2.7")), uint32(1)))
	c.peers = full
	if err := c.AddPeer(netip.MustParseAddr("192.0.2.9")); err == nil {
		t.Error("a full map is no error")
	}
	c.peers = peers
	must(t, c.AddPeer(netip.MustParseAddr("192.0.2.9")))
	if v := guardVerdict(t, c, from4(2)(9), GuardEnforce); v != GuardBond {
		t.Errorf("new peer: %v", v)
	}
	setSlowGuard(t, c, g)
	if v := guardVerdict(t, c, from4(2)(9), GuardEnforce); v != GuardRateLimited {
		t.Errorf("peer of the past: %v", v)
	}
	// Plain probes draw on the same bucket.
	must(t, c.SetReflector(Reflector{Port: stampPort, Plain: true}))
	probe := datagram(ap("192.0.3.1:1"), reflector4, stampRequest(1, 1, 1, 0))
	if v, code, _ := probeVerdict(t, c, probe); v != ProbeRateLimited || code != xdpDrop {
		t.Errorf("probe: %v, code %d", v, code)
	}
}

// TestGuardTotal: however many networks they claim to be of, strangers together have one rate, for each thing they may send;
// peers and what is no stranger's have no part in it, and what one network sends too much takes nothing from the others.
func TestGuardTotal(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	g := testGuard(GuardEnforce)
	g.StrangerRate, g.StrangerBurst, g.TotalRate, g.TotalBurst = 1, 5, 1, 20
	setSlowGuard(t, c, g)
	must(t, c.SetReflector(Reflector{Port: stampPort, Plain: true}))
	source := func(v6 bool, i int) netip.AddrPort {
		if v6 {
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i), 15: 1}), 1)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, byte(i >> 8), byte(i), 1}), 1)
	}
	verdicts := func(from, n int, frame func(i int) []byte) (v GuardVerdicts) {
		t.Helper()
		for i := range n {
			v[guardVerdict(t, c, frame(from+i), GuardEnforce)]++
		}
		return v
	}
	bond := func(i int) []byte {
		if i%2 == 0 {
			return datagram(source(false, i), here4, nil)
		}
		return datagram(source(true, i), here6, nil)
	}
	// One network takes its own alone, and leaves the rest to others.
	if v := verdicts(0, 30, func(int) []byte { return bond(0) }); v[GuardBondStranger] != 5 || v[GuardRateLimited] != 25 {
		t.Errorf("one network: %v, want 5 passed", v)
	}
	if v := verdicts(1, 100, bond); v[GuardBondStranger] != 15 || v[GuardTotalLimited] != 85 {
		t.Errorf("100 networks: %v, want 15 passed, as the first had 5", v)
	}
	n, b := 0, bucketCount(t, c)
	if verdicts(1000, 200, bond); bucketCount(t, c) != b {
		t.Errorf("%d buckets, then %d: networks over the total are remembered", b, bucketCount(t, c))
	}
	if v := verdicts(0, 50, func(i int) []byte { return icmp4(source(false, i), here4, 3) }); v[GuardICMP] != 20 || v[GuardRateLimited] != 1 || v[GuardTotalLimited] != 29 {
		t.Errorf("ICMP errors: %v, want 20 passed; the first network has had its share", v)
	}
	for i := range 50 {
		if v, _, _ := probeVerdict(t, c, datagram(source(false, 500+i), reflector4, stampRequest(1, 1, 1, 0))); v == ProbeReflected {
			n++
		} else if v != ProbeRateLimited {
			t.Fatal(v)
		}
	}
	if n != 20 {
		t.Errorf("%d plain probes reflected, want 20", n)
	}
	for range 50 {
		if v := guardVerdict(t, c, datagram(peer4, here4, nil), GuardEnforce); v != GuardBond {
			t.Fatalf("peer: %v", v)
		}
	}
	// More for one network by configuration is more for all.
	if r, b, total, totalBurst := (&Guard{StrangerRate: 5000, StrangerBurst: 9000}).rates(); r != 5000 || b != 9000 || total != 5000 || totalBurst != 9000 {
		t.Error(r, b, total, totalBurst)
	}
	if r, b, total, totalBurst := (&Guard{}).rates(); r != DefaultStrangerRate || b != DefaultStrangerBurst || total != DefaultTotalRate || totalBurst != DefaultTotalBurst {
		t.Error(r, b, total, totalBurst)
	}
}

// bucketCount is the number of networks on record.
func bucketCount(t *testing.T, c *Carrier) (n int) {
	t.Helper()
	key, value := make([]byte, c.buckets.KeySize()), make([]byte, c.buckets.ValueSize())
	for it := c.buckets.Iterate(); it.Next(&key, &value); {
		n++
	}
	return n
}

// TestGuardChanges compares random rules, one set after the other, with a linear
// search.
func TestGuardChanges(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	r := seed(t)
	sources := []netip.AddrPort{stranger4, peer4, stranger6, peer6}
	for range 30 {
		g := Guard{Mode: GuardEnforce}
		for range r.IntN(10) {
			in := Inbound{Protocol: []uint8{0, protoTCP, protoUDP, 47}[r.IntN(4)]}
			if r.IntN(4) > 0 {
				a := sources[r.IntN(4)].Addr()
				in.From = netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
			}
			if in.Protocol != 47 && r.IntN(3) > 0 {
				a, b := uint16(r.IntN(6)), uint16(r.IntN(6))
				in.Ports = PortRange{min(a, b), max(a, b)}
			}
			g.Allow = append(g.Allow, in)
		}
		must(t, c.SetGuard(g))
		for range 60 {
			src, port := sources[r.IntN(4)], uint16(r.IntN(7))
			dst := to(here4, port)
			if src.Addr().Is6() {
				dst = to(here6, port)
			}
			protocol, frame := uint8(protoTCP), packet(src, dst, flagACK)
			switch r.IntN(3) {
			case 0:
				protocol, frame = protoUDP, datagram(src, dst, nil)
			case 1:
				if src.Addr().Is4() {
					protocol, frame = 47, withProtocol(frame, 47)
				}
			}
			want := GuardUnwanted
			if slices.ContainsFunc(g.Allow, func(in Inbound) bool {
				ports := protocol != 47 && in.Ports.From <= port && port <= max(in.Ports.From, in.Ports.To)
				return (!in.From.IsValid() || in.From.Contains(src.Addr())) && (in.Protocol == 0 || in.Protocol == protocol) &&
					(in.Ports == PortRange{} || ports)
			}) {
				want = GuardAllowed
			}
			if got := guardVerdict(t, c, frame, GuardEnforce); got != want {
				t.Fatalf("%v to port %d, protocol %d: %v, want %v of %+v", src, port, protocol, got, want, g.Allow)
			}
		}
	}
}

// TestGuardMutations: of damaged packets only those pass that a naive reading of
// them allows.
func TestGuardMutations(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	must(t, c.SetGuard(Guard{Mode: GuardEnforce, Allow: []Inbound{{From: pfx("192.0.2.0/24"), Protocol: protoTCP, Ports: PortRange{From: 443}}, {From: pfx("fd00::/16"), Protocol: protoTCP, Ports: PortRange{From: 443}}}}))
	r := seed(t)
	all := frames()
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	passed := map[naiveDatagram]bool{}
	var seenVerdicts GuardVerdicts
	for range 3000 {
		name := names[r.IntN(len(names))]
		frame := mutate(r, bytes.Clone(all[name].frame))
		s := naiveParse(frame)
		datagram := naiveDatagram{s.src, s.dst, s.protocol, s.id}
		if s.addrs && s.src.Is6() {
			datagram.protocol = 0
		}
		want := GuardUnwanted
		switch {
		case frame[12] == 8 && frame[13] == 6:
			want = GuardNeighbour
		case !s.ip:
			want = GuardNotIP
		case s.bad:
			want = GuardUnparsed
		case s.later && passed[datagram]:
			want = GuardFragment
		case s.later:
		case s.protocol == protoTCP && s.dport == 443 && (pfx("192.0.2.0/24").Contains(s.src) || pfx("fd00::/16").Contains(s.src)):
			want = GuardAllowed
			if s.first {
				passed[datagram] = true
			}
		case s.protocol == 1 || s.protocol == 58:
			continue // TestGuard knows about ICMP
		}
		if got := guardVerdict(t, c, frame, GuardEnforce); got != want {
			t.Fatalf("%s changed to %x: %v, want %v (%+v)", name, frame, got, want, s)
		}
		seenVerdicts[want]++
	}
	for _, v := range []GuardVerdict{GuardAllowed, GuardUnwanted, GuardUnparsed, GuardNotIP, GuardFragment} {
		if seenVerdicts[v] == 0 {
			t.Errorf("no packet was %v: the test has lost its teeth", v)
		}
	}
}

func TestGuardErrors(t *testing.T) {
	for _, g := range []Guard{
		{Mode: GuardEnforce + 1},
		{Peers: []netip.Addr{{}}},
		{Allow: []Inbound{{From: pfx("10.0.0.1/8")}}},
		{Allow: []Inbound{{Ports: PortRange{5, 4}}}},
		{Allow: []Inbound{{Protocol: 47, Ports: PortRange{From: 4}}}},
		{Allow: make([]Inbound, MaxInbound+1)},
		{StrangerRate: -1}, {TotalRate: -1}, {TotalBurst: 1e6 + 1},
	} {
		if _, _, err := g.compile(nil, 1); err == nil {
			t.Errorf("took %.100v", g)
		}
	}
}

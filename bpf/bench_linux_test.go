package bpf

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// The load that the classifier's figures are for.
const (
	benchTenants = 1000
	benchRules   = 10000
	benchFlows   = 100000
)

// benchPolicy gives each tenant a /24 and ten rules of all kinds; the last one
// is for what the benchmark sends.
func benchPolicy() (p Policy) {
	for i := range benchTenants {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		p.Tenants = append(p.Tenants, Tenant{ID: uint32(i + 1), Prefixes: []netip.Prefix{prefix}})
	}
	for i := range benchRules {
		tenant, n := uint32(i%benchTenants+1), i/benchTenants
		r := Rule{ID: uint32(i + 1), Tenant: tenant}
		switch n {
		case 0, 1, 2, 3:
			r.Action, r.Prefix = Deny, netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(n), byte(i), byte(i >> 8)}), 32)
		case 4:
			r.Action, r.Protocol, r.Ports = Deny, protoTCP, PortRange{135, 139}
		case 5:
			r.Action, r.Protocol, r.Ports, r.Class = Allow, protoTCP, PortRange{From: 22}, Interactive
		case 6:
			r.Action, r.DSCP, r.Class = Allow, []uint8{46}, Realtime
		case 7:
			r.Action, r.Prefix, r.Class = Allow, pfx("198.51.0.0/16"), Bulk
		case 8:
			r.Action, r.Prefix, r.Protocol, r.Ports = Deny, pfx("198.51.100.0/24"), protoUDP, PortRange{5000, 6000}
		default:
			r.Action, r.Prefix, r.Protocol, r.Ports, r.Class = Direct, pfx("198.51.100.0/24"), protoUDP, PortRange{10000, 20000}, Realtime
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func benchClassifier(b *testing.B, spread uint32) *Classifier {
	b.Helper()
	requireRoot(b)
	paths, err := NewPaths()
	must(b, err)
	closeAtEnd(b, paths)
	c := loadTestClassifier(b, ClassifierConfig{Config: rehearsal.Config, Paths: paths, MaxFlows: MaxFlows, Settings: Settings{ElephantBytes: 1 << 62}, spread: spread})
	setPolicy(b, c, benchPolicy())
	must(b, c.SetPrefixes(testSet))
	must(b, c.SetListeners(listenTCP(b, "tcp4", "127.0.0.1:0"), listenTCP(b, "tcp6", "[::1]:0")))
	for id := PathID(1); id <= 3; id++ {
		must(b, paths.Set(id, Path{Ifindex: loopback, State: PathUp, MaxAge: time.Hour, NextHop: netip.MustParseAddr("127.0.0.1")}), paths.Answered(id, Monotonic()))
	}
	for class := Realtime; class < numClasses; class++ {
		must(b, paths.SetCandidates(0, class, []PathID{1, 2, 3}))
	}
	return c
}

// benchFrames are the same packet of many tenants.
func benchFrames(dst netip.AddrPort, isUDP bool) (frames [][]byte) {
	for i := range 64 {
		tenant := i * 15
		f := packet(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(tenant >> 8), byte(tenant), 7}), 40000), dst, flagACK)
		if isUDP {
			f = udp(f, make([]byte, 172)...) // G.711
		}
		frames = append(frames, fixIPv4(f))
	}
	return frames
}

// nsPerPacket runs the program over the frames, in turn, n packets in all, and
// reports the kernel's own measurement.
func nsPerPacket(b *testing.B, p *ebpf.Program, frames [][]byte) {
	b.Helper()
	var total time.Duration
	packets := 0
	for i := 0; packets < b.N; i++ {
		n := max(min(b.N/len(frames), b.N-packets), 1)
		_, each, err := p.Benchmark(frames[i%len(frames)], n, nil)
		must(b, err)
		total += each * time.Duration(n)
		packets += n
	}
	b.ReportMetric(float64(total.Nanoseconds())/float64(packets), "ns/pkt")
	b.ReportMetric(0, "ns/op")
}

// fill puts flows into the table as if they had sent a packet.
func (c *Classifier) fill(b *testing.B, n int) {
	keys, values := make([]classifierFlowKey, n), make([]classifierFlow, n)
	for i := range keys {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 16), 1}), uint16(i))
		keys[i] = FlowKey{protoUDP, src, origin4}.kernel()
		values[i] = classifierFlow{Generation: c.Generation(), Packets: 1, Last: uint64(Monotonic())}
	}
	_, err := c.flows.BatchUpdate(keys, values, nil)
	must(b, err)
}

func (c *Classifier) countFlows(b *testing.B) (n int) {
	must(b, c.ReadFlows(func(Flow) bool { n++; return true }))
	return n
}

// BenchmarkClassify measures the classifier with 10,000 rules, 1,000 tenants and
// 100,000 flows in the table. established: the same packet again and again;
// established-scattered: packets of the 100,000 flows in turn, so that each costs
// the cache misses that it costs on a busy gateway; new: every packet is
// another flow and pushes an old one out of the table. captured is TCP that goes
// to the listener, after a look for its connection; the others are voice in the
// tunnel's class (a direct flow cannot be repeated: each run takes a hop away).
func BenchmarkClassify(b *testing.B) {
	voice := benchFrames(ap("198.51.7.9:12000"), true)
	for _, bb := range []struct {
		name   string
		spread uint32
		frames [][]byte
		want   Verdict
	}{
		{"established", 0, voice[:1], NotTCP},
		{"established-scattered", benchFlows, voice[:1], NotTCP},
		{"new", math.MaxUint32, voice, NotTCP},
		{"established-captured", 0, benchFrames(origin4, false)[:1], CapturedNew},
		{"new-captured", math.MaxUint32, benchFrames(origin4, false), CapturedNew},
	} {
		b.Run("flow="+bb.name, func(b *testing.B) {
			c := benchClassifier(b, bb.spread)
			// Fill the table with the flows; where all are new, with as many others.
			if bb.spread == 0 {
				c.fill(b, benchFlows)
			}
			_, _, err := c.ether.Benchmark(bb.frames[0], benchFlows, nil)
			must(b, err)
			if n := c.countFlows(b); n < benchFlows*9/10 {
				b.Fatalf("%d flows in the table, want %d", n, benchFlows)
			}
			before, err := c.Verdicts()
			must(b, err)
			b.ResetTimer()
			nsPerPacket(b, c.ether, bb.frames)
			b.StopTimer()
			after, err := c.Verdicts()
			must(b, err)
			if got, all := after[bb.want]-before[bb.want], after.Total()-before.Total(); got != all || got < uint64(b.N) {
				b.Fatalf("%d of %d packets were %v", got, all, bb.want)
			}
		})
	}
}

// BenchmarkGuard measures reflector and guard together, as a packet passes them:
// junk from a stranger to a port that nobody listens on (used: but that something
// has gone out from), with 1,000 peers, 1,000
// inbound rules and 60,000 outgoing flows.
func BenchmarkGuard(b *testing.B) {
	c := loadTestCarrier(b, CarrierConfig{})
	must(b, c.SetReflector(Reflector{Port: stampPort, SenderPorts: PortRange{4600, 4700}}))
	g := Guard{Mode: GuardEnforce, BondPorts: []uint16{4500}, StrangerRate: 1e6, StrangerBurst: 1e6, TotalRate: 1e6, TotalBurst: 1e6}
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)})
		g.Peers = append(g.Peers, a)
		g.Allow = append(g.Allow, Inbound{From: netip.PrefixFrom(a, 32), Protocol: protoTCP, Ports: PortRange{From: 22}})
	}
	must(b, c.SetGuard(g))
	keys, values := make([]guardFlowKey, 60000), make([]uint64, 60000)
	for i := range keys {
		k := FlowKey{protoUDP, netip.AddrPortFrom(stranger4.Addr(), uint16(i)), to(here4, 33000)}.kernel()
		keys[i], values[i] = guardFlowKey(k), uint64(Monotonic())
	}
	_, err := c.guardOutgoing.BatchUpdate(keys, values, nil)
	must(b, err)
	runRaw(b, c.guardEgress, datagram(to(here4, 33000), to(stranger4, 61000), nil)) // and notes the port
	for _, bb := range []struct {
		name  string
		frame []byte
		want  GuardVerdict
	}{
		{"drop", datagram(peer4, to(here4, 53), make([]byte, 22)), GuardUnwanted},
		{"drop-used-port", datagram(peer4, to(here4, 33000), make([]byte, 22)), GuardUnwanted},
		{"drop-tcp", fixIPv4(packet(peer4, to(here4, 22), flagSYN)), GuardUnwanted},
		{"bond", datagram(ap("203.0.1.1:4500"), here4, make([]byte, 1200)), GuardBond},
		{"established", datagram(to(stranger4, 53), to(here4, 33000), make([]byte, 100)), GuardEstablished},
	} {
		b.Run("verdict="+bb.name, func(b *testing.B) {
			if v := guardVerdict(b, c, bb.frame, GuardEnforce); v != bb.want {
				b.Fatalf("%v, want %v", v, bb.want)
			}
			nsPerPacket(b, c.reflector, [][]byte{bb.frame})
		})
	}
}

// BenchmarkGuardFlood is a packet of strangers to the bond's port when they have had their total.
func BenchmarkGuardFlood(b *testing.B) {
	c := loadTestCarrier(b, CarrierConfig{})
	must(b, c.SetGuard(Guard{Mode: GuardEnforce, BondPorts: []uint16{4500}, TotalRate: 1, TotalBurst: 1, StrangerRate: 1, StrangerBurst: 1}))
	frame := datagram(stranger4, here4, make([]byte, 1200))
	guardVerdict(b, c, frame, GuardEnforce)
	if v := guardVerdict(b, c, frame, GuardEnforce); v != GuardTotalLimited {
		b.Fatal(v)
	}
	nsPerPacket(b, c.reflector, [][]byte{frame})
}

// BenchmarkReflector measures an answer with our tag refused and one given to a
// plain probe; the same probe twice is a replay.
func BenchmarkReflector(b *testing.B) {
	c := loadTestCarrier(b, CarrierConfig{})
	must(b, c.SetReflector(Reflector{Port: stampPort}), c.SetSessions(map[uint32]Session{9: {Key: testKey}}))
	frame := datagram(asker4, reflector4, AppendProbe(nil, 1, 1<<32, 9, testKey))
	if v, _, _ := probeVerdict(b, c, frame); v != ProbeReflected {
		b.Fatal(v)
	}
	b.Run("verdict=replayed", func(b *testing.B) { nsPerPacket(b, c.reflector, [][]byte{frame}) })
}

// BenchmarkEmpty is what the test run itself costs: programs that do nothing.
func BenchmarkEmpty(b *testing.B) {
	requireRoot(b)
	frame := benchFrames(origin4, true)[0]
	for _, kind := range []ebpf.ProgramType{ebpf.SchedCLS, ebpf.XDP} {
		b.Run(fmt.Sprintf("type=%v", kind), func(b *testing.B) {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
				Type: kind, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
			})
			must(b, err)
			closeAtEnd(b, p)
			nsPerPacket(b, p, [][]byte{frame})
		})
	}
}

// BenchmarkSetPolicy is a reload of the whole policy.
func BenchmarkSetPolicy(b *testing.B) {
	c := benchClassifier(b, 0)
	p := benchPolicy()
	b.ReportAllocs()
	for b.Loop() {
		setPolicy(b, c, p)
	}
}

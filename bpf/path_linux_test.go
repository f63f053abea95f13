package bpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

const loopback = 1 // the index of lo; a test run redirects nothing

// newPaths is a classifier with its path table. Direct flows of class Realtime,
// all from 192.0.2.0/24 and fd00::/16, tell by their verdict and flow where they
// would go.
func newPaths(t testing.TB, cfg ClassifierConfig) (*Classifier, *Paths) {
	t.Helper()
	requireRoot(t)
	paths, err := NewPaths()
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, paths)
	cfg.Config, cfg.Paths = rehearsal.Config, paths
	c := loadTestClassifier(t, cfg)
	setPolicy(t, c, Policy{
		Tenants: []Tenant{{ID: 7, Prefixes: []netip.Prefix{pfx("192.0.2.0/24"), pfx("fd00::/16")}, Group: 2}},
		Rules:   []Rule{{ID: 1, Tenant: 7, Protocol: protoUDP, Action: Direct, Class: Realtime}},
	})
	return c, paths
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// clearMap empties a hash map with keys and values of any kind.
func clearMap(m *ebpf.Map) error {
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	var keys [][]byte
	for it := m.Iterate(); it.Next(&key, &value); {
		keys = append(keys, bytes.Clone(key))
	}
	for _, k := range keys {
		if err := m.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// runRaw shows the program a frame and returns code, mark and the frame after.
func runRaw(t testing.TB, p *ebpf.Program, frame []byte) (code int32, mark uint32, out []byte) {
	t.Helper()
	opts := ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1,
		Context: &skbContext{}, ContextOut: &skbContext{},
	}
	ret, err := p.Run(&opts)
	must(t, err)
	return int32(ret), opts.ContextOut.(*skbContext).Mark, opts.DataOut
}

func udpFrom(port uint16) []byte {
	return fixIPv4(udp(packet(netip.AddrPortFrom(client4.Addr(), port), origin4, 0), 1, 2, 3))
}

// pathOf shows the program a packet of a flow and returns the path it took, 0 if
// it was dropped for want of one.
func pathOf(t testing.TB, c *Classifier, port uint16) PathID {
	t.Helper()
	code, _, _ := runRaw(t, c.ether, udpFrom(port))
	f, err := c.Flow(FlowKey{protoUDP, netip.AddrPortFrom(client4.Addr(), port), origin4})
	must(t, err)
	switch code {
	case 2:
		return 0
	case 7:
		return f.Path
	}
	t.Fatalf("code %d", code)
	return 0
}

// longAgo is a unit for ages: a minute, or less on a machine that has not been up for a dozen of them yet.
func longAgo() time.Duration { return min(time.Minute, Monotonic()/12) }

// TestPick: the first candidate that is alive, without anybody in user space.
func TestPick(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	now := Monotonic()
	ages := func(ages ...time.Duration) {
		t.Helper()
		for i, age := range ages {
			must(t, paths.Answered(PathID(i+1), now-age))
		}
	}
	set := func(p Path, ids ...PathID) {
		t.Helper()
		p.Ifindex = loopback
		for _, id := range ids {
			must(t, paths.Set(id, p))
		}
	}
	minute := longAgo()
	up := Path{State: PathUp, MaxAge: 10 * minute}
	port := uint16(1000)
	for _, tt := range []struct {
		name  string
		setUp func()
		order []PathID
		want  PathID
	}{
		{"first", func() { ages(0, 0, 0) }, []PathID{2, 1, 3}, 2},
		{"none", func() {}, nil, 0},
		{"too old", func() { ages(0, 11*minute, 0) }, []PathID{2, 1, 3}, 1},
		{"just young enough", func() { ages(0, 9*minute, 0) }, []PathID{2, 1, 3}, 2},
		{"all too old", func() { ages(11*minute, 11*minute, 11*minute) }, []PathID{2, 1, 3}, 0},
		{"never answered", func() { must(t, paths.Answered(2, 0)) }, []PathID{2, 1, 3}, 1},
		{"later than now", func() { must(t, paths.Answered(3, now+minute)) }, []PathID{3, 1}, 3},
		{"down", func() { set(Path{State: PathDown, MaxAge: 10 * minute}, 2) }, []PathID{2, 3}, 3},
		{"suspect, with another", func() { set(Path{State: PathSuspect, MaxAge: 10 * minute}, 2) }, []PathID{2, 3}, 3},
		{"suspect alone", func() { set(Path{State: PathSuspect, MaxAge: 10 * minute}, 2) }, []PathID{2}, 2},
		{"never probed", func() { must(t, paths.Answered(2, 0)); set(Path{State: PathUp, MaxAge: -1}, 2) }, []PathID{2, 3}, 2},
		{"unknown path", func() {}, []PathID{900, 3}, 3},
		{"eighth", func() { ages(0, 11*minute, 0) }, []PathID{2, 900, 901, 902, 903, 904, 905, 3}, 3},
		{"left by a class: still a candidate", func() { set(Path{State: PathUp, MaxAge: 10 * minute, Leave: []Class{Realtime}}, 1) }, []PathID{1, 2}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set(up, 1, 2, 3)
			ages(0, 0, 0)
			tt.setUp()
			must(t, paths.SetCandidates(2, Realtime, tt.order))
			port++
			if got := pathOf(t, c, port); got != tt.want {
				t.Errorf("path %d, want %d", got, tt.want)
			}
		})
	}
}

// TestDefaultMaxAge: a path that nobody has heard of for 200 ms is dead, and no
// call of user space is in between.
func TestDefaultMaxAge(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	must(t, paths.Set(1, Path{Ifindex: loopback, State: PathUp}), paths.SetCandidates(2, Realtime, []PathID{1}),
		paths.Answered(1, Monotonic()+time.Hour))
	if got := pathOf(t, c, 1); got != 1 {
		t.Fatalf("alive: path %d", got)
	}
	must(t, paths.Answered(1, Monotonic()-DefaultMaxAge-20*time.Millisecond))
	if a, b := pathOf(t, c, 1), pathOf(t, c, 2); a != 0 || b != 0 {
		t.Errorf("after %v: paths %d, %d", DefaultMaxAge, a, b)
	}
	f, err := c.Flow(FlowKey{protoUDP, netip.AddrPortFrom(client4.Addr(), 1), origin4})
	must(t, err)
	if f.Path != 1 || f.Moves != 0 {
		t.Errorf("flow %+v, want it on record with path 1", f)
	}
}

// TestQuiet: a path that is silent while others are heard gets no new flow, and
// keeps those it has until it is dead; when all are silent, the one heard last
// gets them, and the pause of one host refuses nobody.
func TestQuiet(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	quiet := Path{Ifindex: loopback, State: PathUp, MaxAge: 20 * time.Second, Quiet: 8 * time.Second}
	suspect := quiet
	suspect.State = PathSuspect
	must(t, paths.SetCandidates(2, Realtime, []PathID{1, 2, 3}))
	const s = time.Second
	for i, tt := range []struct {
		name  string
		paths [3]Path
		ages  [3]time.Duration
		want  PathID
	}{
		{"all heard", [3]Path{quiet, quiet, quiet}, [3]time.Duration{0, 0, 0}, 1},
		{"the first silent", [3]Path{quiet, quiet, quiet}, [3]time.Duration{10 * s, 0, 0}, 2},
		{"two silent", [3]Path{quiet, quiet, quiet}, [3]time.Duration{10 * s, 12 * s, 0}, 3},
		{"all silent: the one heard last", [3]Path{quiet, quiet, quiet}, [3]time.Duration{12 * s, 10 * s, 14 * s}, 2},
		{"all silent: the first of equals", [3]Path{quiet, quiet, quiet}, [3]time.Duration{10 * s, 10 * s, 10 * s}, 1},
		{"all too long", [3]Path{quiet, quiet, quiet}, [3]time.Duration{30 * s, 30 * s, 30 * s}, 0},
		{"a suspect heard", [3]Path{quiet, suspect, quiet}, [3]time.Duration{10 * s, 0, 10 * s}, 2},
		{"the first suspect heard", [3]Path{quiet, suspect, suspect}, [3]time.Duration{10 * s, s, 0}, 2},
		{"all silent: a suspect last", [3]Path{suspect, quiet, suspect}, [3]time.Duration{9 * s, 15 * s, 10 * s}, 2},
		{"no bound for it", [3]Path{{Ifindex: loopback, State: PathUp, MaxAge: 20 * s}, quiet, quiet}, [3]time.Duration{10 * s, 0, 0}, 1},
		{"never probed", [3]Path{{Ifindex: loopback, State: PathUp, MaxAge: -1, Quiet: s}, quiet, quiet}, [3]time.Duration{10 * s, 0, 0}, 1},
	} {
		now := Monotonic()
		for k := range 3 {
			must(t, paths.Set(PathID(k+1), tt.paths[k]), paths.Answered(PathID(k+1), now-tt.ages[k]))
		}
		if got := pathOf(t, c, uint16(i+1)); got != tt.want {
			t.Errorf("%s: path %d, want %d", tt.name, got, tt.want)
		}
	}
	stay := uint16(1) // the flow of the first case is on path 1
	for _, tt := range []struct {
		age  time.Duration
		want PathID
	}{{10 * s, 1}, {30 * s, 2}} {
		must(t, paths.Set(1, quiet), paths.Answered(1, Monotonic()-tt.age), paths.Set(2, quiet), paths.Answered(2, Monotonic()))
		if got := pathOf(t, c, stay); got != tt.want {
			t.Errorf("a flow that is there, silent for %v: path %d, want %d", tt.age, got, tt.want)
		}
	}
	for _, p := range []Path{{Quiet: -1}, {Due: -1}} {
		if paths.Set(1, p) == nil {
			t.Errorf("%+v: no error", p)
		}
	}
}

// TestPeersProbes: the peer's probes count as signs of life where ours are seen
// to go out, unless ours stay unanswered; what we do not ask is not missed.
func TestPeersProbes(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	minute := longAgo()
	must(t, paths.Set(1, Path{Ifindex: loopback, State: PathUp, MaxAge: 4 * minute, Due: 6 * minute}), paths.SetCandidates(2, Realtime, []PathID{1}))
	now, old := uint64(Monotonic()), uint64(Monotonic()-8*minute)
	for i, tt := range []struct {
		live classifierLive
		want PathID
	}{
		{classifierLive{Reply: old, Sent: old, Request: now}, 1},
		{classifierLive{Reply: old, Sent: now, Request: now}, 1},
		{classifierLive{Reply: old, Sent: now, Request: now, Missed: old}, 0},
		{classifierLive{Reply: old, Sent: now, Request: now, Missed: now - uint64(4*minute)}, 1}, // not due
		{classifierLive{Reply: old, Sent: old, Request: now, Missed: old}, 1},                    // we have stopped asking
		{classifierLive{Reply: now, Sent: now, Request: old, Missed: old}, 0},
		{classifierLive{Reply: old, Sent: old, Request: old}, 0},
		{classifierLive{Reply: old, Sent: 0, Request: now}, 0}, // nothing sees what we send
		{classifierLive{Reply: now, Sent: old, Request: old}, 1},
	} {
		must(t, paths.live.Put(uint32(1), &tt.live))
		if got := pathOf(t, c, uint16(i+1)); got != tt.want {
			t.Errorf("%+v: path %d, want %d", tt.live, got, tt.want)
		}
	}
}

// TestFlowStays: a flow keeps its path against better ones, until its path fails
// or its class has to leave; then it moves once.
func TestFlowStays(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{})
	set := func(id PathID, p Path) {
		t.Helper()
		p.Ifindex = loopback
		must(t, paths.Set(id, p), paths.Answered(id, Monotonic()+time.Hour))
	}
	up := Path{State: PathUp}
	order := func(ids ...PathID) { t.Helper(); must(t, paths.SetCandidates(2, Realtime, ids)) }
	moves := 0
	expect := func(why string, want PathID) {
		t.Helper()
		if got := pathOf(t, c, 5); got != want {
			t.Fatalf("%s: path %d, want %d", why, got, want)
		}
		f, err := c.Flow(FlowKey{protoUDP, netip.AddrPortFrom(client4.Addr(), 5), origin4})
		must(t, err)
		if f.Moves != moves {
			t.Fatalf("%s: %d moves, want %d", why, f.Moves, moves)
		}
	}
	set(1, up)
	set(2, up)
	set(3, up)
	order(1, 2)
	expect("new", 1)
	order(2, 3)
	expect("better path", 1)
	must(t, paths.Answered(1, Monotonic()-time.Second))
	moves++
	expect("own path is silent", 2)
	set(1, up)
	order(1, 3)
	expect("first path is back", 2)
	set(2, Path{State: PathUp, Leave: []Class{Bulk}})
	expect("another class leaves", 2)
	set(2, Path{State: PathUp, Leave: []Class{Realtime}})
	moves++
	expect("its class leaves", 1)
	set(1, Path{State: PathSuspect})
	moves++
	expect("suspect", 3)
	must(t, paths.Remove(3))
	moves++
	expect("removed", 1)
	set(1, Path{State: PathDown})
	expect("nothing left", 0)
	set(1, up)
	expect("back", 1)
	// The same rules again: nothing is lost.
	f, err := c.Flow(FlowKey{protoUDP, netip.AddrPortFrom(client4.Addr(), 5), origin4})
	must(t, err)
	setPolicy(t, c, Policy{
		Tenants: []Tenant{{ID: 7, Prefixes: []netip.Prefix{pfx("192.0.2.0/24")}, Group: 2}},
		Rules:   []Rule{{ID: 9, Action: Direct, Class: Realtime}},
	})
	order(2, 1)
	set(2, up)
	expect("new rules", 1)
	g, err := c.Flow(FlowKey{protoUDP, netip.AddrPortFrom(client4.Addr(), 5), origin4})
	must(t, err)
	if g.Rule != 9 || g.Packets != f.Packets+1 || g.First != f.First || g.Since != f.Since {
		t.Errorf("after new rules %+v, before %+v", g, f)
	}
}

func TestElephants(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{Settings: Settings{ElephantBytes: 400}})
	setPolicy(t, c, Policy{Rules: []Rule{{ID: 1, Action: Direct, Class: Interactive, Ports: PortRange{From: origin4.Port()}}, {ID: 2, Action: Direct, Class: Realtime}}})
	for id := range PathID(3) {
		must(t, paths.Set(id+1, Path{Ifindex: loopback, State: PathUp, MaxAge: -1}))
	}
	must(t, paths.Set(1, Path{Ifindex: loopback, State: PathUp, MaxAge: -1, Leave: []Class{Bulk}}),
		paths.SetCandidates(0, Interactive, []PathID{1}), paths.SetCandidates(0, Bulk, []PathID{2}), paths.SetCandidates(0, Realtime, []PathID{3}))
	read := func(dst netip.AddrPort) Flow {
		f, err := c.Flow(FlowKey{protoUDP, client4, dst})
		must(t, err)
		return f
	}
	other := netip.AddrPortFrom(origin4.Addr(), 9)
	size := uint64(len(udpFrom(0)))
	for i := range uint64(12) {
		runRaw(t, c.ether, udpFrom(client4.Port()))
		runRaw(t, c.ether, fixIPv4(udp(packet(client4, other, 0), 1, 2, 3)))
		f := read(origin4)
		class, path := Interactive, PathID(1)
		if (i+1)*size > 400 {
			class, path = Bulk, 2
		}
		if f.Class != class || f.Path != path || f.Bytes != (i+1)*size || f.Elephant != (class == Bulk) {
			t.Fatalf("after %d bytes: %+v", (i+1)*size, f)
		}
		if f := read(other); f.Class != Realtime || f.Path != 3 {
			t.Fatalf("realtime after %d bytes: %+v", f.Bytes, f)
		}
	}
	must(t, c.SetPrefixes(testSet)) // all flows are judged again
	runRaw(t, c.ether, udpFrom(client4.Port()))
	if f := read(origin4); f.Class != Bulk {
		t.Errorf("after a change: %+v", f)
	}
	// Another size counts for flows that are there; an elephant stays one.
	if err := c.SetSettings(Settings{ElephantBytes: 1, DSCP: map[Class]uint8{Bulk: 64}}); err == nil {
		t.Error("DSCP 64 is no error")
	}
	third := netip.AddrPortFrom(other.Addr().Next(), origin4.Port())
	runRaw(t, c.ether, udp(packet(client4, third, 0)))
	if f := read(third); f.Class != Interactive {
		t.Fatalf("small: %+v", f)
	}
	must(t, c.SetSettings(Settings{ElephantBytes: size}))
	runRaw(t, c.ether, udp(packet(client4, third, 0)))
	if f := read(third); f.Class != Bulk || !f.Elephant {
		t.Errorf("with a smaller size: %+v", f)
	}
	must(t, c.SetSettings(Settings{}))
	runRaw(t, c.ether, udp(packet(client4, third, 0)))
	if f := read(third); f.Class != Bulk {
		t.Errorf("an elephant with another size: %+v", f)
	}
}

// TestSendOut: what leaves directly has one hop less, a right checksum, no tag;
// what a router would not just forward goes to the host's routing.
func TestSendOut(t *testing.T) {
	c, paths := newPaths(t, ClassifierConfig{Settings: Settings{DSCP: map[Class]uint8{Realtime: 46}}})
	must(t, paths.SetCandidates(2, Realtime, []PathID{1}))
	plain := Path{Ifindex: loopback, State: PathUp, MaxAge: -1, Mark: 0x77}
	routed := plain
	routed.Routed = true
	hop := plain
	hop.NextHop = netip.MustParseAddr("127.0.0.9")
	hop6 := plain
	hop6.NextHop = netip.MustParseAddr("::9")
	both := hop
	both.NextHop6 = netip.MustParseAddr("::9")
	v4, v6 := udpFrom(1), udp(packet(client6, origin6, 0), 1, 2, 3)
	ttl := func(frame []byte, n byte) []byte {
		if frame[12] == 8 {
			return fixIPv4(changed(frame, 8, n))
		}
		return changed(frame, 7, n)
	}
	withOptions := func() []byte {
		f := changed(v4, 0, 0x46)
		f = slices.Concat(f[:etherLen+20], []byte{1, 1, 1, 1}, f[etherLen+20:])
		binary.BigEndian.PutUint16(f[etherLen+2:], uint16(len(f)-etherLen))
		return fixIPv4(f)
	}
	for _, tt := range []struct {
		name  string
		path  Path
		frame []byte
		want  Verdict
	}{
		{"v4", plain, v4, SentDirect},
		{"v6", plain, v6, SentDirect},
		{"next hop", hop, v4, SentDirect},
		{"v6 next hop for v4", hop6, v4, SentDirect},
		{"v4 next hop for v6", hop, v6, SentDirect},
		{"next hops of both, v4", both, v4, SentDirect},
		{"next hops of both, v6", both, v6, SentDirect},
		{"routed", routed, v4, Routed},
		{"routed v6", routed, v6, Routed},
		{"last hop", plain, ttl(v4, 1), Routed},
		{"no hop", plain, ttl(v4, 0), Routed},
		{"last hop v6", plain, ttl(v6, 1), Routed},
		{"last but one", plain, ttl(v4, 2), SentDirect},
		{"options", plain, withOptions(), Routed},
		{"v6 options", plain, udp(packet(client6, origin6, 0, options(hopByHop, 1)), 1), Routed},
		{"broken header checksum", plain, changed(v4, 10, v4[etherLen+10]+1), Unparsed},
		{"tagged", plain, withVLAN(v4, 0x81000005), SentDirect},
		{"QinQ", plain, withVLAN(v6, 0x88a80005, 0x81000006), SentDirect},
		{"old QinQ", plain, withVLAN(v6, 0x91000005, 0x81000006), Routed},
		{"congestion marked", plain, fixIPv4(changed(v4, 1, 3)), SentDirect},
		{"no NIC", Path{Ifindex: 1 << 30, State: PathUp, MaxAge: -1, Mark: 0x77}, v4, Routed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, paths.Set(1, tt.path))
			before, err := c.Verdicts()
			must(t, err)
			code, mark, out := runRaw(t, c.ether, tt.frame)
			after, err := c.Verdicts()
			must(t, err)
			if after[tt.want] != before[tt.want]+1 || after.Total() != before.Total()+1 {
				t.Fatalf("not counted as %v: %v, then %v", tt.want, before, after)
			}
			wantCode, wantMark := int32(-1), uint32(0x77)
			switch tt.want {
			case SentDirect:
				wantCode, wantMark = 7, 0 // TC_ACT_REDIRECT
			case Unparsed:
				wantMark = 0
			}
			if code != wantCode || mark != wantMark {
				t.Errorf("code %d, mark %#x; want %d, %#x", code, mark, wantCode, wantMark)
			}
			want := tt.frame
			if tt.want == SentDirect {
				for want[12] == 0x81 || want[12] == 0x88 {
					want = slices.Delete(bytes.Clone(want), 12, 16)
				}
			}
			var kept []byte
			if want[12] == 0x91 {
				kept = tt.frame[12:20]
				want = slices.Delete(bytes.Clone(want), 12, 20)
			}
			broken := want[12] == 8 && onesSum(want[etherLen:etherLen+int(want[etherLen]&15)*4], 0) != 0xffff
			ecn := byte(0)
			if want[12] == 8 {
				ecn = want[etherLen+1] & 3
			}
			want = withDSCP(bytes.Clone(want), 46)
			want[etherLen+1] |= ecn
			if ttl := map[byte]int{8: 8, 0x86: 7}[want[12]]; tt.want == SentDirect {
				want[etherLen+ttl]--
			}
			if want[12] == 8 {
				fixIPv4(want)
			}
			if broken { // and stays so
				copy(want[etherLen+10:], out[etherLen+10:etherLen+12])
			}
			if want = slices.Insert(want, 12, kept...); !bytes.Equal(out, want) {
				t.Errorf("frame\n%x,\nwant\n%x", out, want)
			}
		})
	}
}

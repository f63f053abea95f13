package bpf

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"
)

// seed is TEST_SEED or a new one; it is printed.
func seed(t testing.TB) *rand.Rand {
	t.Helper()
	s := rand.Uint64()
	if env := os.Getenv("TEST_SEED"); env != "" {
		var err error
		if s, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
	}
	t.Logf("TEST_SEED=%d", s)
	return rand.New(rand.NewPCG(s, 0))
}

// mutate damages a frame that it owns, behind the MAC addresses.
func mutate(r *rand.Rand, frame []byte) []byte {
	for range 1 + r.IntN(4) {
		switch i := 12 + r.IntN(len(frame)-12); r.IntN(4) {
		case 0:
			frame[i] ^= 1 << r.IntN(8)
		case 1:
			frame[i] = byte(r.Uint32())
		case 2: // the header fields that decide
			frame[etherLen+[]int{0, 2, 3, 6, 7, 9, 20, 40, 41, 42, 43}[r.IntN(11)]%(len(frame)-etherLen)] ^= 1 << r.IntN(8)
		default: // kernels refuse to test with less than an IP header
			frame = frame[:max(i, min(len(frame), etherLen+40))]
		}
	}
	return frame
}

// TestMutations compares the program with the naive parser on damaged packets.
func TestMutations(t *testing.T) {
	p := newCapture(t)
	r := seed(t)
	all := frames()
	got := Verdicts{}
	naive := &naivePolicy{prefixes: testSet, first: map[naiveDatagram]naiveDecision{}}
	names := slices.Sorted(maps.Keys(all))
	for range 5000 {
		name := names[r.IntN(len(names))]
		frame := mutate(r, bytes.Clone(all[name].frame))
		want := naive.verdict(frame)
		if v := run(t, p.Program, frame); v != want {
			t.Fatalf("%s changed to %x: %v, want %v (%+v)", name, frame, v, want, naiveParse(frame))
		}
		got[want]++
	}
	for _, v := range []Verdict{Unparsed, Fragment, NotTCP, NotCaptured, CapturedNew, Excluded, VLAN, NotIP} {
		if got[v] == 0 {
			t.Errorf("no packet was %v: the test has lost its teeth", v)
		}
	}
}

// TestSetPrefixes compares the tries with a linear search, over changing sets.
func TestSetPrefixes(t *testing.T) {
	p := newCapture(t)
	r := seed(t)
	addr := func(v6 bool) netip.Addr { // few bits differ, so that prefixes nest
		if v6 {
			b := netip.MustParseAddr("2001:db8::").As16()
			for range 3 {
				b[r.IntN(16)] ^= 1 << r.IntN(8)
			}
			return netip.AddrFrom16(b)
		}
		b := [4]byte{10, 0, 0, 0}
		b[r.IntN(4)] ^= 1 << r.IntN(8)
		b[r.IntN(4)] ^= 1 << r.IntN(8)
		return netip.AddrFrom4(b)
	}
	for round := range 30 {
		set := map[netip.Prefix]Action{}
		for range r.IntN(40) {
			a := addr(r.IntN(2) == 0)
			set[netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()] = Action(1 + r.IntN(3))
		}
		if err := p.SetPrefixes(set); err != nil {
			t.Fatal(err)
		}
		for range 30 {
			v6 := r.IntN(2) == 0
			src, dst := client4, netip.AddrPortFrom(addr(v6), 443)
			if v6 {
				src = client6
			}
			want := NotCaptured
			switch naiveLookup(set, dst.Addr()) {
			case Capture:
				want = CapturedNew
			case Pass, Drain:
				want = Excluded
			}
			if got := run(t, p.Program, packet(src, dst, flagSYN)); got != want {
				t.Fatalf("round %d: %v: %v, want %v, of %v", round, dst, got, want, set)
			}
		}
	}
}

func TestSetPrefixesErrors(t *testing.T) {
	p := loadTestClassifier(t, ClassifierConfig{Config: Config{MaxPrefixes: 2, Mark: testMark, Mask: testMask}})
	for _, set := range []map[netip.Prefix]Action{
		{{}: Capture},
		{netip.MustParsePrefix("10.0.0.1/8"): Capture},
		{netip.MustParsePrefix("::ffff:10.0.0.0/104"): Capture},
		{netip.MustParsePrefix("10.0.0.0/8"): 0},
		{netip.MustParsePrefix("10.0.0.0/8"): Drain + 1},
		{netip.MustParsePrefix("10.0.0.0/8"): Capture, netip.MustParsePrefix("11.0.0.0/8"): Capture, netip.MustParsePrefix("12.0.0.0/8"): Capture},
	} {
		if err := p.SetPrefixes(set); err == nil {
			t.Errorf("took %v", set)
		}
	}
	// A full set gives way to another full set.
	for _, second := range []string{"10", "20", "30", "40"} {
		full := map[netip.Prefix]Action{netip.MustParsePrefix(second + ".1.0.0/16"): Pass, netip.MustParsePrefix(second + ".2.0.0/16"): Pass}
		if err := p.SetPrefixes(full); err != nil {
			t.Fatal(err)
		}
		if got := run(t, p.Program, packet(client4, ap(second+".1.0.1:1"), flagSYN)); got != Excluded {
			t.Errorf("%v, want excluded", got)
		}
	}
}

package stamp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestSipHash compares with the vectors of the paper's appendix and of its reference code (key 00 to 0f). A message of
// 56 bytes is what we use; the reference has one for each length up to 63.
func TestSipHash(t *testing.T) {
	var secret [16]byte
	for i := range secret {
		secret[i] = byte(i)
	}
	k := NewKey(1, secret)
	if k.Words() != [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908} {
		t.Errorf("key words %#x", k.Words())
	}
	var m [tagWords]uint64
	msg := make([]byte, tagMessage)
	for i := range msg {
		msg[i] = byte(i)
	}
	for i := range 7 {
		m[i] = binary.LittleEndian.Uint64(msg[8*i:])
	}
	m[7] = 56 << 56
	if got, want := siphash24(&k.words, &m), slowSipHash(k.words, msg); got != want {
		t.Errorf("56 bytes: %#x, want %#x", got, want)
	}
	for _, tt := range []struct {
		n    int
		want uint64
	}{{0, 0x726fdb47dd0e0e31}, {1, 0x74f839c593dc67fd}, {15, 0xa129ca6149be45e5}} {
		if got := slowSipHash(k.words, msg[:tt.n]); got != tt.want {
			t.Errorf("%d bytes: %#x, want %#x", tt.n, got, tt.want)
		}
	}
}

// slowSipHash is SipHash-2-4 over bytes, as the paper words it.
func slowSipHash(k [2]uint64, msg []byte) uint64 {
	v := [4]uint64{k[0] ^ 0x736f6d6570736575, k[1] ^ 0x646f72616e646f6d, k[0] ^ 0x6c7967656e657261, k[1] ^ 0x7465646279746573}
	rotl := func(x uint64, n int) uint64 { return x<<n | x>>(64-n) }
	round := func() {
		v[0] += v[1]
		v[2] += v[3]
		v[1], v[3] = rotl(v[1], 13), rotl(v[3], 16)
		v[1] ^= v[0]
		v[3] ^= v[2]
		v[0] = rotl(v[0], 32)
		v[2] += v[1]
		v[0] += v[3]
		v[1], v[3] = rotl(v[1], 17), rotl(v[3], 21)
		v[1] ^= v[2]
		v[3] ^= v[0]
		v[2] = rotl(v[2], 32)
	}
	padded := append([]byte(nil), msg...)
	for len(padded)%8 != 7 {
		padded = append(padded, 0)
	}
	padded = append(padded, byte(len(msg)))
	for ; len(padded) > 0; padded = padded[8:] {
		m := binary.LittleEndian.Uint64(padded)
		v[3] ^= m
		round()
		round()
		v[0] ^= m
	}
	v[2] ^= 0xff
	for range 4 {
		round()
	}
	return v[0] ^ v[1] ^ v[2] ^ v[3]
}

// figure draws a packet as the RFCs do: fields of so many bits, first bit first.
type figure struct {
	b    []byte
	bits int
}

func (f *figure) field(bits int, value uint64) *figure {
	for i := bits - 1; i >= 0; i-- {
		if f.bits%8 == 0 {
			f.b = append(f.b, 0)
		}
		if value>>i&1 == 1 {
			f.b[f.bits/8] |= 0x80 >> (f.bits % 8)
		}
		f.bits++
	}
	return f
}

func (f *figure) zeros(octets int) *figure {
	for range octets {
		f.field(8, 0)
	}
	return f
}

// TestProbeFigure compares a probe with RFC 8762, figure 2, and RFC 8972, figures 1 and 4.
func TestProbeFigure(t *testing.T) {
	p := Probe{Seq: 0xa1b2c3d4, Sent: 86_400*time.Second + 123_456_789, Path: 6}
	var want figure
	want.field(32, 0xa1b2c3d4).field(32, 86_400).field(32, 123_456_789) // sequence number, timestamp
	want.field(1, 0).field(1, 1).field(6, 0).field(8, 1)                // error estimate: S, Z, scale, multiplier
	want.field(16, 7).zeros(28)                                         // SSID, MBZ
	if got := AppendProbe(nil, &p, nil); !bytes.Equal(got, want.b) {
		t.Errorf("open probe\n%x, want\n%x", got, want.b)
	}
	want.field(1, 1).field(1, 0).field(1, 0).field(5, 0) // TLV flags: U, M, I, reserved
	want.field(8, 252).field(16, 16)
	want.field(32, 0xcafe0001).field(32, 0)
	key := NewKey(0xcafe0001, [16]byte{1, 2, 3})
	tag := slowSipHash(key.words, append(append(bytes.Clone(want.b[:44]), 0), want.b[45:56]...))
	want.b = binary.LittleEndian.AppendUint64(want.b, tag)
	got := AppendProbe([]byte("before"), &p, key)
	if got = got[len("before"):]; !bytes.Equal(got, want.b) {
		t.Errorf("probe\n%x, want\n%x", got, want.b)
	}
	back, err := ParseProbe(got, func(id uint32) *Key { return map[uint32]*Key{key.ID: key}[id] })
	p.Key, p.SSID, p.errorEstimate = key.ID, 7, 0x4001
	if err != nil || back != p {
		t.Errorf("read back %+v, %v, want %+v", back, err, p)
	}
}

// TestReplyFigure has a reflector of the other party: RFC 8762, figure 5, with RFC 8972's SSID, in both formats of time.
func TestReplyFigure(t *testing.T) {
	for _, tt := range []struct {
		name   string
		z      uint64
		frac   [2]uint64 // of T2 and T3
		t2, t3 time.Duration
	}{
		{"PTP", 1, [2]uint64{250_000_000, 500_000_000}, 1000*time.Second + 250*time.Millisecond, 1001*time.Second + 500*time.Millisecond},
		{"NTP", 0, [2]uint64{1 << 30, 1 << 31}, 1000*time.Second + 250*time.Millisecond, 1001*time.Second + 500*time.Millisecond},
	} {
		var f figure
		f.field(32, 99).field(32, 1001).field(32, tt.frac[1])
		f.field(1, 1).field(1, tt.z).field(6, 3).field(8, 9)
		f.field(16, 5)
		f.field(32, 1000).field(32, tt.frac[0])
		f.field(32, 7).field(32, 50).field(32, 1000)         // the sender's sequence number and timestamp
		f.field(1, 0).field(1, 1).field(6, 0).field(8, 1)    // and error estimate
		f.zeros(2).field(8, 61).zeros(3)                     // MBZ, TTL, MBZ
		f.field(8, 0x80).field(8, 200).field(16, 2).zeros(2) // some TLV
		r, err := ParseOpenReply(f.b, 60*time.Second)
		want := Reply{Path: 4, Seq: 7, Count: 99, T1: 50*time.Second + 1000, T2: tt.t2, T3: tt.t3, T4: 60 * time.Second, TTL: 61, Open: true}
		if err != nil || r != want {
			t.Errorf("%s: %+v, %v, want\n%+v", tt.name, r, err, want)
		}
		if got, want := r.RTT(), 10*time.Second-1000-1250*time.Millisecond; got != want {
			t.Errorf("%s: RTT %v, want %v", tt.name, got, want)
		}
		if _, err := ParseOpenReply(f.b[:43], 0); !errors.Is(err, ErrLength) {
			t.Errorf("%s: truncated: %v", tt.name, err)
		}
	}
}

// TestOurReplyFigure reads our reflector's reply field by field, open and authenticated.
func TestOurReplyFigure(t *testing.T) {
	key := NewKey(7, [16]byte{9})
	var r Reflector
	r.AddKey(key)
	r.AllowOpen(10)
	p := Probe{Seq: 41, Sent: 3*time.Second + 5, Path: 2}
	for _, k := range []*Key{nil, key} {
		req := AppendProbe(nil, &p, k)
		got, err := r.Reflect(nil, req, 57, 100*time.Second+1, 100*time.Second+2)
		if err != nil {
			t.Fatal(err)
		}
		var want figure
		if k == nil {
			want.field(32, 41) // stateless: the probe's own
		} else {
			want.field(32, 0) // stateful: the first
		}
		want.field(32, 100).field(32, 9).field(16, 0x1601).field(16, 3) // 2 ns are 8.6 of NTP's units
		want.field(32, 100).field(32, 5)
		want.field(32, 41).field(32, 3).field(32, 5).field(16, 0x4001).zeros(2).field(8, 57).zeros(3)
		if k != nil {
			want.field(8, 0).field(8, 252).field(16, 16).field(32, 7).field(32, 1)
			tag := slowSipHash(key.words, append(append(bytes.Clone(want.b[:44]), 0), want.b[45:56]...))
			want.b = binary.LittleEndian.AppendUint64(want.b, tag)
		}
		if !bytes.Equal(got, want.b) {
			t.Errorf("reply\n%x, want\n%x", got, want.b)
		}
	}
}

// TestMutations flips every bit of a probe and of a reply: none is believed.
func TestMutations(t *testing.T) {
	key := NewKey(7, [16]byte{9})
	keys := func(id uint32) *Key { return map[uint32]*Key{7: key}[id] }
	probe := AppendProbe(nil, &Probe{Seq: 1, Sent: time.Second, Path: 3}, key)
	reply := AppendReply(nil, probe, 1, 60, 2*time.Second, 2*time.Second, key)
	if _, err := ParseReply(reply, 0, keys); err != nil {
		t.Fatal(err)
	}
	for bit := range 8 * Len {
		for name, b := range map[string][]byte{"probe": bytes.Clone(probe), "reply": bytes.Clone(reply)} {
			b[bit/8] ^= 1 << (bit % 8)
			_, asProbe := ParseProbe(b, keys)
			_, asReply := ParseReply(b, 0, keys)
			if asProbe == nil || asReply == nil {
				t.Errorf("%s with bit %d of byte %d flipped is believed", name, bit%8, bit/8)
			}
		}
	}
	for n := range Len + 9 {
		if n == Len {
			continue
		}
		b := append(bytes.Clone(probe), make([]byte, 9)...)[:n]
		if _, err := ParseProbe(b, keys); !errors.Is(err, ErrLength) {
			t.Errorf("probe of %d bytes: %v", n, err)
		}
	}
	if _, err := ParseReply(probe, 0, keys); !errors.Is(err, ErrFormat) {
		t.Errorf("a probe as a reply: %v", err)
	}
	if _, err := ParseProbe(reply, keys); !errors.Is(err, ErrFormat) {
		t.Errorf("a reply as a probe: %v", err)
	}
}

func TestReflector(t *testing.T) {
	key := NewKey(7, [16]byte{9})
	other := NewKey(8, [16]byte{9})
	probe := func(seq uint32, path uint8, k *Key) []byte {
		return AppendProbe(nil, &Probe{Seq: seq, Sent: time.Second, Path: path}, k)
	}
	dirty := probe(300, 1, key)[:56]
	dirty[20] = 1
	dirty = key.seal(dirty, 0)
	var r Reflector
	r.AddKey(key)
	for _, tt := range []struct {
		name  string
		req   []byte
		count int // of the reply, -1 for none
		err   error
	}{
		{"first", probe(10, 1, key), 0, nil},
		{"next", probe(11, 1, key), 1, nil},
		{"again", probe(11, 1, key), -1, ErrReplay},
		{"after a gap", probe(100, 1, key), 2, nil},
		{"reordered", probe(37, 1, key), 3, nil},
		{"reordered again", probe(37, 1, key), -1, ErrReplay},
		{"behind the window", probe(36, 1, key), -1, ErrReplay},
		{"another path", probe(11, 2, key), 0, nil},
		{"about to wrap", probe(1<<31+90, 1, key), 4, nil},
		{"wrapping", probe(3, 1, key), 5, nil},
		{"unknown key", probe(12, 1, other), -1, ErrKey},
		{"fields of a reply set", dirty, -1, ErrFormat},
		{"open", probe(12, 1, nil), -1, ErrFormat},
		{"empty", nil, -1, ErrFormat},
	} {
		got, err := r.Reflect(nil, tt.req, 64, 0, 0)
		if !errors.Is(err, tt.err) || (tt.count < 0) != (len(got) == 0) {
			t.Errorf("%s: %d bytes, %v, want %v", tt.name, len(got), err, tt.err)
		} else if len(got) > 0 && binary.BigEndian.Uint32(got) != uint32(tt.count) {
			t.Errorf("%s: count %d, want %d", tt.name, binary.BigEndian.Uint32(got), tt.count)
		}
	}
	if got, want := r.Stats(), (ReflectorStats{Answered: 7, Malformed: 3, Unknown: 1, Replayed: 3}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
	r.RemoveKey(7)
	if _, err := r.Reflect(nil, probe(4, 1, key), 64, 0, 0); !errors.Is(err, ErrKey) {
		t.Errorf("removed key: %v", err)
	}
}

// TestOpenReflector sends what a foreign session-sender may: TLVs known, unknown and broken (RFC 8972, section 4).
func TestOpenReflector(t *testing.T) {
	base := AppendProbe(nil, &Probe{Seq: 5}, nil)
	var r Reflector
	r.AllowOpen(6)
	for _, tt := range []struct{ name, tlvs, want string }{
		{"none", "", ""},
		{"padding", "\x80\x01\x00\x02ab", "\x00\x01\x00\x02ab"},
		{"unknown after padding", "\x80\x01\x00\x00\x00\xf0\x00\x01x", "\x00\x01\x00\x00\x80\xf0\x00\x01x"},
		{"too long", "\x80\xf0\x00\x09x", "\xc0\xf0\x00\x09x"},
		{"cut header", "\x80\xf0\x00", "\xc0\xf0\x00"},
	} {
		got, err := r.Reflect(nil, append(bytes.Clone(base), tt.tlvs...), 64, time.Second, time.Second)
		if err != nil || len(got) != PacketLen+len(tt.tlvs) || string(got[PacketLen:]) != tt.want {
			t.Errorf("%s: %q, %v, want TLVs %q", tt.name, got, err, tt.want)
		}
	}
	for range 2 {
		r.Reflect(nil, base, 64, 1500*time.Millisecond, 0)
	}
	if got := r.Stats(); got.Open != 6 || got.OverBudget != 1 {
		t.Errorf("in the same second: %+v", got)
	}
	if _, err := r.Reflect(nil, base, 64, 2*time.Second, 0); err != nil {
		t.Errorf("a second later: %v", err)
	}
	if _, err := r.Reflect(nil, make([]byte, maxOpen+1), 64, 9*time.Second, 0); !errors.Is(err, ErrLength) {
		t.Errorf("jumbo: %v", err)
	}
}

func FuzzReflect(f *testing.F) {
	key := NewKey(7, [16]byte{9})
	probe := AppendProbe(nil, &Probe{Seq: 1, Sent: time.Second, Path: 3}, key)
	f.Add(probe)
	f.Add(probe[:PacketLen])
	f.Add(append(bytes.Clone(probe[:PacketLen]), "\x80\x01\x00\x02ab\x80\xf0\x00\x09"...))
	f.Add(AppendReply(nil, probe, 1, 60, 0, 0, key))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reflector
		r.AddKey(key)
		r.AllowOpen(1)
		got, err := r.Reflect(nil, b, 64, time.Second, time.Second)
		if (err == nil) != (len(got) > 0) {
			t.Fatalf("%d bytes and error %v", len(got), err)
		}
		if err == nil && len(got) != len(b) {
			t.Fatalf("a reply of %d bytes to a probe of %d", len(got), len(b))
		}
		if err == nil && r.Stats().Answered == 1 {
			if rep, err := ParseReply(got, 0, func(uint32) *Key { return key }); err != nil || rep.Path != pathOf(b) {
				t.Fatalf("own reply %+v: %v", rep, err)
			}
		}
	})
}

func FuzzReceive(f *testing.F) {
	key := NewKey(7, [16]byte{9})
	probe := AppendProbe(nil, &Probe{Seq: 0, Sent: time.Second, Path: 3}, key)
	f.Add(AppendReply(nil, probe, 0, 60, 0, 0, key))
	f.Add(AppendReply(nil, probe, 0, 60, 0, 0, nil))
	f.Add(probe)
	f.Add([]byte(strings.Repeat("\xff", 64)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewSender(0)
		s.AddPath(0, 3, key)
		s.AddPath(0, 4, nil)
		for i := range 4 {
			s.Due(time.Duration(i)*time.Second, nil)
		}
		for _, from := range []uint8{3, 4, 5} {
			ev, err := s.Receive(5*time.Second, b, from, nil)
			if err != nil && len(ev) > 0 {
				t.Fatalf("events %v and error %v", ev, err)
			}
		}
	})
}

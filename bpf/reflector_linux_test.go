package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3

	stampPort  = 862
	senderPort = 4600
)

var (
	asker4, reflector4 = ap("192.0.2.1:4600"), ap("198.51.100.1:862")
	asker6, reflector6 = ap("[2001:db8::1]:4600"), ap("[2001:db8::2]:862")
	testKey            = ProbeKey{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

func loadTestCarrier(t testing.TB, cfg CarrierConfig) *Carrier {
	t.Helper()
	requireRoot(t)
	c, err := LoadCarrier(cfg)
	must(t, err)
	closeAtEnd(t, c)
	return c
}

// datagram is a whole frame with right checksums.
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	f := packet(src, dst, 0)
	copy(f, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	f = udp(f, payload...)
	if src.Addr().Is4() {
		fixIPv4(f)
	}
	return fixUDP(f)
}

func udpOffset(f []byte) int {
	if f[12] == 8 {
		return etherLen + 20
	}
	return etherLen + 40
}

// pseudoSum is the ones' complement sum over the pseudo header.
func pseudoSum(f []byte) uint32 {
	l4 := udpOffset(f)
	addrs := f[l4-8 : l4]
	if f[12] != 8 {
		addrs = f[l4-32 : l4]
	}
	return uint32(onesSum(addrs, uint32(len(f)-l4)+protoUDP))
}

func fixUDP(f []byte) []byte {
	l4 := udpOffset(f)
	binary.BigEndian.PutUint16(f[l4+6:], 0)
	sum := ^onesSum(f[l4:], pseudoSum(f))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(f[l4+6:], sum)
	return f
}

// stampRequest is a session-sender packet as RFC 8762, figure 2, draws it.
func stampRequest(sequence uint32, seconds, fraction uint32, ssid uint16) []byte {
	b := make([]byte, 44)
	binary.BigEndian.PutUint32(b[0:], sequence)
	binary.BigEndian.PutUint32(b[4:], seconds)
	binary.BigEndian.PutUint32(b[8:], fraction)
	binary.BigEndian.PutUint16(b[12:], 0x8001) // error estimate
	binary.BigEndian.PutUint16(b[14:], ssid)   // RFC 8972, figure 1
	return b
}

// stampReply are the fields of a session-reflector packet, RFC 8762, figure 6.
type stampReply struct {
	sequence         uint32
	tx               uint64
	errorEstimate    uint16
	ssid             uint16
	rx               uint64
	senderSequence   uint32
	senderTime       uint64
	senderError      uint16
	mbz              uint16
	senderTTL        byte
	mbz1, mbz2, mbz3 byte
}

func decodeStamp(b []byte) (r stampReply) {
	be := binary.BigEndian
	r.sequence, r.tx, r.errorEstimate, r.ssid, r.rx = be.Uint32(b), be.Uint64(b[4:]), be.Uint16(b[12:]), be.Uint16(b[14:]), be.Uint64(b[16:])
	r.senderSequence, r.senderTime, r.senderError, r.mbz = be.Uint32(b[24:]), be.Uint64(b[28:]), be.Uint16(b[36:]), be.Uint16(b[38:])
	r.senderTTL, r.mbz1, r.mbz2, r.mbz3 = b[40], b[41], b[42], b[43]
	return r
}

// runXDP shows the programs a frame.
func runXDP(t testing.TB, p *ebpf.Program, frame []byte) (code uint32, out []byte) {
	t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Repeat: 1}
	code, err := p.Run(&opts)
	must(t, err)
	return code, opts.DataOut
}

// probeVerdict shows the reflector a frame and returns what it counted, or
// numProbeVerdicts for nothing.
func probeVerdict(t testing.TB, c *Carrier, frame []byte) (v ProbeVerdict, code uint32, out []byte) {
	t.Helper()
	before, err := c.ProbeVerdicts()
	must(t, err)
	code, out = runXDP(t, c.reflector, frame)
	after, err := c.ProbeVerdicts()
	must(t, err)
	v = numProbeVerdicts
	for i := range after {
		if after[i] != before[i] {
			if v != numProbeVerdicts || after[i] != before[i]+1 {
				t.Fatalf("counted twice: %v, then %v", before, after)
			}
			v = ProbeVerdict(i)
		}
	}
	return v, code, out
}

// checkAnswer checks what any reflected frame must be, and returns its payload.
func checkAnswer(t *testing.T, in, out []byte) []byte {
	t.Helper()
	l4 := udpOffset(in)
	if len(out) != len(in) {
		t.Fatalf("%d bytes from %d", len(out), len(in))
	}
	if !bytes.Equal(out[:6], in[6:12]) || !bytes.Equal(out[6:12], in[:6]) || !bytes.Equal(out[12:14], in[12:14]) {
		t.Errorf("Ethernet header %x from %x", out[:14], in[:14])
	}
	size, ttl := 4, 8
	if in[12] != 8 {
		size, ttl = 16, 7
	} else if onesSum(out[etherLen:l4], 0) != 0xffff {
		t.Errorf("IPv4 checksum of %x", out[etherLen:l4])
	}
	if !bytes.Equal(out[l4-size:l4], in[l4-2*size:l4-size]) || !bytes.Equal(out[l4-2*size:l4-size], in[l4-size:l4]) {
		t.Error("addresses are not swapped")
	}
	if out[etherLen+ttl] != 255 {
		t.Errorf("TTL %d, want 255", out[etherLen+ttl])
	}
	if !bytes.Equal(out[l4:l4+2], in[l4+2:l4+4]) || !bytes.Equal(out[l4+2:l4+4], in[l4:l4+2]) {
		t.Error("ports are not swapped")
	}
	if in[l4+6]|in[l4+7] == 0 {
		if out[l4+6]|out[l4+7] != 0 {
			t.Error("a checksum where there was none")
		}
	} else if onesSum(out[l4:l4+int(binary.BigEndian.Uint16(out[l4+4:]))], pseudoSum(out[:l4+int(binary.BigEndian.Uint16(out[l4+4:]))])) != 0xffff {
		t.Error("wrong UDP checksum")
	}
	return out[l4+8:]
}

// TestStampPlain: any RFC 8762 sender in unauthenticated mode is answered as the
// RFC says, if that is configured.
func TestStampPlain(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	must(t, c.SetReflector(Reflector{Port: stampPort, Plain: true}))
	frame := func(src, dst netip.AddrPort, payload []byte, change ...func([]byte)) []byte {
		f := datagram(src, dst, payload)
		for _, fn := range change {
			fn(f)
		}
		return f
	}
	request := stampRequest(7, 0xe0000000, 0x80000000, 0x1234)
	for _, tt := range []struct {
		name  string
		frame []byte
		want  ProbeVerdict
	}{
		{"v4", frame(asker4, reflector4, request), ProbeReflected},
		{"v6", frame(asker6, reflector6, request), ProbeReflected},
		{"no checksum", frame(asker4, reflector4, request, func(f []byte) { f[40], f[41] = 0, 0 }), ProbeReflected},
		{"checksum left to the NIC", frame(asker4, reflector4, request, func(f []byte) { binary.BigEndian.PutUint16(f[40:], uint16(pseudoSum(f))) }), ProbeReflected},
		{"padding TLV", frame(asker4, reflector4, append(bytes.Clone(request), 0x80, 1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8)), ProbeReflected},
		{"odd length", frame(asker6, reflector6, append(bytes.Clone(request), 0x80, 1, 0, 3, 9, 9, 9)), ProbeReflected},
		{"longest", frame(asker4, reflector4, append(bytes.Clone(request), make([]byte, 84)...)), ProbeReflected},
		{"too long for XDP", frame(asker4, reflector4, append(bytes.Clone(request), make([]byte, 85)...)), numProbeVerdicts},
		{"wrong checksum", frame(asker4, reflector4, request, func(f []byte) { f[50]++ }), ProbeMalformed},
		{"v6 without checksum", frame(asker6, reflector6, request, func(f []byte) { f[60], f[61] = 0, 0 }), ProbeMalformed},
		{"too short", frame(asker4, reflector4, request[:43]), ProbeMalformed},
		{"UDP longer than IP", frame(asker4, reflector4, request, func(f []byte) { f[etherLen+3]-- }), ProbeMalformed},
		{"cut off", frame(asker4, reflector4, request)[:80], ProbeMalformed},
		{"another port", frame(asker4, ap("198.51.100.1:863"), request), numProbeVerdicts},
		{"tcp", packet(asker4, reflector4, flagSYN), numProbeVerdicts},
		{"fragment", frame(asker4, reflector4, request, func(f []byte) { f[20] = 0x20 }), numProbeVerdicts},
		{"options", frame(asker4, reflector4, request, func(f []byte) { f[14] = 0x46 }), numProbeVerdicts},
		{"arp", arp(), numProbeVerdicts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := c.NTP(Monotonic())
			v, code, out := probeVerdict(t, c, tt.frame)
			after := c.NTP(Monotonic())
			wantCode := map[ProbeVerdict]uint32{ProbeReflected: xdpTX, numProbeVerdicts: xdpPass, ProbeMalformed: xdpDrop}[tt.want]
			if v != tt.want || code != wantCode {
				t.Fatalf("%v, code %d; want %v, %d", v, code, tt.want, wantCode)
			}
			if tt.want != ProbeReflected {
				if !bytes.Equal(out, tt.frame) {
					t.Error("the frame has changed")
				}
				return
			}
			payload := checkAnswer(t, tt.frame, out)
			r := decodeStamp(payload)
			want := stampReply{
				sequence: 7, tx: r.tx, errorEstimate: r.errorEstimate, ssid: 0x1234, rx: r.rx,
				senderSequence: 7, senderTime: 0xe000000080000000, senderError: 0x8001, senderTTL: 64,
			}
			if r != want {
				t.Errorf("answer %+v, want %+v", r, want)
			}
			if r.errorEstimate>>15 != 0 || r.errorEstimate&0xff == 0 {
				t.Errorf("error estimate %#x: not synchronised, and the multiplier must not be 0", r.errorEstimate)
			}
			const rounding = 1 << 32 / 1_000_000 // a microsecond
			if r.rx+rounding < before || r.tx < r.rx || r.tx > after+rounding {
				t.Errorf("times %x, %x; want them between %x and %x", r.rx, r.tx, before, after)
			}
			if off := ntpDuration(NTP(time.Now()) - r.tx); off.Abs() > time.Minute {
				t.Errorf("the time in the answer is %v off the wall clock's", off)
			}
			if len(payload) > 44 {
				in := tt.frame[len(tt.frame)-len(payload):]
				if payload[44]&0x80 == 0 || !bytes.Equal(payload[45:], in[45:]) {
					t.Errorf("unknown TLV %x from %x", payload[44:], in[44:])
				}
			}
		})
	}
}

// TestStampTagged: with our TLV, the reflector answers those who have the key,
// and numbers its answers itself.
func TestStampTagged(t *testing.T) {
	paths, err := NewPaths()
	requireRoot(t)
	must(t, err)
	closeAtEnd(t, paths)
	c := loadTestCarrier(t, CarrierConfig{Paths: paths})
	must(t, c.SetReflector(Reflector{Port: stampPort}), c.SetSessions(map[uint32]Session{9: {Key: testKey, Path: 3}, 10: {Key: ProbeKey{1}}}))
	const at = uint64(0xe0000000) << 32
	probe := func(sequence uint32, after uint64) []byte { return appendProbe(nil, sequence, at+after, 9, testKey) }
	change := func(b []byte, off int, x byte) []byte { b[off] ^= x; return b }
	own := uint32(0)
	for _, tt := range []struct {
		name    string
		payload []byte
		want    ProbeVerdict
	}{
		{"first", probe(100, 0), ProbeReflected},
		{"second", probe(101, 10), ProbeReflected},
		{"again", probe(101, 10), ProbeReplayed},
		{"gap", probe(110, 100), ProbeReflected},
		{"late", probe(105, 50), ProbeReflected},
		{"late again", probe(105, 50), ProbeReplayed},
		{"newer number, older time", probe(111, 99), ProbeReplayed},
		{"far ahead", probe(1000, 1000), ProbeReflected},
		{"too late", probe(936, 900), ProbeReplayed},
		{"just not too late", probe(937, 900), ProbeReflected},
		{"sender starts again", probe(0, 2000), ProbeReflected},
		{"and goes on", probe(1, 2010), ProbeReflected},
		{"plain", stampRequest(2, 0xe1000000, 0, 0), ProbeUnauthenticated},
		{"another TLV first", append(stampRequest(2, 0xe1000000, 0, 0), probe(2, 3000)[44:]...), ProbeBadTag},
		{"no such session", appendProbe(nil, 2, at+3000, 8, testKey), ProbeNoSession},
		{"another session's key", appendProbe(nil, 2, at+3000, 10, testKey), ProbeBadTag},
		{"flipped number", change(probe(2, 3000), 3, 1), ProbeBadTag},
		{"flipped time", change(probe(2, 3000), 11, 1), ProbeBadTag},
		{"flipped padding", change(probe(2, 3000), 30, 1), ProbeBadTag},
		{"flipped tag", change(probe(2, 3000), 63, 1), ProbeBadTag},
		{"answer", change(probe(2, 3000), 55, 1), ProbeBadTag},
		{"type", change(probe(2, 3000), 45, 1), ProbeUnauthenticated},
		{"length", change(probe(2, 3000), 47, 1), ProbeUnauthenticated},
		{"flags are not covered", change(probe(2, 3000), 44, 0x40), ProbeReflected},
		{"cut off", probe(3, 4000)[:60], ProbeUnauthenticated},
	} {
		frame := datagram(asker4, reflector4, tt.payload)
		if own%2 == 1 {
			frame = datagram(asker6, reflector6, tt.payload)
		}
		v, code, out := probeVerdict(t, c, frame)
		if v != tt.want || (code == xdpTX) != (v == ProbeReflected) || code == xdpPass {
			t.Fatalf("%s: %v, code %d; want %v", tt.name, v, code, tt.want)
		}
		if v != ProbeReflected {
			continue
		}
		payload := checkAnswer(t, frame, out)
		if r := decodeStamp(payload); r.sequence != own || r.senderSequence != binary.BigEndian.Uint32(tt.payload) {
			t.Errorf("%s: answer %+v, want number %d", tt.name, r, own)
		}
		own++
		if payload[44]&0x80 != 0 || payload[55] != 1 || binary.LittleEndian.Uint64(payload[56:]) != probeTag(payload, testKey) {
			t.Errorf("%s: TLV %x", tt.name, payload[44:])
		}
	}
	if l, err := paths.Live(3); err != nil || l.Request == 0 || l.Reply != 0 {
		t.Errorf("live %+v, %v: want the request's time alone", l, err)
	}
	// The sessions stay as they were, also when others change.
	must(t, c.SetSessions(map[uint32]Session{9: {Key: testKey, Path: 3}, 11: {}}))
	if v, _, _ := probeVerdict(t, c, datagram(asker4, reflector4, probe(2, 3000))); v != ProbeReplayed {
		t.Errorf("after setting the same session: %v", v)
	}
	must(t, c.SetSessions(nil))
	if v, _, _ := probeVerdict(t, c, datagram(asker4, reflector4, probe(9, 9000))); v != ProbeNoSession {
		t.Errorf("after removing it: %v", v)
	}
}

// TestReflectorMutations: no damaged probe is answered, whatever is damaged in
// what the tag covers.
func TestReflectorMutations(t *testing.T) {
	c := loadTestCarrier(t, CarrierConfig{})
	must(t, c.SetReflector(Reflector{Port: stampPort}), c.SetSessions(map[uint32]Session{9: {Key: testKey}}))
	r := seed(t)
	for n := range uint32(3000) {
		src, dst := asker4, reflector4
		if n%2 == 1 {
			src, dst = asker6, reflector6
		}
		good := datagram(src, dst, appendProbe(nil, n, uint64(n+1)<<20, 9, testKey))
		frame := mutate(r, bytes.Clone(good))
		v, code, out := probeVerdict(t, c, frame)
		if code != xdpTX {
			continue
		}
		l4 := udpOffset(good)
		covered := func(f []byte) []byte {
			b := bytes.Clone(f[l4+8 : l4+8+64])
			b[44] = 0 // flags
			return b
		}
		if v != ProbeReflected || len(out) < l4+72 || frame[12] != good[12] || !bytes.Equal(covered(frame), covered(good)) {
			t.Fatalf("%x changed to %x was answered", good, frame)
		}
	}
}

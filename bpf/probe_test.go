package bpf

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"testing"
)

// Offsets and values of the wire format, as in reflector.bpf.c.
const (
	stampLen      = 44
	tlvType       = 252
	tlvLen        = 16
	tlvUnknown    = 0x80
	errorEstimate = 0x1601
)

// The tests' own making of probes, beside that of package stamp and of the programs.

// appendProbe appends a session-sender test packet (RFC 8762, section 4.2.1)
// with our tag. at is [NTP].
func appendProbe(b []byte, sequence uint32, at uint64, session uint32, key ProbeKey) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint32(b, sequence)
	b = binary.BigEndian.AppendUint64(b, at)
	b = binary.BigEndian.AppendUint16(b, errorEstimate)
	b = append(b, make([]byte, stampLen-14)...)
	b = append(b, tlvUnknown, tlvType, 0, tlvLen)
	b = binary.BigEndian.AppendUint32(b, session)
	b = binary.BigEndian.AppendUint32(b, 0) // asking
	return binary.LittleEndian.AppendUint64(b, probeTag(b[start:], key))
}

// probeTag is the tag over the first 56 bytes of a probe, the TLV's flags
// counting as 0: SipHash-2-4.
func probeTag(b []byte, key ProbeKey) uint64 {
	const length = stampLen + 12
	k0, k1 := binary.LittleEndian.Uint64(key[:]), binary.LittleEndian.Uint64(key[8:])
	v0, v1, v2, v3 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d, k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	for i := 0; i < length; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if i == stampLen-4 {
			w &^= 0xff << 32
		}
		v3 ^= w
		round()
		round()
		v0 ^= w
	}
	const last = length << 56 & (1<<64 - 1)
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}

// TestTagVector: SipHash-2-4 of the bytes 0 to 55 under the key 0 to 15, with
// byte 44, the flags, as 0; the value is OpenSSL's.
func TestTagVector(t *testing.T) {
	key, b := ProbeKey{}, make([]byte, 56)
	for i := range key {
		key[i] = byte(i)
	}
	for i := range b {
		b[i] = byte(i)
	}
	if got := probeTag(b, key); got != 0xda6df54b0a899edc {
		t.Errorf("tag %x", got)
	}
	b2 := bytes.Clone(b)
	b2[44] = 0xff
	if probeTag(b, key) != probeTag(b2, key) {
		t.Error("the flags count")
	}
	b2[45]++
	if probeTag(b, key) == probeTag(b2, key) {
		t.Error("the type does not count")
	}
}

package stamp

import (
	"encoding/binary"
	"math/bits"
)

// siphash24 is SipHash-2-4 (Aumasson and Bernstein, 2012) of a message in 64-bit little-endian words, the last of which
// holds the rest and the length, as the BPF programs compute it without a loop over bytes.
func siphash24(k *[2]uint64, words *[tagWords]uint64) uint64 {
	v0, v1 := k[0]^0x736f6d6570736575, k[1]^0x646f72616e646f6d
	v2, v3 := k[0]^0x6c7967656e657261, k[1]^0x7465646279746573
	for _, m := range words {
		v3 ^= m
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= m
	}
	v2 ^= 0xff
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
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
	return v0, v1, v2, v3
}

const (
	tagMessage = PacketLen + 12 // bytes under the tag
	tagWords   = tagMessage/8 + 1
	tagFlags   = PacketLen // of these bytes, the one that counts as 0
)

// tag computes the tag of a whole packet of Len bytes (package comment, Layout).
func (k *Key) tag(b []byte) uint64 {
	var m [tagWords]uint64
	for i := range tagMessage / 8 {
		m[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	m[tagFlags/8] &^= 0xff << (tagFlags % 8 * 8)
	m[tagMessage/8] = tagMessage << 56
	return siphash24(&k.words, &m)
}

package fec

import "github.com/klauspost/reedsolomon"

const (
	// lengthBytes is the length prefix of a symbol.
	lengthBytes = 2
	// padTo is the multiple internal buffers are padded to: the SIMD loops then never meet a remainder, which halves
	// their time.
	padTo = 64
)

// gf has the SIMD arithmetic; its zero value is ready and safe for concurrent use.
var gf reedsolomon.LowLevel

// padded rounds n up to the multiple that buffers have.
func padded(n int) int { return (n + padTo - 1) &^ (padTo - 1) }

// coefficient is the factor of the source symbol at position pos in a repair made with key over n symbols. It is
// stateless (the finaliser of SplitMix64 over key and position), so a receiver computes only the factors it needs.
func coefficient(key uint32, pos, n int) byte {
	if n == 1 {
		return 1
	}
	x := (uint64(key)<<32 | uint64(uint32(pos))) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return byte(1 + (x>>32*255)>>32)
}

// symbol is a source symbol in a buffer that is reused. The bytes from size up to padded(size) are zero.
type symbol struct {
	buf  []byte
	size int // length prefix and payload
}

// set makes s the symbol of payload; stride is the size of a new buffer.
func (s *symbol) set(payload []byte, stride int) {
	if s.buf == nil {
		s.buf = make([]byte, stride)
	}
	s.buf[0], s.buf[1] = byte(len(payload)>>8), byte(len(payload))
	s.size = lengthBytes + copy(s.buf[lengthBytes:], payload)
	clear(s.buf[s.size:padded(s.size)])
}

// addTo adds c times s to acc, which is at least padded(s.size) long.
func (s *symbol) addTo(acc []byte, c byte) {
	n := padded(s.size)
	gf.GalMulSliceXor(c, s.buf[:n], acc[:n])
}

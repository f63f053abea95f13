package lab

import (
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
)

// Stream is an endless incompressible byte stream that depends on nothing but its seed and its id, so that a receiver
// can check what it got without the sender's help. The zero value is not usable; one goroutine at a time.
type Stream struct {
	src *rand.ChaCha8
}

// NewStream returns the stream of (seed, id) from its first byte.
func NewStream(seed, id uint64) *Stream {
	var in [40]byte
	copy(in[:], "landbridge lab payload: ")
	binary.BigEndian.PutUint64(in[24:], seed)
	binary.BigEndian.PutUint64(in[32:], id)
	return &Stream{src: rand.NewChaCha8(sha256.Sum256(in[:]))}
}

// Read fills p and never fails.
func (s *Stream) Read(p []byte) (int, error) { return s.src.Read(p) }

// StreamSum returns the SHA-256 of the first n bytes of the stream of (seed, id).
func StreamSum(seed, id uint64, n int64) [sha256.Size]byte {
	h := sha256.New()
	// A Stream does not fail and a hash takes everything: the copy cannot end early.
	_, _ = io.CopyBuffer(h, io.LimitReader(NewStream(seed, id), n), make([]byte, 64<<10))
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	return sum
}

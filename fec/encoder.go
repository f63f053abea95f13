package fec

import (
	"errors"
	"fmt"
)

const (
	// MaxWindow is the most source symbols one repair may cover. It bounds the work a repair causes on both sides:
	// 512 packets are 20 to 50 ms at 120 to 300 Mbit/s.
	MaxWindow = 512
	// MaxPayload is the largest payload of a source packet, in bytes: a jumbo frame. It bounds the buffers.
	MaxPayload = 9216
)

// Errors that callers tell apart; they come wrapped, with the offending values.
var (
	// ErrRange means that a repair was asked for over packets that the encoder does not hold, or claims to cover
	// more packets than a repair may.
	ErrRange = errors.New("range of packets out of limits")
	// ErrSymbol means that a repair symbol has a length no repair symbol can have.
	ErrSymbol = errors.New("repair symbol of impossible length")
)

// Encoder makes repair symbols over the last packets of a lane. Not safe for concurrent use; use NewEncoder.
type Encoder struct {
	window     int
	maxPayload int
	ring       []symbol // slot of a sequence number: seq % window
	next       uint64   // successor of the newest packet
	held       int      // packets in the window, ending before next
	acc        []byte
}

// NewEncoder returns an encoder that holds the last window packets, each of at most maxPayload bytes. window is limited
// to 1..MaxWindow and maxPayload to 1..MaxPayload.
func NewEncoder(window int, maxPayload int) *Encoder {
	window = min(max(window, 1), MaxWindow)
	maxPayload = min(max(maxPayload, 1), MaxPayload)
	return &Encoder{
		window:     window,
		maxPayload: maxPayload,
		ring:       make([]symbol, window),
		acc:        make([]byte, padded(lengthBytes+maxPayload)),
	}
}

// Add takes the source packet with lane sequence number seq into the window and forgets the one that is too old for
// it. It copies payload. Sequence numbers are consecutive: with any other seq than the successor the window starts
// anew. A payload above the encoder's limit cannot be protected: it empties the window and is not in it.
func (e *Encoder) Add(seq uint64, payload []byte) {
	if seq != e.next {
		e.held = 0
	}
	e.next = seq + 1
	if len(payload) > e.maxPayload {
		e.held = 0
		return
	}
	e.ring[seq%uint64(e.window)].set(payload, len(e.acc))
	e.held = min(e.held+1, e.window)
}

// Window is the range of packets that a repair made now could cover: n packets beginning at first.
func (e *Encoder) Window() (first uint64, n int) {
	return e.next - uint64(e.held), e.held
}

// Repair appends to dst the repair symbol with this key over n packets beginning at first, all of which must be inside
// the window; otherwise it returns dst as it was and an error that wraps ErrRange. The symbol is 2 bytes longer than
// the longest payload it covers.
func (e *Encoder) Repair(dst []byte, first uint64, n int, key uint32) ([]byte, error) {
	oldest, held := e.Window()
	if n < 1 || n > held || first-oldest > uint64(held-n) {
		return dst, fmt.Errorf("fec: repair over %d packets from %d, have %d from %d: %w", n, first, held, oldest, ErrRange)
	}
	slot := int(first % uint64(e.window))
	size := e.Size(first, n)
	acc := e.acc[:padded(size)]
	clear(acc)
	for i, s := 0, slot; i < n; i++ {
		e.ring[s].addTo(acc, coefficient(key, i, n))
		if s++; s == e.window {
			s = 0
		}
	}
	return append(dst, acc[:size]...), nil
}

// Size is the length of a symbol over n packets beginning at first, which are inside the window.
func (e *Encoder) Size(first uint64, n int) int {
	size := 0
	for i, s := 0, int(first%uint64(e.window)); i < n; i++ {
		size = max(size, e.ring[s].size)
		if s++; s == e.window {
			s = 0
		}
	}
	return size
}

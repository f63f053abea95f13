package fec

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

const (
	// MaxSkew is how many source packets a repair, or a source, may lag behind the newest packet and still be of use,
	// beyond the window: the difference in delay between paths, 100 ms at 15,000 packets a second. It bounds the
	// source symbols a decoder keeps (window + MaxSkew, rounded up to a power of two).
	MaxSkew = 1536
	// MaxPending bounds the repair symbols that wait for missing packets: above 20 % of what is kept of the sources.
	// When it is reached, the repair that ends first goes.
	MaxPending = 512
	// MaxUnknowns bounds the packets recovered in one go, hence the time a single call takes (a few milliseconds).
	// With windows of 512 packets and 20 % overhead about 100 are ever recoverable together.
	MaxUnknowns = 128
)

// ErrInconsistent marks a repair that contradicts the packets it claims to cover.
var ErrInconsistent = errors.New("repair contradicts the packets it covers")

// Packet is a recovered source packet. Payload is freshly allocated and belongs to the caller.
type Packet struct {
	Seq     uint64
	Payload []byte
}

// Stats counts what a decoder met since it was made.
type Stats struct {
	Recovered    uint64 // packets recovered
	Duplicate    uint64 // sources that were known already
	TooOld       uint64 // sources and repairs too far behind the newest packet
	Rejected     uint64 // sources and repairs with arguments out of limits
	Redundant    uint64 // repairs that had nothing to add: all they cover was known
	Expired      uint64 // repairs that waited for missing packets until they were too old
	Evicted      uint64 // repairs dropped because MaxPending was reached
	Inconsistent uint64 // repairs dropped because they contradict other data
}

// equation is a repair that covers missing packets: [first, end), coefficients from key.
type equation struct {
	first, end uint64
	key        uint32
	sum        symbol
	lo, hi     int  // ranks among the missing packets of its first one and of the one after its last; see rank
	dead       bool // sweep removes it
}

func (e *equation) coefficient(seq uint64) byte {
	return coefficient(e.key, int(seq-e.first), int(e.end-e.first))
}

// Decoder recovers lost packets of a lane from repairs. Not safe for concurrent use; use NewDecoder.
//
// Repairs wait as they came: packets differ in delay between paths, so most of what a fresh repair misses is late and
// not lost, and arithmetic on it would be wasted. On each arrival the decoder only compares, for runs of missing
// packets, their number with that of the repairs that cover nothing else missing (tight, in search.go); when there are
// enough repairs, it solves for the run (solve.go).
type Decoder struct {
	window     int
	maxPayload int
	stride     int // bytes of a buffer

	ring  []symbol // a power of two; slot of a sequence number: seq & mask
	mask  uint64
	known []uint64 // bitmap over the slots
	end   uint64   // successor of the newest sequence number heard of

	pending []*equation // by (end, first); each covers at least one missing packet
	free    []*equation // for reuse, with their buffers
	// Bounds of the packets that pending repairs cover, to pass over most arrivals.
	pendingFirst, pendingEnd uint64

	prefix []int32 // known packets before each word of the bitmap; see rank
	search searcher
	solver solver
	stats  Stats
}

// NewDecoder returns a decoder for a lane whose repairs cover at most window packets of at most maxPayload bytes.
// window is limited to 1..MaxWindow and maxPayload to 1..MaxPayload. A decoder keeps at most window+MaxSkew source
// symbols (rounded up to a power of two) and MaxPending repair symbols.
func NewDecoder(window int, maxPayload int) *Decoder {
	window = min(max(window, 1), MaxWindow)
	maxPayload = min(max(maxPayload, 1), MaxPayload)
	keep := 1 << bits.Len(uint(window+MaxSkew-1))
	return &Decoder{
		window:     window,
		maxPayload: maxPayload,
		stride:     padded(lengthBytes + maxPayload),
		ring:       make([]symbol, keep),
		mask:       uint64(keep - 1),
		known:      make([]uint64, keep/64),
		prefix:     make([]int32, keep/64+2),
	}
}

// Stats returns the counters.
func (d *Decoder) Stats() Stats { return d.stats }

// Pending is the number of repairs that wait for missing packets.
func (d *Decoder) Pending() int { return len(d.pending) }

// Has reports whether the packet was received or recovered and is still kept.
func (d *Decoder) Has(seq uint64) bool {
	return seq < d.end && seq >= d.base() && d.isKnown(seq)
}

// Source notes that a source packet arrived, by whatever way and in any order, and appends to out the packets that
// this lets the decoder recover. It copies payload. A packet that is known or too old costs nothing.
func (d *Decoder) Source(seq uint64, payload []byte, out []Packet) []Packet {
	switch {
	case len(payload) > d.maxPayload || seq == ^uint64(0):
		d.stats.Rejected++
		return out
	case seq >= d.end:
		d.advance(seq + 1)
	case seq < d.base():
		d.stats.TooOld++
		return out
	case d.isKnown(seq):
		d.stats.Duplicate++
		return out
	}
	d.ring[seq&d.mask].set(payload, d.stride)
	d.setKnown(seq)
	if len(d.pending) > 0 && seq >= d.pendingFirst && seq < d.pendingEnd {
		out = d.recover(out)
	}
	return out
}

// Repair takes the repair symbol with this key over n packets beginning at first, and appends to out the packets that
// this lets the decoder recover. It copies symbol. The error wraps ErrRange or ErrSymbol when the arguments are out of
// limits (nothing has happened then), ErrInconsistent when the repair cannot be over the packets it claims to cover. A
// repair that comes too late is no error.
func (d *Decoder) Repair(first uint64, n int, key uint32, symbol []byte, out []Packet) ([]Packet, error) {
	if n < 1 || n > d.window || first > ^uint64(0)-uint64(n) {
		d.stats.Rejected++
		return out, fmt.Errorf("fec: repair over %d packets from %d, allowed 1..%d: %w", n, first, d.window, ErrRange)
	}
	if len(symbol) < lengthBytes || len(symbol) > lengthBytes+d.maxPayload {
		d.stats.Rejected++
		return out, fmt.Errorf("fec: repair symbol of %d bytes, allowed %d..%d: %w",
			len(symbol), lengthBytes, lengthBytes+d.maxPayload, ErrSymbol)
	}
	end := first + uint64(n)
	if end > d.end {
		d.advance(end)
	}
	if first < d.base() {
		d.stats.TooOld++
		return out, nil
	}
	if d.complete(first, end) {
		d.stats.Redundant++
		return out, nil
	}
	for seq := first; seq < end; seq++ {
		if d.isKnown(seq) && d.ring[seq&d.mask].size > len(symbol) {
			d.stats.Inconsistent++
			return out, fmt.Errorf("fec: repair symbol of %d bytes over packet %d of %d: %w",
				len(symbol), seq, d.ring[seq&d.mask].size-lengthBytes, ErrInconsistent)
		}
	}
	d.insert(first, end, key, symbol)
	return d.recover(out), nil
}

// recover solves for runs of missing packets until there is none left that has enough repairs. Every turn recovers a
// packet or drops a repair.
func (d *Decoder) recover(out []Packet) []Packet {
	for {
		d.rank()
		run, ok := d.search.tight(d.pending)
		if !ok {
			return out
		}
		out = d.solve(run, out)
	}
}

// base is the oldest sequence number that has a slot.
func (d *Decoder) base() uint64 {
	if keep := uint64(len(d.ring)); d.end > keep {
		return d.end - keep
	}
	return 0
}

func (d *Decoder) isKnown(seq uint64) bool {
	slot := seq & d.mask
	return d.known[slot/64]>>(slot%64)&1 != 0
}

func (d *Decoder) setKnown(seq uint64) {
	slot := seq & d.mask
	d.known[slot/64] |= 1 << (slot % 64)
}

// advance makes end the successor of the newest packet; the slots it takes over become those of missing packets.
func (d *Decoder) advance(end uint64) {
	if end-d.end >= uint64(len(d.ring)) {
		clear(d.known)
	} else {
		for seq := d.end; seq < end; seq++ {
			slot := seq & d.mask
			d.known[slot/64] &^= 1 << (slot % 64)
		}
	}
	d.end = end
	if len(d.pending) > 0 && d.pendingFirst < d.base() {
		d.expire()
	}
}

// expire drops the repairs over packets that have no slot any more.
func (d *Decoder) expire() {
	base := d.base()
	for _, e := range d.pending {
		if e.first < base {
			e.dead = true
			d.stats.Expired++
		}
	}
	d.sweep()
}

// complete reports whether all packets in [first, end) are known.
func (d *Decoder) complete(first, end uint64) bool {
	for seq := first; seq < end; {
		slot := seq & d.mask
		n := min(64-slot%64, end-seq)
		if ^d.known[slot/64]>>(slot%64)<<(64-n) != 0 {
			return false
		}
		seq += n
	}
	return true
}

// insert puts a repair in its place among those pending.
func (d *Decoder) insert(first, end uint64, key uint32, sym []byte) {
	if len(d.pending) == MaxPending {
		d.stats.Evicted++
		d.free = append(d.free, d.pending[0])
		d.pending = slices.Delete(d.pending, 0, 1)
	}
	var e *equation
	if n := len(d.free); n > 0 {
		e, d.free = d.free[n-1], d.free[:n-1]
	} else {
		e = &equation{sum: symbol{buf: make([]byte, d.stride)}}
	}
	e.first, e.end, e.key, e.dead = first, end, key, false
	e.sum.size = copy(e.sum.buf, sym)
	clear(e.sum.buf[e.sum.size:padded(e.sum.size)])
	i := len(d.pending)
	for i > 0 && (d.pending[i-1].end > end || d.pending[i-1].end == end && d.pending[i-1].first > first) {
		i--
	}
	d.pending = slices.Insert(d.pending, i, e)
	d.bounds()
}

// sweep removes the dead from the pending repairs.
func (d *Decoder) sweep() {
	kept := d.pending[:0]
	for _, e := range d.pending {
		if e.dead {
			d.free = append(d.free, e)
		} else {
			kept = append(kept, e)
		}
	}
	clear(d.pending[len(kept):])
	d.pending = kept
	d.bounds()
}

func (d *Decoder) bounds() {
	d.pendingFirst, d.pendingEnd = ^uint64(0), 0
	for _, e := range d.pending {
		d.pendingFirst = min(d.pendingFirst, e.first)
		d.pendingEnd = max(d.pendingEnd, e.end)
	}
}

// rank gives every pending repair the ranks of its bounds among the missing packets, and drops those that miss none
// any more. Ranks count from the beginning of the bitmap word that has the oldest packet.
func (d *Decoder) rank() {
	if len(d.pending) == 0 {
		return
	}
	origin := d.base() &^ 63
	words := uint64(len(d.known))
	known := int32(0)
	for i, w := uint64(0), origin/64; w <= d.end/64; i, w = i+1, w+1 {
		d.prefix[i] = known
		known += int32(bits.OnesCount64(d.known[w%words]))
	}
	complete := false
	for _, e := range d.pending {
		e.lo, e.hi = d.missingBefore(e.first, origin), d.missingBefore(e.end, origin)
		e.dead = e.lo == e.hi
		complete = complete || e.dead
	}
	if complete {
		d.sweep()
	}
}

// missingBefore is the number of missing packets in [origin, seq), by rank's prefix sums.
func (d *Decoder) missingBefore(seq, origin uint64) int {
	w := d.known[seq/64%uint64(len(d.known))]
	known := int(d.prefix[(seq-origin)/64]) + bits.OnesCount64(w&(1<<(seq%64)-1))
	return int(seq-origin) - known
}

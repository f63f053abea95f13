package fec

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// naiveMul multiplies in GF(2^8) with the polynomial 0x11d, bit by bit.
func naiveMul(a, b byte) byte {
	var product byte
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			product ^= a
		}
		carry := a & 0x80
		a <<= 1
		if carry != 0 {
			a ^= 0x1d
		}
	}
	return product
}

func naiveInverse(a byte) byte {
	for b := 1; b < 256; b++ {
		if naiveMul(a, byte(b)) == 1 {
			return byte(b)
		}
	}
	panic("no inverse")
}

func naiveSymbol(payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(payload))), payload...)
}

// naiveRepair is Encoder.Repair from its definition.
func naiveRepair(packets [][]byte, key uint32) []byte {
	var sum []byte
	for i, payload := range packets {
		symbol := naiveSymbol(payload)
		for len(sum) < len(symbol) {
			sum = append(sum, 0)
		}
		for j, b := range symbol {
			sum[j] ^= naiveMul(coefficient(key, i, len(packets)), b)
		}
	}
	return sum
}

// naiveEquation is a repair as it was sent.
type naiveEquation struct {
	first  uint64
	n      int
	key    uint32
	symbol []byte
}

func (e *naiveEquation) end() uint64 { return e.first + uint64(e.n) }

// naiveSolve is Gaussian elimination over all equations at once: what the known packets and the equations determine of
// the missing ones.
func naiveSolve(missing []uint64, equations []naiveEquation, known map[uint64][]byte) map[uint64][]byte {
	type row struct{ coefficients, symbol []byte }
	var rows []row
	for _, e := range equations {
		r := row{make([]byte, len(missing)), slices.Clone(e.symbol)}
		for seq := e.first; seq < e.end(); seq++ {
			c := coefficient(e.key, int(seq-e.first), e.n)
			if i := slices.Index(missing, seq); i >= 0 {
				r.coefficients[i] = c
				continue
			}
			for j, b := range naiveSymbol(known[seq]) {
				r.symbol[j] ^= naiveMul(c, b)
			}
		}
		rows = append(rows, r)
	}
	addTo := func(dst *row, src row, c byte) {
		for i, b := range src.coefficients {
			dst.coefficients[i] ^= naiveMul(c, b)
		}
		for len(dst.symbol) < len(src.symbol) {
			dst.symbol = append(dst.symbol, 0)
		}
		for i, b := range src.symbol {
			dst.symbol[i] ^= naiveMul(c, b)
		}
	}
	rank := 0
	for column := range missing {
		pivot := slices.IndexFunc(rows[rank:], func(r row) bool { return r.coefficients[column] != 0 })
		if pivot < 0 {
			continue
		}
		rows[rank], rows[rank+pivot] = rows[rank+pivot], rows[rank]
		inverse := naiveInverse(rows[rank].coefficients[column])
		addTo(&rows[rank], rows[rank], inverse^1)
		for r := range rows {
			if r != rank && rows[r].coefficients[column] != 0 {
				addTo(&rows[r], rows[rank], rows[r].coefficients[column])
			}
		}
		rank++
	}
	solved := map[uint64][]byte{}
	for _, r := range rows[:rank] {
		at, count := 0, 0
		for i, c := range r.coefficients {
			if c != 0 {
				at, count = i, count+1
			}
		}
		if count == 1 {
			n := int(binary.BigEndian.Uint16(r.symbol))
			solved[missing[at]] = r.symbol[lengthBytes : lengthBytes+n]
		}
	}
	return solved
}

// channel is one random course of a lane: packets, losses, the order of arrival.
type channel struct {
	packets [][]byte
	events  []event
}

type event struct {
	repair *naiveEquation // or
	seq    uint64
}

// randomChannel makes repairs over the last window packets or, now and then, over any range inside it.
func randomChannel(t testing.TB, r *rand.Rand, window, maxPayload, count int) channel {
	t.Helper()
	var c channel
	encoder := NewEncoder(window, maxPayload)
	loss := []float64{0.02, 0.1, 0.3, 0.6}[r.IntN(4)]
	ratio := []float64{0.05, 0.2, 0.5, 1}[r.IntN(4)]
	skew := []int{1, 4, count}[r.IntN(3)]
	ranges := r.IntN(3) // 0: the whole window always; 1: some parts of it; 2: mostly parts
	base := uint64(r.IntN(3)) * uint64(r.IntN(5000))
	type timed struct {
		at float64
		e  event
	}
	var order []timed
	send := func(at int, e event) {
		if r.Float64() < loss {
			return
		}
		for range 1 + r.IntN(20)/19 { // some twice
			order = append(order, timed{float64(at) + r.Float64()*float64(skew), e})
		}
	}
	c.packets = make([][]byte, base, int(base)+count)
	for i := range count {
		seq := base + uint64(i)
		payload := make([]byte, r.IntN(maxPayload+1))
		for j := range payload {
			payload[j] = byte(r.Uint32())
		}
		c.packets = append(c.packets, payload)
		encoder.Add(seq, payload)
		send(i, event{seq: seq})
		for p := r.Float64(); p < ratio; p += 0.5 {
			first, n := encoder.Window()
			if r.IntN(4) < ranges {
				cut := r.IntN(n)
				first, n = first+uint64(cut), 1+r.IntN(n-cut)
			}
			e := &naiveEquation{first: first, n: n, key: r.Uint32N(1 << 20)}
			var err error
			if e.symbol, err = encoder.Repair(nil, first, n, e.key); err != nil {
				t.Fatal(err)
			}
			if want := naiveRepair(c.packets[first:first+uint64(n)], e.key); !bytes.Equal(e.symbol, want) {
				t.Fatalf("repair over %d from %d: %x, want %x", n, first, e.symbol, want)
			}
			send(i, event{repair: e})
		}
	}
	slices.SortStableFunc(order, func(a, b timed) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	for _, o := range order {
		c.events = append(c.events, o.e)
	}
	return c
}

// TestDecoderAgainstOracle compares with plain elimination over everything received, for thousands of losses. What the
// decoder recovers must be right, must be determined, and must comprise every run of missing packets that the repairs
// inside it determine. Beyond that the oracle finds packets when coefficients happen to cancel; they are counted.
func TestDecoderAgainstOracle(t *testing.T) {
	random := rand.New(rand.NewPCG(seed(t), 10))
	recovered, lucky := 0, 0
	for pattern := range 3000 {
		window := 1 + random.IntN(24)
		c := randomChannel(t, random, window, 1+random.IntN(20), 10+random.IntN(40))
		d := NewDecoder(window, 20)
		known := map[uint64][]byte{}
		var equations []naiveEquation
		for step, e := range c.events {
			var out []Packet
			if e.repair != nil {
				var err error
				if out, err = d.Repair(e.repair.first, e.repair.n, e.repair.key, e.repair.symbol, nil); err != nil {
					t.Fatalf("pattern %d: %v", pattern, err)
				}
				equations = append(equations, *e.repair)
			} else {
				out = d.Source(e.seq, c.packets[e.seq], nil)
				known[e.seq] = c.packets[e.seq]
			}
			for _, p := range out {
				if known[p.Seq] != nil {
					t.Fatalf("pattern %d: packet %d recovered that was known", pattern, p.Seq)
				}
				if !bytes.Equal(p.Payload, c.packets[p.Seq]) {
					t.Fatalf("pattern %d: packet %d is %x, want %x", pattern, p.Seq, p.Payload, c.packets[p.Seq])
				}
				known[p.Seq] = c.packets[p.Seq]
				recovered++
			}
			if step == len(c.events)-1 || step%8 == 0 {
				lucky += compareWithOracle(t, pattern, d, equations, known, step == len(c.events)-1)
			}
		}
		checkInvariants(t, d)
	}
	t.Logf("%d recovered, %d more by luck", recovered, lucky)
	if recovered < 1000 || lucky > recovered/50 {
		t.Errorf("recovered %d, missed %d that the oracle found", recovered, lucky)
	}
}

// compareWithOracle fails the test if a run of missing packets that can be solved was not, and returns how many packets
// the oracle knows that the decoder does not.
func compareWithOracle(t *testing.T, pattern int, d *Decoder, equations []naiveEquation, known map[uint64][]byte, full bool) int {
	t.Helper()
	var missing []uint64
	for _, e := range equations {
		for seq := e.first; seq < e.end(); seq++ {
			if known[seq] == nil && !slices.Contains(missing, seq) {
				missing = append(missing, seq)
			}
		}
	}
	slices.Sort(missing)
	for i := range missing {
		for j := i + 1; j <= len(missing); j++ {
			in := missing[i:j]
			var inside []naiveEquation
			for _, e := range equations {
				from, _ := slices.BinarySearch(missing, e.first)
				to, _ := slices.BinarySearch(missing, e.end())
				if from >= i && to <= j && from < to {
					inside = append(inside, e)
				}
			}
			if len(inside) < len(in) {
				continue
			}
			if len(naiveSolve(in, inside, known)) == len(in) {
				t.Fatalf("pattern %d: packets %d can be solved, pending %d", pattern, in, d.Pending())
			}
		}
	}
	if !full || len(missing) == 0 {
		return 0
	}
	return len(naiveSolve(missing, equations, known))
}

// checkInvariants verifies what the decoder relies on.
func checkInvariants(t testing.TB, d *Decoder) {
	t.Helper()
	if n := len(d.pending) + len(d.free); n > MaxPending+1 {
		t.Fatalf("%d repairs kept, limit %d", n, MaxPending)
	}
	for i, e := range d.pending {
		if e.first < d.base() || e.end > d.end || e.dead {
			t.Fatalf("pending repair over %d..%d, kept %d..%d, dead %v", e.first, e.end, d.base(), d.end, e.dead)
		}
		if i > 0 && (d.pending[i-1].end > e.end || d.pending[i-1].end == e.end && d.pending[i-1].first > e.first) {
			t.Fatalf("pending repairs out of order at %d", i)
		}
		if d.complete(e.first, e.end) {
			t.Fatalf("pending repair over %d..%d misses nothing", e.first, e.end)
		}
		if e.first < d.pendingFirst || e.end > d.pendingEnd {
			t.Fatalf("pending repair over %d..%d outside of bounds %d..%d", e.first, e.end, d.pendingFirst, d.pendingEnd)
		}
	}
	for seq := d.base(); seq < d.end; seq++ {
		if !d.isKnown(seq) {
			continue
		}
		s := &d.ring[seq&d.mask]
		if int(binary.BigEndian.Uint16(s.buf))+lengthBytes != s.size {
			t.Fatalf("packet %d: size %d, length field %d", seq, s.size, binary.BigEndian.Uint16(s.buf))
		}
		for _, b := range s.buf[s.size:padded(s.size)] {
			if b != 0 {
				t.Fatalf("packet %d: padding not zero", seq)
			}
		}
	}
}

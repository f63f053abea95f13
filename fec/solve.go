package fec

import (
	"encoding/binary"

	"github.com/klauspost/reedsolomon"
)

// solver is the memory that solving needs; it grows to what the largest run needed.
type solver struct {
	missing []uint64    // sequence numbers of the run, one per column
	rows    []*equation // the independent repairs found, one per row
	pivots  []int       // per row: its column with a 1 where all other rows have a 0
	sums    []symbol    // per row: the repair less what is known of it
	used    []bool      // per row: some packet that can be recovered needs it
	matrix  []byte      // row r: its coefficients over missing; then, at half, which multiples of rows it is the sum of
	half    int
}

func (s *solver) row(r int) []byte     { return s.matrix[2*s.half*r : 2*s.half*(r+1)] }
func (s *solver) factors(r int) []byte { return s.row(r)[s.half : s.half+len(s.rows)] }

// solve recovers packets of a tight run, or drops the repairs that turn out to be of no use: it does at least one of
// the two. It works on coefficients first, and on payloads only for the packets that can be recovered then.
func (d *Decoder) solve(in run, out []Packet) []Packet {
	s := &d.solver
	d.setup(in)
	for _, e := range d.pending {
		if len(s.rows) == len(s.missing) {
			break // what is left will turn out complete
		}
		if e.lo >= in.lo && e.hi <= in.hi && !s.add(e) {
			e.dead = true
			d.stats.Redundant++
		}
	}
	size := s.use()
	if d.sumUp(size) && d.combine(size) {
		out = d.release(out)
	} else {
		for r, e := range s.rows {
			if s.used[r] {
				e.dead = true
				d.stats.Inconsistent++
			}
		}
	}
	d.sweep()
	return out
}

// setup lists the missing packets of the run and empties the matrix.
func (d *Decoder) setup(in run) {
	s := &d.solver
	s.rows, s.pivots, s.missing = s.rows[:0], s.pivots[:0], s.missing[:0]
	for _, e := range d.pending {
		if e.lo != in.lo || e.hi > in.hi {
			continue
		}
		for seq := e.first; len(s.missing) < in.hi-in.lo; seq++ {
			if !d.isKnown(seq) {
				s.missing = append(s.missing, seq)
			}
		}
		break
	}
	k := len(s.missing)
	s.half = padded(k)
	if n := 2 * s.half * k; cap(s.matrix) < n {
		s.matrix = make([]byte, n)
	} else {
		s.matrix = s.matrix[:n]
		clear(s.matrix)
	}
	for len(s.sums) < k {
		s.sums = append(s.sums, symbol{})
		s.used = append(s.used, false)
	}
}

// add makes a row of a repair and keeps the matrix in reduced row echelon form (up to the order of rows). It reports
// false when the repair depends on those added before.
func (s *solver) add(e *equation) bool {
	r := len(s.rows)
	row := s.matrix[2*s.half*r : 2*s.half*(r+1)]
	clear(row)
	for i, seq := range s.missing {
		if seq >= e.first && seq < e.end {
			row[i] = e.coefficient(seq)
		}
	}
	row[s.half+r] = 1
	for other, column := range s.pivots {
		if f := row[column]; f != 0 {
			gf.GalMulSliceXor(f, s.row(other), row)
		}
	}
	pivot := 0
	for pivot < len(s.missing) && row[pivot] == 0 {
		pivot++
	}
	if pivot == len(s.missing) {
		return false
	}
	gf.GalMulSlice(reedsolomon.Inv(row[pivot]), row, row)
	for other := range s.pivots {
		if f := s.row(other)[pivot]; f != 0 {
			gf.GalMulSliceXor(f, row, s.row(other))
		}
	}
	s.rows = append(s.rows, e)
	s.pivots = append(s.pivots, pivot)
	return true
}

// alone reports whether row r has nothing but its pivot left, and so is the packet of that column.
func (s *solver) alone(r int) bool {
	for i, f := range s.row(r)[:len(s.missing)] {
		if f != 0 && i != s.pivots[r] {
			return false
		}
	}
	return true
}

// use marks the rows needed for the packets that can be recovered and returns the size of their longest symbol.
func (s *solver) use() (size int) {
	clear(s.used)
	for r := range s.rows {
		if !s.alone(r) {
			continue
		}
		for i, f := range s.factors(r) {
			if f != 0 {
				s.used[i] = true
				size = max(size, s.rows[i].sum.size)
			}
		}
	}
	return size
}

// sumUp takes the known packets out of the repairs in use. It reports false when a known packet is longer than a repair
// over it.
func (d *Decoder) sumUp(size int) bool {
	s := &d.solver
	from, to := ^uint64(0), uint64(0)
	for r, e := range s.rows {
		if !s.used[r] {
			continue
		}
		sum := &s.sums[r]
		if sum.buf == nil {
			sum.buf = make([]byte, d.stride)
		}
		copy(sum.buf, e.sum.buf[:padded(e.sum.size)])
		clear(sum.buf[padded(e.sum.size):padded(size)])
		sum.size = size
		from, to = min(from, e.first), max(to, e.end)
	}
	// A packet at a time for all repairs, not the other way round: it stays in the cache.
	for seq := from; seq < to; seq++ {
		if !d.isKnown(seq) {
			continue
		}
		source := &d.ring[seq&d.mask]
		for r, e := range s.rows {
			if !s.used[r] || seq < e.first || seq >= e.end {
				continue
			}
			if source.size > e.sum.size {
				return false
			}
			source.addTo(s.sums[r].buf, e.coefficient(seq))
		}
	}
	return true
}

// combine computes the packets that can be recovered, in their slots. It reports false when one of them cannot be a
// source symbol: its length is impossible, or what follows it is not zero.
func (d *Decoder) combine(size int) bool {
	s := &d.solver
	for r := range s.rows {
		if !s.alone(r) {
			continue
		}
		slot := &d.ring[s.missing[s.pivots[r]]&d.mask]
		if slot.buf == nil {
			slot.buf = make([]byte, d.stride)
		}
		acc := slot.buf[:padded(size)]
		clear(acc)
		for i, f := range s.factors(r) {
			if f != 0 {
				s.sums[i].addTo(acc, f)
			}
		}
		slot.size = lengthBytes + int(binary.BigEndian.Uint16(acc))
		if slot.size > size {
			return false
		}
		for _, b := range acc[slot.size:] {
			if b != 0 {
				return false
			}
		}
	}
	return true
}

// release makes the recovered packets known and appends copies of them to out, in the order of the lane.
func (d *Decoder) release(out []Packet) []Packet {
	s := &d.solver
	for r := range s.rows {
		if s.alone(r) {
			d.setKnown(s.missing[s.pivots[r]])
		}
	}
	for _, seq := range s.missing {
		if d.isKnown(seq) {
			slot := &d.ring[seq&d.mask]
			payload := make([]byte, slot.size-lengthBytes)
			copy(payload, slot.buf[lengthBytes:slot.size])
			out = append(out, Packet{Seq: seq, Payload: payload})
			d.stats.Recovered++
		}
	}
	return out
}

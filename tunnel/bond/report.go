package bond

import (
	"encoding/binary"
	"fmt"
)

// A report tells the sender what arrived: per path the counters and the newest numbers missing, per lane everything
// still missing. It is whole in itself, so that a lost report costs only time.
//
//	flags(1) paths(1) lanes(1) [echo path(1) echo seq(4)]
//	path: id(1) largest(4) packets(4) bytes(4) received at(4) owd(4) owd min(4) span(1) n(1) bitmap(n)
//	lane: id(1) cum(4) high(4) n(1) n x {gap(varint) length(varint)}
//
// Bit i of a path's bitmap set means that largest-1-i did not arrive; bits that are left out are not set. The report says
// nothing of what is more than 8*span under largest. A lane has everything under cum; of [cum, high)
// it lacks the ranges, each gap counted from the end of the one before (the first from cum).
type report struct {
	echo     bool
	echoPath uint8
	echoSeq  uint32
	paths    []pathReport
	lanes    []laneReport
	ranges   []seqRange // backing store of the lanes' ranges
}

type pathReport struct {
	id             uint8
	largest        uint32
	packets, bytes uint32
	at             uint32 // receiver's clock, µs
	owd, owdMin    uint32 // receiver's clock minus sender's, µs, modulo 2^32
	span           uint8  // eights of numbers under largest that missing speaks of
	missing        []byte // its last bytes are left out while they are 0
}

type laneReport struct {
	id        uint8
	cum, high uint32
	ranges    []seqRange
}

// seqRange is [first, first+n).
type seqRange struct{ first, n uint32 }

const (
	flagEcho = 1
	// reportBits is how far back a path's bitmap goes at the most; the receiver reports at least every reportEvery packets,
	// so two reports in a row may be lost. With fewer packets it goes back over reportBack reports: what a peer has heard
	// of so often need not be said again.
	reportBits  = 512
	reportEvery = 160
	reportBack  = 12
	// maxRanges bounds a lane's missing ranges in one report; the rest waits for the next.
	maxRanges      = 250
	maxReportLanes = 64
)

func (r *report) reset() {
	*r = report{paths: r.paths[:0], lanes: r.lanes[:0], ranges: r.ranges[:0]}
}

// append encodes r after b, leaving out lanes that would make it longer than limit.
func (r *report) append(b []byte, limit int) []byte {
	var flags byte
	if r.echo {
		flags |= flagEcho
	}
	start := len(b)
	b = append(b, flags, byte(len(r.paths)), 0)
	if r.echo {
		b = append(b, r.echoPath)
		b = binary.BigEndian.AppendUint32(b, r.echoSeq)
	}
	for i := range r.paths {
		p := &r.paths[i]
		b = append(b, p.id)
		for _, v := range [...]uint32{p.largest, p.packets, p.bytes, p.at, p.owd, p.owdMin} {
			b = binary.BigEndian.AppendUint32(b, v)
		}
		b = append(b, p.span, byte(len(p.missing)))
		b = append(b, p.missing...)
	}
	for i := range r.lanes {
		l := &r.lanes[i]
		if len(b)-start+10 > limit {
			break
		}
		b[start+2]++
		b = append(b, l.id)
		b = binary.BigEndian.AppendUint32(b, l.cum)
		highAt := len(b)
		b = binary.BigEndian.AppendUint32(b, l.high)
		b = append(b, 0)
		pos := l.cum
		for j, g := range l.ranges {
			if j == maxRanges || len(b)-start+10 > limit {
				// What is told ends here; the next report goes on.
				binary.BigEndian.PutUint32(b[highAt:], pos)
				break
			}
			b = binary.AppendUvarint(b, uint64(g.first-pos))
			b = binary.AppendUvarint(b, uint64(g.n))
			b[highAt+4]++
			pos = g.first + g.n
		}
	}
	return b
}

// parse decodes b into r, reusing r's slices; the bitmaps point into b.
func (r *report) parse(b []byte) error {
	r.reset()
	if len(b) < 3 {
		return fmt.Errorf("%w: report of %d bytes", ErrMalformed, len(b))
	}
	flags, np, nl := b[0], int(b[1]), int(b[2])
	b = b[3:]
	if flags&^flagEcho != 0 || np > maxPaths || nl > maxReportLanes {
		return fmt.Errorf("%w: report with flags %#x, %d paths, %d lanes", ErrMalformed, flags, np, nl)
	}
	if flags&flagEcho != 0 {
		if len(b) < 5 || b[0] >= maxPaths {
			return fmt.Errorf("%w: report echo", ErrMalformed)
		}
		r.echo, r.echoPath, r.echoSeq = true, b[0], binary.BigEndian.Uint32(b[1:])
		b = b[5:]
	}
	for range np {
		if len(b) < 27 || len(b) < 27+int(b[26]) || b[25] > reportBits/8 || b[26] > b[25] || b[0] >= maxPaths {
			return fmt.Errorf("%w: report path section", ErrMalformed)
		}
		u := func(i int) uint32 { return binary.BigEndian.Uint32(b[1+4*i:]) }
		n := int(b[26])
		r.paths = append(r.paths, pathReport{id: b[0], largest: u(0), packets: u(1), bytes: u(2), at: u(3), owd: u(4),
			owdMin: u(5), span: b[25], missing: b[27 : 27+n]})
		b = b[27+n:]
	}
	for range nl {
		if len(b) < 10 {
			return fmt.Errorf("%w: report lane section", ErrMalformed)
		}
		l := laneReport{id: b[0], cum: binary.BigEndian.Uint32(b[1:]), high: binary.BigEndian.Uint32(b[5:])}
		n, from := int(b[9]), len(r.ranges)
		b = b[10:]
		span := uint64(l.high - l.cum)
		if span > laneWindow {
			return fmt.Errorf("%w: report of %d lane packets, allowed up to %d", ErrMalformed, span, laneWindow)
		}
		pos := uint64(0) // from cum
		for range n {
			gap, k := binary.Uvarint(b)
			if k <= 0 {
				return fmt.Errorf("%w: report range", ErrMalformed)
			}
			b = b[k:]
			length, k := binary.Uvarint(b)
			if k <= 0 || length == 0 || gap > span || length > span || pos+gap+length > span {
				return fmt.Errorf("%w: report range", ErrMalformed)
			}
			b = b[k:]
			r.ranges = append(r.ranges, seqRange{l.cum + uint32(pos+gap), uint32(length)})
			pos += gap + length
		}
		l.ranges = r.ranges[from:len(r.ranges):len(r.ranges)]
		r.lanes = append(r.lanes, l)
	}
	if len(b) != 0 {
		return fmt.Errorf("%w: %d bytes after the report", ErrMalformed, len(b))
	}
	return nil
}

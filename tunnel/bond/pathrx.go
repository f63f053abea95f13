package bond

import (
	"math"
	"net/netip"
	"time"
)

// pathRx is the receiving half of a path, in the numbering of its sender. Guarded by the bond's mutex.
type pathRx struct {
	id      uint8
	uplink  *uplink
	addr    netip.AddrPort
	pair    *pathTx // our sending half of the same path
	window  replayWindow
	largest uint64
	packets uint32
	bytes   uint32
	lastAt  stamp

	owd    int64 // newest one-way delay, as Session.relOWD gives it, µs
	owdMin int64 // least since the last report; math.MaxInt64: none
	delay  delayTracker

	lossShort   float64 // of about the last lossMemory packets sent to us, or of those of lossTime if they are fewer
	lossAt      stamp   // lastAt, largest and packets when it was last updated
	lossLargest uint64
	lossPackets uint32

	gaps       uint64
	gapAt      stamp // when a number was first skipped since the last report; 0: none was
	fresh      int   // ack-eliciting packets since the last report
	dirty      bool  // anything since the last report
	probed     bool  // the probe probeSeq waits for its report
	probeSeq   uint32
	lastSource stamp
	filling    bool // by what the newest datagram says

	said  [reportBack]uint64 // largest in the last reports
	saidN int                // reports so far

	// what Session.measure keeps: loss over about lossSpan packets, and the greatest rate, packets a second
	lossShare, peak float64
	seen            uint64
	measuredAt      stamp
	measuredLargest uint64
	measuredPackets uint32
}

func newPathRx(id uint8) *pathRx { return &pathRx{id: id, owdMin: math.MaxInt64} }

// accept notes an authenticated datagram, which passed window.fresh.
func (p *pathRx) accept(now stamp, seq uint64, owd int64, size int, eliciting bool) {
	p.window.note(seq)
	if seq > p.largest+1 {
		p.gaps++
		if p.gapAt == 0 {
			p.gapAt = now
		}
	}
	p.largest = max(p.largest, seq)
	p.packets++
	p.bytes += uint32(size)
	p.lastAt = now
	p.owd = owd
	p.owdMin = min(p.owdMin, owd)
	p.delay.add(now, owd)
	p.dirty = true
	if eliciting {
		p.fresh++
	}
}

// fates tells what came of the numbers up to the largest. What is only late counts as lost until it comes.
func (p *pathRx) fates() Fates {
	f := Fates{Packets: p.largest + 1}
	f.Lost = f.Packets - min(uint64(p.packets), f.Packets)
	f.Runs = min(p.gaps, f.Lost)
	return f
}

// section returns the path's part of a report and starts a new interval. bitmap is scratch space.
func (p *pathRx) section(bitmap []byte) (pathReport, []byte) {
	r := pathReport{id: p.id, largest: uint32(p.largest), packets: p.packets, bytes: p.bytes, at: uint32(p.lastAt),
		owd: uint32(p.owd), owdMin: uint32(p.owdMin)}
	if p.owdMin == math.MaxInt64 {
		r.owdMin = r.owd
	}
	from := len(bitmap)
	used := 0
	back := min(p.largest, reportBits)
	if p.saidN >= reportBack {
		back = min(back, p.largest-p.said[p.saidN%reportBack])
	}
	p.said[p.saidN%reportBack] = p.largest
	p.saidN++
	back = min((back+7)/8*8, p.largest)
	for i := range back {
		if i%8 == 0 {
			bitmap = append(bitmap, 0)
		}
		if p.window.missing(p.largest - 1 - i) {
			bitmap[len(bitmap)-1] |= 1 << (i % 8)
			used = int(i/8) + 1
		}
	}
	r.span = uint8((back + 7) / 8)
	bitmap = bitmap[:from+used]
	r.missing = bitmap[from:]
	p.owdMin, p.fresh, p.dirty, p.gapAt = math.MaxInt64, 0, false, 0
	p.updateLoss()
	return r, bitmap
}

// lossTime: see pathRx.lossShort.
const lossTime = 5 * time.Second

// updateLoss takes in what was skipped since the last report. What only came late counts once as lost and once as
// found, which is why the figure is bounded where it is read. What was lost while the peer found the path's rate is forgotten
// after lossTime, even if it sends little.
func (p *pathRx) updateLoss() {
	if n := float64(p.largest - p.lossLargest); n > 0 {
		got := float64(p.packets - p.lossPackets)
		p.lossShort += min(1, max(n/lossMemory, float64(p.lastAt-p.lossAt)/float64(us(lossTime)))) * (1 - got/n - p.lossShort)
		p.lossAt, p.lossLargest, p.lossPackets = p.lastAt, p.largest, p.packets
	}
}

// delayTracker follows a path's one-way delay for equalised delivery: the least of the last 5 to 10 s and the most of
// the last 0.15 to 0.3 s, each in two half windows.
type delayTracker struct {
	n           int
	least, most [2]int64 // last and current half window
	leastEnd    stamp
	mostEnd     stamp
}

const (
	baseHalf = 5 * time.Second
	edgeHalf = 150 * time.Millisecond
)

func (d *delayTracker) add(now stamp, owd int64) {
	if d.n == 0 {
		d.least, d.most = [2]int64{owd, owd}, [2]int64{owd, owd}
		d.leastEnd, d.mostEnd = now+us(baseHalf), now+us(edgeHalf)
	}
	d.n++
	if now >= d.leastEnd {
		d.least = [2]int64{d.least[1], owd}
		d.leastEnd = now + us(baseHalf)
	}
	if now >= d.mostEnd {
		d.most = [2]int64{d.most[1], owd}
		d.mostEnd = now + us(edgeHalf)
	}
	d.least[1] = min(d.least[1], owd)
	d.most[1] = max(d.most[1], owd)
}

// base is the path's delay without queues, edge the delay inside which everything arrives now, µs.
func (d *delayTracker) base() int64 { return min(d.least[0], d.least[1]) }
func (d *delayTracker) edge() int64 { return max(d.most[0], d.most[1]) }

package bond

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Each state machine of the packet path beside something too simple to be wrong.

func testRand(t testing.TB) *rand.Rand { return rand.New(rand.NewPCG(testSeed(t), 7)) }

func TestReplayWindowOracle(t *testing.T) {
	src := testRand(t)
	for range 20 {
		var w replayWindow
		seen := map[uint64]bool{}
		top := uint64(0)
		pos := uint64(src.IntN(5000))
		for range 20_000 {
			seq := pos
			switch src.IntN(10) {
			case 0:
				pos += uint64(src.IntN(3 * replayBits)) // a leap
			case 1, 2:
				seq = uint64(max(0, int64(pos)-int64(src.IntN(replayBits+100))))
			default:
				pos++
			}
			want := !seen[seq] && (seq >= top || top-seq <= replayBits)
			if got := w.fresh(seq); got != want {
				t.Fatalf("number %d under %d: fresh %v, want %v", seq, top, got, want)
			}
			if want {
				w.note(seq)
				seen[seq] = true
				top = max(top, seq+1)
			}
			if probe := uint64(src.IntN(replayBits)); probe < top {
				if seq := top - 1 - probe; w.missing(seq) == seen[seq] {
					t.Fatalf("number %d under %d: missing %v, seen %v", seq, top, w.missing(seq), seen[seq])
				}
			}
		}
	}
}

func TestExtend(t *testing.T) {
	src := testRand(t)
	for range 100_000 {
		around := src.Uint64() >> (1 + src.IntN(62))
		d := int64(int32(src.Uint32()) >> src.IntN(31)) // either way
		if int64(around)+d < 0 {
			continue
		}
		want := uint64(int64(around) + d)
		if got := extend(uint32(want), around); got != want {
			t.Fatalf("low half of %d around %d gives %d", want, around, got)
		}
		if d>>23 != 0 && d>>23 != -1 {
			continue
		}
		if got := extend24(uint32(want)&seqMask, around); got != want {
			t.Fatalf("low 24 bits of %d around %d give %d", want, around, got)
		}
	}
	if got := extend(1<<32-1, 0); got != 1<<32-1 {
		t.Errorf("there are no numbers under 0: got %d", got)
	}
}

func TestRingOracle(t *testing.T) {
	src := testRand(t)
	var r ring[int]
	var want []int
	for i := range 100_000 {
		if grow := i/2000%2 == 0; src.IntN(3) > 0 == grow {
			r.push(i)
			want = append(want, i)
		} else if len(want) > 0 {
			if r.front() != want[0] || r.pop() != want[0] {
				t.Fatalf("not the oldest, want %d", want[0])
			}
			want = want[1:]
		}
		if r.len() != len(want) {
			t.Fatalf("length %d, want %d", r.len(), len(want))
		}
	}
}

// TestPathSectionOracle: reports of a path tell the truth of every number they speak of, and whoever misses fewer than
// reportBack of them in a row hears of every number.
func TestPathSectionOracle(t *testing.T) {
	src := testRand(t)
	for _, most := range []int{1, 5, 40, reportBits / reportBack} { // packets a report
		rx := newPathRx(0)
		seen := map[uint64]bool{}
		heard, missed, sent := uint64(0), 0, uint64(0)
		for i := range 500 {
			for range 1 + src.IntN(most) {
				if sent++; src.IntN(10) > 0 {
					rx.accept(stamp(sent), sent, 0, 100, true)
					seen[sent] = true
				}
			}
			r, _ := rx.section(nil)
			if span := (reportBack*most + 7) / 8; i > reportBack && int(r.span) > span {
				t.Fatalf("%d packets a report: a report goes back over %d numbers, want at most %d", most, 8*r.span, 8*span)
			}
			if missed < reportBack-1 && src.IntN(3) > 0 {
				missed++
				continue
			}
			missed = 0
			largest := uint64(r.largest)
			if far := largest - min(largest, 8*uint64(r.span)); far > heard {
				t.Fatalf("%d packets a report: up to %d heard before, and the report begins after %d", most, heard, far)
			}
			for back := uint64(1); back <= 8*uint64(r.span) && back < largest; back++ {
				i := int(back - 1)
				if gone := i/8 < len(r.missing) && r.missing[i/8]&(1<<(i%8)) != 0; gone == seen[largest-back] {
					t.Fatalf("number %d under %d: reported missing %v, seen %v", largest-back, largest, gone, !gone)
				}
			}
			heard = largest
		}
	}
}

// TestReportOracle: random reports say the same once written and parsed; where the limit cuts them they say less, never
// anything else.
func TestReportOracle(t *testing.T) {
	src := testRand(t)
	for range 3000 {
		r := randomReport(src)
		var got report
		if err := got.parse(r.append(nil, 1<<16)); err != nil {
			t.Fatal(err)
		}
		if err := r.same(&got); err != nil {
			t.Fatal(err)
		}
		limit := 200 + src.IntN(300)
		b := r.append(nil, limit)
		if err := got.parse(b); err != nil {
			t.Fatal(err)
		}
		if len(r.paths) == 0 && len(b) > limit {
			t.Fatalf("report of %d bytes, limit %d", len(b), limit)
		}
		for i, l := range got.lanes {
			full := r.lanes[i]
			if l.id != full.id || l.cum != full.cum || l.high-l.cum > full.high-full.cum {
				t.Fatalf("lane %v of %v", l, full)
			}
			for seq := l.cum; seq != l.high; seq++ {
				if missing(l.ranges, seq) != missing(full.ranges, seq) {
					t.Fatalf("packet %d of lane %d: missing %v in the report that was cut", seq, l.id, missing(l.ranges, seq))
				}
			}
		}
	}
}

func missing(ranges []seqRange, seq uint32) bool {
	return slices.ContainsFunc(ranges, func(g seqRange) bool { return seq-g.first < g.n })
}

// TestLaneTxOracle: what a lane still holds is what no report has spoken of, through reports that come late, twice and
// cut short.
func TestLaneTxOracle(t *testing.T) {
	src := testRand(t)
	for i := range 8 {
		tx := newLaneTx(0, Bulk)
		rx := newLaneRx(0, Bulk)
		if i%2 == 0 {
			rx.repairedAt = 1 // reports speak of all, else only of what was handed over
		}
		held := map[uint64]bool{}
		var reports []laneReport
		for range 2000 {
			if tx.room() {
				seq := tx.next
				tx.next++
				tx.out[seq%laneWindow] = outPacket{buf: newPacketBuf(nil)}
				held[seq] = true
			}
			if seq := tx.base + uint64(src.IntN(30)); seq < tx.next {
				rx.source(1, seq, nil, 1)
			}
			if src.IntN(20) == 0 {
				rx.release(1)
			}
			if src.IntN(5) == 0 {
				r, _ := rx.section(1, nil)
				reports = append(reports, r)
			}
			if len(reports) > 0 && src.IntN(4) == 0 {
				r := reports[src.IntN(len(reports))]
				tx.confirm(&r)
				for seq := range maps.Clone(held) {
					low := uint32(seq)
					if low-r.cum >= 1<<31 || low-r.cum < r.high-r.cum && !missing(r.ranges, low) {
						delete(held, seq)
					}
				}
				for seq := range tx.next {
					o := tx.entry(seq)
					if got := o != nil && o.buf != nil; got != held[seq] {
						t.Fatalf("packet %d of %d held: %v, want %v", seq, tx.next, got, held[seq])
					}
				}
				if len(held) > 0 && tx.base != slices.Min(slices.Collect(maps.Keys(held))) {
					t.Fatalf("base %d, the least held is %d", tx.base, slices.Min(slices.Collect(maps.Keys(held))))
				}
			}
		}
		tx.confirm(&laneReport{cum: uint32(tx.next) + 5, high: uint32(tx.next) + 9}) // never sent
		for seq := range held {
			if tx.entry(seq).buf == nil {
				t.Fatal("a report of packets never sent confirmed others")
			}
		}
		tx.release()
		rx.drop()
	}
}

// TestLaneRxOracle: packets lost, late, doubled and out of order come out once each, none before its time, in order but
// for those that came after their time, and no sooner than the lane's rules let them.
func TestLaneRxOracle(t *testing.T) {
	src := testRand(t)
	for _, c := range []Class{Realtime, Interactive, Bulk} {
		for range 20 {
			rx := newLaneRx(laneID(c, 0), c)
			rx.young = false
			rx.lesson.left = 0
			rx.common, rx.haveDelay = 100_000, true
			type event struct {
				at  stamp
				seq uint64
			}
			var events []event
			due := map[uint64]stamp{}
			arrived := map[uint64]stamp{}
			const n = 3000
			for seq := range uint64(n) {
				sent := stamp(1_000_000 + 500*seq)
				due[seq] = sent + 100_000
				at := sent + 30_000 + stamp(src.IntN(60_000))
				if src.IntN(50) == 0 {
					at += 150_000 // a repetition
				}
				events = append(events, event{at, seq})
				if src.IntN(20) == 0 {
					events = append(events, event{at + stamp(src.IntN(100_000)), seq})
				}
			}
			slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
			got := map[uint64]bool{}
			next := uint64(0)
			check := func(now stamp) {
				rx.release(now)
				for rx.ready.len() > 0 {
					b := rx.ready.pop()
					seq := uint64(b.b[0])<<8 | uint64(b.b[1])
					b.free()
					if got[seq] {
						t.Fatalf("%v: packet %d twice", c, seq)
					}
					got[seq] = true
					if c == Bulk && now < due[seq] {
						t.Fatalf("packet %d handed over %d µs early", seq, due[seq]-now)
					}
					wait := stamp(0) // of late packets
					if c == Bulk {
						wait = us(coalesceBulk) + 200
					}
					if seq < next && (c == Bulk && arrived[seq] <= due[seq] || arrived[seq]+wait < now) {
						t.Fatalf("%v: packet %d, arrived at %d, due at %d, handed over at %d after packet %d", c, seq, arrived[seq], due[seq], now, next-1)
					}
					next = max(next, seq+1)
				}
				if rx.late < 0 || rx.holes < 0 || rx.holes > rx.late {
					t.Fatalf("%d late in %d holes", rx.late, rx.holes)
				}
			}
			now := stamp(1_000_000)
			for _, e := range events {
				for now+200 < e.at {
					now += 200
					check(now)
				}
				now = e.at
				if _, have := arrived[e.seq]; !have {
					arrived[e.seq] = now
				}
				rx.source(now, e.seq, []byte{byte(e.seq >> 8), byte(e.seq)}, due[e.seq]-100_000)
				check(now)
			}
			for range 2000 {
				now += 1000
				check(now)
			}
			if len(got) != n {
				t.Fatalf("%v: %d of %d packets came out", c, len(got), n)
			}
			rx.drop()
		}
	}
}

// TestLaneRxHolds: with more missing at once than quic-go can remember, the line is held in order until they come, or
// for holdAtMost; with less, what is there goes on without them.
func TestLaneRxHolds(t *testing.T) {
	const step, common = 500, 100_000
	for _, tc := range []struct {
		name    string
		learned bool // the lane's lessons are over
		holes   int  // each of one packet, every second one
		run     int  // or a run of packets
		holds   bool
	}{
		{"holes within", true, holdHoles, 0, false},
		{"holes above", true, holdHoles + 1, 0, true},
		{"a long run is one hole", true, 0, 400, false},
		{"run within, unlearned", false, 0, holdLate, false},
		{"run above, unlearned", false, 0, holdLate + 1, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rx := newLaneRx(laneID(Bulk, 0), Bulk)
			defer rx.drop()
			rx.young, rx.common, rx.haveDelay = false, common, true
			if tc.learned {
				rx.lesson.left = 0
			}
			lost := map[uint64]bool{}
			for i := range uint64(tc.holes) {
				lost[10+2*i] = true
			}
			for i := range uint64(tc.run) {
				lost[10+i] = true
			}
			const n = 1000
			start := stamp(1_000_000)
			for seq := range uint64(n) {
				if !lost[seq] {
					rx.source(start, seq, []byte{byte(seq >> 8), byte(seq)}, start+step*stamp(seq))
				}
			}
			now := start + common + step*n
			rx.release(now)
			if held := rx.ready.len() < n-len(lost); held != tc.holds {
				t.Fatalf("%d of %d packets handed over with %d missing: held %v, want %v", rx.ready.len(), n-len(lost), len(lost), held, tc.holds)
			}
			if !tc.holds {
				return
			}
			for seq := range uint64(n) { // they come
				if lost[seq] {
					rx.source(now, seq, []byte{byte(seq >> 8), byte(seq)}, now)
				}
			}
			rx.release(now + 2*common)
			if rx.ready.len() != n {
				t.Fatalf("%d of %d packets handed over in the end", rx.ready.len(), n)
			}
			for want := uint64(0); rx.ready.len() > 0; want++ {
				b := rx.ready.pop()
				if seq := uint64(b.b[0])<<8 | uint64(b.b[1]); tc.run > 0 && seq != want {
					t.Fatalf("packet %d handed over in the place of %d: the line was not held", seq, want)
				}
				b.free()
			}
		})
	}
}

// TestLesson: a young bulk lane lets a few full packets wait, one at a time, for most of a round trip, and hands the others
// over meanwhile.
func TestLesson(t *testing.T) {
	const rtt = 200 * time.Millisecond
	rx := newLaneRx(laneID(Bulk, 0), Bulk)
	rx.common, rx.haveDelay = 100_000, true
	rx.lesson.wait = time.Duration(lessonWait * float64(rtt))
	late := 0
	sent := stamp(1_000_000)
	waiting, next := 0, uint64(0)
	for seq := range uint64(20_000) {
		sent += 500
		rx.source(sent, seq, make([]byte, lessonSize), sent)
		rx.release(sent)
		if rx.lesson.buf != nil {
			waiting++
		}
		for rx.ready.len() > 0 {
			rx.ready.pop().free()
			next++
		}
	}
	rx.release(sent + us(time.Second))
	late = lessons - rx.lesson.left
	if late != lessons {
		t.Errorf("%d lessons given, want %d", late, lessons)
	}
	if span := time.Duration(waiting) * 500 * time.Microsecond; span < time.Duration(lessons)*rtt/2 || span > time.Duration(lessons)*2*rtt {
		t.Errorf("packets waited for %v in all, want %d times less than a round trip", span, lessons)
	}
	rx.drop()
}

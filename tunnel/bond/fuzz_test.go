package bond

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// FuzzDatagram: a header that parses is written back as it was, and no bytes from outside change a bond or make it
// answer.
func FuzzDatagram(f *testing.F) {
	for k := kind(1); k < kindEnd; k++ {
		d := make([]byte, headerSize+openBodySize+tagSize)
		h := header{kind: k, path: 3, bond: 0xdeadbeef, seq: 1 << 23, sent: 77, lane: 200, aux: auxAgain, laneSeq: seqMask}
		h.put(d)
		f.Add(d)
		f.Add(d[:headerSize+tagSize])
	}
	r := newRig(f, 2, true)
	r.establish(f)
	d := make([]byte, headerSize+openBodySize+tagSize)
	h := header{kind: kindOpen, bond: r.b.bond.id}
	h.put(d)
	putOpen(d[headerSize:], r.b.bond.peerEpoch+1, r.b.bond.epoch)
	f.Add(d)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := parseHeader(b); ok {
			out := make([]byte, headerSize)
			h.put(out)
			if !bytes.Equal(out, b[:headerSize]) {
				t.Fatalf("header %x written back as %x", b[:headerSize], out)
			}
		}
		if len(b) > maxDatagram {
			return
		}
		before := r.b.state()
		r.b.host.receive(r.b.ups[0], []Message{{Buf: b, N: len(b), Addr: stranger}})
		if after := r.b.state(); after != before {
			t.Fatalf("state changed\nbefore\n%safter\n%s", before, after)
		}
	})
}

// FuzzOpen: the body of a handshake parses only at its one length, and is written back as it was.
func FuzzOpen(f *testing.F) {
	b := make([]byte, openBodySize)
	putOpen(b, 1<<50, 3)
	f.Add(b)
	f.Add(b[1:])
	f.Fuzz(func(t *testing.T, b []byte) {
		epoch, echo, err := parseOpen(b)
		if (err == nil) != (len(b) == openBodySize) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if err != nil {
			return
		}
		out := make([]byte, openBodySize)
		putOpen(out, epoch, echo)
		if !bytes.Equal(out, b) {
			t.Fatalf("%x written back as %x", b, out)
		}
	})
}

// randomReport makes a report as a busy receiver would.
func randomReport(src *rand.Rand) *report {
	r := &report{}
	if src.IntN(2) == 0 {
		r.echo, r.echoPath, r.echoSeq = true, uint8(src.IntN(maxPaths)), src.Uint32()
	}
	for i := range src.IntN(4) {
		p := pathReport{id: uint8(i), largest: src.Uint32(), packets: src.Uint32(), bytes: src.Uint32(), at: src.Uint32(), owd: src.Uint32(), owdMin: src.Uint32()}
		p.span = uint8(src.IntN(reportBits/8 + 1))
		p.missing = make([]byte, src.IntN(int(p.span)+1))
		for j := range p.missing {
			p.missing[j] = byte(src.Uint32())
		}
		r.paths = append(r.paths, p)
	}
	for i := range src.IntN(4) {
		l := laneReport{id: uint8(i*64 + 1), cum: src.Uint32()}
		pos := l.cum
		for range src.IntN(20) {
			pos += uint32(src.IntN(200))
			n := uint32(src.IntN(30) + 1)
			l.ranges = append(l.ranges, seqRange{pos, n})
			pos += n
		}
		l.high = pos + uint32(src.IntN(3))
		r.lanes = append(r.lanes, l)
	}
	return r
}

// same tells whether two reports say the same.
func (r *report) same(o *report) error {
	if r.echo != o.echo || r.echoPath != o.echoPath || r.echoSeq != o.echoSeq {
		return fmt.Errorf("echo %v %d %d, want %v %d %d", o.echo, o.echoPath, o.echoSeq, r.echo, r.echoPath, r.echoSeq)
	}
	if len(r.paths) != len(o.paths) || len(r.lanes) != len(o.lanes) {
		return fmt.Errorf("%d paths and %d lanes, want %d and %d", len(o.paths), len(o.lanes), len(r.paths), len(r.lanes))
	}
	for i := range r.paths {
		p, q := r.paths[i], o.paths[i]
		if !bytes.Equal(p.missing, q.missing) {
			return fmt.Errorf("path %d misses %x, want %x", p.id, q.missing, p.missing)
		}
		p.missing, q.missing = nil, nil
		if fmt.Sprint(p) != fmt.Sprint(q) {
			return fmt.Errorf("path %v, want %v", q, p)
		}
	}
	for i := range r.lanes {
		l, m := r.lanes[i], o.lanes[i]
		if l.id != m.id || l.cum != m.cum || l.high != m.high || !slices.Equal(l.ranges, m.ranges) {
			return fmt.Errorf("lane %v, want %v", m, l)
		}
	}
	return nil
}

// FuzzReport: what parses is within its bounds, and says the same once written and parsed again.
func FuzzReport(f *testing.F) {
	src := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		f.Add(randomReport(src).append(nil, 1<<16))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again report
		if r.parse(b) != nil {
			return
		}
		if len(r.paths) > maxPaths || len(r.lanes) > maxReportLanes {
			t.Fatalf("%d paths and %d lanes", len(r.paths), len(r.lanes))
		}
		for _, l := range r.lanes {
			if l.high-l.cum > laneWindow {
				t.Fatalf("lane report over %d packets", l.high-l.cum)
			}
			pos := uint64(0)
			for _, g := range l.ranges {
				first := uint64(g.first - l.cum)
				if first < pos || g.n == 0 || first+uint64(g.n) > uint64(l.high-l.cum) {
					t.Fatalf("range %v outside [%d, %d)", g, l.cum, l.high)
				}
				pos = first + uint64(g.n)
			}
		}
		for _, l := range r.lanes {
			if len(l.ranges) > maxRanges {
				return // more than we write
			}
		}
		if err := again.parse(r.append(nil, 1<<20)); err != nil {
			t.Fatal(err)
		}
		if err := r.same(&again); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzSession: whatever an authenticated peer writes into its datagrams, every queue and table keeps its bound and the
// session goes on. Each step of the input is one datagram: kind, lane, aux, lane number and body.
func FuzzSession(f *testing.F) {
	src := rand.New(rand.NewPCG(2, 2))
	step := func(k kind, lane, aux uint8, seq uint32, body []byte) []byte {
		b := []byte{byte(k), lane, aux, byte(seq >> 24), byte(seq >> 16), byte(seq >> 8), byte(seq), byte(len(body))}
		return append(b, body...)
	}
	for range 10 {
		rep := randomReport(src).append(nil, 200)
		f.Add(slices.Concat(step(kindSource, 128, 0, 0, rep[:min(len(rep), 50)]), step(kindReport, 0, 0, 1, rep[:min(len(rep), 255)])))
	}
	f.Add(slices.Concat(step(kindSource, 64, 0, 0, make([]byte, 100)), step(kindSource, 64, 0, 1, make([]byte, 90)),
		step(kindRepair, 64, 2, 0, make([]byte, 102)), step(kindRepair, 64, 255, 1<<32-2, make([]byte, 3)), step(kindProbe, 0, 0, 0, nil)))
	f.Add(step(kindReport, 0, 0, 5, (&report{lanes: []laneReport{{id: 128, cum: 0, high: 40, ranges: []seqRange{{3, 4}}}}}).append(nil, 200)))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newRig(t, 2, false)
		r.establish(t)
		b := r.b.bond
		s := b.sess
		now, at := r.b.host.now()
		own := s.addLane(laneID(Bulk, 0)) // with packets on the way, for reports to speak of
		for i := range 50 {
			own.tx.next++
			o := &own.tx.out[i]
			*o = outPacket{buf: newPacketBuf(make([]byte, 100))}
			s.transmit(now, at, own, uint64(i), o, b.paths[i%2])
			if !b.out.room() {
				b.flush()
			}
		}
		b.flush()
		seq := uint32(1000)
		for len(in) >= 8 {
			k, n := kind(in[0]%uint8(kindEnd)), min(int(in[7]), len(in)-8)
			if k == 0 || k == kindOpen || k == kindClose {
				k = kindSource
			}
			h := header{kind: k, path: in[0] >> 7, seq: seq, sent: uint32(at), lane: in[1], aux: in[2],
				laneSeq: uint24(in[4:])}
			d := make([]byte, headerSize+n+tagSize)
			h.put(d)
			copy(d[headerSize:], in[8:8+n])
			in = in[8+n:]
			seq++
			at += 500
			now = now.Add(500 * time.Microsecond)
			b.mu.Lock()
			s.accept(now, at, r.b.ups[h.path], r.a.socks[h.path].local, h, d)
			for _, l := range s.live {
				l.rx.release(at)
			}
			b.step(now, at)
			b.mu.Unlock()
			b.flush()
			for _, sock := range r.b.socks {
				sock.take()
			}
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.sess != s {
			t.Fatal("the session ended")
		}
		if len(s.live) > maxLanes || len(b.paths) != 2 {
			t.Fatalf("%d lanes, %d paths", len(s.live), len(b.paths))
		}
		for _, l := range s.live {
			if l.rx.ready.len() > deliverQueue || l.rx.high-l.rx.cum > laneWindow || l.rx.cum > l.rx.high || l.rx.scan > l.rx.high {
				t.Fatalf("lane %d: %d ready, window [%d, %d), scan %d", l.id, l.rx.ready.len(), l.rx.cum, l.rx.high, l.rx.scan)
			}
			if l.tx.base > l.tx.next || l.tx.again.len() > laneWindow {
				t.Fatalf("lane %d: sending window [%d, %d), %d to send again", l.id, l.tx.base, l.tx.next, l.tx.again.len())
			}
			if l.rx.late < 0 || l.rx.holes < 0 || l.rx.holes > l.rx.late {
				t.Fatalf("lane %d: %d late in %d holes", l.id, l.rx.late, l.rx.holes)
			}
		}
		for _, p := range b.paths {
			if p.inflight < 0 || p.elicOut < 0 || p.next-p.low > pathWindow {
				t.Fatalf("path %d: %d bytes and %d datagrams in flight, window [%d, %d)", p.id, p.inflight, p.elicOut, p.low, p.next)
			}
		}
	})
}

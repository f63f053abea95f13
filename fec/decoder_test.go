package fec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// lane is a sender with the packets it sent, for tests that lose by hand.
type lane struct {
	t       testing.TB
	encoder *Encoder
	decoder *Decoder
	packets [][]byte
	key     uint32
	got     map[uint64]int // recovered, how often
}

func newLane(t testing.TB, window, count int) *lane {
	l := &lane{t: t, encoder: NewEncoder(window, 100), decoder: NewDecoder(window, 100), got: map[uint64]int{}}
	for range count {
		l.send()
	}
	return l
}

func (l *lane) send() uint64 {
	seq := uint64(len(l.packets))
	p := fmt.Appendf(nil, "packet %d %s", seq, bytes.Repeat([]byte("."), int(seq*7%50)))
	l.packets = append(l.packets, p)
	l.encoder.Add(seq, p)
	return seq
}

// sources delivers packets of the range [from, to), except those.
func (l *lane) sources(from, to uint64, except ...uint64) {
	for seq := from; seq < to; seq++ {
		lost := false
		for _, x := range except {
			lost = lost || x == seq
		}
		if !lost {
			l.take(l.decoder.Source(seq, l.packets[seq], nil))
		}
	}
}

// repair makes a repair and delivers it.
func (l *lane) repair(first uint64, n int) {
	l.t.Helper()
	l.key++
	symbol, err := l.encoder.Repair(nil, first, n, l.key)
	if err != nil {
		l.t.Fatal(err)
	}
	out, err := l.decoder.Repair(first, n, l.key, symbol, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	l.take(out)
}

func (l *lane) take(out []Packet) {
	l.t.Helper()
	for _, p := range out {
		if !bytes.Equal(p.Payload, l.packets[p.Seq]) {
			l.t.Fatalf("packet %d is %q, want %q", p.Seq, p.Payload, l.packets[p.Seq])
		}
		l.got[p.Seq]++
	}
	checkInvariants(l.t, l.decoder)
}

func (l *lane) want(seqs ...uint64) {
	l.t.Helper()
	for _, seq := range seqs {
		if l.got[seq] != 1 {
			l.t.Errorf("packet %d recovered %d times, want once", seq, l.got[seq])
		}
	}
	if len(l.got) != len(seqs) {
		l.t.Errorf("recovered %v, want %d", l.got, seqs)
	}
}

func TestDecoder(t *testing.T) {
	tests := []struct {
		name string
		run  func(l *lane)
	}{
		{"no loss", func(l *lane) {
			l.sources(0, 20)
			l.repair(0, 20)
			l.want()
		}},
		{"one lost", func(l *lane) {
			l.sources(0, 20, 7)
			l.repair(0, 20)
			l.want(7)
		}},
		{"newest lost", func(l *lane) {
			l.sources(0, 20, 19)
			l.repair(0, 20)
			l.want(19)
		}},
		{"copy of one", func(l *lane) {
			l.repair(5, 1)
			l.want(5)
		}},
		{"burst", func(l *lane) {
			l.sources(0, 20, 6, 7, 8, 9)
			for range 3 {
				l.repair(0, 20)
				l.want()
			}
			l.repair(0, 20)
			l.want(6, 7, 8, 9)
		}},
		{"everything lost", func(l *lane) {
			for range 4 {
				l.repair(10, 4)
			}
			l.want(10, 11, 12, 13)
		}},
		{"sliding windows in a chain", func(l *lane) {
			l.sources(0, 20, 4, 9, 14)
			l.repair(2, 10) // 4 and 9
			l.repair(7, 10) // 9 and 14
			l.want()
			l.repair(12, 8) // 14 alone: unravels
			l.want(4, 9, 14)
		}},
		{"chain over three windows", func(l *lane) {
			l.sources(0, 20, 4, 9, 14)
			l.repair(2, 10)
			l.repair(7, 10)
			l.repair(2, 15)
			l.want(4, 9, 14)
		}},
		{"only what is covered", func(l *lane) {
			l.sources(0, 20, 3, 16)
			l.repair(10, 10)
			l.want(16)
		}},
		{"window in window", func(l *lane) {
			l.sources(0, 20, 5, 10)
			l.repair(0, 20)
			l.repair(8, 5)
			l.want(5, 10)
		}},
		{"repair first, then sources late", func(l *lane) {
			l.repair(0, 20)
			l.sources(0, 20, 11)
			l.want(11)
		}},
		{"repairs first, sources in reverse", func(l *lane) {
			l.repair(0, 20)
			l.repair(0, 20)
			for seq := uint64(20); seq > 0; seq-- {
				if seq != 3 && seq != 13 {
					l.sources(seq-1, seq)
				}
			}
			l.want(2, 12)
		}},
		{"retransmission makes the rest solvable", func(l *lane) {
			l.sources(0, 20, 1, 2, 3)
			l.repair(0, 20)
			l.repair(0, 20)
			l.want()
			l.sources(2, 3)
			l.want(1, 3)
		}},
		{"late source after recovery", func(l *lane) {
			l.sources(0, 20, 7)
			l.repair(0, 20)
			l.sources(7, 8)
			l.want(7)
			if s := l.decoder.Stats(); s.Duplicate != 1 {
				l.t.Errorf("%+v, want one duplicate", s)
			}
		}},
		{"same repair twice is one equation", func(l *lane) {
			l.sources(0, 20, 7, 8)
			l.repair(0, 20)
			l.key--
			l.repair(0, 20)
			l.want()
			if s := l.decoder.Stats(); s.Redundant != 1 || l.decoder.Pending() != 1 {
				l.t.Errorf("%+v and %d pending, want one redundant and one pending", s, l.decoder.Pending())
			}
			l.repair(0, 20)
			l.want(7, 8)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLane(t, 20, 20)
			l.t = t
			tt.run(l)
			if s := l.decoder.Stats(); s.Recovered != uint64(len(l.got)) || s.Inconsistent+s.Rejected+s.Evicted != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestDecoderHas(t *testing.T) {
	l := newLane(t, 20, 20)
	l.sources(0, 20, 7, 8)
	l.repair(0, 8)
	for seq := range uint64(40) {
		if want := seq < 20 && seq != 8; l.decoder.Has(seq) != want {
			t.Errorf("has %d: %v, want %v", seq, !want, want)
		}
	}
}

// TestDecoderOwnership checks that neither side's reuse of buffers shows.
func TestDecoderOwnership(t *testing.T) {
	l := newLane(t, 20, 20)
	buf := make([]byte, 100)
	for seq := range uint64(20) {
		if seq != 3 && seq != 4 {
			l.decoder.Source(seq, buf[:copy(buf, l.packets[seq])], nil)
		}
	}
	var out []Packet
	for key := range uint32(2) {
		symbol, err := l.encoder.Repair(nil, 0, 20, key)
		if err != nil {
			t.Fatal(err)
		}
		if out, err = l.decoder.Repair(0, 20, key, symbol, out); err != nil {
			t.Fatal(err)
		}
		clear(symbol)
	}
	if len(out) != 2 || out[0].Seq != 3 || out[1].Seq != 4 {
		t.Fatalf("recovered %v", out)
	}
	first := bytes.Clone(out[0].Payload)
	clear(out[1].Payload)
	for seq := uint64(20); seq < 20_000; seq++ {
		l.decoder.Source(seq, buf, nil)
	}
	if !bytes.Equal(out[0].Payload, first) || !bytes.Equal(first, l.packets[3]) {
		t.Errorf("payload changed to %q", out[0].Payload)
	}
}

func TestDecoderArguments(t *testing.T) {
	symbol := make([]byte, 102)
	tests := []struct {
		name   string
		first  uint64
		n      int
		symbol []byte
		want   error
	}{
		{"nothing covered", 0, 0, symbol, ErrRange},
		{"negative", 0, -1, symbol, ErrRange},
		{"above window", 0, 21, symbol, ErrRange},
		{"huge", 0, 1 << 62, symbol, ErrRange},
		{"wraps", ^uint64(0) - 4, 5, symbol, ErrRange},
		{"wraps to zero", ^uint64(0), 1, symbol, ErrRange},
		{"no symbol", 0, 5, nil, ErrSymbol},
		{"short symbol", 0, 5, symbol[:1], ErrSymbol},
		{"long symbol", 0, 5, append(symbol, 0), ErrSymbol},
		{"shorter than what it covers", 10, 5, symbol[:5], ErrInconsistent},
		{"fine", 0, 20, symbol, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := NewDecoder(20, 100)
			d.Source(12, []byte("some payload"), nil)
			before := d.end
			out, err := d.Repair(tt.first, tt.n, 1, tt.symbol, nil)
			if !errors.Is(err, tt.want) || err != nil && (len(out) != 0 || d.Pending() != 0) {
				t.Errorf("error %v with %d packets and %d pending, want %v", err, len(out), d.Pending(), tt.want)
			}
			if (errors.Is(err, ErrRange) || errors.Is(err, ErrSymbol)) && d.end != before {
				t.Errorf("newest packet moved from %d to %d", before, d.end)
			}
		})
	}
	d := NewDecoder(20, 100)
	d.Source(0, make([]byte, 101), nil)
	d.Source(^uint64(0), nil, nil)
	if s := d.Stats(); s.Rejected != 2 || d.end != 0 {
		t.Errorf("%+v, newest %d; want two rejected", s, d.end)
	}
}

// TestDecoderInconsistent feeds repairs that fit no packets: nothing comes out, the repair is dropped and counted, and
// the decoder goes on.
func TestDecoderInconsistent(t *testing.T) {
	long := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	tests := []struct {
		name   string
		symbol []byte
	}{
		{"length above symbol", append(long(9), "12345678"...)},
		{"length far above symbol", append(long(0xffff), "12345678"...)},
		{"not zero after the payload", append(long(7), "12345678"...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLane(t, 20, 20)
			out, err := l.decoder.Repair(5, 1, 1, tt.symbol, nil)
			if err != nil || len(out) != 0 || l.decoder.Pending() != 0 {
				t.Fatalf("recovered %v (%v), %d pending", out, err, l.decoder.Pending())
			}
			if s := l.decoder.Stats(); s.Inconsistent != 1 {
				t.Errorf("%+v, want one inconsistent", s)
			}
			l.sources(0, 20, 5)
			l.repair(0, 20)
			l.want(5)
		})
	}
	t.Run("source longer than the repair", func(t *testing.T) {
		l := newLane(t, 20, 20)
		if _, err := l.decoder.Repair(0, 3, 1, append(long(1), 1), nil); err != nil {
			t.Fatal(err)
		}
		l.sources(0, 20, 1)
		if s := l.decoder.Stats(); s.Inconsistent != 1 || l.decoder.Pending() != 0 {
			t.Errorf("%+v and %d pending, want one inconsistent", s, l.decoder.Pending())
		}
		l.repair(0, 20)
		l.want(1)
	})
}

func TestDecoderTooOld(t *testing.T) {
	l := newLane(t, 20, 20)
	symbol, err := l.encoder.Repair(nil, 0, 20, 1)
	if err != nil {
		t.Fatal(err)
	}
	l.sources(1, 20)
	keep := uint64(len(l.decoder.ring))
	l.decoder.Source(keep, []byte("x"), nil) // takes the slot of packet 0
	if out, err := l.decoder.Repair(0, 20, 1, symbol, nil); err != nil || len(out) != 0 {
		t.Errorf("late repair: %v (%v)", out, err)
	}
	if out := l.decoder.Source(0, l.packets[0], nil); len(out) != 0 {
		t.Errorf("late source: %v", out)
	}
	if s := l.decoder.Stats(); s.TooOld != 2 || l.decoder.Has(0) || !l.decoder.Has(1) {
		t.Errorf("%+v, want two too old", s)
	}
}

func TestDecoderExpiresRepairs(t *testing.T) {
	for _, jump := range []uint64{1, 63, 1000, 1 << 40} {
		l := newLane(t, 20, 20)
		l.sources(0, 20, 5, 6)
		l.repair(0, 20)
		l.decoder.Source(uint64(len(l.decoder.ring))-1+jump, []byte("x"), nil)
		checkInvariants(t, l.decoder)
		if s := l.decoder.Stats(); s.Expired != 1 || l.decoder.Pending() != 0 {
			t.Errorf("after a jump by %d: %+v and %d pending, want one expired", jump, s, l.decoder.Pending())
		}
	}
}

func TestDecoderBoundsPending(t *testing.T) {
	l := newLane(t, MaxWindow, MaxWindow)
	for range MaxPending + 50 {
		l.key++
		// Not over the same packets, or else the repairs would be solved for before the limit.
		first := uint64(l.key % 2)
		symbol, err := l.encoder.Repair(nil, first, MaxWindow-1, l.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.decoder.Repair(first, MaxWindow-1, l.key, symbol, nil); err != nil {
			t.Fatal(err)
		}
	}
	checkInvariants(t, l.decoder)
	if s := l.decoder.Stats(); s.Evicted != 50 || l.decoder.Pending() != MaxPending {
		t.Errorf("%+v and %d pending, want 50 evicted", s, l.decoder.Pending())
	}
	// All but 100 packets arrive, and the repairs kept are enough for those.
	l.sources(100, MaxWindow)
	for seq := range uint64(MaxWindow) {
		if !l.decoder.Has(seq) {
			t.Errorf("packet %d is missing", seq)
		}
	}
}

// TestDecoderLargestRun recovers MaxUnknowns packets at once, and no more than that.
func TestDecoderLargestRun(t *testing.T) {
	for _, n := range []uint64{MaxUnknowns, MaxUnknowns + 1} {
		l := newLane(t, MaxWindow, MaxWindow)
		l.sources(n, MaxWindow)
		for range n + 4 {
			l.repair(0, MaxWindow)
		}
		want := int(n)
		if n > MaxUnknowns {
			want = 0
		}
		if len(l.got) != want {
			t.Errorf("of %d missing packets %d were recovered, want %d", n, len(l.got), want)
		}
		if n > MaxUnknowns {
			l.sources(0, 1)
			if len(l.got) != MaxUnknowns {
				t.Errorf("once %d are missing %d were recovered", MaxUnknowns, len(l.got))
			}
		}
	}
}

// TestDecoderSkew lets repairs overtake hundreds of sources, as between paths of different delay: nothing is recovered
// that only is late, and the one lost packet is as soon as the rest is there.
func TestDecoderSkew(t *testing.T) {
	l := newLane(t, 256, 256)
	for range 1500 / 5 {
		for range 5 {
			l.send()
		}
		first, n := l.encoder.Window()
		l.repair(first, n)
	}
	newest := uint64(len(l.packets))
	l.want()
	before := l.decoder.Pending()
	if before != 300 {
		t.Fatalf("%d pending, want 300", before)
	}
	const lost = 1000
	for seq := uint64(0); seq < newest; seq++ {
		if seq == lost {
			continue
		}
		// The last few of a window may come out of the repairs before they arrive themselves.
		l.take(l.decoder.Source(seq, l.packets[seq], nil))
	}
	if l.got[lost] != 1 {
		t.Errorf("packet %d was not recovered: %+v", lost, l.decoder.Stats())
	}
	if l.decoder.Pending() != 0 {
		t.Errorf("%d pending at the end", l.decoder.Pending())
	}
}

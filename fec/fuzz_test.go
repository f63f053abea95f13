package fec

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// FuzzDecoder feeds a decoder with calls read from the input: it must neither panic nor break its invariants, whatever
// the arguments.
func FuzzDecoder(f *testing.F) {
	e := NewEncoder(8, 40)
	var calls []byte
	source := func(seq uint64, payload []byte) {
		calls = append(calls, 0)
		calls = binary.AppendUvarint(calls, seq)
		calls = append(append(calls, byte(len(payload))), payload...)
	}
	for seq := range uint64(12) {
		payload := bytes.Repeat([]byte{byte(seq)}, int(seq*3))
		e.Add(seq, payload)
		if seq%5 != 2 {
			source(seq, payload)
		}
		if seq%3 == 2 {
			first, n := e.Window()
			symbol, err := e.Repair(nil, first, n, uint32(seq))
			if err != nil {
				f.Fatal(err)
			}
			calls = append(calls, 1)
			calls = binary.AppendUvarint(calls, first)
			calls = binary.AppendVarint(calls, int64(n))
			calls = binary.AppendUvarint(calls, seq)
			calls = append(append(calls, byte(len(symbol))), symbol...)
		}
	}
	f.Add(calls)
	f.Add(calls[:len(calls)/2])
	f.Add([]byte{1, 5, 2, 1, 4, 0xff, 0xff, 1, 2})                                                          // one packet, impossible length
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 9, 9})                      // the last sequence number
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 1, 4, 0, 2, 1, 2, 0, 5, 0}) // and a repair over it
	f.Fuzz(func(t *testing.T, in []byte) {
		d := NewDecoder(8, 40)
		r := bytes.NewReader(in)
		bytesOf := func() []byte {
			n, _ := r.ReadByte()
			b := make([]byte, min(int(n), r.Len()))
			_, _ = r.Read(b)
			return b
		}
		var out []Packet
		for {
			kind, err := r.ReadByte()
			if err != nil {
				break
			}
			seq, _ := binary.ReadUvarint(r)
			if kind%2 == 0 {
				out = d.Source(seq, bytesOf(), out[:0])
			} else {
				n, _ := binary.ReadVarint(r)
				key, _ := binary.ReadUvarint(r)
				before := d.stats
				symbol := bytesOf()
				out, err = d.Repair(seq, int(n), uint32(key), symbol, out[:0])
				if err != nil && (len(out) != 0 || d.stats.Rejected+d.stats.Inconsistent == before.Rejected+before.Inconsistent) {
					t.Fatalf("error %v with %d packets, %+v", err, len(out), d.stats)
				}
			}
			for _, p := range out {
				if len(p.Payload) > 40 || !d.Has(p.Seq) {
					t.Fatalf("recovered packet %d of %d bytes", p.Seq, len(p.Payload))
				}
			}
			checkInvariants(t, d)
		}
	})
}

// FuzzRoundTrip encodes, loses, reorders and decodes as the input says, and compares what is recovered.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), byte(20), byte(5), []byte{0x10, 0x00, 0xff, 0x02})
	f.Add(uint64(2), byte(1), byte(1), []byte{0xff})
	f.Add(uint64(3), byte(60), byte(3), bytes.Repeat([]byte{0x81, 0x00, 0x42}, 20))
	f.Fuzz(func(t *testing.T, seed uint64, window, every byte, lose []byte) {
		if len(lose) > 100 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 12))
		size := max(int(window), 1)
		e, d := NewEncoder(size, 90), NewDecoder(size, 90)
		var packets [][]byte
		have := map[uint64]bool{}
		lost := func(i int) bool { return lose[i/8%len(lose)]>>(i%8)&1 != 0 }
		check := func(out []Packet) {
			for _, p := range out {
				if have[p.Seq] {
					t.Fatalf("packet %d recovered that was known", p.Seq)
				}
				if have[p.Seq] = true; !bytes.Equal(p.Payload, packets[p.Seq]) {
					t.Fatalf("packet %d is %x, want %x", p.Seq, p.Payload, packets[p.Seq])
				}
			}
		}
		var late []uint64
		for i := range 8 * len(lose) {
			payload := make([]byte, r.IntN(91))
			for j := range payload {
				payload[j] = byte(r.Uint32())
			}
			seq := uint64(i)
			packets = append(packets, payload)
			e.Add(seq, payload)
			if !lost(i) {
				late = append(late, seq)
			}
			for len(late) > 0 && r.IntN(8) != 0 {
				at := r.IntN(len(late))
				s := late[at]
				late = append(late[:at], late[at+1:]...)
				check(d.Source(s, packets[s], nil))
				have[s] = true
			}
			if i%max(int(every), 1) == 0 {
				first, n := e.Window()
				cut := r.IntN(n)
				first, n = first+uint64(cut), n-cut
				key := r.Uint32()
				symbol, err := e.Repair(nil, first, n, key)
				if err != nil {
					t.Fatal(err)
				}
				out, err := d.Repair(first, n, key, symbol, nil)
				if err != nil {
					t.Fatal(err)
				}
				check(out)
			}
		}
		for seq := range uint64(len(packets)) {
			if d.Has(seq) != have[seq] {
				t.Fatalf("packet %d: decoder has it %v, test %v", seq, d.Has(seq), have[seq])
			}
		}
		checkInvariants(t, d)
	})
}

package fec

import "testing"

// TestAllocations checks that steady state allocates nothing.
func TestAllocations(t *testing.T) {
	const window, size = 64, 1300
	payload := make([]byte, size)
	e, d := NewEncoder(window, size), NewDecoder(window, size)
	dst := make([]byte, 0, 2000)
	out := make([]Packet, 0, 16)
	seq, key := uint64(0), uint32(0)
	add := func() {
		e.Add(seq, payload)
		seq++
	}
	repair := func() []byte {
		first, n := e.Window()
		key++
		symbol, err := e.Repair(dst[:0], first, n, key)
		if err != nil {
			t.Fatal(err)
		}
		return symbol
	}
	tests := []struct {
		name string
		run  func()
	}{
		{"Add", add},
		{"Encoder.Repair", func() { repair() }},
		{"Source", func() {
			out = d.Source(seq, payload, out[:0])
			seq++
		}},
		{"Source twice", func() {
			out = d.Source(seq-1, payload, out[:0])
		}},
		{"Source and Repair without loss", func() {
			add()
			out = d.Source(seq-1, payload, out[:0])
			first, n := e.Window()
			out, _ = d.Repair(first, n, key+1, repair(), out[:0])
		}},
		{"Repair before its sources", func() {
			for range 5 {
				add()
			}
			first, n := e.Window()
			out, _ = d.Repair(first, n, key+1, repair(), out[:0])
			out, _ = d.Repair(first, n, key+1, repair(), out[:0])
			for s := seq - 5; s < seq; s++ {
				if s != seq-2 && s != seq-3 { // these are recovered
					out = d.Source(s, payload, out)
				}
			}
		}},
	}
	for _, tt := range tests {
		// Twice round all slots, so that every buffer is there.
		for range 2 * len(d.ring) {
			tt.run()
		}
		before := d.Stats()
		n := testing.AllocsPerRun(1000, tt.run)
		want := 0.0
		if got := d.Stats().Recovered - before.Recovered; got > 0 {
			want = float64(got) / 1001 // payloads, one allocation each
		}
		if n > want {
			t.Errorf("%s allocates %v times, want %v", tt.name, n, want)
		}
	}
}

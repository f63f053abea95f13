package fec

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"
)

// TestCoefficientVectors pins the coefficients (computed by an independent implementation of the description): both sides of a border compute them, perhaps in different versions.
func TestCoefficientVectors(t *testing.T) {
	tests := []struct {
		key  uint32
		n    int
		want string
	}{
		{0, 1, "01"},
		{12345, 1, "01"},
		{0, 8, "e291971d6f63bd64"},
		{1, 8, "c421b3a263511628"},
		{0xffffffff, 8, "225bf88c8461985a"},
	}
	for _, tt := range tests {
		var got []byte
		for i := range tt.n {
			got = append(got, coefficient(tt.key, i, tt.n))
		}
		if hex.EncodeToString(got) != tt.want {
			t.Errorf("key %d over %d: %x, want %s", tt.key, tt.n, got, tt.want)
		}
	}
}

func TestCoefficientNeverZero(t *testing.T) {
	var counts [256]int
	const keys = 2000
	for key := range uint32(keys) {
		for i := range MaxWindow {
			counts[coefficient(key*0x9e3779b1, i, MaxWindow)]++
		}
	}
	mean := keys * MaxWindow / 255
	for c, n := range counts {
		if c == 0 && n != 0 {
			t.Errorf("%d coefficients are zero", n)
		}
		if c != 0 && (n < mean*9/10 || n > mean*11/10) {
			t.Errorf("coefficient %d occurs %d times, mean %d", c, n, mean)
		}
	}
}

// TestRepairVector pins the bytes of a repair symbol.
func TestRepairVector(t *testing.T) {
	e := NewEncoder(4, 32)
	for i, s := range []string{"land", "bridge", "", "across the border"} {
		e.Add(uint64(100+i), []byte(s))
	}
	got, err := e.Repair(nil, 100, 4, 7)
	if err != nil {
		t.Fatal(err)
	}
	if want := "000268d08b3c9ea8d6dfdc49d68015ebb449eb"; hex.EncodeToString(got) != want {
		t.Errorf("repair %x, want %s", got, want)
	}
}

func TestEncoderWindow(t *testing.T) {
	big := make([]byte, 33)
	tests := []struct {
		name  string
		add   func(e *Encoder)
		first uint64
		n     int
	}{
		{"empty", func(*Encoder) {}, 0, 0},
		{"from zero", func(e *Encoder) { e.Add(0, nil) }, 0, 1},
		{"from elsewhere", func(e *Encoder) { e.Add(70, nil); e.Add(71, nil) }, 70, 2},
		{"slides", func(e *Encoder) {
			for seq := range uint64(10) {
				e.Add(seq, nil)
			}
		}, 6, 4},
		{"gap starts anew", func(e *Encoder) { e.Add(1, nil); e.Add(2, nil); e.Add(4, nil) }, 4, 1},
		{"step back starts anew", func(e *Encoder) { e.Add(1, nil); e.Add(2, nil); e.Add(2, nil) }, 2, 1},
		{"too long empties", func(e *Encoder) { e.Add(1, nil); e.Add(2, big) }, 3, 0},
		{"goes on after too long", func(e *Encoder) { e.Add(1, nil); e.Add(2, big); e.Add(3, nil) }, 3, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := NewEncoder(4, 32)
			tt.add(e)
			if first, n := e.Window(); first != tt.first || n != tt.n {
				t.Errorf("window of %d from %d, want %d from %d", n, first, tt.n, tt.first)
			}
		})
	}
}

func TestEncoderRepairRange(t *testing.T) {
	e := NewEncoder(8, 32)
	if _, err := e.Repair(nil, 0, 1, 1); !errors.Is(err, ErrRange) {
		t.Errorf("empty encoder: %v, want ErrRange", err)
	}
	for seq := uint64(10); seq < 30; seq++ {
		e.Add(seq, []byte{byte(seq)})
	}
	tests := []struct {
		first uint64
		n     int
		ok    bool
	}{
		{22, 8, true}, {29, 1, true}, {22, 1, true}, {25, 3, true},
		{21, 1, false}, {21, 9, false}, {22, 9, false}, {30, 1, false}, {29, 2, false},
		{22, 0, false}, {22, -1, false}, {0, 8, false}, {^uint64(0), 1, false}, {^uint64(0), 9, false}, {24, 1 << 62, false},
	}
	for _, tt := range tests {
		prefix := []byte("prefix")
		got, err := e.Repair(prefix, tt.first, tt.n, 5)
		if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, ErrRange) {
			t.Errorf("repair over %d from %d: error %v, want ok %v", tt.n, tt.first, err, tt.ok)
		}
		if !bytes.HasPrefix(got, prefix) || !tt.ok && len(got) != len(prefix) {
			t.Errorf("repair over %d from %d returned %q", tt.n, tt.first, got)
		}
	}
}

// TestEncoderSymbolLength checks that short packets get short repairs, whatever was in the buffers before.
func TestEncoderSymbolLength(t *testing.T) {
	e := NewEncoder(3, 300)
	for seq, n := range []int{300, 300, 300, 5, 64, 0, 130} {
		e.Add(uint64(seq), bytes.Repeat([]byte{0xff}, n))
	}
	tests := []struct {
		first uint64
		n     int
		want  int
	}{{4, 1, 66}, {5, 1, 2}, {4, 2, 66}, {4, 3, 132}, {6, 1, 132}}
	for _, tt := range tests {
		got, err := e.Repair(nil, tt.first, tt.n, 3)
		if err != nil || len(got) != tt.want {
			t.Errorf("repair over %d from %d has %d bytes (%v), want %d", tt.n, tt.first, len(got), err, tt.want)
		}
	}
	if got, _ := e.Repair(nil, 4, 1, 99); !bytes.Equal(got, naiveSymbol(bytes.Repeat([]byte{0xff}, 64))) {
		t.Errorf("repair over one packet is no copy: %x", got)
	}
}

func TestEncoderAgainstOracle(t *testing.T) {
	r := rand.New(rand.NewPCG(seed(t), 11))
	for range 50 {
		window, maxPayload := 1+r.IntN(40), 1+r.IntN(200)
		e := NewEncoder(window, maxPayload)
		var packets [][]byte
		for seq := range uint64(100) {
			p := make([]byte, r.IntN(maxPayload+1))
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			packets = append(packets, p)
			e.Add(seq, p)
			first, n := e.Window()
			got, err := e.Repair(nil, first, n, uint32(seq))
			if err != nil {
				t.Fatal(err)
			}
			if want := naiveRepair(packets[first:], uint32(seq)); !bytes.Equal(got, want) {
				t.Fatalf("repair over %d from %d is %x, want %x", n, first, got, want)
			}
		}
	}
}

// TestEncoderCopies checks that the caller may reuse its buffer.
func TestEncoderCopies(t *testing.T) {
	e := NewEncoder(2, 8)
	buf := []byte("12345678")
	e.Add(0, buf)
	copy(buf, "abcdefgh")
	got, err := e.Repair(nil, 0, 1, 0)
	if err != nil || !bytes.Equal(got, naiveSymbol([]byte("12345678"))) {
		t.Errorf("repair %q (%v)", got, err)
	}
}

func TestConstructorLimits(t *testing.T) {
	for _, n := range []int{-1, 0, 1, MaxWindow, MaxWindow + 1, 1 << 40} {
		e, d := NewEncoder(n, n), NewDecoder(n, n)
		if e.window < 1 || e.window > MaxWindow || d.window != e.window {
			t.Errorf("window %d became %d and %d", n, e.window, d.window)
		}
		if e.maxPayload < 1 || e.maxPayload > MaxPayload || d.maxPayload != e.maxPayload {
			t.Errorf("payload %d became %d and %d", n, e.maxPayload, d.maxPayload)
		}
		if keep := len(d.ring); keep < d.window+MaxSkew || keep > 2*(d.window+MaxSkew) {
			t.Errorf("window %d keeps %d packets", d.window, keep)
		}
	}
}

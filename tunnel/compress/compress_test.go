package compress

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func seeded(t testing.TB) *rand.Rand {
	seed := rand.Uint64()
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 7))
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func text(r *rand.Rand, n int) []byte {
	words := []string{"carrier ", "border ", "tunnel ", "gateway ", "flow ", "lane ", "bond ", "path\n"}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
	}
	return b[:n]
}

// wire is what a receiver sees: chunks, each with its form, cut anywhere by the network.
type wire struct {
	t    testing.TB
	dec  *Decoder
	pool *Pool
	pend bytes.Buffer
	buf  [BlockSize]byte
	got  []byte
	sent int
}

// onlyRead hides bytes.Buffer's other methods, as a stream would.
type onlyRead struct{ r io.Reader }

func (o onlyRead) Read(p []byte) (int, error) { return o.r.Read(p) }

func (w *wire) take(out, src []byte, form Form) {
	w.t.Helper()
	switch form {
	case EndRaw:
		w.dec.Release()
		w.dec = nil
		fallthrough
	case Raw:
		w.got = append(w.got, src...)
		w.sent += len(src)
		return
	case Start:
		if w.dec == nil {
			d, err := w.pool.Decoder()
			if err != nil {
				w.t.Fatal(err)
			}
			w.dec = d
		}
		if err := w.dec.Start(onlyRead{&w.pend}); err != nil {
			w.t.Fatal(err)
		}
	}
	w.sent += len(out)
	w.pend.Write(out)
	for w.pend.Len() > 0 {
		n, err := w.dec.Read(w.buf[:])
		if err != nil {
			w.t.Fatalf("decode: %v", err)
		}
		w.got = append(w.got, w.buf[:n]...)
	}
}

// TestRoundTrip also proves that every chunk is complete at the receiver as soon as it was encoded, and that the wire
// never carries more than the chunks.
func TestRoundTrip(t *testing.T) {
	r := seeded(t)
	mixed := append(append(text(r, 200<<10), random(r, 1<<20)...), text(r, 4<<20)...)
	for _, tc := range []struct {
		name  string
		data  []byte
		chunk func() int
		most  float64 // of the input
	}{
		{"text, big chunks", text(r, 1<<20), func() int { return MaxChunk }, 0.5},
		{"text, small chunks", text(r, 100<<10), func() int { return 1 + r.IntN(400) }, 0.7},
		{"random, big chunks", random(r, 5<<20), func() int { return MaxChunk }, 1},
		{"random, any chunks", random(r, 500<<10), func() int { return 1 + r.IntN(MaxChunk) }, 1},
		{"random, tiny chunks", random(r, 100<<10), func() int { return 1 + r.IntN(100) }, 1},
		{"mixed", mixed, func() int { return 1 + r.IntN(MaxChunk) }, 0.95},
		{"zeros", make([]byte, 1<<20), func() int { return MaxChunk }, 0.01},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := NewPool(0, 0)
			e := p.Encoder()
			w := &wire{t: t, pool: p}
			for rest := tc.data; len(rest) > 0; {
				n := min(len(rest), tc.chunk())
				src := rest[:n]
				rest = rest[n:]
				prefix := []byte("head")
				out, form := e.Encode(prefix, src)
				if !bytes.HasPrefix(out, prefix) {
					t.Fatal("dst lost its prefix")
				}
				out = out[len(prefix):]
				if len(out) > n+MaxExpansion {
					t.Fatalf("chunk of %d became %d", n, len(out))
				}
				w.take(out, src, form)
				if len(w.got) != len(tc.data)-len(rest) {
					t.Fatalf("after %d bytes the receiver has %d", len(tc.data)-len(rest), len(w.got))
				}
				if w.sent > len(w.got) {
					t.Fatalf("expanded: %d bytes became %d", len(w.got), w.sent)
				}
			}
			if !bytes.Equal(w.got, tc.data) {
				t.Fatal("data differ")
			}
			if most := int(tc.most * float64(len(tc.data))); w.sent > most {
				t.Errorf("%d bytes became %d, want at most %d", len(tc.data), w.sent, most)
			}
			e.Release()
			if w.dec != nil {
				w.dec.Release()
			}
			if _, _, enc, dec := p.Stats(); enc != 0 || dec != 0 {
				t.Errorf("leaked %d encoders, %d decoders", enc, dec)
			}
		})
	}
}

func TestBypass(t *testing.T) {
	r := seeded(t)
	p := NewPool(1, 1)
	e := p.Encoder()
	junk := random(r, MaxChunk)
	if _, form := e.Encode(nil, junk); form != Raw {
		t.Fatalf("random chunk travels as %d", form)
	}
	if e.Holding() {
		t.Error("an encoder is held while bypassing")
	}
	easy := text(r, MaxChunk)
	n := 0
	for ; n < 100; n++ {
		if _, form := e.Encode(nil, easy); form == Start {
			break
		}
	}
	if want := bypassBytes / MaxChunk; n != want {
		t.Errorf("tried again after %d chunks, want %d", n, want)
	}
	if _, form := e.Encode(nil, easy); form != Continue {
		t.Errorf("next chunk travels as %d, want Continue", form)
	}
	if _, form := e.Encode(nil, junk); form != EndRaw {
		t.Errorf("junk after text travels as %d, want EndRaw", form)
	}
}

func TestLimits(t *testing.T) {
	r := seeded(t)
	p := NewPool(1, 1)
	a, b := p.Encoder(), p.Encoder()
	if _, form := a.Encode(nil, text(r, 1000)); form != Start {
		t.Fatalf("first flow: %d", form)
	}
	if _, form := b.Encode(nil, text(r, 1000)); form != Raw {
		t.Fatalf("flow beyond the limit: %d, want Raw", form)
	}
	a.Release()
	if _, form := b.Encode(nil, text(r, 1000)); form != Start {
		t.Fatalf("after a release: %d", form)
	}
	d, err := p.Decoder()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Decoder(); !errors.Is(err, ErrDecoders) {
		t.Fatalf("second decoder: %v", err)
	}
	d.Release()
	d.Release() // harmless
	if _, err := p.Decoder(); err != nil {
		t.Fatal(err)
	}
}

// TestBomb feeds a stream that asks for a larger window than allowed.
func TestBomb(t *testing.T) {
	var big bytes.Buffer
	w, err := zstd.NewWriter(&big, zstd.WithWindowSize(8<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 16<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := NewPool(0, 0).Decoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	if err := d.Start(onlyRead{&big}); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(make([]byte, BlockSize)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("read %d, %v; want ErrCorrupt", n, err)
	}
}

func FuzzDecoder(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	p := NewPool(0, 0)
	e := p.Encoder()
	out, _ := e.Encode(nil, text(r, 5000))
	f.Add(out)
	out, _ = e.Encode(out, text(r, 5000))
	f.Add(out)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := p.Decoder()
		if err != nil {
			t.Fatal(err)
		}
		defer d.Release()
		if err := d.Start(onlyRead{bytes.NewReader(b)}); err != nil {
			return
		}
		buf := make([]byte, BlockSize)
		for range 1000 {
			if _, err := d.Read(buf); err != nil {
				return
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, tc := range []struct {
		name string
		data []byte
	}{{"text", text(r, MaxChunk)}, {"random", random(r, MaxChunk)}} {
		b.Run("data="+tc.name, func(b *testing.B) {
			e := NewPool(0, 0).Encoder()
			buf := make([]byte, 0, MaxChunk+MaxExpansion)
			b.SetBytes(int64(len(tc.data)))
			b.ReportAllocs()
			for b.Loop() {
				e.Encode(buf, tc.data)
			}
		})
	}
}

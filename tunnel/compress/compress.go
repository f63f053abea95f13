// Package compress shrinks one direction of a flow with zstd, and gets out of the way when there is nothing to shrink.
//
// Sender: one [Pool] a node, [Pool.Encoder] for each flow direction, [Encoder.Encode] for each read, [Encoder.Release]
// at the end. Encode says in which [Form] the chunk travels. Every chunk is complete when Encode returns: nothing is
// held back for a better ratio.
//
// Receiver: [Pool.Decoder] when the first compressed bytes arrive, [Decoder.Start] at each [Start], [Decoder.Read]
// while compressed bytes are pending, [Decoder.Release] at the end.
//
// Memory: the caller owns src and dst of Encode and the buffer given to Read. Encoders and decoders own about 1 MiB
// each, taken from the pool's two bounds and given back by Release.
//
// Encoders and decoders are used by one goroutine at a time; a Pool by any number.
package compress

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// Form says how a chunk travels.
type Form uint8

const (
	Raw      Form = iota // as it is, outside the zstd stream
	Start                // compressed, first bytes of a new zstd stream
	Continue             // compressed, continues the zstd stream
	EndRaw               // the running zstd stream is over, and the chunk travels as it is
)

const (
	// MaxChunk is the largest chunk Encode takes: one read of a flow.
	MaxChunk = 64 << 10
	// MaxExpansion bounds how much longer than its chunk a compressed chunk may be: zstd's frame header and the header
	// of a stored block. It is paid only out of what the same stream has already saved.
	MaxExpansion = 64
	// BlockSize is the largest block one Decoder.Read delivers, and so the smallest buffer to call it with.
	BlockSize = 128 << 10

	// window is small: flows are many, and what repeats over longer distances is for deduplication.
	window = 512 << 10
	// maxWindow bounds what a peer can make a decoder allocate.
	maxWindow = 1 << 20

	// testBytes is how much of a flow is tried before it is judged, minSaving (1/n) what it must save, and bypassBytes
	// how much then travels untried: the test costs 1/64 of the bytes.
	testBytes   = 64 << 10
	minSaving   = 20
	bypassBytes = 4 << 20
	// minFirst is the shortest chunk worth an encoder of its own.
	minFirst = 64
	// peekBytes bounds the chunks judged by their histogram alone while no encoder is held: small encrypted flows
	// never take one.
	peekBytes = 8 << 10

	// DefaultEncoders and DefaultDecoders bound a node's zstd memory to about 256 MiB each. Flows beyond the encoders
	// travel raw; flows beyond the decoders are refused.
	DefaultEncoders = 256
	DefaultDecoders = 1024
)

var (
	// ErrDecoders is returned when every decoder of the pool is in use.
	ErrDecoders = errors.New("every zstd decoder is in use")
	// ErrCorrupt is returned for bytes that are no zstd stream, or one with a larger window than allowed.
	ErrCorrupt = errors.New("corrupt zstd stream")
)

// Pool bounds and reuses encoders and decoders. Safe for concurrent use; the zero value is not usable.
type Pool struct {
	maxEnc, maxDec int64
	enc, dec       atomic.Int64
	encPool        sync.Pool
	decPool        sync.Pool

	bytesIn, bytesOut atomic.Uint64
}

// NewPool returns a pool for at most so many encoders and decoders in use at once; 0 means the default.
func NewPool(encoders, decoders int) *Pool {
	if encoders == 0 {
		encoders = DefaultEncoders
	}
	if decoders == 0 {
		decoders = DefaultDecoders
	}
	return &Pool{maxEnc: int64(encoders), maxDec: int64(decoders)}
}

// Stats returns the bytes given to Encode and the bytes they became, and the encoders and decoders in use.
func (p *Pool) Stats() (in, out uint64, encoders, decoders int) {
	return p.bytesIn.Load(), p.bytesOut.Load(), int(p.enc.Load()), int(p.dec.Load())
}

func (p *Pool) takeEncoder() *zstd.Encoder {
	if p.enc.Add(1) > p.maxEnc {
		p.enc.Add(-1)
		return nil
	}
	if e, ok := p.encPool.Get().(*zstd.Encoder); ok {
		return e
	}
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithWindowSize(window), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		p.enc.Add(-1)
		return nil // only an invalid option, which the tests would show
	}
	return e
}

func (p *Pool) putEncoder(e *zstd.Encoder) {
	e.Reset(nil)
	p.encPool.Put(e)
	p.enc.Add(-1)
}

// sink collects the encoder's output in a slice of the caller.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// Encoder compresses one direction of one flow. Not safe for concurrent use.
type Encoder struct {
	pool *Pool
	enc  *zstd.Encoder
	out  sink

	started bool // the receiver has a running stream
	credit  int  // bytes the running stream has saved so far; it may never spend more
	skip    int  // bytes still to pass untried

	tested, saved int // of the current test
}

// Encoder returns an encoder that takes memory from the pool only when it compresses.
func (p *Pool) Encoder() *Encoder { return &Encoder{pool: p} }

// Encode says how src (at most MaxChunk bytes) travels. For Start and Continue the compressed bytes are appended to dst
// and returned; for Raw and EndRaw out is dst unchanged and src itself is to be sent.
func (e *Encoder) Encode(dst, src []byte) (out []byte, form Form) {
	out, form = e.encode(dst, src)
	e.pool.bytesIn.Add(uint64(len(src)))
	if form == Start || form == Continue {
		e.pool.bytesOut.Add(uint64(len(out) - len(dst)))
	} else {
		e.pool.bytesOut.Add(uint64(len(src)))
	}
	return out, form
}

func (e *Encoder) encode(dst, src []byte) ([]byte, Form) {
	if e.skip > 0 {
		e.skip -= len(src)
		return dst, Raw
	}
	if e.enc == nil {
		if len(src) < minFirst {
			return dst, Raw
		}
		if len(src) < peekBytes && looksRandom(src) {
			e.judge(len(src), 0)
			return dst, Raw
		}
		if e.enc = e.pool.takeEncoder(); e.enc == nil {
			return dst, Raw
		}
		e.enc.Reset(&e.out)
		e.credit = 0
	}
	e.out.b = dst
	_, err := e.enc.Write(src)
	if err == nil {
		err = e.enc.Flush()
	}
	out := e.out.b
	e.out.b = nil
	saved := len(src) - (len(out) - len(dst))
	e.credit += saved
	if bypass := e.judge(len(src), saved); bypass || e.credit < 0 || err != nil {
		return dst, e.Release()
	}
	if !e.started {
		e.started = true
		return out, Start
	}
	return out, Continue
}

// judge counts n more bytes of which saved were saved, and decides at the end of each test whether to go on.
func (e *Encoder) judge(n, saved int) (bypass bool) {
	e.tested += n
	e.saved += saved
	if e.tested < testBytes {
		return false
	}
	if bypass = e.saved*minSaving < e.tested; bypass {
		e.skip = bypassBytes
	}
	e.tested, e.saved = 0, 0
	return bypass
}

// Release gives the encoder's memory back to the pool; the next Encode begins a new stream. It returns EndRaw if the
// receiver has a running stream and should be told, else Raw.
func (e *Encoder) Release() Form {
	if e.enc != nil {
		e.pool.putEncoder(e.enc)
		e.enc = nil
	}
	if !e.started {
		return Raw
	}
	e.started = false
	return EndRaw
}

// Holding reports whether the encoder holds memory of the pool.
func (e *Encoder) Holding() bool { return e.enc != nil }

// looksRandom reports whether the byte histogram of b is what random bytes would give. Short chunks are not judged.
func looksRandom(b []byte) bool {
	const sample = 1024
	if len(b) < 512 {
		return false
	}
	b = b[:min(len(b), sample)]
	var count [256]uint16
	for _, c := range b {
		count[c]++
	}
	sum := 0
	for _, c := range count {
		sum += int(c) * int(c)
	}
	// Random bytes give n + n*n/256 on average, with a standard deviation under 2 % of it at 1,024 bytes.
	n := len(b)
	expect := n + n*n/256
	return sum < expect+expect/7
}

// Decoder expands one direction of one flow. Not safe for concurrent use.
type Decoder struct {
	pool *Pool
	dec  *zstd.Decoder
}

// Decoder takes a decoder from the pool. It fails with ErrDecoders when all are in use.
func (p *Pool) Decoder() (*Decoder, error) {
	if n := p.dec.Add(1); n > p.maxDec {
		p.dec.Add(-1)
		return nil, fmt.Errorf("%w: limit %d", ErrDecoders, p.maxDec)
	}
	if d, ok := p.decPool.Get().(*zstd.Decoder); ok {
		return &Decoder{pool: p, dec: d}, nil
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62), zstd.IgnoreChecksum(true))
	if err != nil {
		p.dec.Add(-1)
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Decoder{pool: p, dec: d}, nil
}

// Start begins a new stream read from r. r must block for the rest of a block and never be a *bytes.Buffer.
func (d *Decoder) Start(r io.Reader) error {
	if err := d.dec.Reset(r); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// Read expands the next block into p, which must hold BlockSize bytes. It reads exactly that block from the source, so
// it is called only while compressed bytes are pending; after it nothing expanded is left behind.
func (d *Decoder) Read(p []byte) (int, error) {
	if len(p) < BlockSize {
		return 0, fmt.Errorf("zstd read into %d bytes: want %d", len(p), BlockSize)
	}
	n, err := d.dec.Read(p)
	if err != nil && n == 0 {
		return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return n, nil
}

// Release gives the decoder back to the pool. The Decoder must not be used afterwards.
func (d *Decoder) Release() {
	if d.dec == nil {
		return
	}
	if err := d.dec.Reset(nil); err == nil {
		d.pool.decPool.Put(d.dec)
	}
	d.dec = nil
	d.pool.dec.Add(-1)
}

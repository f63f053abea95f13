package tunnel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

var goodHeaders = []Header{
	{ID: 1, Class: Interactive, Codec: CodecZstd, HopLimit: 8, Tenant: "acme", Src: client, Dst: origin},
	{ID: 1<<64 - 1, Class: Bulk, Src: netip.MustParseAddrPort("[2001:db8::1]:65535"), Dst: netip.MustParseAddrPort("[::1]:0")},
	{Tenant: strings.Repeat("t", MaxTenantLen), Class: Realtime, Src: client, Dst: netip.MustParseAddrPort("[2001:db8::1]:1")},
}

func TestHeader(t *testing.T) {
	for _, h := range goodHeaders {
		b, err := h.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		b = b[len("before"):]
		if len(b) > headerPrefix+maxHeader {
			t.Errorf("%d bytes, more than %d", len(b), headerPrefix+maxHeader)
		}
		got, rest, err := ParseHeader(append(slices.Clip(b), "after"...))
		if err != nil || got != h || string(rest) != "after" {
			t.Errorf("%+v became %+v, rest %q, %v", h, got, rest, err)
		}
		for n := range len(b) { // truncated
			if _, _, err := ParseHeader(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%d of %d bytes: %v", n, len(b), err)
			}
		}
	}
	mapped := goodHeaders[0]
	mapped.Src = netip.MustParseAddrPort("[::ffff:10.10.0.7]:40000")
	b, err := mapped.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := ParseHeader(b); err != nil || got != goodHeaders[0] {
		t.Errorf("mapped address: %+v, %v", got, err)
	}
}

func TestHeaderRefuses(t *testing.T) {
	for name, h := range map[string]Header{
		"class":       {Class: numClasses, Src: client, Dst: origin},
		"codec":       {Codec: numCodecs, Src: client, Dst: origin},
		"tenant":      {Tenant: strings.Repeat("t", MaxTenantLen+1), Src: client, Dst: origin},
		"source":      {Dst: origin},
		"destination": {Src: client},
	} {
		if b, err := h.Append(nil); err == nil || len(b) != 0 {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
	good, err := goodHeaders[0].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"version":     {0, 2, ErrVersion},
		"length":      {1, 0xff, ErrMalformed},
		"short":       {2, 3, ErrMalformed},
		"class":       {3, byte(numClasses), ErrMalformed},
		"codec":       {4, byte(numCodecs), ErrMalformed},
		"hop limit":   {5, MaxHops + 1, ErrMalformed},
		"flags":       {6, 1, ErrMalformed},
		"source":      {15, 5, ErrMalformed},
		"destination": {22, 0, ErrMalformed},
		"tenant":      {29, 200, ErrMalformed},
		"tenant less": {29, 1, ErrMalformed},
	} {
		b := slices.Clone(good)
		b[tc.at] = tc.to
		if h, _, err := ParseHeader(b); !errors.Is(err, tc.want) {
			t.Errorf("%s: parsed as %+v, %v", name, h, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range goodHeaders {
		b, err := h.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, rest, err := ParseHeader(b)
		if err != nil {
			return
		}
		again, err := h.Append(nil)
		if err != nil {
			t.Fatalf("%+v does not encode: %v", h, err)
		}
		if want := b[:len(b)-len(rest)]; !bytes.Equal(again, want) {
			t.Fatalf("%x parsed and encoded is %x", want, again)
		}
	})
}

// byteStream is a stream of bytes that come in pieces.
type byteStream struct {
	b         []byte
	piece     func() int
	cancelled int
}

func (s *byteStream) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.b[:min(len(s.b), s.piece())])
	s.b = s.b[n:]
	return n, nil
}
func (s *byteStream) CancelRead(quic.StreamErrorCode) { s.cancelled++ }

// sink records what a sendHalf writes.
type sink struct {
	writes [][]byte
	closed bool
}

func (s *sink) Write(b []byte) (int, error) {
	s.writes = append(s.writes, slices.Clone(b))
	return len(b), nil
}
func (s *sink) Close() error                     { s.closed = true; return nil }
func (s *sink) CancelWrite(quic.StreamErrorCode) {}
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

func bareSession(t testing.TB) (*session, *lane) {
	s := &session{
		node: &Node{log: testLog(t)}, peer: &peer{name: "peer"},
		flows: map[flowKey]*recvHalf{}, hops: map[*hop]struct{}{}, closing: make(chan struct{}),
	}
	s.node.large.Store(1 << 30)
	return s, &lane{ses: s, class: Interactive}
}

// FuzzFrames feeds a flow's stream to both readers, the relay's and the end's, in pieces: they must agree on the
// payload, and neither may deliver bytes that a naive parser does not find.
func FuzzFrames(f *testing.F) {
	frame := func(k frameKind, p string) []byte {
		return append(binary.BigEndian.AppendUint32(nil, uint32(k)<<24|uint32(len(p))), p...)
	}
	f.Add(slices.Concat(frame(frameRaw, "hello"), frame(frameZstd, "zz"), frame(frameZstdEnd, ""), frame(frameEOF, "")), uint64(1))
	f.Add(slices.Concat(frame(frameRaw, strings.Repeat("x", 9000)), frame(frameReset, "\x00\x02")), uint64(2))
	f.Add(slices.Concat(frame(frameZstdStart, "abc"), frame(frameRaw, "d"), []byte{1, 0, 1}), uint64(3))
	f.Fuzz(func(t *testing.T, b []byte, seed uint64) {
		// The naive parser: whole frames, then how it ends.
		var want, wire []byte
		rest, end := b, error(ErrMalformed)
		for len(rest) >= frameHeader {
			k, n, err := parseFrame(rest)
			if err != nil {
				break
			}
			if k == frameEOF {
				end = io.EOF
				break
			}
			body := rest[frameHeader:]
			if k == frameReset {
				if len(body) >= n {
					end = &ResetError{}
				}
				break
			}
			m := min(n, len(body))
			want = append(want, body[:m]...)
			wire = append(wire, rest[:frameHeader+m]...)
			rest = body[m:]
		}
		pieces := func() func() int {
			r := rand.New(rand.NewPCG(seed, 1))
			return func() int { return 1 + r.IntN(3000) }
		}
		check := func(who string, got, want []byte, err error) {
			t.Helper()
			var re *ResetError
			_, isReset := end.(*ResetError)
			if !bytes.Equal(got, want) || (end == io.EOF) != (err == io.EOF) || isReset != errors.As(err, &re) {
				t.Fatalf("%s: %d bytes, %v; want %d bytes, %v", who, len(got), err, len(want), end)
			}
		}
		s, l := bareSession(t)
		// The stream ends anywhere, and the rest comes in a continuation that ends for good.
		cut := int(seed % uint64(len(b)+1))
		reader := func() *recvHalf {
			h := newRecvHalf(s, l, &byteStream{b: b[:cut], piece: pieces()}, 1, forward)
			l.refs.Add(1)
			h.cont <- continuation{&byteStream{b: b[cut:], piece: pieces()}, l}
			return h
		}
		h := reader()
		var got []byte
		var err error
		for err == nil {
			var p []byte
			if _, p, err = h.chunk(); err == nil {
				got = append(got, p...)
			}
		}
		h.finish()
		check("chunk", got, want, err)
		h = reader()
		got, err = nil, nil
		for err == nil {
			var buf []byte
			var from, to int
			if buf, from, to, err = h.batch(); err == nil {
				if from < bufRoom {
					t.Fatalf("batch at %d", from)
				}
				got = append(got, buf[from:to]...)
			}
		}
		h.finish()
		check("batch", got, wire, err)
		if l.refs.Load() != 0 {
			t.Fatalf("%d claims on the lane left", l.refs.Load())
		}
	})
}

// TestFirstWrite proves that the flow header and the first bytes are one write, at the ingress and at a relay.
func TestFirstWrite(t *testing.T) {
	header, err := goodHeaders[0].Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, l := bareSession(t)
	out := &sink{}
	h := newSendHalf(s, l, out, 1, forward, -1)
	h.prefix = header
	buf := make([]byte, bufRoom+5)
	copy(buf[bufRoom:], "hello")
	if err := h.frame(frameRaw, buf, bufRoom, 5); err != nil {
		t.Fatal(err)
	}
	if err := h.eof(); err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(header, []byte{byte(frameRaw), 0, 0, 5}, []byte("hello"))
	if len(out.writes) != 2 || !bytes.Equal(out.writes[0], want) || !out.closed {
		t.Errorf("writes %x", out.writes)
	}

	in := newRecvHalf(s, l, &byteStream{b: slices.Concat(out.writes...), piece: func() int { return 1000 }}, 1, forward)
	if got, err := in.header(); err != nil || got != goodHeaders[0] {
		t.Fatalf("header %+v, %v", got, err)
	}
	relayed := &sink{}
	next := newSendHalf(s, l, relayed, 1, forward, -1)
	next.prefix = header
	f := &relayFlow{node: s.node}
	f.in = &hop{ses: s, recv: in, send: newSendHalf(s, l, &sink{}, 1, backward, -1)}
	f.out = &hop{ses: s, send: next, recv: newRecvHalf(s, l, &byteStream{}, 1, backward)}
	f.pump(in, next)
	if len(relayed.writes) != 2 || !bytes.Equal(relayed.writes[0], want) || !relayed.closed {
		t.Errorf("relayed writes %x", relayed.writes)
	}
}

// TestPieces: a direction that may move writes little at a time, wherever its frames end; one that has moved does not.
func TestPieces(t *testing.T) {
	s, l := bareSession(t)
	const size = 64 << 10
	for _, moveAt := range []int64{1 << 30, -1} {
		out := &sink{}
		h := newSendHalf(s, l, out, 1, forward, moveAt)
		buf := randomBytes(seeded(t), bufRoom+size)
		want := slices.Clone(buf[bufRoom:])
		if err := h.frame(frameRaw, buf, bufRoom, size); err != nil {
			t.Fatal(err)
		}
		largest := 0
		for _, w := range out.writes {
			largest = max(largest, len(w))
		}
		if most := map[bool]int{true: movePiece, false: frameHeader + size}[moveAt > 0]; largest != most {
			t.Errorf("move at %d: writes of up to %d bytes, want %d", moveAt, largest, most)
		}
		if got := slices.Concat(out.writes...); !bytes.Equal(got[frameHeader:], want) {
			t.Errorf("move at %d: %d bytes written, not what was to be sent", moveAt, len(got))
		}
	}
}

// TestWantsMove is the table of what makes an elephant.
func TestWantsMove(t *testing.T) {
	const elephant = 256 << 10
	for name, tc := range map[string]struct {
		before, sent, behind int64
		span                 time.Duration
		writing              int32
		want                 bool
	}{
		"little":                      {0, elephant - 1, 0, 0, 0, false},
		"much":                        {0, elephant, 0, 0, 0, true},
		"much with what waits":        {0, elephantEarly, elephant - elephantEarly, 0, 0, true},
		"little with what waits":      {0, elephantEarly, elephant - elephantEarly - 1, 0, 0, false},
		"much waits, little was sent": {0, elephantEarly - 1, elephant, 0, 0, false},
		"much waits after a pause":    {1, elephantEarly, elephant, 0, 0, false},
		"long":                        {0, elephantLeast, 0, elephantTime + 1, 0, true},
		"long but little":             {0, elephantLeast - 1, 0, elephantTime + 1, 0, false},
		"not long":                    {0, elephantLeast, 0, elephantTime, 0, false},
		"in a crowd":                  {0, 1, 0, crowdTime + 1, crowd, true},
		"in a crowd, not long":        {0, 1, 0, crowdTime, crowd, false},
		"in a small crowd":            {0, 1, 0, crowdTime + 1, crowd - 1, false},
	} {
		s, l := bareSession(t)
		l.writing.Store(tc.writing)
		h := newSendHalf(s, l, &sink{}, 1, forward, elephant)
		h.began = time.Now()
		h.before, h.sent, h.behind, h.last = tc.before, tc.sent, tc.behind, h.began.Add(tc.span)
		if got := h.wantsMove(); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func FuzzHello(f *testing.F) {
	for _, h := range []hello{{Node: "sha", Version: "1.2"}, {Node: "x", Told: true, Routes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}} {
		b, err := h.append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := h.append(nil)
		if err != nil {
			return // longer than it was, as JSON may be
		}
		h2, err := readHello(bytes.NewReader(again))
		if err != nil || h2.Node != h.Node || h2.Version != h.Version || !slices.Equal(h2.Routes, h.Routes) || h2.Told != h.Told {
			t.Fatalf("%+v became %+v, %v", h, h2, err)
		}
	})
}

func TestHelloLimits(t *testing.T) {
	big := hello{Node: strings.Repeat("x", maxControl)}
	if _, err := big.append(nil); err == nil {
		t.Error("a message over the limit is encoded")
	}
	b, err := (&hello{Node: "x"}).append(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, to := range map[int]byte{0: 2, 1: 1, 5: 'x'} {
		c := slices.Clone(b)
		c[i] = to
		if h, err := readHello(bytes.NewReader(c)); !errors.Is(err, ErrMalformed) {
			t.Errorf("byte %d: read %+v, %v", i, h, err)
		}
	}
}

// TestPumpAllocates nothing in the steady state.
func TestPumpAllocates(t *testing.T) {
	s, l := bareSession(t)
	frame := append([]byte{byte(frameRaw), 0, 0x80, 0}, make([]byte, 32<<10)...)
	in := &endless{frame: frame}
	recv := newRecvHalf(s, l, in, 1, forward)
	send := newSendHalf(s, l, discard{}, 1, forward, -1)
	step := func() {
		buf, from, to, err := recv.batch()
		if err != nil {
			t.Fatal(err)
		}
		if err := recv.give(send, buf, from, to); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		step()
	}
	if n := testing.AllocsPerRun(200, step); n > 0 {
		t.Errorf("%.1f allocations for each batch", n)
	}
}

type endless struct {
	frame []byte
	at    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		k := copy(p[n:], e.frame[e.at:])
		n += k
		e.at = (e.at + k) % len(e.frame)
	}
	return n, nil
}
func (e *endless) CancelRead(quic.StreamErrorCode) {}

type discard struct{}

func (discard) Write(b []byte) (int, error)      { return len(b), nil }
func (discard) Close() error                     { return nil }
func (discard) CancelWrite(quic.StreamErrorCode) {}
func (discard) SetWriteDeadline(time.Time) error { return nil }

// trickle takes a few bytes of each write, until its deadline.
type trickle struct {
	sink
	takes    []int // of the writes to come; then all
	deadline time.Time
	fails    error
	h        *recvHalf
	stood    time.Duration // how long it had taken too little, as h says, at the last write
}

func (s *trickle) SetWriteDeadline(t time.Time) error { s.deadline = t; return nil }

func (s *trickle) Write(b []byte) (int, error) {
	s.stood = time.Since(time.Unix(0, s.h.blocked.Load()))
	if len(s.takes) == 0 {
		if s.fails != nil {
			return 0, s.fails
		}
		return s.sink.Write(b)
	}
	n := min(s.takes[0], len(b))
	s.takes = s.takes[1:]
	_, _ = s.sink.Write(b[:n])
	time.Sleep(time.Until(s.deadline))
	return n, os.ErrDeadlineExceeded
}

// TestHandShortWrites: what a receiver takes only in part is handed over once and in order, and since when it takes nothing is
// counted from where it took less than would do.
func TestHandShortWrites(t *testing.T) {
	failed := errors.New("gone")
	for name, tc := range map[string]struct {
		takes   []int
		fails   error
		blocked time.Duration // how long the receiver has stood still when it is asked the last time
	}{
		"all at once":      {nil, nil, 0},
		"enough each time": {[]int{stallLeast, stallLeast + 7, stallLeast}, nil, 0},
		"little by little": {[]int{stallLeast / 4, stallLeast / 4, stallLeast / 4}, nil, 3 * stallAfter / 2},
		"nothing":          {[]int{0, 0}, nil, stallAfter},
		"little, enough":   {[]int{1, stallLeast, 0}, nil, stallAfter / 2},
		"breaks":           {[]int{stallLeast, 1}, failed, stallAfter / 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, l := bareSession(t)
				h := newRecvHalf(s, l, nil, 1, forward)
				want := randomBytes(seeded(t), 8*stallLeast)
				w := &trickle{takes: tc.takes, fails: tc.fails, h: h}
				if err := h.hand(w, want); err != tc.fails {
					t.Errorf("error %v, want %v", err, tc.fails)
				}
				if w.stood != tc.blocked {
					t.Errorf("at the last write the receiver had stood still for %v, want %v", w.stood, tc.blocked)
				}
				got := slices.Concat(w.writes...)
				if tc.fails == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(want, got) {
					t.Errorf("%d bytes were handed over, want %d, in order", len(got), len(want))
				}
				if h.blocked.Load() != 0 || !w.deadline.IsZero() {
					t.Errorf("afterwards: blocked since %d, deadline %v", h.blocked.Load(), w.deadline)
				}
			})
		})
	}
}

package bond

import (
	"context"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/qlog"
	"github.com/quic-go/quic-go/qlogwriter"
)

// pipeEnd is one end of a scripted pipe: the net.PacketConn of one QUIC connection, without a bond. Its order of events
// is exact in virtual time, so that quic-go's limits can be measured to the packet.
type pipeEnd struct {
	name string
	peer *pipeEnd

	// write says what becomes of the n-th packet: delivered after a delay, lost (negative), or refused. It may block.
	write atomic.Pointer[func(n int, b []byte) (time.Duration, error)]

	mu       sync.Mutex
	count    int
	sizes    []int
	flying   []flyingPacket // by due, in order of sending where equal
	wake     chan struct{}
	closed   chan struct{}
	deadline time.Time
}

type flyingPacket struct {
	due time.Time
	b   []byte
}

func newPipe(delay time.Duration) (a, b *pipeEnd) {
	end := func(name string) *pipeEnd {
		e := &pipeEnd{name: name, wake: make(chan struct{}, 1), closed: make(chan struct{})}
		e.script(func(int, []byte) (time.Duration, error) { return delay, nil })
		return e
	}
	a, b = end("a"), end("b")
	a.peer, b.peer = b, a
	return a, b
}

func (e *pipeEnd) script(f func(n int, b []byte) (time.Duration, error)) { e.write.Store(&f) }

// push delivers b to this end's reader at the time.
func (e *pipeEnd) push(due time.Time, b []byte) {
	e.mu.Lock()
	i := len(e.flying)
	for i > 0 && e.flying[i-1].due.After(due) {
		i--
	}
	e.flying = slices.Insert(e.flying, i, flyingPacket{due, slices.Clone(b)})
	e.mu.Unlock()
	e.poke()
}

func (e *pipeEnd) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *pipeEnd) WriteTo(b []byte, _ net.Addr) (int, error) {
	e.mu.Lock()
	n := e.count
	e.count++
	e.sizes = append(e.sizes, len(b))
	e.mu.Unlock()
	delay, err := (*e.write.Load())(n, b)
	if err != nil {
		return 0, err
	}
	if delay >= 0 {
		e.peer.push(time.Now().Add(delay), b)
	}
	return len(b), nil
}

func (e *pipeEnd) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		wait := time.Hour
		e.mu.Lock()
		if !e.deadline.IsZero() {
			wait = time.Until(e.deadline)
		}
		if len(e.flying) > 0 {
			next := time.Until(e.flying[0].due)
			if next <= 0 {
				n := copy(b, e.flying[0].b)
				e.flying = e.flying[1:]
				e.mu.Unlock()
				return n, e.RemoteAddr(), nil
			}
			wait = min(wait, next)
		}
		late := !e.deadline.IsZero() && time.Until(e.deadline) <= 0
		e.mu.Unlock()
		if late {
			return 0, nil, os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-e.wake:
		case <-e.closed:
			timer.Stop()
			return 0, nil, net.ErrClosed
		}
		timer.Stop()
	}
}

func (e *pipeEnd) Close() error {
	close(e.closed)
	return nil
}

func (e *pipeEnd) SetReadDeadline(t time.Time) error {
	e.mu.Lock()
	e.deadline = t
	e.mu.Unlock()
	e.poke()
	return nil
}

func (e *pipeEnd) LocalAddr() net.Addr              { return newLaneAddr(e.name, 0) }
func (e *pipeEnd) RemoteAddr() net.Addr             { return e.peer.LocalAddr() }
func (e *pipeEnd) SetDeadline(t time.Time) error    { return e.SetReadDeadline(t) }
func (e *pipeEnd) SetWriteDeadline(time.Time) error { return nil }
func (e *pipeEnd) SetReadBuffer(int) error          { return nil }
func (e *pipeEnd) SetWriteBuffer(int) error         { return nil }

// gate is a qlog trace whose connection stands still while it is shut: the only way to stall quic-go's run loop from
// outside. It counts the packets that the receive queue drops.
type gate struct {
	mu      sync.Mutex
	shut    chan struct{} // nil: open
	dropped atomic.Int64
}

func (g *gate) close() {
	g.mu.Lock()
	g.shut = make(chan struct{})
	g.mu.Unlock()
}

func (g *gate) open() {
	g.mu.Lock()
	close(g.shut)
	g.shut = nil
	g.mu.Unlock()
}

func (g *gate) AddProducer() qlogwriter.Recorder { return g }
func (g *gate) SupportsSchemas(string) bool      { return true }
func (g *gate) Close() error                     { return nil }

func (g *gate) RecordEvent(e qlogwriter.Event) {
	if d, ok := e.(qlog.PacketDropped); ok && d.Trigger == qlog.PacketDropDOSPrevention {
		g.dropped.Add(1)
		return // from the reader, not from the run loop
	}
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func (g *gate) tracer(context.Context, bool, quic.ConnectionID) qlogwriter.Trace { return g }

// quicPair is a QUIC connection over a pipe; a dialled it.
type quicPair struct {
	a, b   *pipeEnd
	ca, cb *quic.Conn
	ta, tb *quic.Transport
	wg     sync.WaitGroup // of what writes
}

// newQUICPair connects over the pipe. conf may change the configuration of each end.
func newQUICPair(t testing.TB, a, b *pipeEnd, conf func(isA bool, c *quic.Config)) *quicPair {
	t.Helper()
	ka, kb := testKey(1), testKey(2)
	clientTLS, _, err := ka.TLS(kb.Public())
	if err != nil {
		t.Fatal(err)
	}
	_, serverTLS, err := kb.TLS(ka.Public())
	if err != nil {
		t.Fatal(err)
	}
	config := func(isA bool) *quic.Config {
		c := quicConfig(nil)
		if conf != nil {
			conf(isA, c)
		}
		return c
	}
	p := &quicPair{a: a, b: b, ta: &quic.Transport{Conn: a}, tb: &quic.Transport{Conn: b}}
	ln, err := p.tb.Listen(serverTLS, config(false))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		p.cb, err = ln.Accept(t.Context())
		done <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if p.ca, err = p.ta.Dial(ctx, a.RemoteAddr(), clientTLS, config(true)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *quicPair) close() {
	p.ca.CloseWithError(0, "")
	p.cb.CloseWithError(0, "")
	p.ta.Close()
	p.tb.Close()
	p.a.Close()
	p.b.Close()
	p.wg.Wait()
}

// stream opens a stream from a to b whose bytes b reads and forgets.
func (p *quicPair) stream(t testing.TB) *quic.SendStream {
	t.Helper()
	s, err := p.ca.OpenUniStream()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		r, err := p.cb.AcceptUniStream(p.cb.Context())
		if err != nil {
			return
		}
		buf := make([]byte, 64<<10)
		for err == nil {
			_, err = r.Read(buf)
		}
	}()
	return s
}

// greedy keeps a stream from a to b full until the connection closes.
func (p *quicPair) greedy(t testing.TB) {
	s := p.stream(t)
	p.wg.Go(func() {
		buf := make([]byte, 32<<10)
		for {
			if _, err := s.Write(buf); err != nil {
				return
			}
		}
	})
}

// window is a's congestion window in packets of 1280 bytes.
func (p *quicPair) window() int { return int(p.ca.ConnectionStats().CongestionWindow / 1280) }

// until waits for f, looking every millisecond of virtual time.
func until(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

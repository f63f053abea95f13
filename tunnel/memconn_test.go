package tunnel

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// memHalf is one direction of an in-memory TCP connection.
type memHalf struct {
	mu       sync.Mutex
	cond     *sync.Cond
	buf      []byte
	max      int
	eof      bool
	err      error // reset
	deadline time.Time
	timer    *time.Timer
}

func newMemHalf(n int) *memHalf {
	h := &memHalf{max: n}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *memHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.err != nil:
			return 0, h.err
		case h.eof:
			return 0, io.EOF
		case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		h.cond.Wait()
	}
}

func (h *memHalf) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(p) > 0 {
		for len(h.buf) >= h.max && h.err == nil && !h.eof {
			h.cond.Wait()
		}
		if h.err != nil {
			return n, h.err
		}
		if h.eof {
			return n, syscall.EPIPE
		}
		k := min(len(p), h.max-len(h.buf))
		h.buf = append(h.buf, p[:k]...)
		p, n = p[k:], n+k
		h.cond.Broadcast()
	}
	return n, nil
}

func (h *memHalf) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil && (!h.eof || len(h.buf) > 0 || err != net.ErrClosed) {
		h.err = err
	}
	h.cond.Broadcast()
}

func (h *memHalf) finish() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.eof = true
	h.cond.Broadcast()
}

func (h *memHalf) setDeadline(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
	if !t.IsZero() {
		h.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.cond.Broadcast()
		})
	}
	h.cond.Broadcast()
}

// memConn is one end of an in-memory TCP connection, with half-close and reset.
type memConn struct {
	in, out *memHalf
	name    string
	once    sync.Once
	reset   atomic.Bool // this end reset it
}

// connPair returns both ends of a connection that buffers so many bytes each way.
func connPair(buffer int) (a, b *memConn) {
	x, y := newMemHalf(buffer), newMemHalf(buffer)
	return &memConn{in: x, out: y, name: "a"}, &memConn{in: y, out: x, name: "b"}
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memConn) CloseWrite() error           { c.out.finish(); return nil }
func (c *memConn) Close() error {
	c.once.Do(func() {
		c.in.mu.Lock()
		unread := len(c.in.buf) > 0 || !c.in.eof
		c.in.mu.Unlock()
		c.out.finish()
		if unread { // what the other side still writes is answered with a reset
			c.in.fail(syscall.ECONNRESET)
		}
	})
	return nil
}
func (c *memConn) Reset() error {
	c.once.Do(func() {
		c.reset.Store(true)
		c.in.fail(syscall.ECONNRESET)
		c.out.fail(syscall.ECONNRESET)
	})
	return nil
}
func (c *memConn) LocalAddr() net.Addr                { return fakeAddr(c.name) }
func (c *memConn) RemoteAddr() net.Addr               { return fakeAddr("other") }
func (c *memConn) SetDeadline(t time.Time) error      { c.in.setDeadline(t); return nil }
func (c *memConn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(t); return nil }
func (c *memConn) SetWriteDeadline(t time.Time) error { return nil }

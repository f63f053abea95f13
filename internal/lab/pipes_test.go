package lab

import (
	"context"
	"net"
	"sync"
	"time"
)

// pipes is a Network in memory for virtual time: what is written takes time, as otherwise none would ever pass. tamper, if
// set, wraps what the client dials.
type pipes struct {
	tamper func(net.Conn) net.Conn

	mu sync.Mutex
	l  *pipeListener
}

// pipePiece bytes a millisecond are 131 Mbit/s.
const pipePiece = 16 << 10

type pacedPipe struct{ net.Conn }

func (p pacedPipe) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		time.Sleep(time.Millisecond)
		var m int
		m, err = p.Conn.Write(b[:min(len(b), pipePiece)])
		n, b = n+m, b[m:]
	}
	return n, err
}

func (p *pipes) Dial(ctx context.Context, _ int) (net.Conn, error) {
	p.mu.Lock()
	l := p.l
	p.mu.Unlock()
	near, far := net.Pipe()
	select {
	case l.conns <- pacedPipe{far}:
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p.tamper != nil {
		near = p.tamper(near)
	}
	return pacedPipe{near}, nil
}

func (p *pipes) Listen(int) (net.Listener, error) {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	p.l = l
	p.mu.Unlock()
	return l, nil
}

type pipeListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

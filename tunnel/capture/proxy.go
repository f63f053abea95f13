package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// Resolver turns the names that proxy clients ask for into addresses.
// [net.Resolver] is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// proxy is what the explicit proxies have in common.
type proxy struct {
	mu  sync.Mutex
	srv *server
	l   net.Listener
}

func (p *proxy) start(ctx context.Context, kind, addr string, log *slog.Logger, maxFlows int, h Handler, greet func(context.Context, *tcpConn) (Flow, error)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.srv != nil {
		return fmt.Errorf("start %s: already started", kind)
	}
	srv, err := newServer(ctx, kind, log, maxFlows, h)
	if err != nil {
		return err
	}
	srv.greet = greet
	srv.handshakes = make(chan struct{}, MaxHandshakes)
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", kind, err), srv.close())
	}
	srv.serve(l)
	p.srv, p.l = srv, l
	return nil
}

// Listening returns the address it listens on, or nil when it does not.
func (p *proxy) Listening() net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.l == nil {
		return nil
	}
	return p.l.Addr()
}

// Flows returns the number of connections held, handshakes included.
func (p *proxy) Flows() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.srv == nil {
		return 0
	}
	return p.srv.flows()
}

// Close stops listening, resets all flows and waits for their handlers. It may
// be called any number of times.
func (p *proxy) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.srv == nil {
		return nil
	}
	err := p.srv.close()
	p.srv, p.l = nil, nil
	return err
}

// target is the destination a proxy client names: addr, or host to be resolved.
type target struct {
	addr netip.Addr
	host string
	port uint16
}

func (t target) String() string {
	if t.host != "" {
		return net.JoinHostPort(t.host, strconv.Itoa(int(t.port)))
	}
	return netip.AddrPortFrom(t.addr, t.port).String()
}

// resolve turns names into addresses here, on the client's side of the border:
// the far side sees addresses only. The resolver's order of preference counts.
func (t target) resolve(ctx context.Context, r Resolver) (netip.AddrPort, error) {
	if t.host == "" {
		return netip.AddrPortFrom(t.addr.Unmap(), t.port), nil
	}
	if r == nil {
		r = net.DefaultResolver
	}
	addrs, err := r.LookupNetIP(ctx, "ip", t.host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(addrs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("lookup %s: no addresses", t.host)
	}
	return netip.AddrPortFrom(addrs[0].Unmap(), t.port), nil
}

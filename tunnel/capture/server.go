package capture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// errRefused ends a connection with a reset and without a line in the log: the
// reason was given elsewhere.
var errRefused = errors.New("refused")

// server accepts connections, learns where they want to go, and runs handlers.
//
// Stages: accept loop (one per listener) -> greet (proxy handshake, bounded by
// MaxHandshakes and HandshakeTimeout) -> handler (bounded by maxFlows).
type server struct {
	kind     string
	log      *slog.Logger
	maxFlows int
	handler  Handler
	// greet learns source and destination. On an error it has already told the
	// client what its protocol says; the connection is then closed.
	greet func(context.Context, *tcpConn) (Flow, error)
	// handshakes is nil where greet does not wait for the client.
	handshakes chan struct{}

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	listeners []net.Listener
	live      map[*tcpConn]netip.AddrPort // destination, once known
	refused   int                         // since the last line in the log
	lastLog   time.Time
}

func newServer(ctx context.Context, kind string, log *slog.Logger, maxFlows int, h Handler) (*server, error) {
	if h == nil {
		return nil, fmt.Errorf("start %s: no handler", kind)
	}
	if maxFlows == 0 {
		maxFlows = DefaultMaxFlows
	}
	if maxFlows < 0 {
		return nil, fmt.Errorf("start %s: max flows %d: must not be negative", kind, maxFlows)
	}
	s := &server{kind: kind, log: logger(log).With("source", kind), maxFlows: maxFlows, handler: h,
		live: make(map[*tcpConn]netip.AddrPort)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s, nil
}

// serve takes over the listener.
func (s *server) serve(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
	s.wg.Add(1)
	go s.accept(l)
}

func (s *server) accept(l net.Listener) {
	defer s.wg.Done()
	const maxDelay = time.Second
	delay := 5 * time.Millisecond
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors or memory: the backlog holds the clients
			// meanwhile.
			s.log.Warn("accept failed, trying again", "err", err, "after", delay)
			select {
			case <-time.After(delay):
			case <-s.ctx.Done():
				return
			}
			delay = min(2*delay, maxDelay)
			continue
		}
		delay = 5 * time.Millisecond
		tc, ok := c.(*net.TCPConn)
		if !ok {
			_ = c.Close()
			continue
		}
		s.admit(&tcpConn{tc})
	}
}

// admit starts a goroutine for the connection, or resets it.
func (s *server) admit(c *tcpConn) {
	var full string
	if s.handshakes != nil {
		select {
		case s.handshakes <- struct{}{}:
		default:
			full = "handshakes"
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Reset()
		return
	}
	if full == "" && len(s.live) >= s.maxFlows {
		full = "flows"
		s.releaseHandshake()
	}
	if full != "" {
		_ = c.Reset()
		s.refused++
		if now := time.Now(); now.Sub(s.lastLog) >= time.Second {
			s.log.Warn("too many "+full+", connections reset", "count", s.refused, "flows", len(s.live), "max", s.maxFlows)
			s.refused, s.lastLog = 0, now
		}
		return
	}
	s.live[c] = netip.AddrPort{}
	s.wg.Add(1)
	go s.run(c)
}

func (s *server) releaseHandshake() {
	if s.handshakes != nil {
		<-s.handshakes
	}
}

func (s *server) run(c *tcpConn) {
	defer s.wg.Done()
	defer s.forget(c)
	f, err := s.greetWithin(c)
	if err != nil {
		if !errors.Is(err, errRefused) && s.ctx.Err() == nil {
			s.log.Info("connection refused", "client", addrPort(c.RemoteAddr()), "err", err)
		}
		return
	}
	s.mu.Lock()
	s.live[c] = f.Dst
	s.mu.Unlock()
	s.handler(s.ctx, f)
}

func (s *server) greetWithin(c *tcpConn) (Flow, error) {
	defer s.releaseHandshake()
	if s.handshakes == nil {
		return s.greet(s.ctx, c)
	}
	ctx, cancel := context.WithTimeout(s.ctx, HandshakeTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return Flow{}, err
	}
	f, err := s.greet(ctx, c)
	if err != nil {
		return Flow{}, err
	}
	return f, c.SetDeadline(time.Time{})
}

func (s *server) forget(c *tcpConn) {
	_ = c.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, c)
}

// flows returns the number of connections held.
func (s *server) flows() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// inUse says whether a flow to a destination in the prefix is alive.
func (s *server) inUse(p netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dst := range s.live {
		if p.Contains(dst.Addr()) {
			return true
		}
	}
	return false
}

// close stops accepting, resets every connection and waits for the handlers.
func (s *server) close() error {
	s.mu.Lock()
	var errs []error
	if !s.closed {
		s.closed = true
		for _, l := range s.listeners {
			errs = append(errs, l.Close())
		}
		for c := range s.live {
			_ = c.Reset()
		}
	}
	s.mu.Unlock()
	s.cancel() // after the resets: a handler that is told closes with a FIN

	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(closeTimeout):
		errs = append(errs, fmt.Errorf("close %s: %d flow handlers still running after %v", s.kind, s.flows(), closeTimeout))
	}
	return errors.Join(errs...)
}

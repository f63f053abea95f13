package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/tunnel/bond"
)

func seeded(t testing.TB) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 5))
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// link is one direction between two sessions: what all their lanes share. WriteTo blocks while it is busy, as the bond
// does, and loses nothing unless told to.
type link struct {
	mu    sync.Mutex
	rate  float64 // bytes a second
	delay time.Duration
	next  time.Time
	bytes int64
	lose  atomic.Int64 // so many of the next packets of bulk lanes are lost
}

func (k *link) pass(n int) time.Time {
	k.mu.Lock()
	now := time.Now()
	k.bytes += int64(n)
	if k.next.Before(now) {
		k.next = now
	}
	k.next = k.next.Add(time.Duration(float64(n) / k.rate * 1e9))
	at := k.next
	k.mu.Unlock()
	if d := at.Sub(now); d > 200*time.Microsecond {
		time.Sleep(d)
	}
	return at.Add(k.delay)
}

type packet struct {
	b  []byte
	at time.Time
}

type fakeAddr string

func (fakeAddr) Network() string  { return "lane" }
func (a fakeAddr) String() string { return string(a) }

// fakeLane is one end of a lane.
type fakeLane struct {
	class   Class
	out     *link
	in      chan packet
	far     *fakeLane
	closed  chan struct{}
	once    sync.Once
	open    *atomic.Int64
	conn    atomic.Pointer[quic.Conn]
	packets atomic.Int64
	fit     atomic.Int32 // a bond.Fit
}

func (l *fakeLane) Class() Class { return l.class }

// MaxPacketSize is no more than quic-go's default: its pacer would count in that size while its window counts in the
// larger one, and its run loop spins until the clock moves, which virtual time never does.
func (l *fakeLane) MaxPacketSize() int   { return 1280 }
func (l *fakeLane) Fit() bond.Fit        { return bond.Fit(l.fit.Load()) }
func (l *fakeLane) ID() int              { return 0 }
func (l *fakeLane) RemoteAddr() net.Addr { return fakeAddr("far") }
func (l *fakeLane) LocalAddr() net.Addr  { return fakeAddr("near") }
func (l *fakeLane) SetConn(c *quic.Conn) { l.conn.Store(c) }

func (l *fakeLane) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-l.in:
		if d := time.Until(p.at); d > 0 {
			select {
			case <-time.After(d):
			case <-l.closed:
				return 0, nil, net.ErrClosed
			}
		}
		return copy(b, p.b), fakeAddr("far"), nil
	case <-l.closed:
		return 0, nil, net.ErrClosed
	}
}

func (l *fakeLane) WriteTo(b []byte, _ net.Addr) (int, error) {
	at := l.out.pass(len(b))
	l.packets.Add(1)
	if l.class == Bulk && l.out.lose.Load() > 0 && l.out.lose.Add(-1) >= 0 {
		return len(b), nil
	}
	select {
	case l.far.in <- packet{append([]byte(nil), b...), at}:
	case <-l.far.closed: // nobody there, as on a wire
	case <-l.closed:
		return 0, net.ErrClosed
	}
	return len(b), nil
}

func (l *fakeLane) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.open.Add(-1)
	})
	return nil
}
func (l *fakeLane) SetDeadline(time.Time) error      { return nil }
func (l *fakeLane) SetReadDeadline(time.Time) error  { return nil }
func (l *fakeLane) SetWriteDeadline(time.Time) error { return nil }

// fakeSession is one end of an in-memory session.
type fakeSession struct {
	first    bool
	out      *link
	far      *fakeSession
	accept   chan *fakeLane
	done     chan struct{}
	once     *sync.Once
	open     *atomic.Int64
	capacity atomic.Int64 // bit/s
	held     atomic.Bool  // lanes are opened when it ends
	rtt      time.Duration

	mu    sync.Mutex
	lanes []*fakeLane
}

// newSessions returns both ends of a session over a link of so many Mbit/s and so long a round trip.
func newSessions(mbit float64, rtt time.Duration) (a, b *fakeSession) {
	done, once, open := make(chan struct{}), new(sync.Once), new(atomic.Int64)
	mk := func(first bool) *fakeSession {
		s := &fakeSession{
			first: first, out: &link{rate: mbit * 1e6 / 8, delay: rtt / 2}, accept: make(chan *fakeLane, 64),
			done: done, once: once, open: open, rtt: rtt,
		}
		s.capacity.Store(int64(mbit * 1e6))
		return s
	}
	a, b = mk(true), mk(false)
	a.far, b.far = b, a
	return a, b
}

func (s *fakeSession) Initiator() bool       { return s.first }
func (s *fakeSession) Done() <-chan struct{} { return s.done }
func (s *fakeSession) end()                  { s.once.Do(func() { close(s.done) }) }
func (s *fakeSession) Capacity() (int64, time.Duration) {
	return s.capacity.Load(), s.rtt
}

func (s *fakeSession) OpenLane(c Class) (Lane, error) {
	for s.held.Load() {
		time.Sleep(10 * time.Millisecond)
	}
	mk := func(out *link) *fakeLane {
		s.open.Add(1)
		return &fakeLane{class: c, out: out, in: make(chan packet, 1<<14), closed: make(chan struct{}), open: s.open}
	}
	a, b := mk(s.out), mk(s.far.out)
	a.far, b.far = b, a
	s.mu.Lock()
	s.lanes = append(s.lanes, a)
	s.mu.Unlock()
	select {
	case s.far.accept <- b:
		return a, nil
	case <-s.done:
		_, _ = a.Close(), b.Close()
		return nil, errors.New("session is over")
	}
}

func (s *fakeSession) AcceptLane(ctx context.Context) (Lane, error) {
	select {
	case l := <-s.accept:
		return l, nil
	case <-s.done:
		return nil, errors.New("session is over")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// source delivers sessions.
type source chan Session

func (s source) AcceptSession(ctx context.Context) (Session, error) {
	select {
	case ses := <-s:
		return ses, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// table routes by destination address.
type table struct {
	next   map[netip.Addr]string
	class  Class
	denied string // peer
}

var errNoRoute = errors.New("nothing known")

func (r table) Route(_, dst netip.Addr) (string, Class, string, error) {
	next, ok := r.next[dst]
	if !ok {
		return "", 0, "", errNoRoute
	}
	return "acme", r.class, next, nil
}

func (r table) Authorise(from string, h Header) error {
	if from == r.denied || h.Tenant != "acme" {
		return fmt.Errorf("tenant %q may not", h.Tenant)
	}
	return nil
}

var (
	client = netip.MustParseAddrPort("10.10.0.7:40000")
	origin = netip.MustParseAddrPort("10.20.0.1:80")
)

// chain is a line of nodes: the first takes flows, the last is the exit for origin.
type chain struct {
	t     testing.TB
	nodes []*Node
	keys  []identity.PrivateKey
	srcs  []struct{ a, b source } // between node i and i+1
	ends  [][2]*fakeSession
	bonds []*bond.Bond     // newBonded's, two a hop
	serve func(c *memConn) // the origin
	dial  func(ctx context.Context) (net.Conn, error)
	wg    sync.WaitGroup
	mbit  float64
	rtt   time.Duration
}

type chainOpt func(i int, c *Config)

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

var names = []string{"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"}

func newChain(t testing.TB, n int, mbit float64, rtt time.Duration, opts ...chainOpt) *chain {
	t.Helper()
	c := newNodes(t, n, opts...)
	c.mbit, c.rtt = mbit, rtt
	for i := range n - 1 {
		a, b := make(source, 4), make(source, 4)
		c.srcs = append(c.srcs, struct{ a, b source }{a, b})
		c.ends = append(c.ends, [2]*fakeSession{})
		c.connect(i)
		c.join(i, a, b)
	}
	return c
}

// join makes the sessions of two sources those of node i and the next.
func (c *chain) join(i int, a, b SessionSource) {
	c.t.Helper()
	if err := c.nodes[i].AddPeer(names[i+1], c.keys[i+1].Public(), a); err != nil {
		c.t.Fatal(err)
	}
	if err := c.nodes[i+1].AddPeer(names[i], c.keys[i].Public(), b); err != nil {
		c.t.Fatal(err)
	}
}

// newNodes returns a chain of nodes that nothing joins yet.
func newNodes(t testing.TB, n int, opts ...chainOpt) *chain {
	t.Helper()
	c := &chain{t: t}
	c.dial = func(context.Context) (net.Conn, error) {
		near, far := connPair(64 << 10)
		if c.serve == nil {
			return nil, syscall.ECONNREFUSED
		}
		c.wg.Go(func() { c.serve(far) })
		return near, nil
	}
	for i := range n {
		k, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		next := ""
		if i+1 < n {
			next = names[i+1]
		}
		cfg := Config{
			NoWarmUp: true,
			Name:     names[i], Version: "test", Key: k, Logger: testLog(t).With("node", names[i]),
			Router: table{next: map[netip.Addr]string{origin.Addr(): next}, class: Interactive},
			Dial: func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
				if src != client || dst != origin {
					return nil, fmt.Errorf("dialled %v from %v", dst, src)
				}
				return c.dial(ctx)
			},
		}
		for _, o := range opts {
			o(i, &cfg)
		}
		node, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes, c.keys = append(c.nodes, node), append(c.keys, k)
	}
	return c
}

// connect starts a session between node i and the next.
func (c *chain) connect(i int) {
	a, b := newSessions(c.mbit, c.rtt)
	if i%2 == 1 { // either side of a relay may be the initiator
		a.first, b.first = false, true
	}
	c.ends[i] = [2]*fakeSession{a, b}
	c.srcs[i].a <- a
	c.srcs[i].b <- b
}

func (c *chain) close() {
	time.Sleep(time.Duration(len(c.nodes))*c.rtt + 100*time.Millisecond) // what is on its way arrives
	for _, n := range c.nodes {
		_ = n.Close()
	}
	c.wg.Wait()
	for i, e := range c.ends {
		for _, s := range e { // lanes that nobody accepted end with the session
			for len(s.accept) > 0 {
				_ = (<-s.accept).Close()
			}
		}
		if n := e[0].open.Load(); n != 0 {
			c.t.Errorf("link %d: %d lane ends left open", i, n)
		}
	}
	for _, n := range c.nodes {
		if st := n.Stats(); st.WindowBytes != 0 || st.ActiveFlows != 0 || st.StalledBytes != 0 {
			c.t.Errorf("%s after close: %d window bytes, %d flows, %d stalled bytes", n.cfg.Name, st.WindowBytes, st.ActiveFlows, st.StalledBytes)
		}
		_, _, enc, dec := n.pool.Stats()
		if enc != 0 || dec != 0 {
			c.t.Errorf("%s after close: %d encoders, %d decoders in use", n.cfg.Name, enc, dec)
		}
	}
}

// open starts a flow at the first node and returns the client's end. The channel gives HandleFlow's error.
func (c *chain) open() (*memConn, <-chan error) {
	near, far := connPair(64 << 10)
	done := make(chan error, 1)
	c.wg.Go(func() {
		done <- c.nodes[0].HandleFlow(context.Background(), Flow{Src: client, Dst: origin, Conn: near})
	})
	return far, done
}

// up waits until every node sees its peers with all their lanes.
func (c *chain) up() {
	c.t.Helper()
	for range 1000 {
		ok := true
		for _, n := range c.nodes {
			for _, p := range n.Stats().Peers {
				ok = ok && len(p.Lanes) == n.cfg.Lanes.Interactive+n.cfg.Lanes.Bulk && p.Version != ""
			}
		}
		if ok {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Fatal("peers not up")
}

package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/tunnel/compress"
)

// Defaults of Config.
const (
	DefaultInteractiveLanes = 2
	DefaultBulkLanes        = 2
	// DefaultElephantBytes is more than most objects of a page, and little enough for the window of an interactive lane.
	DefaultElephantBytes = 256 << 10
	// MaxElephantBytes is what an interactive lane's window holds of one flow.
	MaxElephantBytes = interactiveWindow
	// MaxLanes of a class bounds what a configuration can ask for; more than one a core brings nothing.
	MaxLanes = 16
)

// Defaults of Limits.
const (
	DefaultBufferedBytes = 1 << 30
	DefaultMaxFlows      = 1 << 16
	DefaultOpenWait      = 5 * time.Second
	DefaultDialTimeout   = 10 * time.Second
)

// Limits bound what a node spends. A zero field means its default.
type Limits struct {
	// BufferedBytes bounds the receive windows a node promises to its peers, and so the bytes that can wait in it for
	// slow receivers. When it is spent, new lanes get the smallest windows that work (56 MiB for a peer with two lanes
	// of each class) and windows do not grow. When receivers stand still and may hold half of it, or half of one
	// lane's window, those that have stood still longest are reset with CodeStalled.
	BufferedBytes int64
	// MaxFlows bounds the flows through the node; more are reset with CodeLimit.
	MaxFlows int
	// OpenWait is how long a flow waits for a next hop that is not connected.
	OpenWait time.Duration
	// DialTimeout is how long the exit tries to connect.
	DialTimeout time.Duration
	// Encoders and Decoders bound zstd's memory, about 1 MiB each.
	Encoders, Decoders int
}

// LanePlan is how many lanes of each class a session gets. Only the session's initiator uses it.
type LanePlan struct{ Interactive, Bulk int }

// Config describes a node. Name, Key, Router and Dial are required.
type Config struct {
	Name    string // of this node, told to peers
	Version string // of the software, told to peers
	Key     identity.PrivateKey
	Router  Router
	// Dial connects to a flow's destination at the exit. src is the client's address, for exits that keep it.
	Dial func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error)
	// OnRoutes, if set, is told which prefixes are reachable through a peer, each time the peer says so.
	OnRoutes func(peer string, prefixes []netip.Prefix)
	Logger   *slog.Logger // slog.Default() if nil
	Limits   Limits
	Lanes    LanePlan // zero fields mean the defaults
	// ElephantBytes is how much a direction of a flow carries on an interactive lane without a pause before it moves to a
	// bulk lane; 0 means the default.
	ElephantBytes int64
	// NoWarmUp sends no filler on idle lanes, for links that are paid by the byte; the first elephants start slower.
	NoWarmUp bool
	// NoCompression sends every flow that begins here as it is.
	NoCompression bool
}

// ErrConfig is returned by New for a configuration that cannot work.
var ErrConfig = errors.New("bad tunnel configuration")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("node closed")

// Node carries flows between the connections of this host and its peers.
type Node struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	budget budget
	pool   *compress.Pool
	stats  counters
	route  atomic.Pointer[Router]
	large  atomic.Int64 // bytes that make an elephant

	mu     sync.Mutex
	closed bool
	peers  map[string]*peer
	flows  map[tracked]struct{}
}

// New returns a node without peers.
func New(cfg Config) (*Node, error) {
	switch {
	case cfg.Name == "":
		return nil, fmt.Errorf("%w: no name", ErrConfig)
	case cfg.Key.IsZero():
		return nil, fmt.Errorf("%w: no key", ErrConfig)
	case cfg.Router == nil || cfg.Dial == nil:
		return nil, fmt.Errorf("%w: no router or no dialer", ErrConfig)
	}
	def(&cfg.Lanes.Interactive, DefaultInteractiveLanes)
	def(&cfg.Lanes.Bulk, DefaultBulkLanes)
	def(&cfg.ElephantBytes, DefaultElephantBytes)
	def(&cfg.Limits.BufferedBytes, DefaultBufferedBytes)
	def(&cfg.Limits.MaxFlows, DefaultMaxFlows)
	def(&cfg.Limits.OpenWait, DefaultOpenWait)
	def(&cfg.Limits.DialTimeout, DefaultDialTimeout)
	if n := max(cfg.Lanes.Interactive, cfg.Lanes.Bulk); n > MaxLanes || min(cfg.Lanes.Interactive, cfg.Lanes.Bulk) < 1 {
		return nil, fmt.Errorf("%w: %d interactive and %d bulk lanes, allowed 1 to %d", ErrConfig, cfg.Lanes.Interactive, cfg.Lanes.Bulk, MaxLanes)
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger, peers: map[string]*peer{}, flows: map[tracked]struct{}{},
		budget: budget{limit: cfg.Limits.BufferedBytes},
		pool:   compress.NewPool(cfg.Limits.Encoders, cfg.Limits.Decoders),
	}
	if n.log == nil {
		n.log = slog.Default()
	}
	if err := n.SetElephantBytes(cfg.ElephantBytes); err != nil {
		return nil, err
	}
	n.route.Store(&cfg.Router)
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n, nil
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// SetRouter replaces routing and authorisation for new flows. Flows that exist go on.
func (n *Node) SetRouter(r Router) { n.route.Store(&r) }

// SetElephantBytes replaces Config.ElephantBytes, for flows that exist from their next pause on.
func (n *Node) SetElephantBytes(bytes int64) error {
	// More than fits the interactive stream's window would wait for the receiver in the middle of a direction.
	if bytes < 1 || bytes > interactiveWindow {
		return fmt.Errorf("%w: elephant bytes %d, allowed 1 to %d", ErrConfig, bytes, interactiveWindow)
	}
	n.large.Store(bytes)
	return nil
}

func (n *Node) router() Router { return *n.route.Load() }

// peer is a neighbour.
type peer struct {
	name           string
	key            identity.PublicKey
	client, server *tls.Config
	ctx            context.Context
	cancel         context.CancelFunc
	done           chan struct{}

	mu     sync.Mutex
	ses    *session
	change chan struct{} // closed and replaced when ses changes
	prefix []netip.Prefix
	told   bool
}

// current returns the peer's session, nil if it has none, and a channel that is closed when that changes.
func (p *peer) current() (*session, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ses, p.change
}

func (p *peer) set(from, to *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ses != from && from != nil {
		return
	}
	p.ses = to
	close(p.change)
	p.change = make(chan struct{})
}

func (p *peer) routes() ([]netip.Prefix, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.prefix, p.told
}

// AddPeer makes the node serve the sessions with a peer until RemovePeer or Close. The name must be new.
func (n *Node) AddPeer(name string, key identity.PublicKey, sessions SessionSource) error {
	client, server, err := n.cfg.Key.TLS(key)
	if err != nil {
		return fmt.Errorf("add peer %q: %w", name, err)
	}
	p := &peer{name: name, key: key, client: client, server: server, change: make(chan struct{}), done: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(n.ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		p.cancel()
		return fmt.Errorf("add peer %q: %w", name, ErrClosed)
	}
	if n.peers[name] != nil {
		p.cancel()
		return fmt.Errorf("add peer %q: %w: name in use", name, ErrConfig)
	}
	n.peers[name] = p
	n.wg.Go(func() {
		defer close(p.done)
		n.servePeer(p, sessions)
	})
	return nil
}

// RemovePeer ends the sessions with a peer, resets their flows and waits for that. An unknown name does nothing.
func (n *Node) RemovePeer(name string) {
	n.mu.Lock()
	p := n.peers[name]
	delete(n.peers, name)
	n.mu.Unlock()
	if p != nil {
		p.cancel()
		<-p.done
	}
}

// SetRoutes sets the prefixes that the peer is told to be reachable through this node, now and at each new session.
func (n *Node) SetRoutes(name string, prefixes []netip.Prefix) error {
	n.mu.Lock()
	p := n.peers[name]
	n.mu.Unlock()
	if p == nil {
		return fmt.Errorf("set routes: unknown peer %q", name)
	}
	p.mu.Lock()
	p.prefix, p.told = prefixes, true
	ses := p.ses
	p.mu.Unlock()
	if ses != nil {
		select {
		case ses.routesCh <- struct{}{}:
		default:
		}
	}
	return nil
}

// servePeer runs the peer's sessions, one after the other.
func (n *Node) servePeer(p *peer, sessions SessionSource) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for p.ctx.Err() == nil {
		s, err := sessions.AcceptSession(p.ctx)
		if err != nil {
			if p.ctx.Err() == nil {
				n.log.Error("no more sessions", "peer", p.name, "error", err)
			}
			return
		}
		ses := newSession(n, p, s)
		if old, _ := p.current(); old != nil {
			old.cancel()
		}
		p.set(nil, ses)
		wg.Go(func() {
			ses.run()
			p.set(ses, nil)
		})
	}
}

// admit counts a flow in.
func (n *Node) admit() (release func(), err error) {
	if n.ctx.Err() != nil {
		return nil, &ResetError{Code: CodeShutdown}
	}
	if c := n.stats.active.Add(1); c > int64(n.cfg.Limits.MaxFlows) {
		n.stats.active.Add(-1)
		return nil, fmt.Errorf("%w: %d allowed", &ResetError{Code: CodeLimit}, n.cfg.Limits.MaxFlows)
	}
	n.stats.flows.Add(1)
	return func() { n.stats.active.Add(-1) }, nil
}

// Close resets all flows, ends all sessions and waits until nothing of the node runs any more, except calls of
// HandleFlow, which are about to return.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.wg.Wait()
	return nil
}

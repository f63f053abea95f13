package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/internal/journal"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// Options say how a node runs. Log is slog.Default if nil.
type Options struct {
	Role   string // gateway or agent, for status
	Key    identity.PrivateKey
	Log    *slog.Logger
	Listen func(config.NodeUplink) (bond.Uplink, error) // opens an uplink; nil: real UDP sockets
	// ListenProbe opens a socket for probes on an uplink, port 0 being any; nil: UDP, or with a Listen of one's own none, so
	// that nothing is probed.
	ListenProbe func(config.NodeUplink, uint16) (probe.Conn, error)
	// Decisions is where the log of decisions is kept, besides in memory; without a Dir nowhere. Its Name is the node's.
	Decisions journal.Config
	// NoCapture leaves the LAN interfaces alone: flows come through Handle and the proxies.
	NoCapture           bool
	SOCKS5, HTTPConnect string // addresses to listen on; "" is none
	// Dial connects to destinations; nil: TCP, from the client's address where the configuration says so.
	Dial func(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error)
}

// Node is a running gateway or agent. Safe for concurrent use.
type Node struct {
	opts    Options
	log     *slog.Logger
	started time.Time
	host    *bond.Host
	tunnel  *tunnel.Node
	watch   *watch
	kernel  *kernel // nil where nothing of this node is in the kernel

	carriers *carriers // nil where no NIC has its programs
	lost     []string  // what this machine cannot do
	rates    rates
	refused  atomic.Uint64 // flows turned away before the tunnel saw them

	stop    context.CancelFunc // ends the goroutines of wg
	wg      sync.WaitGroup
	uplinks []*uplinkWatch // of sockets this node opened itself

	reloading sync.Mutex // one Reload at a time
	capturing sync.Mutex // one writer of the captured prefixes at a time, so that the newest stay

	// mu guards what follows and is held for moments only: flows and sessions take it, and Reload waits for those.
	mu      sync.Mutex
	entries *entries // nil until Start is about to return
	rules   *rules   // of the classifier; nil where there is none
	cfg     *config.NodeConfig
	peers   map[string]*peer
	learned []netip.Prefix // routes that an agent's gateway announced
}

type peer struct {
	cfg  config.Peer
	bond *bond.Bond
}

// Start runs a node. Close ends it.
func Start(ctx context.Context, cfg *config.NodeConfig, opts Options) (_ *Node, err error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	own := opts.Listen == nil
	if own {
		opts.Listen = listenUDP
		if opts.ListenProbe == nil {
			opts.ListenProbe = listenProbe
		}
	}
	n := &Node{opts: opts, log: opts.Log, started: time.Now(), cfg: cfg, peers: map[string]*peer{}}
	ctx, n.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.host, err = bond.NewHost(bond.HostConfig{Key: opts.Key, Log: opts.Log}); err != nil {
		return nil, err
	}
	if err := n.addUplinks(cfg.Uplinks, own); err != nil {
		return nil, err
	}
	if len(cfg.LAN) > 0 && !opts.NoCapture {
		if n.kernel, err = newKernel(opts.Log, true, remotesOf(cfg)...); err != nil {
			return nil, explainCapture(fmt.Errorf("start transparent capture: %w", err))
		}
	}
	if own {
		if n.kernel == nil {
			n.kernel, _ = newKernel(opts.Log, false) // startCarriers says why not
		}
		if n.carriers, n.lost, err = startCarriers(cfg, n.kernel, opts.Log); err != nil {
			return nil, err
		}
	}
	n.watch = newWatch(ctx, &n.wg, cfg, opts.Role, opts.ListenProbe, n.kernel, n.carriers, opts.Log)
	n.watch.moved = n.moved
	if opts.Decisions.Dir != "" {
		if n.watch.disk, err = openDecisions(cfg.Name, opts.Decisions, opts.Log); err != nil {
			return nil, err
		}
	}
	dial := opts.Dial
	if dial == nil {
		dial = n.dial
	}
	n.tunnel, err = tunnel.New(tunnel.Config{
		Name: cfg.Name, Version: cli.Version(), Key: opts.Key, Router: newRouter(cfg), Dial: dial, OnRoutes: n.onRoutes,
		Logger: opts.Log, ElephantBytes: elephantBytes(cfg),
	})
	if err != nil {
		return nil, err
	}
	for _, p := range cfg.Peers {
		if err := n.addPeer(cfg, p); err != nil {
			return nil, err
		}
	}
	e, err := n.open(ctx)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.entries = e
	n.mu.Unlock()
	if err := n.updateCapture(); err != nil { // a gateway may have announced its routes meanwhile
		return nil, err
	}
	n.wg.Go(n.watch.run)
	n.wg.Go(func() { n.watchUplinks(ctx) })
	n.wg.Go(func() { n.watchPeers(ctx, connectPatience) })
	return n, nil
}

// remotesOf are the addresses of gateways.
func remotesOf(cfg *config.NodeConfig) (out []netip.Addr) {
	for _, p := range cfg.Peers {
		for _, path := range p.Paths {
			if a := path.Remote.Addr().Unmap(); !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	return out
}

// elephantBytes is what the tunnel can do of the policy.
func elephantBytes(cfg *config.NodeConfig) int64 {
	return min(cfg.Policy.ElephantBytes, tunnel.MaxElephantBytes)
}

// config returns the configuration in force.
func (n *Node) config() *config.NodeConfig {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg
}

func (n *Node) addPeer(cfg *config.NodeConfig, p config.Peer) error {
	bc := bond.PeerConfig{Name: p.Name, Key: p.PublicKey, Uplinks: p.Uplinks}
	for _, path := range p.Paths {
		bc.Paths = append(bc.Paths, bond.PathConfig{Name: path.Name, Uplink: path.Uplink, Remote: path.Remote, Rate: int64(path.Rate)})
	}
	b, err := n.host.Bond(bc)
	if err != nil {
		return err
	}
	if err := n.tunnel.AddPeer(p.Name, p.PublicKey, sessionSource{b}); err != nil {
		b.Close()
		return err
	}
	n.mu.Lock()
	n.peers[p.Name] = &peer{cfg: p, bond: b}
	n.mu.Unlock()
	n.watch.add(p, b)
	return n.tunnel.SetRoutes(p.Name, routesFor(cfg, p))
}

// routesFor is what a peer is told to be reachable through this node: only agents need it.
func routesFor(cfg *config.NodeConfig, p config.Peer) []netip.Prefix {
	if p.Kind != config.PeerAgent {
		return nil
	}
	var out []netip.Prefix
	for _, r := range cfg.Routes {
		if r.Via == p.Name {
			continue
		}
		if slices.ContainsFunc(p.Sources, func(s config.Source) bool { return s.Tenant == r.Tenant }) && !slices.Contains(out, r.Prefix) {
			out = append(out, r.Prefix)
		}
	}
	return out
}

// onRoutes takes what a gateway says to be reachable through it.
func (n *Node) onRoutes(peerName string, prefixes []netip.Prefix) {
	if n.opts.Role != RoleAgent {
		return
	}
	n.mu.Lock()
	n.learned = slices.Clone(prefixes)
	n.mu.Unlock()
	n.log.Info("routes learned", "from", peerName, "prefixes", len(prefixes))
	if err := n.updateCapture(); err != nil {
		n.log.Error("routes are not captured", "from", peerName, "err", err, "hint", hint.Of(err))
	}
}

// updateRules makes the LAN interfaces judge by the configuration's rules.
func (n *Node) updateRules() error {
	n.capturing.Lock()
	defer n.capturing.Unlock()
	n.mu.Lock()
	e, cfg := n.entries, n.cfg
	n.mu.Unlock()
	if e == nil || e.transparent == nil {
		return nil
	}
	r, err := compileRules(cfg, n.kernel.group)
	if err != nil {
		return err
	}
	if err := errors.Join(e.transparent.SetPolicy(r.policy), e.transparent.SetSettings(classifierSettings(cfg))); err != nil {
		return err
	}
	n.mu.Lock()
	n.rules = r
	n.mu.Unlock()
	return nil
}

// updateCapture makes the LAN interfaces capture what the configuration and the learned routes ask for.
func (n *Node) updateCapture() error {
	n.capturing.Lock()
	defer n.capturing.Unlock()
	n.mu.Lock()
	e := n.entries
	captured, own := n.capturedLocked()
	n.mu.Unlock()
	return e.setPrefixes(captured, own)
}

// capturedLocked returns the destinations whose flows are taken on LAN interfaces, and those inside them that are not:
// what this node's own sites can reach by themselves.
func (n *Node) capturedLocked() (captured, own []netip.Prefix) {
	if n.opts.Role == RoleAgent {
		captured = slices.Clone(n.learned)
	} else {
		for _, r := range n.cfg.Routes {
			if r.Via != "" && !slices.Contains(captured, r.Prefix) {
				captured = append(captured, r.Prefix)
			}
		}
	}
	for _, s := range n.cfg.Sources {
		own = append(own, s.Prefixes...)
	}
	return captured, own
}

// Handle carries a flow that did not come through capture. It must come from a site of this node.
func (n *Node) Handle(ctx context.Context, f tunnel.Flow) error {
	cfg := n.config()
	refuse := func(err error) error {
		n.refused.Add(1)
		n.log.Info("flow reset", "src", f.Src, "dst", f.Dst, "reason", err)
		_ = f.Conn.Reset() // its error is the end it asks for
		return err
	}
	tenant, ok := tenantOf(cfg.Sources, f.Src.Addr().Unmap())
	if !ok {
		// Sites behind peers are known too, but their flows come through the peers.
		return refuse(fmt.Errorf("source %v belongs to no site of %s", f.Src.Addr().Unmap(), cfg.Name))
	}
	if f.Class == nil { // the classifier has not seen it
		switch r, number := ruleFor(cfg.Tenants, tenant, f.Src, f.Dst); {
		case r == nil:
		case r.Action == config.ActionDeny:
			return refuse(denied(tenant, number, r))
		case r.HasClass:
			class := tunnel.Class(r.Class)
			f.Class = &class
		}
	}
	return n.tunnel.HandleFlow(ctx, f)
}

// Close ends the node: no new flows, flows reset, sessions closed, sockets closed.
func (n *Node) Close() error {
	var errs []error
	n.stop()
	n.wg.Wait()
	n.mu.Lock()
	e := n.entries
	n.entries = nil
	n.mu.Unlock()
	if e != nil {
		errs = append(errs, e.close())
	}
	if n.watch != nil && n.watch.disk != nil {
		errs = append(errs, n.watch.disk.Close())
	}
	if n.tunnel != nil {
		errs = append(errs, n.tunnel.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	errs = append(errs, n.carriers.close())
	if n.kernel != nil {
		errs = append(errs, n.kernel.close())
	}
	return errors.Join(errs...)
}

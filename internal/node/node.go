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
	"time"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// Options say how a node runs. Log is slog.Default if nil.
type Options struct {
	Role   string // gateway or agent, for status
	Key    identity.PrivateKey
	Log    *slog.Logger
	Listen func(config.NodeUplink) (bond.Uplink, error) // opens an uplink; nil: real UDP sockets
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
	entries *entries

	mu      sync.Mutex
	cfg     *config.NodeConfig
	peers   map[string]*peer
	learned []netip.Prefix // routes that an agent's gateway announced
	rates   rates
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
	if opts.Listen == nil {
		opts.Listen = listenUDP
	}
	n := &Node{opts: opts, log: opts.Log, started: time.Now(), cfg: cfg, peers: map[string]*peer{}}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.host, err = bond.NewHost(bond.HostConfig{Key: opts.Key, Log: opts.Log}); err != nil {
		return nil, err
	}
	for _, u := range cfg.Uplinks {
		if err := n.addUplink(u); err != nil {
			return nil, err
		}
	}
	dial := opts.Dial
	if dial == nil {
		dial = n.dial
	}
	n.tunnel, err = tunnel.New(tunnel.Config{
		Name: cfg.Name, Version: cli.Version(), Key: opts.Key, Router: newRouter(cfg), Dial: dial, OnRoutes: n.onRoutes,
		Logger: opts.Log,
	})
	if err != nil {
		return nil, err
	}
	for _, p := range cfg.Peers {
		if err := n.addPeer(p); err != nil {
			return nil, err
		}
	}
	if n.entries, err = n.open(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) addUplink(u config.NodeUplink) error {
	up, err := n.opts.Listen(u)
	if err != nil {
		return err
	}
	if err := n.host.AddUplink(up); err != nil {
		up.Socket.Close()
		return err
	}
	return nil
}

// listenUDP opens an uplink's UDP socket, bound to its interface.
func listenUDP(u config.NodeUplink) (bond.Uplink, error) {
	addr := u.Address
	if !addr.IsValid() {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	sock, err := bond.ListenUDP(addr, u.Interface)
	if err != nil {
		err = fmt.Errorf("uplink %s: %w", u.Name, err)
		return bond.Uplink{}, hint.With(err, "%s", listenHint(err, u))
	}
	up := bond.Uplink{Name: u.Name, Socket: sock, Rate: int64(u.Rate)}
	if ifc, err := net.InterfaceByName(u.Interface); err == nil {
		up.MTU = min(ifc.MTU, 1500)
	}
	return up, nil
}

func (n *Node) addPeer(p config.Peer) error {
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
	n.peers[p.Name] = &peer{p, b}
	return n.tunnel.SetRoutes(p.Name, routesFor(n.cfg, p))
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
	captured, own := n.capturedLocked()
	n.mu.Unlock()
	n.log.Info("routes learned", "from", peerName, "prefixes", len(prefixes))
	n.entries.setPrefixes(captured, own)
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

// Handle carries a flow that did not come through capture.
func (n *Node) Handle(ctx context.Context, f tunnel.Flow) error { return n.tunnel.HandleFlow(ctx, f) }

// ErrRestart is returned by Reload for a change that only a restart can make.
var ErrRestart = errors.New("change needs a restart")

// Reload puts a new configuration in force: peers come and go, routes and permissions change for new flows. Peers that
// did not change keep their sessions and flows. Nothing changes when it fails.
func (n *Node) Reload(cfg *config.NodeConfig) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if cfg.Name != n.cfg.Name || cfg.PreserveSource != n.cfg.PreserveSource || !slices.Equal(cfg.LAN, n.cfg.LAN) ||
		!slices.Equal(cfg.Uplinks, n.cfg.Uplinks) {
		return hint.With(fmt.Errorf("reload %s: name, uplinks, lan or exit differ: %w", n.cfg.Name, ErrRestart), "restart the program; everything else can be reloaded")
	}
	n.cfg = cfg
	n.tunnel.SetRouter(newRouter(cfg))
	var errs []error
	for name, p := range n.peers {
		now := cfg.Peer(name)
		if now == nil || !samePeer(p.cfg, *now) {
			n.tunnel.RemovePeer(name)
			p.bond.Close()
			delete(n.peers, name)
		}
	}
	for _, p := range cfg.Peers {
		if old := n.peers[p.Name]; old != nil {
			old.cfg = p
			errs = append(errs, n.tunnel.SetRoutes(p.Name, routesFor(cfg, p)))
			continue
		}
		errs = append(errs, n.addPeer(p))
	}
	captured, own := n.capturedLocked()
	n.entries.setPrefixes(captured, own)
	return errors.Join(errs...)
}

// samePeer tells whether the bond to a peer can stay as it is; who may enter through it is the router's business.
func samePeer(a, b config.Peer) bool {
	return a.PublicKey == b.PublicKey && a.Kind == b.Kind && slices.Equal(a.Paths, b.Paths) && slices.Equal(a.Uplinks, b.Uplinks)
}

// Close ends the node: no new flows, flows reset, sessions closed, sockets closed.
func (n *Node) Close() error {
	var errs []error
	if n.entries != nil {
		errs = append(errs, n.entries.close())
	}
	if n.tunnel != nil {
		errs = append(errs, n.tunnel.Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	return errors.Join(errs...)
}

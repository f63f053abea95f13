package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
)

// ErrRestart is returned by Reload for a change that only a restart can make.
var ErrRestart = errors.New("change needs a restart")

// Reload puts a new configuration in force: peers come and go, routes and permissions change for new flows. Peers that
// did not change keep their sessions and flows. When it fails, the configuration before is in force again.
func (n *Node) Reload(cfg *config.NodeConfig, opts Options) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	old := n.config()
	if fixed := fixedChanges(old, cfg, n.opts, opts); len(fixed) > 0 {
		return hint.With(fmt.Errorf("reload %s: %s: %w", old.Name, strings.Join(fixed, ", "), ErrRestart),
			"restart the program, or undo that change: the rest can be reloaded")
	}
	if err := n.apply(cfg); err != nil {
		return errors.Join(err, n.apply(old))
	}
	return nil
}

// fixedChanges names what differs and cannot change while the node runs.
func fixedChanges(a, b *config.NodeConfig, ao, bo Options) (out []string) {
	for _, c := range []struct {
		name string
		same bool
	}{
		{"name", a.Name == b.Name},
		{"key", ao.Key.Public() == bo.Key.Public()},
		{"uplinks", sameSet(a.Uplinks, b.Uplinks, func(u config.NodeUplink) string { return u.Name })},
		{"lan", sameSet(a.LAN, b.LAN, func(s string) string { return s })},
		{"exit", a.PreserveSource == b.PreserveSource},
		{"socks5", ao.SOCKS5 == bo.SOCKS5},
		{"http_connect", ao.HTTPConnect == bo.HTTPConnect},
	} {
		if !c.same {
			out = append(out, c.name)
		}
	}
	return out
}

// sameSet compares without regard to the order, which means nothing in the documents.
func sameSet[T comparable, K cmp.Ordered](a, b []T, key func(T) K) bool {
	order := func(x, y T) int { return cmp.Compare(key(x), key(y)) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order))
}

// apply makes the node be what the configuration says. It holds mu only for moments: RemovePeer waits for flows and
// sessions that may want it.
func (n *Node) apply(cfg *config.NodeConfig) error {
	var gone []*peer
	n.mu.Lock()
	n.cfg = cfg
	for name, p := range n.peers {
		if now := cfg.Peer(name); now == nil || !samePeer(p.cfg, *now) {
			gone = append(gone, p)
			delete(n.peers, name)
		}
	}
	n.mu.Unlock()
	n.tunnel.SetRouter(newRouter(cfg))
	n.watch.setPolicy(cfg.Policy)
	for _, p := range gone {
		n.watch.remove(p.cfg.Name)
		n.tunnel.RemovePeer(p.cfg.Name)
		p.bond.Close()
	}
	errs := []error{n.tunnel.SetElephantBytes(elephantBytes(cfg))}
	for _, p := range cfg.Peers {
		n.mu.Lock()
		old := n.peers[p.Name]
		n.mu.Unlock()
		if old != nil {
			old.cfg = p
			errs = append(errs, n.tunnel.SetRoutes(p.Name, routesFor(cfg, p)))
			continue
		}
		errs = append(errs, n.addPeer(cfg, p))
	}
	// Rules first: what is captured only now must be judged by the new ones from its first packet on.
	errs = append(errs, n.updateRules(), n.updateCapture(), n.carriers.setGuard(cfg))
	return errors.Join(errs...)
}

// samePeer tells whether the bond to a peer can stay as it is; who may enter through it is the router's business.
func samePeer(a, b config.Peer) bool {
	return a.PublicKey == b.PublicKey && a.Kind == b.Kind &&
		sameSet(a.Paths, b.Paths, func(p config.Path) string { return p.Name }) &&
		sameSet(a.Uplinks, b.Uplinks, func(s string) string { return s })
}

package node

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/pathsel/stamp"
	"github.com/landbridge/landbridge/tunnel/bond"
)

const (
	// watchTick is how often the states of paths move on; pathsel asks for 20 ms.
	watchTick = 20 * time.Millisecond
	// decideEvery is how often traffic is counted and classes are decided upon when no path's state changes.
	decideEvery = 100 * time.Millisecond
	// decisionBytes bounds the decisions in memory: hours of a border that flaps.
	decisionBytes = 4 << 20
	// deliveredWithin is how long a packet of the bond that arrived speaks for its path: the bond probes idle paths four
	// times a second.
	deliveredWithin = time.Second
)

// watch measures the paths of a node and decides which of them each class uses.
//
// Stages: probe runners (a goroutine a peer, one for the reflector, a reader a socket) -> tables (under peerWatch.mu) ->
// run (one goroutine: states, traffic, decisions) -> the log, the bonds, the kernel's path table.
type watch struct {
	log       *slog.Logger
	listen    func(config.NodeUplink, uint16) (probe.Conn, error) // nil: nothing is probed
	ctx       context.Context
	wg        *sync.WaitGroup
	reflector *probe.Runner
	reflect   []string // uplinks that the reflector has a socket of
	events    admin.EventLog
	kernel    *kernel           // nil: nothing asks there
	carriers  *carriers         // nil: all probes are user space's
	ifaces    map[string]string // interfaces by uplink

	mu        sync.Mutex
	uplinks   []config.NodeUplink
	policy    pathsel.Policy
	peers     map[string]*peerWatch
	decisions *pathsel.Log
}

// peerWatch is the part of watch that belongs to one peer.
type peerWatch struct {
	cfg    config.Peer
	bond   *bond.Bond
	kernel *kernel
	runner *probe.Runner // nil: the peer's addresses are learned, and its paths not probed
	cancel context.CancelFunc

	// Of the run goroutine.
	session   *bond.Session
	reflected []uint32 // key ids that the reflector has of this peer
	paths     []watchedPath
	probed    map[uint8]bool
	boosted   map[uint8]time.Duration
	counted   map[uint8]counted

	mu       sync.Mutex                  // the probe runner takes it, so its methods must not be called with it held
	orders   [pathsel.NumClasses][]uint8 // what the bond was told
	ports    map[string]uint16           // of the runner's sockets, by uplink
	fresh    bool                        // there is a new socket
	table    *pathsel.Table
	at       time.Duration
	states   []pathsel.PathState
	was      []pathsel.PathState
	decision pathsel.Decision
}

// watchedPath is a path as far as probes need it.
type watchedPath struct {
	id     uint8
	name   string
	uplink string
	remote netip.AddrPort // of the bond
}

// counted is what the bond had counted at the last look.
type counted struct {
	out, in bond.Fates
	bytes   uint64
	at      time.Duration
	// delivered is when the bond last heard that a packet had arrived.
	delivered time.Duration
}

// probePort is where a node reflects probes on an uplink: the port after the bond's. 0 where there is none.
func probePort(bondPort uint16) uint16 {
	if bondPort == 0 {
		return 0
	}
	return bondPort + 1 // after 65535 comes 0: none
}

// listenProbe opens a probe socket of an uplink; port 0 is any.
func listenProbe(u config.NodeUplink, port uint16) (probe.Conn, error) {
	addr := u.Address.Addr()
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	return probe.Listen(netip.AddrPortFrom(addr, port), u.Interface)
}

// newWatch makes a watch whose goroutines end with ctx and are counted in wg; run is one of them and the caller's.
func newWatch(ctx context.Context, wg *sync.WaitGroup, cfg *config.NodeConfig, listen func(config.NodeUplink, uint16) (probe.Conn, error), k *kernel, c *carriers, log *slog.Logger) *watch {
	w := &watch{
		log: log, listen: listen, ctx: ctx, wg: wg, uplinks: cfg.Uplinks, policy: cfg.Policy, kernel: k, carriers: c, ifaces: map[string]string{},
		peers: map[string]*peerWatch{}, decisions: pathsel.NewLog(decisionBytes), reflector: probe.New(probe.Config{}),
	}
	for _, u := range cfg.Uplinks {
		w.ifaces[u.Name] = u.Interface
	}
	if listen == nil {
		return w
	}
	for _, u := range cfg.Uplinks {
		if port := probePort(u.Address.Port()); port != 0 {
			if _, ok := w.open(w.reflector, u, port); ok {
				w.reflect = append(w.reflect, u.Name)
			}
		}
	}
	if len(w.reflect) > 0 {
		wg.Go(func() { _ = w.reflector.Run(ctx) }) // it ends with ctx
	}
	return w
}

// open gives a runner a socket of an uplink.
func (w *watch) open(r *probe.Runner, u config.NodeUplink, port uint16) (local uint16, ok bool) {
	c, err := w.listen(u, port)
	if err == nil {
		local = localPort(c)
		if err = r.SetUplink(u.Name, c); err != nil {
			c.Close()
		}
	}
	if err != nil && !errors.Is(err, probe.ErrClosed) {
		w.log.Warn("paths are not probed on an uplink", "uplink", u.Name, "port", port, "err", err, "hint", hint.Of(err))
	}
	return local, err == nil
}

// openFor gives a peer's runner a socket of an uplink. Called with mu held.
func (w *watch) openFor(p *peerWatch, u config.NodeUplink) {
	if local, ok := w.open(p.runner, u, 0); ok {
		p.mu.Lock()
		p.ports[u.Name] = local
		p.fresh = true
		p.mu.Unlock()
	}
}

// reopen gives an uplink new probe sockets: its interface was gone and is back.
func (w *watch) reopen(u config.NodeUplink) {
	if w.listen == nil {
		return
	}
	if slices.Contains(w.reflect, u.Name) {
		w.open(w.reflector, u, probePort(u.Address.Port()))
	}
	for _, p := range w.all() {
		if p.runner != nil && slices.ContainsFunc(p.cfg.Paths, func(c config.Path) bool { return c.Uplink == u.Name }) {
			w.openFor(p, u)
		}
	}
}

// add watches the paths to a peer.
func (w *watch) add(cfg config.Peer, b *bond.Bond) {
	p := &peerWatch{
		cfg: cfg, bond: b, kernel: w.kernel, table: pathsel.NewTable(0), probed: map[uint8]bool{}, boosted: map[uint8]time.Duration{},
		ports: map[string]uint16{}, counted: map[uint8]counted{},
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listen != nil && len(cfg.Paths) > 0 {
		p.runner = probe.New(probe.Config{OnSent: p.onSent, OnEvent: p.onEvent})
		for _, u := range w.uplinks {
			if slices.ContainsFunc(cfg.Paths, func(c config.Path) bool { return c.Uplink == u.Name }) {
				w.openFor(p, u)
			}
		}
		ctx, cancel := context.WithCancel(w.ctx)
		p.cancel = cancel
		w.wg.Go(func() { _ = p.runner.Run(ctx) }) // it ends with ctx
		if w.carriers != nil {
			w.wg.Go(func() { p.runner.Take(ctx, w.carriers.source(cfg.Name)) })
		}
	}
	w.peers[cfg.Name] = p
}

// remove ends the watch of a peer.
func (w *watch) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.peers[name]
	if p == nil {
		return
	}
	delete(w.peers, name)
	w.decisions.Forget(name)
	if p.cancel != nil {
		p.cancel()
	}
}

// pathName returns the name of a peer's path.
func (w *watch) pathName(peer string, id uint8) string {
	w.mu.Lock()
	p := w.peers[peer]
	w.mu.Unlock()
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.states {
		if p.states[i].ID == id {
			return p.states[i].Name
		}
	}
	return ""
}

// setPolicy changes how classes choose, from the next decision on.
func (w *watch) setPolicy(policy pathsel.Policy) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.policy = policy
}

// all returns the peers by name.
func (w *watch) all() []*peerWatch {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]*peerWatch, 0, len(w.peers))
	for _, name := range slices.Sorted(maps.Keys(w.peers)) {
		out = append(out, w.peers[name])
	}
	return out
}

// run moves states on and decides, until the watch's context ends.
func (w *watch) run() {
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	known := map[*peerWatch]bool{}
	var decide time.Duration
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-tick.C:
		}
		now := probe.Now()
		due := now >= decide
		if due {
			decide = now + decideEvery
		}
		peers := w.all()
		for _, p := range peers {
			known[p] = true
			w.step(p, now, due)
		}
		for p := range known {
			if due && !slices.Contains(peers, p) {
				w.forget(p)
				delete(known, p)
			}
		}
	}
}

// step does what is due for one peer.
func (w *watch) step(p *peerWatch, now time.Duration, due bool) {
	if s := p.bond.Session(); due && s != nil && s != p.session {
		p.session = s
		p.probed = map[uint8]bool{}
		w.reflectFor(p, s)
	}
	if p.runner == nil {
		return
	}
	if due {
		w.follow(p, now)
	}
	p.mu.Lock()
	changed := p.table.Advance(now)
	p.mu.Unlock()
	if changed || due {
		w.decide(p, now)
	}
	p.boost()
}

// reflectFor lets the reflector answer the probes of a peer's new session.
func (w *watch) reflectFor(p *peerWatch, s *bond.Session) {
	for _, id := range p.reflected {
		w.reflector.RemoveReflected(id)
	}
	p.reflected = p.reflected[:0]
	for path := range uint8(bond.MaxPaths) {
		id, secret := s.ProbeKey(false, path)
		w.reflector.AddReflected(stamp.NewKey(id, secret))
		p.reflected = append(p.reflected, id)
	}
	if w.carriers == nil {
		return
	}
	err := w.carriers.reflectFor(p.cfg.Name, s, func(path uint8) bpf.PathID {
		if int(path) >= len(p.cfg.Paths) {
			return 0
		}
		return w.kernel.pathID(p.cfg.Name, path)
	})
	if err != nil {
		w.log.Error("probes are not answered at the NIC", "peer", p.cfg.Name, "err", err, "hint", hint.Of(err))
	}
}

// takeReplies has the kernel take the replies to the probes of a path where it can.
func (w *watch) takeReplies(p *peerWatch, path watchedPath, reflector netip.AddrPort, key uint32, secret [16]byte) {
	if w.kernel == nil {
		return
	}
	id := w.kernel.pathID(p.cfg.Name, path.id)
	p.mu.Lock()
	local := p.ports[path.uplink]
	p.mu.Unlock()
	taken := w.carriers.on(path.uplink) && id != 0 && local != 0
	if taken {
		if err := w.carriers.probe(p.cfg.Name, path.id, bpf.Sender{Reflector: reflector, LocalPort: local, Path: id, Session: key, Key: secret}); err != nil {
			taken = false
			w.log.Error("replies are not taken at the NIC", "peer", p.cfg.Name, "path", path.name, "err", err, "hint", hint.Of(err))
		}
	}
	w.kernel.take(p.cfg.Name, path.id, taken)
}

// forget undoes what the run goroutine did for a peer that is gone.
func (w *watch) forget(p *peerWatch) {
	for _, id := range p.reflected {
		w.reflector.RemoveReflected(id)
	}
	w.mu.Lock()
	again := w.peers[p.cfg.Name] != nil
	w.mu.Unlock()
	if again {
		return
	}
	if w.carriers != nil {
		w.carriers.forget(p.cfg.Name)
	}
	if w.kernel != nil {
		w.kernel.forget(p.cfg.Name)
	}
}

// decide looks at the paths of a peer and decides.
func (w *watch) decide(p *peerWatch, now time.Duration) {
	w.mu.Lock()
	policy := w.policy
	w.mu.Unlock()
	p.mu.Lock()
	p.states, p.was = p.table.States(now, p.was[:0]), p.states
	before := p.decision.Clone()
	changed := p.decision.Update(now, p.states, &policy)
	p.at = now
	used := [256]bool{}
	for i := range p.decision.Classes {
		if c := &p.decision.Classes[i]; c.OK && c.Class != pathsel.Bulk {
			used[c.Path] = true
		}
	}
	for i := range p.states {
		p.table.Use(p.states[i].ID, used[p.states[i].ID])
	}
	states, was, after := p.states, p.was, &p.decision // which only this goroutine writes
	p.mu.Unlock()
	p.obey(now, states, after)
	if w.kernel != nil {
		w.kernel.decided(now, p.cfg.Name, p.paths, w.ifaces, states, after, &policy)
	}
	w.mu.Lock()
	if w.peers[p.cfg.Name] == p && w.decisions.Worth(now, p.cfg.Name, changed) {
		if _, err := w.decisions.Append(time.Now(), p.cfg.Name, states, &policy, before, after); err != nil {
			w.log.Error("decision is not logged", "peer", p.cfg.Name, "err", err)
		}
	}
	w.mu.Unlock()
	c := admin.Clock{Wall: time.Now(), Now: now}
	w.events.Changed(c, p.cfg.Name, was, states)
	w.events.Decided(c, p.cfg.Name, before, after)
	for i := range after.Classes {
		if c, was := &after.Classes[i], &before.Classes[i]; c.OK != was.OK || c.Path != was.Path {
			w.log.Info("class moves", "peer", p.cfg.Name, "class", c.Class, "to", c.To.Name, "why", c.Reason(now))
		}
	}
}

// writeDecisions writes the log of decisions.
func (w *watch) writeDecisions(to io.Writer) error {
	var b bytes.Buffer // a slow reader must not hold up decisions
	w.mu.Lock()
	_, err := w.decisions.WriteTo(&b)
	w.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = b.WriteTo(to)
	return err
}

// obey tells the bond which paths each class uses.
func (p *peerWatch) obey(now time.Duration, states []pathsel.PathState, d *pathsel.Decision) {
	for i := range d.Classes {
		order := p.order(now, &d.Classes[i], states)
		if slices.Equal(order, p.orders[i]) {
			continue
		}
		// Classes have the same numbers in both packages (TestClasses). It fails only for numbers that no path of a bond has.
		if p.bond.SetClassPaths(bond.Class(i), order) == nil {
			p.mu.Lock()
			p.orders[i] = order
			p.mu.Unlock()
		}
	}
}

// order is a class's paths as the bond is to use them: those of the decision and, last, those it leaves out although the
// bond's own packets get through there or probes never did: they may be what a firewall drops. None means all.
func (p *peerWatch) order(now time.Duration, c *pathsel.Choice, states []pathsel.PathState) []uint8 {
	if len(c.Order) == 0 {
		return nil
	}
	out := make([]uint8, 0, len(states))
	for _, o := range c.Order {
		out = append(out, o.Path)
	}
	for i := range states {
		id := states[i].ID
		silent := states[i].Heard == 0
		if !slices.Contains(out, id) && (silent || now-p.counted[id].delivered < deliveredWithin) {
			out = append(out, id)
		}
	}
	return out
}

// follow looks at the bond: which paths there are, and what became of their packets.
func (w *watch) follow(p *peerWatch, now time.Duration) {
	st := p.bond.Stats()
	seen := map[uint8]bool{}
	p.paths = p.paths[:0]
	for i := range st.Paths {
		ps := &st.Paths[i]
		seen[ps.ID] = true
		p.paths = append(p.paths, watchedPath{ps.ID, ps.Name, ps.Uplink, ps.Remote})
		p.mu.Lock()
		if !p.has(ps.ID) {
			_ = p.table.Add(now, ps.ID, ps.Name) // fails only for ids that are there and beyond a bond's paths
		}
		p.count(now, ps)
		p.mu.Unlock()
	}
	for id := range p.counted {
		if !seen[id] {
			delete(p.counted, id)
			delete(p.probed, id)
			p.runner.RemovePath(id)
			p.mu.Lock()
			p.table.Remove(id)
			p.mu.Unlock()
		}
	}
	if p.session == nil {
		return
	}
	p.mu.Lock()
	if p.fresh { // and so its ports
		p.fresh = false
		clear(p.probed)
	}
	p.mu.Unlock()
	for _, path := range p.paths {
		port := probePort(path.remote.Port())
		if p.probed[path.id] || port == 0 {
			continue
		}
		id, secret := p.session.ProbeKey(true, path.id)
		to := netip.AddrPortFrom(path.remote.Addr().Unmap(), port)
		w.takeReplies(p, path, to, id, secret)
		err := p.runner.AddPath(probe.Path{ID: path.id, Uplink: path.uplink, Remote: to, Key: stamp.NewKey(id, secret)})
		p.probed[path.id] = err == nil // an uplink without a socket may get one
	}
}

// has tells whether the table knows a path. Called with mu held.
func (p *peerWatch) has(id uint8) bool {
	_, ok := p.counted[id]
	return ok
}

// count takes what the bond has counted since the last time. Called with mu held.
func (p *peerWatch) count(now time.Duration, ps *bond.PathStats) {
	last, known := p.counted[ps.ID]
	next := counted{out: ps.Out, in: ps.In, bytes: ps.SentBytes, at: now, delivered: last.delivered}
	if known && ps.Out.Packets-ps.Out.Lost > last.out.Packets-last.out.Lost {
		next.delivered = now
	}
	if known && now > last.at {
		outs, lost := since(&last.out, &next.out)
		p.table.Traffic(now, ps.ID, pathsel.Out, lost)
		_, gaps := since(&last.in, &next.in)
		p.table.Traffic(now, ps.ID, pathsel.Back, gaps)
		rate := float64(ps.SentBytes-last.bytes) * 8 / (now - last.at).Seconds()
		if outs > 0 {
			rate *= 1 - float64(lost.Lost)/float64(outs)
		}
		p.table.Delivered(ps.ID, int64(rate), ps.Bandwidth)
	}
	p.table.Self(ps.ID, pathsel.Out, ps.Filling, ps.Queue)
	p.table.Self(ps.ID, pathsel.Back, ps.FillingIn, 0) // the peer's queue is the peer's to know
	p.counted[ps.ID] = next
}

// since is what was counted between two looks. What was missing and came late after all has been counted as lost before:
// next keeps that, so that it is not counted once more.
func since(last, next *bond.Fates) (packets int, c pathsel.Counts) {
	if next.Packets < last.Packets { // another session
		*last = bond.Fates{}
	}
	packets = int(next.Packets - last.Packets)
	if next.Lost > last.Lost {
		c.Lost = min(int(next.Lost-last.Lost), packets)
	}
	if next.Runs > last.Runs {
		c.Bursts = int(next.Runs - last.Runs)
	}
	c.Packets, c.Bursts = packets, max(min(c.Bursts, c.Lost), min(c.Lost, 1))
	next.Lost, next.Runs = max(next.Lost, last.Lost), max(next.Runs, last.Runs)
	return packets, c
}

// boost probes faster where the table asks for it.
func (p *peerWatch) boost() {
	for _, path := range p.paths {
		p.mu.Lock()
		until := p.table.Boost(path.id)
		p.mu.Unlock()
		if until != p.boosted[path.id] {
			p.boosted[path.id] = until
			p.runner.Boost(path.id, until)
		}
	}
}

func (p *peerWatch) onSent(now time.Duration, id uint8) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.ProbeSent(now, id)
}

func (p *peerWatch) onEvent(ev *stamp.Event) {
	if p.kernel != nil && ev.Kind == stamp.EventReply {
		p.kernel.answered(p.cfg.Name, ev.Path, ev.At)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.Probe(ev)
}

// snapshot returns the latest states and decision, and when they were taken.
func (p *peerWatch) snapshot() (now time.Duration, states []pathsel.PathState, d *pathsel.Decision) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, slices.Clone(p.states), p.decision.Clone()
}

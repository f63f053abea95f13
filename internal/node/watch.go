package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/journal"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/tunnel/bond"
)

const (
	// watchTick is how often the states of paths move on; pathsel asks for 20 ms.
	watchTick = 20 * time.Millisecond
	// lateTick is the time between two ticks after which replies may wait that nobody has had time to read.
	lateTick = 3 * watchTick
	// decideEvery is how often traffic is counted and classes are decided upon when no path's state changes.
	decideEvery = 100 * time.Millisecond
	// lookEvery is how often watch looks whether customers' packets move, and carryFor how long paths count as used after
	// some did. Idle ones are probed at the plain pace: nobody would notice what more probes find out.
	lookEvery = time.Second
	carryFor  = 10 * time.Second
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
	reflect   map[string]probe.Conn // by uplink: the reflector's sockets; nil where it should have one
	events    admin.EventLog
	kernel    *kernel   // nil: nothing asks there
	carriers  *carriers // nil: all probes are user space's
	agent     bool      // this node is one
	byName    map[string]config.NodeUplink
	moved     func() uint64 // changes while customers' packets move

	// Of the run goroutine: what moved said, when to ask again, and until when paths count as used.
	lastMoved     uint64
	look, carries time.Duration

	mu        sync.Mutex
	uplinks   []config.NodeUplink
	policy    pathsel.Policy
	peers     map[string]*peerWatch
	agents    map[string]*probe.Shared // by uplink: what agents are probed from
	decisions *pathsel.Log
	disk      *journal.Journal // nil: decisions are in memory alone
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
	reflected []uint32        // key ids that a reflector has of this peer
	aimed     map[uint8]hello // by path, where an agent is probed
	paths     []watchedPath
	probed    map[uint8]bool
	boosted   map[uint8]time.Duration
	paced     map[uint8]time.Duration // by path, what the runner was told
	alone     map[uint8]bool          // by path: the peer answers probes, and sends none
	counted   map[uint8]counted

	told []netip.Addr // addresses of an agent that the guard knows

	mu       sync.Mutex                  // the probe runner takes it, so its methods must not be called with it held
	orders   [pathsel.NumClasses][]uint8 // what the bond was told
	ports    map[string]uint16           // of the runner's sockets, by uplink
	fresh    bool                        // there is a new socket
	hellos   map[uint32]uint8            // an agent's paths, by the keys of their hellos
	heard    map[uint8]hello             // by an agent's number of the path
	table    *pathsel.Table
	at       time.Duration
	states   []pathsel.PathState
	was      []pathsel.PathState
	decision pathsel.Decision
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
func newWatch(ctx context.Context, wg *sync.WaitGroup, cfg *config.NodeConfig, role string, listen func(config.NodeUplink, uint16) (probe.Conn, error), k *kernel, c *carriers, log *slog.Logger) *watch {
	w := &watch{
		log: log, listen: listen, ctx: ctx, wg: wg, uplinks: cfg.Uplinks, policy: cfg.Policy, kernel: k, carriers: c, byName: map[string]config.NodeUplink{}, reflect: map[string]probe.Conn{},
		agent: role == RoleAgent, agents: map[string]*probe.Shared{}, peers: map[string]*peerWatch{}, decisions: pathsel.NewLog(decisionBytes), reflector: probe.New(probe.Config{}),
	}
	for _, u := range cfg.Uplinks {
		w.byName[u.Name] = u
	}
	if listen == nil {
		return w
	}
	wg.Go(func() {
		<-ctx.Done()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.closeAgents()
	})
	for _, u := range cfg.Uplinks {
		if port := probePort(u.Address.Port()); port != 0 {
			w.reflect[u.Name] = w.open(w.reflector, u, port)
		}
	}
	if len(w.reflect) > 0 {
		wg.Go(func() { _ = w.reflector.Run(ctx) }) // it ends with ctx
	}
	return w
}

// open gives a runner a socket of an uplink; nil is that there is none to be had.
func (w *watch) open(r *probe.Runner, u config.NodeUplink, port uint16) probe.Conn {
	c, err := w.listen(u, port)
	if err == nil {
		if err = r.SetUplink(u.Name, c); err == nil {
			return c
		}
		c.Close()
	}
	if !errors.Is(err, probe.ErrClosed) {
		w.complain(u.Name, port, err)
	}
	return nil
}

func (w *watch) complain(uplink string, port uint16, err error) {
	if errors.Is(err, unix.ENODEV) {
		return // that its interface is not there is said once, by checkUplink
	}
	w.log.Warn("paths are not probed on an uplink", "uplink", uplink, "port", port, "err", err, "hint", hint.Of(err))
}

// openFor gives a peer's runner a socket of an uplink. Called with mu held.
func (w *watch) openFor(p *peerWatch, u config.NodeUplink) {
	if c := w.open(p.runner, u, 0); c != nil {
		p.mu.Lock()
		p.ports[u.Name] = localPort(c)
		p.fresh = true
		p.mu.Unlock()
	}
}

// reopen gives an uplink new probe sockets: its interface was gone and is back.
func (w *watch) reopen(u config.NodeUplink) {
	if w.listen == nil {
		return
	}
	if c, ok := w.reflect[u.Name]; ok {
		if c != nil {
			c.Close() // it may be on the interface already, which came after the uplink was opened and before this
		}
		w.reflect[u.Name] = w.open(w.reflector, u, probePort(u.Address.Port()))
	}
	w.mu.Lock()
	if s := w.agents[u.Name]; s != nil {
		s.Close()
		delete(w.agents, u.Name)
	}
	for _, p := range w.peers {
		if p.cfg.Kind == config.PeerAgent && slices.Contains(p.cfg.Uplinks, u.Name) {
			w.openAgents(u)
		}
	}
	w.mu.Unlock()
	for _, p := range w.all() {
		if p.runner != nil && p.cfg.Kind == config.PeerAgent {
			p.mu.Lock()
			p.fresh = true
			p.mu.Unlock()
		} else if p.runner != nil && slices.ContainsFunc(p.cfg.Paths, func(c config.Path) bool { return c.Uplink == u.Name }) {
			w.openFor(p, u)
		}
	}
}

// add watches the paths to a peer.
func (w *watch) add(cfg config.Peer, b *bond.Bond) {
	p := &peerWatch{
		cfg: cfg, bond: b, kernel: w.kernel, table: pathsel.NewTable(0), probed: map[uint8]bool{}, boosted: map[uint8]time.Duration{}, paced: map[uint8]time.Duration{},
		ports: map[string]uint16{}, counted: map[uint8]counted{}, alone: map[uint8]bool{}, aimed: map[uint8]hello{},
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	toAgent := cfg.Kind == config.PeerAgent
	if w.listen != nil && (len(cfg.Paths) > 0 || toAgent) {
		pc := probe.Config{OnSent: p.onSent, OnEvent: p.onEvent}
		if toAgent {
			p.kernel = nil // no direct flow leads to an agent
			pc.OnProbe = p.onHello
		}
		p.runner = probe.New(pc)
		for _, u := range w.uplinks {
			if toAgent && slices.Contains(cfg.Uplinks, u.Name) {
				w.openAgents(u)
			} else if !toAgent && slices.ContainsFunc(cfg.Paths, func(c config.Path) bool { return c.Uplink == u.Name }) {
				w.openFor(p, u)
			}
		}
		ctx, cancel := context.WithCancel(w.ctx)
		p.cancel = cancel
		w.wg.Go(func() { _ = p.runner.Run(ctx) }) // it ends with ctx
		if w.carriers != nil && !toAgent {
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
	w.closeAgents()
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
	ticks := punctual{last: probe.Now()}
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-tick.C:
		}
		now := probe.Now()
		if !ticks.tick(now) {
			tick.Reset(watchTick)
			continue
		}
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

// punctual tells ticks on time from late ones.
type punctual struct {
	last time.Duration
	late bool
}

// tick tells whether to judge at this tick. After a late one, as when the process was stopped, the readers of replies go
// first; on a machine where all are late, every other counts.
func (p *punctual) tick(now time.Duration) bool {
	p.late = !p.late && now-p.last > lateTick
	p.last = now
	return !p.late
}

// carrying tells whether customers' packets moved lately.
func (w *watch) carrying(now time.Duration) bool {
	if now >= w.look {
		w.look = now + lookEvery
		if n := w.moved(); n != w.lastMoved {
			w.lastMoved, w.carries = n, now+carryFor
		}
	}
	return now < w.carries
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
	p.boost(now, due)
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

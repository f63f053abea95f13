package node

import (
	"net/netip"
	"slices"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/pathsel/stamp"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// Probes from a gateway to its agents. An agent may be behind NAT, which lets in only what answers it, and from no other
// port than it spoke to. So the agent says hello: from the socket it probes the gateway from it also probes, once a second
// for each path, a port of the gateway that no program in the kernel watches. The gateway answers, learns from the probe's
// key which path it is and from its source where to probe it, and does so from that port. The address must be the one
// that the bond has authenticated for the path; only the port is the hello's.

const (
	// helloBit marks the number of a path in the keys of hellos, which are counted by themselves.
	helloBit = 0x80
	// helloEvery keeps a NAT's mapping, and is how long a new address takes to be learned.
	helloEvery = 20 * stamp.DefaultInterval
)

var _ [helloBit - bond.MaxPaths]struct{} // numbers of paths leave room for it

// agentPort is where a gateway probes its agents from: the port after the reflector's. 0 where there is none.
func agentPort(bondPort uint16) uint16 {
	if probePort(bondPort) == 0 {
		return 0
	}
	return bondPort + 2
}

// hello is where a hello came in last.
type hello struct {
	uplink string
	from   netip.AddrPort
}

// openAgents opens the socket of an uplink that agents are probed from, unless it is there. Called with mu held.
func (w *watch) openAgents(u config.NodeUplink) {
	port := agentPort(u.Address.Port())
	if w.agents[u.Name] != nil || port == 0 || w.ctx.Err() != nil {
		return
	}
	c, err := w.listen(u, port)
	if err != nil {
		w.complain(u.Name, port, err)
		return
	}
	w.agents[u.Name] = probe.Share(c)
}

// closeAgents closes the sockets of uplinks that no agent comes in on any more. Called with mu held.
func (w *watch) closeAgents() {
	for name, s := range w.agents {
		used := false
		for _, p := range w.peers {
			used = used || p.cfg.Kind == config.PeerAgent && slices.Contains(p.cfg.Uplinks, name)
		}
		if !used || w.ctx.Err() != nil {
			s.Close()
			delete(w.agents, name)
		}
	}
}

// joinAgent gives an agent's runner its part of the sockets in this session: what names its keys.
func (w *watch) joinAgent(p *peerWatch) {
	hellos := map[uint32]uint8{}
	var keys []uint32
	for path := range uint8(bond.MaxPaths) {
		ours, _ := p.session.ProbeKey(true, path)
		theirs, secret := p.session.ProbeKey(false, helloBit|path)
		p.runner.AddReflected(stamp.NewKey(theirs, secret))
		hellos[theirs] = path
		keys = append(keys, ours, theirs)
	}
	p.mu.Lock()
	old := p.hellos
	p.hellos, p.heard = hellos, map[uint8]hello{}
	p.mu.Unlock()
	for id := range old {
		if _, still := hellos[id]; !still {
			p.runner.RemoveReflected(id)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, s := range w.agents {
		if c := s.Conn(keys...); p.runner.SetUplink(name, c) != nil {
			c.Close()
		}
	}
}

// onHello notes where an agent's path comes from. The runner calls it, with its lock held.
func (p *peerWatch) onHello(uplink string, key uint32, from netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if path, ok := p.hellos[key]; ok {
		p.heard[path] = hello{uplink, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
	}
}

// probeAgent probes the paths to an agent whose addresses are known.
func (w *watch) probeAgent(p *peerWatch) {
	for _, path := range p.paths {
		p.mu.Lock()
		h, ok := p.heard[path.peer]
		p.mu.Unlock()
		if !ok || h.uplink != path.uplink || h.from.Addr() != path.remote.Addr().Unmap() || p.aimed[path.id] == h {
			continue
		}
		id, secret := p.session.ProbeKey(true, path.id)
		if err := p.runner.AddPath(probe.Path{ID: path.id, Uplink: h.uplink, Remote: h.from, Key: stamp.NewKey(id, secret)}); err == nil {
			p.aimed[path.id] = h
			delete(p.paced, path.id)
		}
	}
}

// sayHello lets the gateway know where an agent's path comes from.
func (p *peerWatch) sayHello(path watchedPath) {
	port := agentPort(path.remote.Port())
	if port == 0 {
		return
	}
	id, secret := p.session.ProbeKey(true, helloBit|path.id)
	to := netip.AddrPortFrom(path.remote.Addr().Unmap(), port)
	if p.runner.AddPath(probe.Path{ID: helloBit | path.id, Uplink: path.uplink, Remote: to, Key: stamp.NewKey(id, secret)}) == nil {
		p.runner.Pace(helloBit|path.id, helloEvery)
	}
}

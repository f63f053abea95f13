package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/pathsel/stamp"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// watchedPath is a path as far as probes need it.
type watchedPath struct {
	id     uint8
	name   string
	uplink string
	remote netip.AddrPort // of the bond
	peer   uint8          // the peer's number of it; helloBit: not known yet
}

const (
	// loadShare of what a path carries, or of the most that came in over it, may make a queue, but no less than loadLeast
	// bits a second.
	loadShare = 0.25
	loadLeast = 1e6
	// peakKept of the most that came in is left at the next look: half of it after 12 minutes.
	peakKept = 0.9999
)

// counted is what the bond had counted at the last look.
type counted struct {
	out, in bond.Fates
	bytes   uint64
	bytesIn uint64
	peakIn  float64 // the most bits a second that came in, of late
	at      time.Duration
	// delivered is when the bond last heard that a packet had arrived.
	delivered time.Duration
}

// reflectFor lets the reflector answer the probes of a peer's new session.
func (w *watch) reflectFor(p *peerWatch, s *bond.Session) {
	for _, id := range p.reflected {
		w.reflector.RemoveReflected(id)
		if p.runner != nil {
			p.runner.RemoveReflected(id)
		}
	}
	p.reflected = p.reflected[:0]
	for path := range uint8(bond.MaxPaths) {
		id, secret := s.ProbeKey(false, path)
		w.reflector.AddReflected(stamp.NewKey(id, secret))
		if w.agent && p.runner != nil { // the gateway's probes come to the socket that said hello
			p.runner.AddReflected(stamp.NewKey(id, secret))
		}
		p.reflected = append(p.reflected, id)
	}
	if p.cfg.Kind == config.PeerAgent && p.runner != nil {
		clear(p.aimed)
		w.joinAgent(p)
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

// follow looks at the bond: which paths there are, and what became of their packets.
func (w *watch) follow(p *peerWatch, now time.Duration) {
	st := p.bond.Stats()
	seen := map[uint8]bool{}
	p.paths = p.paths[:0]
	for i := range st.Paths {
		ps := &st.Paths[i]
		seen[ps.ID] = true
		peer := uint8(helloBit)
		if ps.Peer >= 0 && ps.Peer < bond.MaxPaths {
			peer = uint8(ps.Peer)
		}
		p.paths = append(p.paths, watchedPath{ps.ID, ps.Name, ps.Uplink, ps.Remote, peer})
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
			delete(p.paced, id)
			delete(p.alone, id)
			delete(p.aimed, id)
			p.runner.RemovePath(id)
			p.runner.RemovePath(helloBit | id)
			p.mu.Lock()
			p.table.Remove(id)
			p.mu.Unlock()
		}
	}
	if p.session == nil {
		return
	}
	p.mu.Lock()
	fresh := p.fresh // and so its ports
	p.fresh = false
	p.mu.Unlock()
	if p.cfg.Kind == config.PeerAgent {
		var at []netip.Addr
		for _, path := range p.paths {
			if a := path.remote.Addr().Unmap(); !slices.Contains(at, a) {
				at = append(at, a)
			}
		}
		if !slices.Equal(at, p.told) {
			p.told = at
			w.carriers.heardFrom(p.cfg.Name, at)
		}
		if fresh {
			clear(p.aimed)
			w.joinAgent(p)
		}
		w.probeAgent(p)
		return
	}
	if fresh {
		clear(p.probed)
	}
	for _, path := range p.paths {
		port := probePort(path.remote.Port())
		if p.probed[path.id] || port == 0 {
			continue
		}
		id, secret := p.session.ProbeKey(true, path.id)
		to := netip.AddrPortFrom(path.remote.Addr().Unmap(), port)
		w.takeReplies(p, path, to, id, secret)
		err := p.runner.AddPath(probe.Path{ID: path.id, Uplink: path.uplink, Remote: to, Key: stamp.NewKey(id, secret)})
		delete(p.paced, path.id)
		if w.agent {
			p.sayHello(path)
		}
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
	next := counted{out: ps.Out, in: ps.In, bytes: ps.SentBytes, bytesIn: ps.ReceivedBytes, at: now, delivered: last.delivered}
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
		p.table.Delivered(now, ps.ID, int64(rate), ps.Bandwidth, ps.Limiting && !ps.Filling)
	}
	out := pathsel.Self{Filling: ps.Filling, Queue: ps.Queue}
	in := pathsel.Self{Filling: ps.FillingIn} // the peer's queue is the peer's to know
	if known && now > last.at {
		rate := func(to, from uint64) float64 { return float64(to-from) * 8 / (now - last.at).Seconds() }
		out.Loading = rate(ps.SentBytes, last.bytes) > loadShare*float64(ps.Bandwidth)
		got := rate(ps.ReceivedBytes, last.bytesIn)
		next.peakIn = max(got, last.peakIn*peakKept)
		in.Loading = got > max(loadLeast, loadShare*next.peakIn)
	}
	p.table.Self(now, ps.ID, pathsel.Out, out)
	p.table.Self(now, ps.ID, pathsel.Back, in)
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

// boost probes faster where the table asks for it, and where the peer's kernel has only our probes to judge by.
func (p *peerWatch) boost(now time.Duration, due bool) {
	for _, path := range p.paths {
		if due && p.kernel != nil {
			p.alone[path.id] = p.kernel.alone(now, p.cfg.Name, path.id)
		}
		p.mu.Lock()
		until, interval := p.table.Boost(path.id), p.table.Interval(path.id)
		p.mu.Unlock()
		if p.alone[path.id] {
			interval /= 2
		}
		if interval != p.paced[path.id] {
			p.paced[path.id] = interval
			p.runner.Pace(path.id, interval)
		}
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

package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel"
)

const (
	// routeAgain is how often the host is asked again for a route for direct flows that it would not have.
	routeAgain = time.Second

	// darkWithin is after which time no new flow goes on a path that went dark. What had left before arrives for a one-way
	// delay; what remains of the time, and is not spared for the kernel's clock and a later packet than most, is patience.
	darkWithin = 200 * time.Millisecond
	darkSpare  = 15 * time.Millisecond
	// quietLeast is the patience with paths on which that cannot be kept, quietMost that with short ones: 40 probes and
	// replies a second come in. In steps of quietStep, so that the kernel is not told of every breath.
	quietLeast, quietMost = 60 * time.Millisecond, 110 * time.Millisecond
	quietStep             = 5 * time.Millisecond
	// dueSpare is how long after a usual round trip the third unanswered probe makes a path dead in the kernel, where the
	// peer's own come in: the way there alone is lost. Overdue replies keep new flows away before.
	dueSpare = 100 * time.Millisecond

	// aloneAfter is how long the peer's probes have to be missing, while ours are answered, until it is taken for standing
	// still. Then its kernel has only ours to judge by.
	aloneAfter = 300 * time.Millisecond
)

// kernel is the node's live path table in the kernel, which the classifier picks from: the paths of all peers, and for
// each peer and class the order of its paths. Safe for concurrent use.
type kernel struct {
	log   *slog.Logger
	table *bpf.Paths

	host *hostRoutes // nil: no classifier picks from the table

	mu     sync.Mutex
	direct *directRoutes // nil as host is
	peers  map[string]*kernelPeer
	ids    [bpf.MaxPaths + 1]bool // in use
	groups [bpf.MaxGroups]bool
	failed bool // the last write failed
}

// kernelPeer is what the kernel has of a peer.
type kernelPeer struct {
	group bpf.Group // 0: there was none left
	paths map[uint8]*kernelPath
	order [pathsel.NumClasses][]bpf.PathID
}

type kernelPath struct {
	id     bpf.PathID
	path   bpf.Path
	hop    bpf.Path // all but State and Leave
	looked time.Duration
	view   *routeView // that hop is of
	uplink string     // and where it leads: a reload may give the number to another path
	remote netip.Addr
	taken  bool // replies are taken in the kernel
	// unrouted: the host has no rule for direct flows of the path, where it should.
	unrouted bool
}

// newKernel makes an empty table. picked says that there are direct flows, so that the host may have to route them, to the
// remotes at first.
func newKernel(log *slog.Logger, picked bool, remotes ...netip.Addr) (*kernel, error) {
	t, err := bpf.NewPaths()
	if err != nil {
		return nil, err
	}
	k := &kernel{log: log, table: t, peers: map[string]*kernelPeer{}}
	if picked {
		k.direct = newDirectRoutes(log)
		k.host = newHostRoutes(log, readRoutes, remotes)
	}
	return k, nil
}

func (k *kernel) close() error {
	k.host.close()
	k.mu.Lock()
	defer k.mu.Unlock()
	return errors.Join(k.direct.close(), k.table.Close())
}

// group returns the candidates of a peer, 0 if there are none.
func (k *kernel) group(peer string) bpf.Group {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.peerLocked(peer).group
}

func (k *kernel) peerLocked(name string) *kernelPeer {
	p := k.peers[name]
	if p == nil {
		p = &kernelPeer{paths: map[uint8]*kernelPath{}}
		if g := slices.Index(k.groups[1:], false); g >= 0 {
			p.group = bpf.Group(g + 1)
			k.groups[p.group] = true
		}
		k.peers[name] = p
	}
	return p
}

// pathID returns the kernel's number of a peer's path, 0 if the table is full.
func (k *kernel) pathID(peer string, id uint8) bpf.PathID {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.pathLocked(k.peerLocked(peer), id); p != nil {
		return p.id
	}
	return 0
}

func (k *kernel) pathLocked(p *kernelPeer, id uint8) *kernelPath {
	if kp := p.paths[id]; kp != nil {
		return kp
	}
	free := slices.Index(k.ids[1:], false)
	if free < 0 {
		return nil
	}
	kp := &kernelPath{id: bpf.PathID(free + 1)}
	k.ids[kp.id] = true
	p.paths[id] = kp
	return kp
}

// name returns which peer's which path has a number in the kernel.
func (k *kernel) name(id bpf.PathID) (peer string, path uint8, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, p := range k.peers {
		for path, kp := range p.paths {
			if kp.id == id {
				return name, path, true
			}
		}
	}
	return "", 0, false
}

// peerOf returns the peer whose candidates these are.
func (k *kernel) peerOf(g bpf.Group) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, p := range k.peers {
		if p.group == g && g != 0 {
			return name
		}
	}
	return ""
}

// answered notes a reply that user space took.
func (k *kernel) answered(peer string, id uint8, at time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.peers[peer]; p != nil {
		if kp := p.paths[id]; kp != nil && !kp.taken {
			k.note(k.table.Answered(kp.id, at))
		}
	}
}

// take says that from now on the kernel itself notes the replies of a path, or no longer.
func (k *kernel) take(peer string, id uint8, taken bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if kp := k.pathLocked(k.peerLocked(peer), id); kp != nil {
		kp.taken = taken
	}
}

// takes tells whether the kernel notes the replies of a path.
func (k *kernel) takes(peer string, id uint8) bool {
	if k == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.peers[peer]
	return p != nil && p.paths[id] != nil && p.paths[id].taken
}

// note tells people once that the table cannot be written. Called with mu held.
func (k *kernel) note(err error) {
	if err != nil && !k.failed {
		k.log.Error("the kernel's path table cannot be written; direct flows may find no path", "err", err, "hint", hint.Of(err))
	}
	k.failed = err != nil
}

// decided writes a decision about a peer's paths.
func (k *kernel) decided(now time.Duration, peer string, paths []watchedPath, uplinks map[string]config.NodeUplink, states []pathsel.PathState, d *pathsel.Decision, policy *pathsel.Policy) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.peerLocked(peer)
	var errs []error
	seen := map[uint8]bool{}
	for _, w := range paths {
		i := slices.IndexFunc(states, func(s pathsel.PathState) bool { return s.ID == w.id })
		kp := k.pathLocked(p, w.id)
		if i < 0 || kp == nil {
			continue
		}
		seen[w.id] = true
		u := uplinks[w.uplink]
		if k.host != nil {
			k.look(now, kp, u, w.remote.Addr().Unmap())
		}
		path := kp.hop
		path.State = kernelState(states[i].State)
		if path.Ifindex == 0 || kp.unrouted {
			path.State = bpf.PathDown // its interface is gone, or the host would send its flows anywhere
		}
		if kp.taken { // else times have the scheduler's noise
			path.Quiet, path.Due = patience(&states[i])
		}
		for c := range d.Classes {
			if ch := &d.Classes[c]; states[i].State == pathsel.StateBrownout && policy.Classes[c].LeaveBrownout && ch.OK && ch.Path != w.id {
				path.Leave = append(path.Leave, kernelClass(pathsel.Class(c)))
			}
		}
		if reflect.DeepEqual(path, kp.path) {
			continue
		}
		err := k.table.Set(kp.id, path)
		if errs = append(errs, err); err == nil {
			kp.path = path
		}
	}
	if p.group != 0 {
		for c := range d.Classes {
			var order []bpf.PathID
			for _, o := range d.Classes[c].Order {
				if kp := p.paths[o.Path]; kp != nil && len(order) < bpf.MaxCandidates {
					order = append(order, kp.id)
				}
			}
			if slices.Equal(order, p.order[c]) {
				continue
			}
			err := k.table.SetCandidates(p.group, kernelClass(pathsel.Class(c)), order)
			if errs = append(errs, err); err == nil {
				p.order[c] = order
			}
		}
	}
	for id, kp := range p.paths {
		if !seen[id] {
			errs = append(errs, k.table.Remove(kp.id), k.direct.remove(kp.id))
			k.ids[kp.id] = false
			delete(p.paths, id)
		}
	}
	if len(errs) > 0 || k.failed {
		k.note(errors.Join(errs...))
	}
}

// patience is after which silence new flows avoid a path, and when answers to probes are due.
func patience(s *pathsel.PathState) (quiet, due time.Duration) {
	back, round := s.Back.Delay.P95, s.RTT.P95
	if round == 0 {
		return 0, 0 // nothing is known yet
	}
	quiet = min(max(darkWithin-darkSpare-back, quietLeast), quietMost).Truncate(quietStep)
	return quiet, (round + dueSpare + quietStep - 1).Truncate(quietStep)
}

// alone tells whether the peer's own probes have ceased on a path that answers.
func (k *kernel) alone(now time.Duration, peer string, id uint8) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.peers[peer]
	if p == nil || p.paths[id] == nil {
		return false
	}
	l, err := k.table.Live(p.paths[id].id)
	return err == nil && onlyAnswers(l, now)
}

// onlyAnswers tells it of what the kernel has heard. A peer that never asked, as an agent's gateway, does not count.
func onlyAnswers(l bpf.Live, now time.Duration) bool {
	return l.Request > 0 && now-l.Request > aloneAfter && now-l.Reply < bpf.DefaultMaxAge
}

// look finds where direct flows of a path go, if the host's routes or the path have changed. Called with mu held.
func (k *kernel) look(now time.Duration, kp *kernelPath, u config.NodeUplink, remote netip.Addr) {
	v := k.host.toward(remote)
	if kp.view != nil && kp.uplink == u.Name && kp.remote == remote {
		if v == kp.view && (!kp.unrouted || now-kp.looked < routeAgain) {
			return
		}
		if kp.view.knows(remote) && !v.knows(remote) {
			return // among too many remotes it was forgotten, and is asked for again
		}
	}
	kp.uplink, kp.remote = u.Name, remote
	kp.looked, kp.view, kp.hop = now, v, v.hopTo(u.Interface, remote)
	if u.Direct == config.DirectRoute {
		k.route(kp, u)
	} else {
		kp.unrouted = false
	}
}

// route lets the host route direct flows of a path. Called with mu held.
func (k *kernel) route(kp *kernelPath, u config.NodeUplink) {
	err := k.direct.set(kp.id, kp.hop, kp.view)
	if err != nil && !kp.unrouted {
		k.log.Error("no direct flow leaves by a path until the host can route it", "uplink", u.Name, "interface", u.Interface, "err", err, "hint", hint.Of(err))
	}
	kp.unrouted = err != nil
	kp.hop.Routed, kp.hop.Mark = true, uint32(directTable(kp.id))
}

// forget empties what belongs to a peer.
func (k *kernel) forget(peer string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.peers[peer]
	if p == nil {
		return
	}
	delete(k.peers, peer)
	var errs []error
	if p.group != 0 {
		for c := range p.order {
			errs = append(errs, k.table.SetCandidates(p.group, kernelClass(pathsel.Class(c)), nil))
		}
		k.groups[p.group] = false
	}
	for _, kp := range p.paths {
		errs = append(errs, k.table.Remove(kp.id), k.direct.remove(kp.id))
		k.ids[kp.id] = false
	}
	k.note(errors.Join(errs...))
}

func kernelState(s pathsel.State) bpf.PathState {
	switch s {
	case pathsel.StateUp, pathsel.StateBrownout:
		return bpf.PathUp
	case pathsel.StateSuspect:
		return bpf.PathSuspect
	}
	return bpf.PathDown
}

// kernelClass numbers the classes as the programs do: 0 is none there.
func kernelClass(c pathsel.Class) bpf.Class { return bpf.Class(c) + bpf.Realtime }

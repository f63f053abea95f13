package bond

import (
	"context"
	"crypto/cipher"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Class is the treatment a lane gets.
type Class uint8

// Classes, most urgent first.
const (
	Realtime Class = iota
	Interactive
	Bulk
	numClasses
)

func (c Class) String() string {
	if c >= numClasses {
		return fmt.Sprintf("class(%d)", uint8(c))
	}
	return [...]string{"realtime", "interactive", "bulk"}[c]
}

const (
	openInterval    = 250 * time.Millisecond // of handshake attempts on a path
	openIntervalMax = time.Second
	openFast        = 8 // attempts at openInterval before openIntervalMax
	// openReplyInterval bounds what a replayed handshake can make us send.
	openReplyInterval = 20 * time.Millisecond
	// learnedFor is how long a path learned from the peer stays without being used.
	learnedFor     = 10 * time.Second
	sessionBacklog = 4
	// minSleep is the run loop's shortest sleep with nothing to send; pacers allow bursts of maxBurst.
	minSleep = 300 * time.Microsecond
)

// Bond is all paths to one peer. Safe for concurrent use.
type Bond struct {
	host *Host
	cfg  PeerConfig
	id   uint32
	sec  secret

	openSeal, openVerify cipher.AEAD

	kick     chan struct{}
	sessions chan *Session
	closing  chan struct{}
	stopped  chan struct{}

	mu        sync.Mutex
	paths     []*pathTx
	epoch     uint64       // ours
	peerEpoch uint64       // newest seen, whether proven fresh or not
	openSeen  replayWindow // of the peer's handshakes in that epoch
	openSeq   uint32
	openTries int
	lastOpen  stamp
	lastReply stamp
	sess      *Session // current; nil before the first and after an end
	cand      *Session // keys known, freshness of the peer not proven yet
	closed    bool
	// configured: the peer's addresses are the document's; else paths are learned from its datagrams.
	configured bool

	classes    [numClasses]classPaths
	pathEvents uint64 // paths that became suspect

	paced  bool // the run loop sleeps until a pacer frees: no use waking it for data
	tagger tagger
	out    outBatch
}

func newBond(h *Host, cfg PeerConfig) (*Bond, error) {
	shared, err := h.key.Shared(cfg.Key)
	if err != nil {
		return nil, err
	}
	if len(cfg.Paths) > maxPaths {
		return nil, fmt.Errorf("%d paths, allowed up to %d", len(cfg.Paths), maxPaths)
	}
	b := &Bond{
		host: h, cfg: cfg,
		sec:      secret{shared: shared, local: h.key.Public(), peer: cfg.Key},
		kick:     make(chan struct{}, 1),
		sessions: make(chan *Session, sessionBacklog),
		closing:  make(chan struct{}),
		stopped:  make(chan struct{}),
		epoch:    uint64(h.clock().UnixMicro()),
	}
	b.configured = len(cfg.Paths) > 0
	b.id = b.sec.bondID()
	b.openSeal = b.sec.openAEAD(b.sec.local)
	b.openVerify = b.sec.openAEAD(b.sec.peer)
	return b, nil
}

// Name returns the configured name of the peer.
func (b *Bond) Name() string { return b.cfg.Name }

// Connected tells whether there is a session with the peer.
func (b *Bond) Connected() bool { return b.Session() != nil }

// Session returns the current session, nil while there is none.
func (b *Bond) Session() *Session {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sess
}

// addPath is called with the host's mutex held and, once the bond runs, with its own.
func (b *Bond) addPath(uplinks map[string]*uplink, c PathConfig) error {
	u := uplinks[c.Uplink]
	if u == nil {
		return fmt.Errorf("uplink %q: %w", c.Uplink, ErrUnknown)
	}
	if !c.Remote.IsValid() {
		return fmt.Errorf("remote address %v is not valid", c.Remote)
	}
	p := newPathTx(0, c.Name, u, c.Remote, c.Rate)
	p.validated = true // the document vouches for it
	return b.placePath(p)
}

// pathTo finds the path that sends from u to addr, or learns one where the peer comes to us. Only authenticated, fresh
// datagrams get here. Called with mu held.
func (b *Bond) pathTo(at stamp, u *uplink, addr netip.AddrPort, rx *pathRx) *pathTx {
	for _, p := range b.paths {
		if p.uplink == u && p.remote == addr && !p.removed {
			p.heard = at
			if rx != nil {
				p.learned = rx.id + 1
			}
			return p
		}
	}
	if b.configured || u.left.Load() {
		return nil // a configured peer's addresses are the document's
	}
	if b.cfg.Uplinks != nil && !slices.Contains(b.cfg.Uplinks, u.name) {
		return nil
	}
	if rx != nil {
		for _, p := range b.paths {
			if p.uplink == u && p.learned == rx.id+1 && !p.removed { // the peer moved, or its NAT did
				b.host.log.Info("peer's address changed", "peer", b.cfg.Name, "path", p.name, "from", p.remote, "to", addr)
				p.setRemote(addr)
				p.heard = at
				return p
			}
		}
	}
	p := newPathTx(0, "", u, addr, 0)
	if b.placePath(p) != nil {
		if p = b.unused(at); p == nil {
			return nil
		}
		p.uplink, p.learned = u, 0
		p.setRemote(addr)
	}
	p.name, p.heard = fmt.Sprintf("%s-%d", u.name, p.id), at
	if rx != nil {
		p.learned = rx.id + 1
	}
	return p
}

// unused is a learned path on which nothing came in this session, nor a handshake lately. Called with mu held.
func (b *Bond) unused(at stamp) *pathTx {
	for _, p := range b.paths {
		if at-p.heard > us(learnedFor) && (b.sess == nil || !slices.ContainsFunc(b.sess.rx[:], func(rx *pathRx) bool { return rx != nil && rx.pair == p })) {
			return p
		}
	}
	return nil
}

// forgetUnused drops the learned paths of earlier sessions at the start of a new one, when paths get new numbers: where
// the peer was once, others may be now. Called with mu held.
func (b *Bond) forgetUnused(at stamp) {
	if b.configured {
		return
	}
	b.paths = slices.DeleteFunc(b.paths, func(p *pathTx) bool { return at-p.heard > us(learnedFor) })
	for i, p := range b.paths {
		p.id, p.name, p.learned = uint8(i), fmt.Sprintf("%s-%d", p.uplink.name, i), 0
	}
}

// AcceptSession returns the next session: one life of the peer. A newer one ends the one before.
func (b *Bond) AcceptSession(ctx context.Context) (*Session, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-b.closing:
			return nil, ErrClosed
		case s := <-b.sessions:
			select {
			case <-s.done: // ended while it waited
				continue
			default:
				return s, nil
			}
		}
	}
}

// Close tells the peer that the session ends, and stops the bond.
func (b *Bond) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.stopped
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(b.closing)
	<-b.stopped
	b.host.remove(b)
	return nil
}

// wakeup makes the run loop look again.
func (b *Bond) wakeup() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// run is the goroutine that sends everything: it fills a batch under the mutex, then seals and writes it without.
func (b *Bond) run() {
	defer close(b.stopped)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b.mu.Lock()
		now, at := b.host.now()
		closing := b.closed
		next := stamp(math.MaxInt64)
		if closing {
			b.sayClose(now, at)
			b.endSession("bond closed")
		} else {
			next = b.step(now, at)
		}
		if b.out.n == 0 {
			next = max(next, at+us(minSleep)) // whatever asks for less cannot be served now
		}
		b.mu.Unlock()
		again := b.flush()
		if closing {
			return
		}
		if again {
			continue
		}
		wait := (next - at).duration()
		if wait <= 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-b.kick:
		case <-b.closing:
		}
	}
}

// sendOpens sends handshakes while there is no session, or while all is silent: the peer may have restarted and not know
// where we are. Called with mu held.
func (b *Bond) sendOpens(at stamp) stamp {
	interval := openInterval
	if b.openTries >= openFast {
		interval = openIntervalMax
	}
	if b.lastOpen == 0 || at-b.lastOpen >= us(interval) {
		b.lastOpen = at
		b.openTries++
		for _, p := range b.paths {
			if !p.removed {
				b.sendOpen(p)
			}
		}
	}
	return b.lastOpen + us(interval)
}

func (b *Bond) sendOpen(p *pathTx) {
	m := b.out.next(headerSize + openBodySize)
	seq := b.openSeq
	h := header{kind: kindOpen, path: p.id, bond: b.id, seq: seq & seqMask, aux: uint8(seq >> 24)}
	b.openSeq++
	h.put(m)
	putOpen(m[headerSize:], b.epoch, b.peerEpoch)
	b.out.add(p, outDatagram{aead: b.openSeal, epoch: b.epoch, seq: uint64(seq), open: true})
}

// onOpen takes a handshake. Called with mu held.
func (b *Bond) onOpen(at stamp, u *uplink, addr netip.AddrPort, h header, d []byte) {
	epoch, echo, err := parseOpen(d[headerSize : len(d)-tagSize])
	if err != nil {
		b.host.drops.malformed.Add(1)
		return
	}
	seq := h.openSeq()
	if !verify(b.openVerify, b.tagger.open(epoch, seq), d) {
		b.host.drops.badTag.Add(1)
		return
	}
	if epoch < b.peerEpoch || epoch == b.peerEpoch && !b.openSeen.fresh(uint64(seq)) {
		b.host.drops.replayed.Add(1)
		return
	}
	if epoch > b.peerEpoch {
		b.peerEpoch, b.openSeen, b.cand = epoch, replayWindow{}, nil
	}
	if b.cand == nil && (b.sess == nil || b.sess.peerEpoch != epoch) {
		b.cand = newSession(b, epoch)
	}
	b.openSeen.note(uint64(seq))
	var rx *pathRx
	if s := b.sess; s != nil && s.peerEpoch == epoch {
		rx = s.rx[h.path]
	}
	p := b.pathTo(at, u, addr, rx)
	if echo == b.epoch && b.cand != nil && b.cand.peerEpoch == epoch {
		b.establish(at, b.cand)
	}
	if p != nil && echo != b.epoch && at-b.lastReply >= us(openReplyInterval) {
		// Also when we have the session: the peer may not know it yet.
		b.lastReply = at
		b.sendOpenLater(p)
	}
}

// sendOpenLater queues a handshake for the run loop, which alone sends.
func (b *Bond) sendOpenLater(p *pathTx) {
	p.wantOpen = true
}

// establish makes s the current session. Called with mu held.
func (b *Bond) establish(at stamp, s *Session) {
	// Our epoch stays: the keys of s hold it, and that of the peer is new.
	b.dropSession("the peer restarted")
	b.cand = nil
	b.sess = s
	s.since = at
	b.openTries = 0
	b.forgetUnused(at)
	for _, p := range b.paths {
		p.reset()
		p.stateSince = at
		if p.removed {
			p.state = PathDown
		}
	}
	b.host.log.Info("session established", "peer", b.cfg.Name)
	select {
	case b.sessions <- s:
	default: // nobody accepts: the oldest waiting has ended, drop it
		select {
		case <-b.sessions:
		default:
		}
		b.sessions <- s
	}
}

// dropSession ends the current session, if any, and tells whether there was one. Called with mu held.
func (b *Bond) dropSession(why string) bool {
	s := b.sess
	if s == nil {
		return false
	}
	b.sess = nil
	b.lastOpen, b.openTries = 0, 0
	s.end()
	b.host.log.Info("session ended", "peer", b.cfg.Name, "why", why)
	return true
}

// endSession ends the current session, if any, for a new one to be agreed on. Called with mu held.
func (b *Bond) endSession(why string) {
	if !b.dropSession(why) {
		return
	}
	// A new epoch of ours, so that nothing of the old session can be replayed into the next one.
	b.epoch = max(b.epoch+1, uint64(b.host.clock().UnixMicro()))
	if b.cand != nil { // its keys held the old epoch
		b.cand = newSession(b, b.cand.peerEpoch)
	}
}

// sayClose tells the peer on every path that the session ends. Called with mu held.
func (b *Bond) sayClose(now time.Time, at stamp) {
	s := b.sess
	if s == nil {
		return
	}
	for _, p := range b.paths {
		for range 2 {
			if p.removed {
				break
			}
			b.emit(now, at, p, header{kind: kindClose}, nil, false, false)
		}
	}
}

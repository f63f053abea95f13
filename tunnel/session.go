package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	// parkWait is how long a continuation may wait for its flow's header on another lane, and parkMax how many may:
	// each can hold a bulk stream window of memory.
	parkWait = 10 * time.Second
	parkMax  = 32

	// uniHeaderWait bounds how long a stream may stay open without saying what it is.
	uniHeaderWait = 10 * time.Second

	// manageInterval is how often lanes are looked after.
	manageInterval = 500 * time.Millisecond
	// lowTicks in a row with too small a window, on a lane that filling does not help, get it replaced.
	lowTicks = 6
	// nowhereTicks in a row without a path that takes a lane's packets end the lane: QUIC cannot make them smaller.
	nowhereTicks = 4
	// replaceInterval bounds how often lanes are replaced: replacing costs a handshake and a warm-up.
	replaceInterval = 10 * time.Second
	// stuntedMost lanes of a session that could not be warmed are replaced at once, more every replaceInterval.
	stuntedMost = 12

	retryFirst = 100 * time.Millisecond
	retryMost  = 2 * time.Second
	// crowd is the number of flows in the middle of a write from which an interactive lane is crowded.
	crowd = 16
	// settled is how long a lane lives before its end is no failure to open it.
	settled = 5 * time.Second
)

// Kinds of unidirectional streams: the first byte.
const (
	uniWarm         = 1 + iota // filler, thrown away
	uniContinuation            // a direction of a flow that moved
	uniControl                 // hello and routes
	uniDrain                   // open no more flows on this lane
	uniDone                    // the sender has no more flows on this draining lane
)

// continuationHeader: kind 1, flow id 8, direction 1.
const continuationHeader = 10

// session runs the lanes of one Session.
type session struct {
	node    *Node
	peer    *peer
	s       Session
	ctx     context.Context
	cancel  context.CancelFunc
	closing chan struct{} // closed when the session ends
	wg      sync.WaitGroup
	began   time.Time

	warming atomic.Pointer[lane] // the bulk lane being filled
	// fillingSmall counts the interactive lanes being filled.
	fillingSmall atomic.Int32
	// fillLeft is for how long lanes may still be filled, in ns; see warmBudget.
	fillLeft atomic.Int64
	hello    atomic.Pointer[hello]
	routesCh chan struct{} // holds one: the routes to announce changed
	warmed   chan struct{} // holds one: a lane has been filled
	stalled  int64         // bytes held by stalled flows; only the manager looks

	mu     sync.Mutex
	lanes  []*lane
	change chan struct{} // closed and replaced when lanes are added or removed
	flows  map[flowKey]*recvHalf
	hops   map[*hop]struct{}
	parked map[flowKey]*parkedStream

	lastReplaced time.Time
	lastFitted   time.Time // when lanes were last replaced for their packets' size
	stunted      int       // lanes replaced because they could not be warmed; only the manager looks
}

type parkedStream struct {
	continuation
	timer *time.Timer
}

func newSession(n *Node, p *peer, s Session) *session {
	ses := &session{
		node: n, peer: p, s: s, began: time.Now(),
		closing: make(chan struct{}), change: make(chan struct{}), routesCh: make(chan struct{}, 1),
		warmed: make(chan struct{}, 1),
		flows:  map[flowKey]*recvHalf{}, hops: map[*hop]struct{}{}, parked: map[flowKey]*parkedStream{},
	}
	ses.fillLeft.Store(int64(warmBudget))
	ses.ctx, ses.cancel = context.WithCancel(p.ctx)
	return ses
}

// run keeps the session's lanes until it ends, then ends everything on it and waits for that.
func (s *session) run() {
	log := s.node.log.With("peer", s.peer.name)
	log.Info("session up", "initiator", s.s.Initiator())
	if s.s.Initiator() {
		for range s.node.cfg.Lanes.Interactive {
			s.wg.Go(func() { s.keepLane(Interactive) })
		}
		for range s.node.cfg.Lanes.Bulk {
			s.wg.Go(func() { s.keepLane(Bulk) })
		}
	} else {
		s.wg.Go(s.acceptLanes)
	}
	s.wg.Go(s.manage)
	s.wg.Go(s.sendControl)

	code, flowCode, why := closeSession, CodeLaneLost, "session ended"
	select {
	case <-s.s.Done():
	case <-s.ctx.Done():
		if s.node.ctx.Err() != nil {
			code, flowCode, why = closeNode, CodeShutdown, "node stopped"
		} else if s.peer.ctx.Err() != nil {
			why = "peer removed"
		}
	}
	flows := s.end(code, flowCode, why)
	s.wg.Wait()
	log.Info("session down", "reason", why, "flows_reset", flows, "lasted", time.Since(s.began).Round(time.Millisecond))
}

// end closes all lanes and resets the flows on them. It returns how many flows that broke.
func (s *session) end(code quic.ApplicationErrorCode, flowCode Code, why string) int {
	close(s.closing)
	s.cancel()
	s.mu.Lock()
	lanes := s.lanes
	s.lanes = nil
	hops := slices.Collect(maps.Keys(s.hops))
	for k, p := range s.parked {
		p.timer.Stop()
		p.lane.unref()
		delete(s.parked, k)
	}
	s.mu.Unlock()
	for _, h := range hops {
		h.abort(flowCode)
	}
	var wg sync.WaitGroup
	for _, l := range lanes {
		wg.Go(func() { l.close(code, why) })
	}
	wg.Wait()
	return len(hops)
}

// keepLane opens a lane and, whenever it ends while the session lives, the next one.
func (s *session) keepLane(class Class) {
	retry := retryFirst
	for s.ctx.Err() == nil {
		l, err := s.openLane(class)
		if err != nil {
			if s.ctx.Err() == nil && !ended(s.s) {
				s.node.log.Warn("lane not opened", "peer", s.peer.name, "class", class, "error", err)
			}
			select {
			case <-s.ctx.Done():
			case <-time.After(retry):
			}
			retry = min(2*retry, retryMost)
			continue
		}
		began := time.Now()
		s.serve(l)
		if l.alive() || time.Since(began) > settled {
			retry = retryFirst
			continue
		}
		// The peer closed it at once: its certificate or ours is refused after the dialling side's handshake.
		select {
		case <-s.ctx.Done():
		case <-time.After(retry):
		}
		retry = min(2*retry, retryMost)
	}
}

func (s *session) openLane(class Class) (*lane, error) {
	ln, err := s.s.OpenLane(class)
	if err != nil {
		return nil, fmt.Errorf("open %v lane: %w", class, err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, acceptTimeout)
	defer cancel()
	return s.connect(ctx, ln, true)
}

// ended tells whether the session is over.
func ended(s Session) bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

func (s *session) acceptLanes() {
	for {
		ln, err := s.s.AcceptLane(s.ctx)
		if err != nil {
			if s.ctx.Err() == nil && !ended(s.s) {
				s.node.log.Warn("lane not accepted", "peer", s.peer.name, "error", err)
				select {
				case <-s.ctx.Done():
				case <-time.After(retryFirst):
				}
				continue
			}
			return
		}
		s.wg.Go(func() {
			l, err := s.connect(s.ctx, ln, false)
			if err != nil {
				if s.ctx.Err() == nil {
					s.node.log.Warn("lane not accepted", "peer", s.peer.name, "error", err)
				}
				return
			}
			s.serve(l)
		})
	}
}

// serve adds the lane, runs it until its connection ends, and removes it. A lane that drains keeps running beside its
// successor: serve returns when it starts to drain and leaves the rest to a goroutine of its own.
func (s *session) serve(l *lane) {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		l.close(closeSession, "session ended")
		return
	}
	s.lanes = append(s.lanes, l)
	s.changed()
	s.mu.Unlock()

	ended := make(chan struct{})
	s.wg.Go(func() {
		defer close(ended)
		l.run()
		s.mu.Lock()
		s.lanes = slices.DeleteFunc(s.lanes, func(o *lane) bool { return o == l })
		s.changed()
		var lost []*hop
		for h := range s.hops {
			if h.on(l) {
				lost = append(lost, h)
			}
		}
		s.mu.Unlock()
		for _, h := range lost { // a flow that only waits for its connection would not notice
			h.abort(CodeLaneLost)
		}
		if s.ctx.Err() == nil {
			s.node.log.Info("lane closed", "peer", s.peer.name, "class", l.class, "flows_reset", len(lost), "reason", context.Cause(l.conn.Context()))
		}
		l.close(closeDone, "")
	})
	for !l.draining.Load() {
		s.mu.Lock()
		change := s.change
		s.mu.Unlock()
		select {
		case <-ended:
			return
		case <-change:
		}
	}
}

// changed wakes who waits for a lane. Called with mu held.
func (s *session) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

// pick returns the least loaded lane of the class, else of another class, and a channel that is closed when that may
// have changed.
func (s *session) pick(class Class) (*lane, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *lane
	better := func(a, b *lane) bool { // lanes about to end and lanes of other classes only where nothing else is
		if da, db := a.draining.Load(), b.draining.Load(); da != db {
			return db
		}
		if ca, cb := a.class == class, b.class == class; ca != cb {
			return ca
		}
		if ca, cb := a.warm.small(), b.warm.small(); ca != cb {
			return cb
		}
		return a.load.Load() < b.load.Load()
	}
	for _, l := range s.lanes {
		if l.alive() && !l.doneSent.Load() && (best == nil || better(l, best)) {
			best = l
		}
	}
	return best, s.change
}

// openFlow opens a stream for a flow on an interactive lane.
func (s *session) openFlow() (*lane, *quic.Stream, <-chan struct{}) {
	l, change := s.pick(Interactive)
	if l == nil {
		return nil, nil, change
	}
	str, err := l.conn.OpenStream()
	if err != nil {
		return nil, nil, change
	}
	return l, str, change
}

// openContinuation opens a stream in which a direction goes on, on a bulk lane; nil if there is none. The lane is
// claimed for the sender.
func (s *session) openContinuation(from *lane, id uint64, dir direction) (*lane, *quic.SendStream) {
	l, _ := s.pick(Bulk)
	if l == nil || l.class != Bulk || l.draining.Load() || l.warm.small() && !from.crowded() {
		return nil, nil // an interactive lane carries it better until one is warm, unless it is crowded
	}
	str, err := l.conn.OpenUniStream()
	if err != nil {
		return nil, nil
	}
	b := make([]byte, 0, continuationHeader)
	b = append(b, uniContinuation)
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, byte(dir))
	if _, err := str.Write(b); err != nil {
		return nil, nil
	}
	// Without it a reset would let the peer wait for the continuation, which it has been promised.
	str.SetReliableBoundary()
	l.load.Add(1)
	l.refs.Add(1)
	return l, str
}

// handleUni deals with a unidirectional stream the peer opened.
func (s *session) handleUni(l *lane, str *quic.ReceiveStream) {
	_ = str.SetReadDeadline(time.Now().Add(uniHeaderWait)) // never fails
	var b [continuationHeader]byte
	if _, err := io.ReadFull(str, b[:1]); err != nil {
		str.CancelRead(quic.StreamErrorCode(CodeProtocol))
		return
	}
	switch b[0] {
	case uniWarm:
		_ = str.SetReadDeadline(time.Time{})
		buf := largeBufs.Get().(*[largeBuf]byte)
		defer largeBufs.Put(buf)
		for {
			if _, err := str.Read(buf[:]); err != nil {
				return
			}
		}
	case uniContinuation:
		if _, err := io.ReadFull(str, b[1:]); err != nil || direction(b[9]) >= numDirections {
			str.CancelRead(quic.StreamErrorCode(CodeProtocol))
			return
		}
		_ = str.SetReadDeadline(time.Time{})
		s.deliver(flowKey{binary.BigEndian.Uint64(b[1:]), direction(b[9])}, continuation{str, l})
	case uniControl:
		_ = str.SetReadDeadline(time.Time{})
		if err := s.recvControl(str); err != nil {
			if s.ctx.Err() == nil && l.alive() {
				s.node.log.Warn("control stream failed", "peer", s.peer.name, "error", err)
			}
			str.CancelRead(quic.StreamErrorCode(CodeProtocol))
		}
	case uniDrain:
		str.CancelRead(quic.StreamErrorCode(CodeNotRead))
		s.drain(l)
	case uniDone:
		str.CancelRead(quic.StreamErrorCode(CodeNotRead))
		l.peerDone.Store(true)
	default:
		str.CancelRead(quic.StreamErrorCode(CodeVersion))
	}
}

// errDuplicate is returned for a flow id that is in use on the session.
var errDuplicate = errors.New("flow id in use")

// register makes the half known to continuations, also to one that came before.
func (s *session) register(h *recvHalf) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows[h.key] != nil {
		return fmt.Errorf("%w: %016x", errDuplicate, h.key.id)
	}
	s.flows[h.key] = h
	if p := s.parked[h.key]; p != nil {
		delete(s.parked, h.key)
		p.timer.Stop()
		h.cont <- p.continuation
		h.next.Store(p.lane)
	}
	return nil
}

func (s *session) unregister(h *recvHalf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flows[h.key] == h {
		delete(s.flows, h.key)
	}
}

// deliver hands a continuation to its flow. One whose flow is not known yet is parked for a while: its header may still
// be on the way on another lane.
func (s *session) deliver(k flowKey, c continuation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.lane.refs.Add(1)
	if h := s.flows[k]; h != nil {
		select {
		case h.cont <- c:
			h.next.Store(c.lane)
			return
		default: // a second one
		}
	} else if _, twice := s.parked[k]; !twice && len(s.parked) < parkMax && s.ctx.Err() == nil {
		p := &parkedStream{continuation: c}
		p.timer = time.AfterFunc(parkWait, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.parked[k] == p {
				delete(s.parked, k)
				s.node.stats.orphans.Add(1)
				c.str.CancelRead(quic.StreamErrorCode(CodeProtocol))
				c.lane.unref()
			}
		})
		s.parked[k] = p
		return
	}
	s.node.stats.orphans.Add(1)
	c.str.CancelRead(quic.StreamErrorCode(CodeProtocol))
	c.lane.unref()
}

// bdp is the bond's delay-bandwidth product in bytes, 0 while it is not known.
func (s *session) bdp() uint64 {
	rate, rtt := s.s.Capacity()
	if rate <= 0 || rtt <= 0 {
		return 0
	}
	return uint64(float64(rate) / 8 * rtt.Seconds())
}

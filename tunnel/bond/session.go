package bond

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"time"
)

const (
	lanesPerClass = 64
	// laneBacklog bounds the lanes a peer has opened and nobody accepted.
	laneBacklog = 32
	// laneTombstone is how long the number of a closed lane stays unused, so that late packets hit no new lane.
	laneTombstone = 30 * time.Second
	// laneLinger is how long a closed lane still gets its last packets (QUIC's CONNECTION_CLOSE) across.
	laneLinger = time.Second
	// startupAtMost bounds the time that padding may fill idle paths to find their rate.
	startupAtMost = 4 * time.Second
	maxLanes      = 64
)

// ErrTooMany is returned where a limit on lanes is reached.
var ErrTooMany = errors.New("too many")

// Session is one life of a bond: from the handshake of two node lives until one of them restarts or closes. Safe for
// concurrent use.
type Session struct {
	b          *Bond
	peerEpoch  uint64
	sealAEAD   cipher.AEAD
	verifyAEAD cipher.AEAD
	since      stamp
	epoch      uint64 // ours
	done       chan struct{}
	accepted   chan *Lane
	started    chan struct{} // closed once the paths' rates are known
	startDone  bool

	rx         [maxPaths]*pathRx
	anchor     uint32 // offset of the clocks, about: makes one-way delays small numbers
	haveAnchor bool

	lanes    [256]*Lane
	live     []*Lane // open or lingering
	nextLane [numClasses]int

	reportNo     uint32
	lastReportNo uint32
	haveReport   bool
	lastReport   stamp
	reportWanted bool
	scratch      report
	bitmap       []byte
	body         []byte
	sizes        []int
	in           report
	lost         []lostRef
	deferred     ring[deferredLoss]
	copies       ring[deferredLoss] // second copies that are to follow the first on its path
	nextTick     stamp
	nextMeasure  stamp
	repairAbove  time.Duration // margin that hides the repetition of most lost packets, with the loss seen
	repairMost   time.Duration // the same with any loss
	probeRTT     *pathTx
	up           int             // paths that are
	turn         [numClasses]int // where the round robin over the lanes of a class goes on
	floor        int             // packets since bulk last went
}

// deferredLoss is a packet to be sent again later, if the peer still lacks it then.
type deferredLoss struct {
	ref lostRef
	due stamp
}

// newSession derives a session's keys from both epochs. Called with the bond's mutex held.
func newSession(b *Bond, peerEpoch uint64) *Session {
	return &Session{
		b: b, epoch: b.epoch, peerEpoch: peerEpoch,
		sealAEAD:   b.sec.sessionAEAD(b.sec.local, b.epoch, peerEpoch),
		verifyAEAD: b.sec.sessionAEAD(b.sec.peer, b.epoch, peerEpoch),
		done:       make(chan struct{}),
		accepted:   make(chan *Lane, laneBacklog),
		started:    make(chan struct{}),
	}
}

// Initiator tells whether this side opens the lanes and dials QUIC on them: the node with the lesser key does.
func (s *Session) Initiator() bool { return s.b.sec.local.Compare(s.b.sec.peer) < 0 }

// MaxPaths bounds the paths of a bond; their numbers are below it.
const MaxPaths = maxPaths

// ProbeKey is for the STAMP probes that this node (ours) or the peer sends on the path that it has this number for: a key
// of 128 secret bits and its id, which both nodes derive. The keys of two sessions differ.
func (s *Session) ProbeKey(ours bool, path uint8) (id uint32, key [16]byte) {
	sender := s.b.sec.peer
	if ours {
		sender = s.b.sec.local
	}
	return s.b.sec.probeKey(sender, path, s.epoch, s.peerEpoch)
}

// Done is closed when the session has ended; its lanes are closed then.
func (s *Session) Done() <-chan struct{} { return s.done }

// Started is closed once the rates and packet sizes of the paths are known (or after startupAtMost): the time to open lanes
// that are to last, and to warm them.
func (s *Session) Started() <-chan struct{} { return s.started }

// OpenLane opens a lane of the class. Only the initiator does.
func (s *Session) OpenLane(c Class) (*Lane, error) {
	if c >= numClasses {
		return nil, fmt.Errorf("open lane: %v, allowed realtime to bulk", c)
	}
	if !s.Initiator() {
		return nil, errors.New("open lane: the peer opens the lanes of this session")
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sess != s {
		return nil, fmt.Errorf("open lane: session ended: %w", ErrClosed)
	}
	if len(s.live) >= maxLanes {
		return nil, fmt.Errorf("open lane: %w lanes, allowed %d", ErrTooMany, maxLanes)
	}
	_, at := b.host.now()
	for range lanesPerClass {
		id := laneID(c, s.nextLane[c])
		s.nextLane[c] = (s.nextLane[c] + 1) % lanesPerClass
		if old := s.lanes[id]; old == nil || old.reusable(at) {
			l := s.addLane(id)
			l.size = s.laneSize(c)
			return l, nil
		}
	}
	return nil, fmt.Errorf("open lane: %w %v lanes, allowed %d", ErrTooMany, c, lanesPerClass)
}

// AcceptLane returns the next lane that the peer opened.
func (s *Session) AcceptLane(ctx context.Context) (*Lane, error) {
	select {
	case l := <-s.accepted:
		s.b.mu.Lock()
		l.size = s.laneSize(l.Class())
		s.b.mu.Unlock()
		return l, nil
	case <-s.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Capacity returns the estimated rate of the paths that carry bulk, in bits a second as sent, and the round trip that a
// bulk lane sees; zero before anything is known.
func (s *Session) Capacity() (bitsPerSec int64, rtt time.Duration) {
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.capacity()
}

// capacity is Capacity with mu held.
func (s *Session) capacity() (bitsPerSec int64, rtt time.Duration) {
	if rtt = s.slowest(); rtt > 0 {
		rtt += s.bulkMargin(false) + equaliseMargin
	}
	return s.rate(), rtt
}

// rate is what the paths that carry bulk carry together, bits a second. Called with mu held.
func (s *Session) rate() (bitsPerSec int64) {
	for _, p := range s.b.paths {
		if p.usable() && !s.leftOut(p) {
			bitsPerSec += p.ctrl.Bandwidth()
		}
	}
	return bitsPerSec
}

// fastest is the shortest base round trip of the paths that carry bulk, 0 before any is known. Called with mu held.
func (s *Session) fastest() (rtt time.Duration) {
	for _, p := range s.b.paths {
		if p.usable() && !s.leftOut(p) && (rtt == 0 || p.rttMin < rtt) {
			rtt = p.rttMin
		}
	}
	return rtt
}

// slowest is the longest base round trip of the paths that carry bulk. Called with mu held.
func (s *Session) slowest() time.Duration {
	var rtt time.Duration
	for _, p := range s.b.paths {
		if p.usable() && !s.leftOut(p) {
			rtt = max(rtt, p.rttMin)
		}
	}
	return rtt
}

func laneID(c Class, i int) uint8 { return uint8(c)<<6 | uint8(i) }

func laneClass(id uint8) Class { return Class(id >> 6) }

// addLane is called with mu held.
func (s *Session) addLane(id uint8) *Lane {
	l := newLane(s, id)
	s.lanes[id] = l
	s.live = append(s.live, l)
	return l
}

// laneFor finds or, where the peer opens lanes, makes the lane of a received packet. Called with mu held.
func (s *Session) laneFor(at stamp, id uint8) *Lane {
	l := s.lanes[id]
	if l != nil && !l.reusable(at) {
		return l
	}
	if s.Initiator() || laneClass(id) >= numClasses || len(s.live) >= maxLanes {
		return nil
	}
	l = s.addLane(id)
	select {
	case s.accepted <- l:
		return l
	default:
		l.closeLocked(at)
		return nil
	}
}

// end closes the lanes. Called with mu held.
func (s *Session) end() {
	_, at := s.b.host.now()
	for _, l := range s.live {
		l.closeLocked(at)
		l.forget()
	}
	s.live = nil
	close(s.done)
	if !s.startDone {
		s.startDone = true
		close(s.started)
	}
}

// sweep forgets lanes that are closed and have nothing more to send. Called with mu held.
func (s *Session) sweep(at stamp) {
	kept := s.live[:0]
	for _, l := range s.live {
		if l.closedAt != 0 && (at-l.closedAt > us(laneLinger) || (l.tx.base == l.tx.next && l.tx.queue.len() == 0)) {
			l.forget()
			continue
		}
		kept = append(kept, l)
	}
	clear(s.live[len(kept):])
	s.live = kept
}

// relOWD returns the one-way delay of a datagram in µs against an offset that is the same for all paths of the
// session, so that delays compare exactly without synchronised clocks.
func (s *Session) relOWD(at stamp, sent uint32) int64 {
	raw := uint32(at) - sent
	if !s.haveAnchor {
		s.anchor, s.haveAnchor = raw, true
	}
	return int64(int32(raw - s.anchor))
}

// onReport takes the peer's view of what arrived. Called with mu held.
func (s *Session) onReport(now time.Time, at stamp, no uint32, r *report) {
	b := s.b
	if r.echo && int(r.echoPath) < len(b.paths) {
		b.paths[r.echoPath].onEcho(at, r.echoSeq)
	}
	if s.haveReport && int32((no-s.lastReportNo)<<8) <= 0 {
		return // an older one, overtaken
	}
	s.lastReportNo, s.haveReport = no, true
	s.reportWanted = true // room and credit may have come: let the run loop look
	s.lost = s.lost[:0]
	for i := range r.paths {
		pr := &r.paths[i]
		if int(pr.id) >= len(b.paths) {
			continue
		}
		p := b.paths[pr.id]
		s.lost = p.onReport(now, at, pr, s.lost)
		if !p.removed {
			s.advance(now, at, p)
		}
	}
	for i := range r.lanes {
		if l := s.lanes[r.lanes[i].id]; l != nil {
			l.tx.confirm(&r.lanes[i])
		}
	}
	s.handleLost(at)
}

// handleLost sends lost packets again that the peer still lacks: at once, or where FEC runs, when its time is over.
func (s *Session) handleLost(at stamp) {
	for _, ref := range s.lost {
		l := s.lanes[ref.lane]
		if l == nil {
			continue
		}
		o := l.tx.entry(ref.seq)
		l.tx.lostSince++
		if o == nil || o.buf == nil {
			continue // repaired meanwhile
		}
		if o.path != ref.path || o.pseq != ref.pseq {
			continue // a newer copy is on its way
		}
		if hold := s.fecHold(l.tx, s.b.paths[ref.path]); hold > 0 && o.tries == 1 {
			s.deferred.push(deferredLoss{ref, at + us(hold)})
			continue
		}
		s.retransmit(l, ref.seq)
	}
	s.lost = s.lost[:0]
}

func (s *Session) retransmit(l *Lane, seq uint64) {
	l.tx.badSince++
	if l.tx.class == Realtime {
		return // of no use by then
	}
	l.tx.sendAgain(seq)
}

// runDeferred retransmits what FEC did not repair in time. Called with mu held.
func (s *Session) runDeferred(at stamp) {
	for range s.deferred.len() {
		d := s.deferred.pop()
		if d.due > at { // those behind it may be due: some wait longer than others
			s.deferred.push(d)
			continue
		}
		if l := s.lanes[d.ref.lane]; l != nil {
			if o := l.tx.entry(d.ref.seq); o != nil && o.buf != nil && o.path == d.ref.path && o.pseq == d.ref.pseq {
				s.retransmit(l, d.ref.seq)
			}
		}
	}
}

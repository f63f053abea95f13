package bond

import (
	"crypto/cipher"
	"errors"
	"math"
	"net"
	"net/netip"
	"time"
)

const (
	tickInterval = 10 * time.Millisecond
	// reportInterval is the least time between reports under load; with little coming in, reportIdle.
	reportInterval = 10 * time.Millisecond
	reportIdle     = 25 * time.Millisecond
	reportBusy     = 8
	// gapDelay is how long a hole in a path's numbers may be mere reordering before it is reported out of turn.
	gapDelay      = 5 * time.Millisecond
	probeInterval = 100 * time.Millisecond
	probeSuspect  = 50 * time.Millisecond // while the path is not up
	probeIdle     = 250 * time.Millisecond
	probeBlocked  = time.Second // to an address that has had maxUnvalidated without an answer: it may have one yet
	// idleAfter is when probes slow down: no data for this long.
	idleAfter = 5 * time.Second
	// fecWindow is how many lane packets a repair symbol covers at the most; aux holds it minus one.
	fecWindow = 128
	// tailAfter is how long a lane is quiet before its tail gets its repairs.
	tailAfter = 1500 * time.Microsecond
	// fillBatch bounds the datagrams of one turn, so that the mutex is not held for long.
	fillBatch = 96
	// bulkFloor: every so many packets of higher classes, bulk goes once.
	bulkFloor = 10
	// tailRetry is the sender's own timer: a packet without any word for this long beyond a round trip is sent again.
	tailRetry = 60 * time.Millisecond
	// copyDebt is how far ahead of its pacer a path may be for the second copy of a packet.
	copyDebt = 5 * time.Millisecond
	// copyAfter is how much later the second copy goes where there is only one path: a burst of loss is over by then.
	// maxCopies bounds those that wait; more are not made.
	copyAfter = 12 * time.Millisecond
	maxCopies = 1024
	// leftOutDelay and leftOutShare: a path that is later than the best by more than the one and carries less than the
	// other of the bond's rate would cost a bulk lane more in round trip than it brings.
	leftOutDelay = 150 * time.Millisecond
	leftOutShare = 0.05
)

// outBatch holds the datagrams of one turn of the run loop. Filled under the mutex, sealed and written without it.
type outBatch struct {
	n    int
	dgs  [fillBatch + 48]outDatagram
	bufs [fillBatch + 48][]byte
	ms   []Message
	tag  tagger
}

type outDatagram struct {
	path  uint8
	to    netip.AddrPort
	sock  *uplink
	aead  cipher.AEAD
	epoch uint64
	seq   uint64
	open  bool
	size  int
}

// next returns the buffer of the next datagram, n bytes long with room for the tag.
func (o *outBatch) next(n int) []byte {
	if o.bufs[o.n] == nil {
		o.bufs[o.n] = make([]byte, 0, maxDatagram)
	}
	o.bufs[o.n] = o.bufs[o.n][:n]
	return o.bufs[o.n]
}

// add takes what flush needs of the path, which may move meanwhile.
func (o *outBatch) add(p *pathTx, d outDatagram) {
	d.path, d.to, d.sock = p.id, p.remote, p.uplink
	o.dgs[o.n] = d
	o.dgs[o.n].size = len(o.bufs[o.n])
	o.n++
}

func (o *outBatch) room() bool { return o.n < fillBatch }

// flush seals and writes the batch, one call a socket. It returns whether the batch was full, so that more may wait.
func (b *Bond) flush() bool {
	o := &b.out
	full := !o.room()
	for i := range o.n {
		d := &o.dgs[i]
		nonce := o.tag.session(d.path, d.seq)
		if d.open {
			nonce = o.tag.open(d.epoch, uint32(d.seq))
		}
		o.bufs[i] = seal(d.aead, nonce, o.bufs[i])
	}
	for i := 0; i < o.n; i++ {
		u := o.dgs[i].sock
		if u == nil {
			continue
		}
		o.ms = o.ms[:0]
		for j := i; j < o.n; j++ {
			if o.dgs[j].sock == u {
				o.ms = append(o.ms, Message{Buf: o.bufs[j], Addr: o.dgs[j].to})
				o.dgs[j].sock = nil
			}
		}
		u.write(b, o.ms)
	}
	o.n = 0
	return full
}

func (u *uplink) write(b *Bond, ms []Message) {
	u.wmu.Lock()
	defer u.wmu.Unlock()
	sock := u.socket()
	var failed error
	for len(ms) > 0 {
		n, err := sock.WriteBatch(ms)
		if err == nil {
			break
		}
		// Lost like on a wire; the path's silence tells. What comes after it may have another destination.
		failed = err
		ms = ms[min(n+1, len(ms)):]
	}
	if failed != nil && !u.failing && !errors.Is(failed, net.ErrClosed) {
		b.host.log.Warn("uplink cannot be written; its paths are degraded", "uplink", u.name, "err", failed)
	}
	u.failing = failed != nil
}

// emit puts one datagram of the session into the batch and charges its path. Called with mu held.
func (b *Bond) emit(now time.Time, at stamp, p *pathTx, h header, body []byte, eliciting, source bool) uint64 {
	size := headerSize + len(body) + tagSize + frameOverhead
	seq := p.record(now, at, size, eliciting, source, h.lane, uint64(h.laneSeq))
	if h.kind == kindSource && h.aux == auxAgain {
		p.resent++
	}
	h.path, h.bond, h.seq, h.sent = p.id, b.id, uint32(seq), uint32(at)
	m := b.out.next(headerSize + len(body))
	h.put(m)
	copy(m[headerSize:], body)
	b.out.add(p, outDatagram{aead: b.sess.sealAEAD, seq: seq})
	p.pace(at, size)
	return seq
}

// step does what is due and fills the batch; it returns when to come back. Called with mu held.
func (b *Bond) step(now time.Time, at stamp) stamp {
	for _, p := range b.paths {
		if p.wantOpen {
			p.wantOpen = false
			b.sendOpen(p)
		}
	}
	b.paced = false
	s := b.sess
	if s == nil {
		return b.sendOpens(at)
	}
	if at >= s.nextTick {
		s.nextTick = at + us(tickInterval)
		s.tick(now, at)
	}
	for s.sendReport(now, at) {
		// Each path's probe has an answer of its own.
	}
	opens := stamp(math.MaxInt64)
	if s.silent() {
		opens = b.sendOpens(at)
	} else {
		b.openTries = 0
	}
	next := s.fill(now, at)
	b.paced = next < math.MaxInt64
	next = min(next, opens)
	if w := s.pad(now, at); w > 0 {
		next = min(next, w)
	}
	next = min(next, s.nextTick)
	for _, rx := range s.rx {
		if rx != nil && rx.gapAt != 0 {
			next = min(next, max(rx.gapAt+us(gapDelay), s.lastReport+us(gapDelay)))
		}
	}
	return next
}

// tick runs the slow parts: path states, probes, timers, equalised delays.
func (s *Session) tick(now time.Time, at stamp) {
	b := s.b
	s.lost = s.lost[:0]
	starting := false
	for _, p := range b.paths {
		if p.removed {
			continue
		}
		s.advance(now, at, p)
		s.probe(now, at, p)
		starting = starting || (p.state == PathOpening && at-s.since < us(time.Second)) ||
			(p.state == PathUp && p.ctrl.State() == rateStartup)
	}
	s.oneProbeRTT()
	s.tailTimer(at)
	s.handleLost(at)
	s.runDeferred(at)
	s.runCopies(now, at)
	s.measure(at)
	for _, l := range s.live {
		if l.rx.equalised() {
			s.equalise(at, l.rx)
		}
		l.tx.feedFEC(now)
		s.setShelter(l)
		l.teach()
	}
	if !s.startDone && (!starting || at-s.since > us(startupAtMost)) {
		s.startDone = true
		close(s.started)
	}
	s.sweep(at)
}

// oneProbeRTT lets at most one path at a time drain for its base delay.
func (s *Session) oneProbeRTT() {
	if p := s.probeRTT; p != nil && p.ctrl.WantProbeRTT() && p.state == PathUp {
		return
	}
	if s.probeRTT != nil {
		s.probeRTT.ctrl.AllowProbeRTT(false)
		s.probeRTT = nil
	}
	for _, p := range s.b.paths {
		if p.state == PathUp && p.ctrl.WantProbeRTT() {
			p.ctrl.AllowProbeRTT(true)
			s.probeRTT = p
			return
		}
	}
}

// probe sends the path's next probe when it is due.
func (s *Session) probe(now time.Time, at stamp, p *pathTx) {
	interval := probeInterval
	switch {
	case p.state != PathUp:
		interval = probeSuspect
		if p.state == PathDown && at-p.stateSince > us(10*time.Second) {
			interval = probeInterval
		}
	case at-p.lastData > us(idleAfter):
		interval = probeIdle
	}
	if at-p.lastProbe < us(interval) || p.full() || !s.b.out.room() {
		return
	}
	if p.blocked() && at-p.lastProbe < us(probeBlocked) {
		return
	}
	p.lastProbe = at
	s.b.emit(now, at, p, header{kind: kindProbe}, nil, true, false)
}

// tailTimer sends again what no report speaks of, as nothing newer came through on its path (RFC 9002's probe timeout,
// for all packets at once).
func (s *Session) tailTimer(at stamp) {
	for _, p := range s.b.paths {
		if p.state != PathUp || p.rtt == 0 {
			continue
		}
		limit := at - us(p.rtt+tailRetry+4*time.Duration(p.owdVar)*time.Microsecond)
		for seq := max(p.low, p.tailChecked); seq < p.next; seq++ {
			r := p.rec(seq)
			if r.at > limit {
				break
			}
			p.tailChecked = seq + 1
			if !r.resolved && r.source {
				s.lost = append(s.lost, lostRef{r.lane, p.id, r.laneSeq, seq})
			}
		}
	}
}

// sendReport tells the peer what arrived, if it is time, and whether another probe waits for its answer. Called with mu
// held.
func (s *Session) sendReport(now time.Time, at stamp) bool {
	b := s.b
	fresh, full := 0, false
	for _, rx := range s.rx {
		if rx != nil {
			fresh += rx.fresh
			full = full || rx.fresh >= reportEvery || (rx.gapAt != 0 && at-rx.gapAt >= us(gapDelay))
		}
	}
	interval := reportInterval
	if fresh < reportBusy {
		interval = reportIdle
	}
	due := full && at-s.lastReport >= us(gapDelay) || fresh > 0 && at-s.lastReport >= us(interval)
	probed := s.probed()
	if probed == nil && !due {
		return false
	}
	r := &s.scratch
	r.reset()
	s.bitmap = s.bitmap[:0]
	p := s.reportPath()
	if probed != nil {
		probed.probed = false
		if q := probed.pair; q != nil && !q.blocked() {
			p = q
			r.echo, r.echoPath, r.echoSeq = true, probed.id, probed.probeSeq
		}
	}
	if p == nil || p.full() {
		return false
	}
	for _, rx := range s.rx {
		if rx != nil && (rx.dirty || at-rx.lastAt < us(time.Second)) {
			var pr pathReport
			pr, s.bitmap = rx.section(s.bitmap)
			r.paths = append(r.paths, pr)
		}
	}
	for _, l := range s.live {
		if l.rx.high > 0 && (l.rx.arrived || l.rx.cum < l.rx.high || l.rx.unsaid > 0) && len(r.lanes) < maxReportLanes {
			if l.rx.arrived {
				l.rx.unsaid = 3 // said again, in case this report is lost
			} else if l.rx.unsaid > 0 {
				l.rx.unsaid--
			}
			var lr laneReport
			lr, r.ranges = l.rx.section(r.ranges)
			r.lanes = append(r.lanes, lr)
		}
	}
	s.body = r.append(s.body[:0], p.mtu()-headerSize-tagSize)
	s.lastReport = at
	s.reportNo++
	b.emit(now, at, p, header{kind: kindReport, laneSeq: s.reportNo}, s.body, false, false)
	return s.probed() != nil && b.out.room()
}

// reportPath alternates between the two earliest paths, so that one going dark costs every second report at most.
func (s *Session) reportPath() *pathTx {
	var first, second *pathTx
	better := func(a, c *pathTx) bool {
		if c == nil {
			return true
		}
		if (a.state == PathUp) != (c.state == PathUp) {
			return a.state == PathUp
		}
		return a.owdRel < c.owdRel
	}
	for _, p := range s.b.paths {
		if p.state == PathDown || p.blocked() {
			continue
		}
		switch {
		case better(p, first):
			first, second = p, first
		case better(p, second):
			second = p
		}
	}
	if second != nil && second.state == PathUp && s.reportNo%2 == 1 {
		return second
	}
	return first
}

// fill hands lane packets to paths by priority while pacers have credit; it returns when one will. Called with mu held.
func (s *Session) fill(now time.Time, at stamp) stamp {
	b := s.b
	next := stamp(math.MaxInt64)
	for b.out.room() {
		sent := false
		for c := Realtime; c < numClasses && b.out.room(); c++ {
			if s.floor >= bulkFloor && c != Bulk {
				continue // bulk's turn
			}
			ok, wait := s.fillClass(now, at, c)
			if ok {
				sent = true
				break
			}
			if wait > 0 {
				next = min(next, wait)
			}
		}
		if sent {
			continue
		}
		if s.floor > 0 {
			s.floor = 0
			continue // bulk had nothing to send in its turn
		}
		for _, p := range b.paths {
			p.idle = p.idle || p.nextFree <= at
		}
		break
	}
	return next
}

// fillClass sends one datagram of the class: a repetition, a repair or a new packet. It tells when to come back if a
// path must be waited for.
func (s *Session) fillClass(now time.Time, at stamp, c Class) (bool, stamp) {
	wait := stamp(0)
	later := func(w stamp) {
		if w > 0 && (wait == 0 || w < wait) {
			wait = w
		}
	}
	s.turn++
	n := len(s.live)
	for pass := range 3 {
		for i := range n {
			l := s.live[(i+s.turn)%n]
			if l.tx.class != c {
				continue
			}
			var ok bool
			var w stamp
			switch pass {
			case 0:
				ok, w = s.sendAgain(now, at, l)
			case 1:
				ok, w = s.sendRepair(now, at, l)
			case 2:
				ok, w = s.sendNew(now, at, l)
			}
			if ok {
				if c == Bulk {
					s.floor = 0
				} else {
					s.floor++
				}
				return true, 0
			}
			later(w)
		}
	}
	return false, wait
}

func (s *Session) sendAgain(now time.Time, at stamp, l *Lane) (bool, stamp) {
	seq, o := l.tx.nextAgain()
	if o == nil {
		return false, 0
	}
	p, wait := s.pick(at, l.tx.class, pickAgain, o.buf.n, o.path)
	if p == nil {
		return false, wait
	}
	l.tx.again.pop()
	o.queued = false
	s.transmit(now, at, l, seq, o, p)
	l.tx.resent++
	if (o.tries > 2 || l.tx.shelter > 0 && p.lossShort > 0.01) && s.b.out.room() {
		// Not the first repetition any more, or one that must not fail: over two paths at once.
		if q := s.other(at, l.tx.class, p, o.buf.n); q != nil {
			s.copy(now, at, q, l, seq, o)
		} else if s.up < 2 && s.copies.len() < maxCopies {
			s.copies.push(deferredLoss{lostRef{lane: l.id, seq: seq, path: p.id}, at + us(copyAfter)})
		}
	}
	return true, 0
}

// copy sends a lane packet once more without expecting word of this copy.
func (s *Session) copy(now time.Time, at stamp, p *pathTx, l *Lane, seq uint64, o *outPacket) {
	s.b.emit(now, at, p, header{kind: kindSource, lane: l.id, aux: auxAgain, laneSeq: uint32(seq)}, o.buf.bytes(), true, false)
}

// runCopies sends the second copies that had only one path to go on. Called with mu held.
func (s *Session) runCopies(now time.Time, at stamp) {
	for s.copies.len() > 0 && s.copies.front().due <= at && s.b.out.room() {
		d := s.copies.pop()
		p, l := s.b.paths[d.ref.path], s.lanes[d.ref.lane]
		if l == nil || !p.usable() || p.full() {
			continue
		}
		if o := l.tx.entry(d.ref.seq); o != nil && o.buf != nil {
			s.copy(now, at, p, l, d.ref.seq, o)
		}
	}
}

func (s *Session) transmit(now time.Time, at stamp, l *Lane, seq uint64, o *outPacket, p *pathTx) {
	p.lastData = at
	h := header{kind: kindSource, lane: l.id, laneSeq: uint32(seq)}
	if o.tries > 0 {
		h.aux = auxAgain
	}
	o.pseq = s.b.emit(now, at, p, h, o.buf.bytes(), true, true)
	p.rec(o.pseq).laneSeq = seq
	o.path, o.at = p.id, at
	if o.tries < maxTries {
		o.tries++
	}
}

func (s *Session) sendNew(now time.Time, at stamp, l *Lane) (bool, stamp) {
	t := l.tx
	if t.queue.len() == 0 || !t.room() {
		return false, 0
	}
	how := pickEarliest
	if t.class == Bulk {
		how = pickSpread
	}
	buf := t.queue.front()
	p, wait := s.pick(at, t.class, how, buf.n, maxPaths)
	if p == nil {
		return false, wait
	}
	t.queue.pop()
	seq := t.next
	t.next++
	o := &t.out[seq%laneWindow]
	*o = outPacket{buf: buf}
	s.transmit(now, at, l, seq, o, p)
	t.sent++
	t.sentSince++
	t.onSource(at, seq, buf.bytes(), p.id)
	if t.queue.len() == laneQueue/2 || t.queue.len() == 0 {
		l.stalled.Store(false)
		select {
		case l.room <- struct{}{}:
		default:
		}
	}
	return true, 0
}

// pad fills paths whose rate is not known yet, while the lanes have nothing for them; it returns when to go on.
func (s *Session) pad(now time.Time, at stamp) stamp {
	if s.startDone {
		return 0
	}
	next := stamp(0)
	for _, p := range s.b.paths {
		if p.state != PathUp || !p.validated || p.ctrl.State() != rateStartup {
			continue
		}
		size := p.mtu()
		for s.b.out.room() && p.credit(at, size+frameOverhead) {
			s.b.emit(now, at, p, header{kind: kindPadding}, padding[:size-headerSize-tagSize], true, false)
		}
		if p.inflight+int64(size+frameOverhead) <= p.ctrl.InflightCap() && (next == 0 || p.nextFree < next) {
			next = p.nextFree
		}
	}
	return max(next, 0)
}

var padding [maxDatagram]byte

type pickMode uint8

const (
	pickEarliest pickMode = iota // earliest arrival; waits for that path's pacer
	pickSpread                   // any path in time for the common delay: whose pacer is free the longest
	pickAgain                    // earliest arrival, a loss weighed as a round trip
)

// pick chooses the path for a packet of the class, of n bytes; avoid is not taken if there is another. With none free it tells when
// to come back (0: only news will help).
func (s *Session) pick(at stamp, c Class, how pickMode, n int, avoid uint8) (*pathTx, stamp) {
	size := n + headerSize + tagSize + frameOverhead
	allowed := s.allowedPaths(c)
	var best *pathTx
	var bestScore, wait stamp
	for _, p := range s.b.paths {
		if allowed>>p.id&1 == 0 || !s.takes(p, size) {
			continue
		}
		if how == pickSpread {
			if s.leftOut(p) {
				continue
			}
			if p.nextFree > at {
				if wait == 0 || p.nextFree < wait {
					wait = p.nextFree
				}
				continue
			}
			if best == nil || p.nextFree < bestScore {
				best, bestScore = p, p.nextFree
			}
			continue
		}
		score := s.arrival(at, p, size, how == pickAgain)
		if p.id == avoid {
			score += us(20 * time.Millisecond)
		}
		if best == nil || score < bestScore {
			best, bestScore = p, score
		}
	}
	if best == nil {
		return nil, wait
	}
	if how == pickEarliest {
		best = s.prefer(at, c, size, allowed, best, bestScore)
	}
	if best.nextFree > at {
		return nil, best.nextFree
	}
	return best, 0
}

// other is the path but p on which a copy of a packet of the class arrives first. It may go a little into the pacer's debt: two copies
// are worth more together.
func (s *Session) other(at stamp, c Class, p *pathTx, n int) *pathTx {
	size := n + headerSize + tagSize + frameOverhead
	allowed := s.allowedPaths(c)
	var best *pathTx
	var bestScore stamp
	for _, q := range s.b.paths {
		if q == p || allowed>>q.id&1 == 0 || !q.usable() || q.inflight+int64(size) > q.ctrl.InflightCap() || q.full() || !q.validated || q.nextFree > at+us(copyDebt) {
			continue
		}
		if score := s.arrival(at, q, size, true); best == nil || score < bestScore {
			best, bestScore = q, score
		}
	}
	return best
}

// arrival is when a packet sent on the path would arrive, against the paths' common offset, with a margin for jitter; on
// a repetition a loss weighs as a round trip.
func (s *Session) arrival(at stamp, p *pathTx, size int, again bool) stamp {
	t := max(p.nextFree, at) + stamp(int64(size)*8_000_000/max(p.ctrl.Bandwidth(), 100_000)) + stamp(p.owdRel) + stamp(p.owdVar)
	if again {
		t += stamp(p.lossShort * float64(us(p.rtt)))
	}
	return t
}

// leftOut tells whether a path would cost a bulk lane more than it brings.
func (s *Session) leftOut(p *pathTx) bool {
	var total int64
	least := p.owdRel
	for _, q := range s.b.paths {
		if q.usable() {
			total += q.ctrl.Bandwidth()
			least = min(least, q.owdRel)
		}
	}
	return p.owdRel-least > int64(us(leftOutDelay)) && float64(p.ctrl.Bandwidth()) < leftOutShare*float64(total)
}

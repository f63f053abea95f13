package bond

import (
	"crypto/cipher"
	"errors"
	"math"
	"net"
	"net/netip"
	"syscall"
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
	// probeIdle is for paths with nothing to carry; with reports it costs 8 kbit/s. One that is not answered probeLate after a
	// round trip is followed by others every probeAsk: with probes every 100 ms alone, idle paths with bursts of loss were
	// suspect four times as often.
	probeIdle    = 250 * time.Millisecond
	probeLate    = 20 * time.Millisecond
	probeAsk     = 30 * time.Millisecond
	probeBlocked = time.Second // to an address that has had maxUnvalidated without an answer: it may have one yet
	// idleAfter is when probes slow down: no data for this long.
	idleAfter = 5 * time.Second
	// fecWindow is how many lane packets a repair symbol covers at the most; aux holds it minus one.
	fecWindow = 128
	// tailAfter is how long a lane is quiet before its tail gets its repairs.
	tailAfter = 1500 * time.Microsecond
	// fillBatch bounds the datagrams of one turn, so that the mutex is not held for long.
	fillBatch = 96
	// bulkFloor: every so many packets of higher classes, bulk goes once. A fifth is what keeps its lanes' windows.
	bulkFloor = 4
	// tailRetry is the sender's own timer: a packet without any word for this long beyond a round trip is sent again.
	tailRetry = 60 * time.Millisecond
)

// outBatch holds the datagrams of one turn of the run loop. Filled under the mutex, sealed and written without it.
type outBatch struct {
	n    int
	dgs  [fillBatch + 48]outDatagram
	bufs [fillBatch + 48][]byte
	ms   []Message
	who  []uint8 // the paths of ms
	tag  tagger

	refused []refusal
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
		o.ms, o.who = o.ms[:0], o.who[:0]
		for j := i; j < o.n; j++ {
			if o.dgs[j].sock == u {
				o.ms = append(o.ms, Message{Buf: o.bufs[j], Addr: o.dgs[j].to})
				o.who = append(o.who, o.dgs[j].path)
				o.dgs[j].sock = nil
			}
		}
		u.write(b, o.ms, o.who)
	}
	if len(o.refused) > 0 {
		b.refused(o.refused)
		o.refused = o.refused[:0]
	}
	o.n = 0
	return full
}

func (u *uplink) write(b *Bond, ms []Message, who []uint8) {
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
		if n < len(ms) && errors.Is(err, syscall.EMSGSIZE) {
			b.out.refused = append(b.out.refused, refusal{who[n], len(ms[n].Buf)})
		} else {
			failed = err
		}
		n = min(n+1, len(ms))
		ms, who = ms[n:], who[n:]
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
	if h.kind == kindSource && h.aux&auxAgain != 0 {
		p.resent++
	}
	if h.kind.tellsFilling() && p.ctrl.Filling() {
		h.aux |= auxFilling
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
		s.searchMTU(now, at, p)
		starting = starting || (p.state == PathOpening && at-s.since < us(time.Second)) ||
			(p.state == PathUp && (p.ctrl.State() == rateStartup || !p.search.known))
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
	case p.quiet(at):
		interval = probeIdle
		if from, waiting := p.oldestUnanswered(); waiting && at-from > us(s.slowestRTT(p)+probeLate) {
			interval = probeAsk
		}
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
			lr, r.ranges = l.rx.section(at, r.ranges)
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

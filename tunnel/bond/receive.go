package bond

import (
	"net/netip"
	"time"
)

// receive takes one datagram off an uplink.
func (b *Bond) receive(u *uplink, addr netip.AddrPort, h header, d []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	now, at := b.host.now()
	if h.kind == kindOpen {
		b.onOpen(at, u, addr, h, d)
		return
	}
	s := b.sess
	if s == nil || !s.verify(&b.tagger, h, d) {
		// The first datagram under the candidate's keys proves that the peer is alive and knows our epoch.
		if c := b.cand; c != nil && c.verify(&b.tagger, h, d) {
			b.establish(at, c)
			s = c
		} else {
			if s == nil && b.cand == nil {
				b.host.drops.noSession.Add(1)
			} else {
				b.host.drops.badTag.Add(1)
			}
			return
		}
	}
	s.accept(now, at, u, addr, h, d)
}

func (s *Session) verify(t *tagger, h header, d []byte) bool {
	seq := uint64(h.seq)
	if rx := s.rx[h.path]; rx != nil {
		seq = extend24(h.seq, rx.largest)
	}
	return verify(s.verifyAEAD, t.session(h.path, seq), d)
}

// accept takes an authenticated datagram. Called with mu held.
func (s *Session) accept(now time.Time, at stamp, u *uplink, addr netip.AddrPort, h header, d []byte) {
	b := s.b
	rx := s.rx[h.path]
	if rx == nil {
		rx = newPathRx(h.path)
		s.rx[h.path] = rx
	}
	seq := extend24(h.seq, rx.largest)
	if !rx.window.fresh(seq) {
		b.host.drops.replayed.Add(1)
		return
	}
	newest := seq >= rx.largest
	owd := s.relOWD(at, h.sent)
	eliciting := h.kind != kindReport && h.kind != kindClose
	rx.accept(at, seq, owd, len(d)+frameOverhead, eliciting)
	var back *pathTx
	if newest && (rx.pair == nil || rx.uplink != u || rx.addr != addr) {
		// Only what is authenticated, fresh and newest moves a peer.
		rx.uplink, rx.addr = u, addr
		rx.pair = b.pathTo(at, u, addr, rx)
	}
	if back = rx.pair; back != nil {
		back.recv++
		back.recvBytes += uint64(len(d) + frameOverhead)
	}
	if newest && h.kind.tellsFilling() {
		rx.filling = h.aux&auxFilling != 0
	}
	body := d[headerSize : len(d)-tagSize]
	switch h.kind {
	case kindSource:
		l := s.laneFor(at, h.lane)
		if l == nil || l.closedAt != 0 {
			b.host.drops.laneRefused.Add(1)
			return
		}
		if h.aux&auxAgain == 0 { // repetitions have no time to keep
			l.rx.active[h.path] = at
		}
		rx.lastSource = at
		seq, sent := extend24(h.laneSeq, l.rx.high), at-stamp(owd)
		news := h.aux&auxAgain == 0 && l.rx.onStart(seq, h.aux&auxStart != 0)
		if data := len(body) >= fullSize && l.rx.lean(at); l.rx.equalised() && (data || news || !l.rx.haveDelay) {
			l.rx.note(at, len(body))
			s.equalise(at, l.rx)
		}
		if h.aux&auxAgain != 0 {
			// Of the lane's last packet no later one tells; a loss is known after a round trip at the earliest.
			sent = l.rx.sentAbout(seq, max(l.rx.newest, sent-us(s.fastest())))
		}
		l.rx.source(at, seq, body, sent)
		l.touched = true
	case kindRepair:
		l := s.laneFor(at, h.lane)
		if l == nil || l.closedAt != 0 {
			b.host.drops.laneRefused.Add(1)
			return
		}
		if err := l.rx.repair(at, extend24(h.laneSeq, l.rx.high), int(h.aux)+1, repairKey(h.path, h.seq), body, at-stamp(owd)); err != nil {
			b.host.drops.badBody.Add(1)
		}
		l.touched = true
	case kindReport:
		if err := s.in.parse(body); err != nil {
			b.host.drops.badBody.Add(1)
			return
		}
		s.onReport(now, at, h.laneSeq, &s.in)
	case kindProbe:
		if back != nil {
			rx.probed, rx.probeSeq = true, uint32(seq)
		}
	case kindPadding:
	case kindClose:
		b.endSession("the peer closed it")
	}
}

// repairKey is the key of a repair symbol's coefficients, known to both sides from the header.
func repairKey(path uint8, seq uint32) uint32 { return seq&seqMask | uint32(path)<<24 }

// received is called after a batch of datagrams: it wakes who has something to do.
func (b *Bond) received() {
	b.mu.Lock()
	s := b.sess
	wake := false
	if s != nil {
		for _, l := range s.live {
			if l.touched {
				l.touched = false
				l.poke()
			}
		}
		wake = s.probed() != nil || s.reportWanted || s.reportDue()
	}
	for _, p := range b.paths {
		wake = wake || p.wantOpen
	}
	if s != nil {
		s.reportWanted = false
	}
	b.mu.Unlock()
	if wake {
		b.wakeup()
	}
}

// probed is a path whose newest probe was not answered yet; nil: there is none.
func (s *Session) probed() *pathRx {
	for _, rx := range s.rx {
		if rx != nil && rx.probed {
			return rx
		}
	}
	return nil
}

// reportDue tells whether so much came on a path that the peer must hear of it now.
func (s *Session) reportDue() bool {
	for _, rx := range s.rx {
		if rx != nil && (rx.fresh >= reportEvery || rx.gapAt != 0) {
			return true
		}
	}
	return false
}

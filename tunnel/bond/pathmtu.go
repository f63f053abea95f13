package bond

import (
	"slices"
	"time"
)

// mtuSearch finds the largest packet that a path carries, in the manner of RFC 8899: a padded probe that arrives proves its
// size, as does any other datagram. Nothing is asked of ICMP, which the Internet loses. Sizes are of IP packets. It is a
// state machine without a clock; the path that owns it sends its probes and tells it what became of them.
type mtuSearch struct {
	top   int // what the uplink takes
	limit int // what it took lately: the system refuses more (EMSGSIZE)
	size  int // the largest packet that surely arrives
	known bool

	step    mtuStep
	pending []int // sizes of this step's probes that nothing is known of
	until   stamp // when they count as lost

	fullAt    stamp // when size was last proven
	proven    int   // the largest that arrived since it is being confirmed
	raiseAt   stamp // when larger ones are tried again
	raiseWait stamp

	hole     int // datagrams of holeSize or more that were lost in a row
	holeSize int
}

type mtuStep uint8

// A search tries the uplink's size twice, with two probes each time, then all sizes at once, twice. A size that was proven is
// confirmed from time to time with one probe, and then with three; if that fails, what else arrived meanwhile holds, and the
// search goes straight to all larger sizes.
const (
	mtuIdle mtuStep = iota
	mtuConfirm
	mtuConfirmAgain
	mtuTop
	mtuTopAgain
	mtuSweep
	mtuSweepAgain
)

const (
	// mtuLeast is IPv6's least MTU and the least an uplink may have; what a path carries at the least is taken for granted.
	mtuLeast = 1280
	// mtuFull is how long a size stays proven: without word of a packet that large a black hole is suspected.
	mtuFull = 5_000_000
	// mtuRaise and mtuRaiseMost are how often a path that carries less than its uplink is tried with more: each time twice as
	// long after the last, as the probes are lost and a provider seldom changes its mind.
	mtuRaise     = 5_000_000
	mtuRaiseMost = 60_000_000
	// mtuHole is how many large datagrams lost in a row, while smaller ones arrive, make a black hole.
	mtuHole = 8
	// mtuPatience is what an answer may take beyond a round trip.
	mtuPatience = 150 * time.Millisecond
)

// mtuSizes are those that networks have: Ethernet's, and what PPPoE, IP in IP, GRE, L2TP, VXLAN, WireGuard, IPsec and mobile
// networks leave of it.
var mtuSizes = [...]int{1300, 1320, 1340, 1360, 1380, 1400, 1412, 1420, 1430, 1440, 1450, 1460, 1472, 1480, 1492, 1500}

func (m *mtuSearch) reset(top int) {
	*m = mtuSearch{top: top, limit: top, size: min(mtuLeast, top), pending: m.pending[:0], raiseWait: mtuRaise}
}

// due appends to sizes the probes to send now, which are answered within wait or lost.
func (m *mtuSearch) due(now, wait stamp, sizes []int) []int {
	if len(m.pending) > 0 && now < m.until {
		return sizes
	}
	m.advance(now)
	switch m.step {
	case mtuIdle:
		return sizes
	case mtuConfirm, mtuConfirmAgain:
		m.pending = append(m.pending[:0], m.size) // on an idle path it is a fifth of what the bond sends
		if m.step == mtuConfirmAgain {
			m.pending = append(m.pending, m.size, m.size)
		}
	case mtuTop, mtuTopAgain:
		m.pending = append(m.pending[:0], m.limit, m.limit)
	case mtuSweep, mtuSweepAgain:
		m.pending = m.pending[:0]
		for _, s := range mtuSizes {
			if s > m.size && s < m.limit {
				m.pending = append(m.pending, s)
			}
		}
		m.pending = append(m.pending, m.limit)
	}
	m.until = now + wait
	return append(sizes, m.pending...)
}

// advance ends the step whose probes are answered or lost.
func (m *mtuSearch) advance(now stamp) {
	switch m.step {
	case mtuIdle:
		switch {
		case !m.known:
			m.raise()
		case m.size > mtuLeast && now-m.fullAt >= mtuFull:
			m.step, m.proven = mtuConfirm, mtuLeast
		case m.size < m.top && now >= m.raiseAt:
			m.limit = m.top // the interface may have changed too
			m.raise()
		}
		return
	case mtuConfirm:
		m.step = mtuConfirmAgain
		return
	case mtuConfirmAgain:
		m.size, m.step = m.proven, mtuSweep
		m.raiseWait = mtuRaise
	case mtuTopAgain:
		if m.known { // an answer is there, which larger sizes than the uplink's alone would change a little
			m.done(now)
			return
		}
		m.step = mtuSweep
	case mtuTop, mtuSweep:
		m.step++
	case mtuSweepAgain:
		m.done(now)
		return
	}
	if m.size >= m.limit {
		m.done(now)
	}
}

func (m *mtuSearch) raise() {
	if m.size < m.limit {
		m.step = mtuTop
	} else {
		m.known = true
	}
}

// done ends a search.
func (m *mtuSearch) done(now stamp) {
	m.confirmed(now)
	m.known = true
	m.raiseAt = now + m.raiseWait
	m.raiseWait = min(2*m.raiseWait, mtuRaiseMost)
	if m.size == m.top {
		m.raiseWait = mtuRaise
	}
}

func (m *mtuSearch) confirmed(now stamp) {
	m.step, m.pending = mtuIdle, m.pending[:0]
	m.fullAt, m.hole = now, 0
}

// acked notes that a packet of so many bytes arrived.
func (m *mtuSearch) acked(now stamp, size int, probe bool) {
	if size >= m.holeSize {
		m.hole = 0
	}
	if probe {
		m.settle(size)
	}
	m.proven = max(m.proven, size)
	if size < m.size {
		return
	}
	m.size, m.fullAt = size, now
	switch {
	case m.confirming():
		m.confirmed(now)
	case m.step != mtuIdle && m.size >= m.limit:
		m.done(now)
	}
}

// settled tells whether size is the answer and not about to change.
func (m *mtuSearch) settled() bool { return m.known && m.step == mtuIdle }

func (m *mtuSearch) confirming() bool { return m.step == mtuConfirm || m.step == mtuConfirmAgain }

// lost notes that one did not.
func (m *mtuSearch) lost(size int, probe bool) {
	switch {
	case probe:
		m.settle(size)
	case size > mtuLeast:
		if m.hole == 0 || size < m.holeSize {
			m.holeSize = size
		}
		if m.hole++; m.hole >= mtuHole && m.known && size <= m.size && !m.confirming() {
			m.hole = 0
			m.check()
		}
	}
}

// check lets the proven size be confirmed, as the way may have changed.
func (m *mtuSearch) check() {
	m.step, m.pending = mtuIdle, m.pending[:0]
	m.fullAt = -mtuFull
}

// refused notes that the system does not let such a packet out.
func (m *mtuSearch) refused(size int) {
	if size > m.limit {
		return
	}
	m.limit = max(size-1, mtuLeast)
	m.pending = slices.DeleteFunc(m.pending, func(s int) bool { return s >= size })
	if m.size > m.limit {
		m.size, m.proven = mtuLeast, mtuLeast
		if m.known {
			m.step, m.pending = mtuConfirmAgain, m.pending[:0]
		}
	}
}

func (m *mtuSearch) settle(size int) {
	if i := slices.Index(m.pending, size); i >= 0 {
		m.pending = slices.Delete(m.pending, i, i+1)
	}
}

// outerSize is what IP and UDP add to the path's datagrams.
func (p *pathTx) outerSize() int {
	if p.remote.Addr().Is6() && !p.remote.Addr().Is4In6() {
		return 40 + 8
	}
	return 20 + 8
}

// packetSize is the size of the IP packet that carried a datagram.
func (p *pathTx) packetSize(r *sentRecord) int { return int(r.size) - frameOverhead + p.outerSize() }

// mtu is the largest datagram that is known to arrive.
func (p *pathTx) mtu() int { return p.search.size - p.outerSize() }

// takes tells whether a lane packet or repair symbol of n bytes fits the path.
func (p *pathTx) takes(n int) bool { return n+headerSize+tagSize <= p.mtu() }

// searchMTU sends the path's MTU probes that are due. They are not ack-eliciting to this side: their loss is neither
// congestion nor silence.
func (s *Session) searchMTU(now time.Time, at stamp, p *pathTx) {
	if p.state != PathUp || !p.validated || p.rtt == 0 {
		return
	}
	b := s.b
	wait := us(s.slowestRTT(p)+mtuPatience) + 4*stamp(p.owdVar)
	s.sizes = p.search.due(at, wait, s.sizes[:0])
	for _, size := range s.sizes {
		if p.full() || !b.out.room() {
			return // lost, as it were
		}
		body := padding[:size-p.outerSize()-headerSize-tagSize]
		p.rec(b.emit(now, at, p, header{kind: kindProbe}, body, false, false)).probe = true
	}
}

// refused notes the datagrams that the system did not let out for their size.
func (b *Bond) refused(rs []refusal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range rs {
		p := b.paths[r.path]
		p.search.refused(r.size + p.outerSize())
	}
}

// refusal is a datagram that was too large for its uplink.
type refusal struct {
	path uint8
	size int
}

// laneSize is the largest lane packet that every path takes that carries the class, as far as their sizes are known.
// Called with mu held.
func (s *Session) laneSize(c Class) int {
	size, guess := 0, maxDatagram
	for _, p := range s.b.paths {
		switch {
		case p.removed || c == Bulk && p.usable() && s.leftOut(p):
		case !p.search.known:
			guess = min(guess, p.mtu())
		case size == 0 || p.mtu() < size:
			size = p.mtu()
		}
	}
	if size == 0 {
		size = min(guess, mtuLeast-28)
	}
	return size - Overhead
}

// tooLarge tells whether no path takes a lane packet of n bytes any more: it cannot but be dropped, or it would hold up the
// smaller ones behind it, of which one closes the connection. Called with mu held.
func (s *Session) tooLarge(n int) bool {
	known := false
	for _, p := range s.b.paths {
		if !s.carries(p) {
			continue
		}
		if p.takes(n) || !p.search.settled() {
			return false
		}
		known = true
	}
	return known
}

// Fit is how the paths of a session take a lane's largest packets.
type Fit uint8

// A lane that does not fit had better be replaced: a path that its class uses carries only smaller packets, so that it lies
// idle, or all have come to carry much larger ones. A lane that no path takes is of no use any more.
const (
	FitWell Fit = iota
	FitBadly
	FitNowhere
)

// fitGain is how much larger packets must be to be worth a new lane.
const fitGain = 64

// Fit compares the lane's MaxPacketSize, which a QUIC connection cannot change, with what the paths take now.
func (l *Lane) Fit() Fit {
	s := l.s
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if l.size == 0 || l.closedAt != 0 {
		return FitWell
	}
	known, some := false, false
	for _, p := range s.b.paths {
		if p.removed || !p.usable() {
			continue
		}
		if !p.search.settled() {
			return FitWell // it will be known soon
		}
		known, some = true, some || p.takes(l.size)
	}
	size := s.laneSize(l.Class())
	switch {
	case !known:
		return FitWell
	case !some:
		return FitNowhere
	case size < l.size || size >= l.size+fitGain:
		return FitBadly
	}
	return FitWell
}

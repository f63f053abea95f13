package bond

import (
	"net/netip"
	"time"

	"github.com/landbridge/landbridge/tunnel/bond/rate"
)

// stamp is a time in microseconds of the host's own clock, which starts near zero with the host.
type stamp int64

func us(d time.Duration) stamp { return stamp(d / time.Microsecond) }

func (s stamp) duration() time.Duration { return time.Duration(s) * time.Microsecond }

// PathState is what the bond thinks of a path.
type PathState uint8

// A path opens until the peer has answered on it, carries data while it is up, gets no new data while it is suspect
// (silent for suspectAfter), and is down after downAfter.
const (
	PathOpening PathState = iota
	PathUp
	PathSuspect
	PathDown
)

func (s PathState) String() string {
	return [...]string{"opening", "up", "suspect", "down"}[s]
}

// What the rate controller calls its first states.
const (
	rateStartup = "Startup"
	rateDrain   = "Drain"
)

// lossMemory is about how many packets the loss of a path is of.
const lossMemory = 500

const (
	maxPaths = 16
	// frameOverhead is what Ethernet, IPv4 and UDP add to a datagram; rates and windows count it, as links do.
	frameOverhead = 42
	// pathWindow bounds the datagrams of a path whose fate is unknown: 0.5 s at 400 Mbit/s.
	pathWindow = 1 << 14

	suspectAfter     = 150 * time.Millisecond // silence beyond a round trip, with traffic
	suspectAfterIdle = 350 * time.Millisecond // with probes alone, of which some may be lost
	busyPackets      = 8                      // unanswered packets that make traffic
	busyRate         = 16                     // lane packets in a second that do; fewer may be keep-alives
	downAfter        = 1500 * time.Millisecond
	cleanProbes      = 3 // answers in a row that bring a path back
	dwellMin         = 200 * time.Millisecond
	dwellMax         = 30 * time.Second
	dwellForget      = time.Minute // a path up this long has its dwell time back at the least

	// maxBurst is how much of the pacer's unused time is kept.
	maxBurst = 2 * time.Millisecond
	// maxUnvalidated bounds the bytes to an address that has not yet answered a probe.
	maxUnvalidated = 16 << 10
)

// sentRecord is what is remembered of a datagram until its fate is known.
type sentRecord struct {
	at        stamp
	laneSeq   uint64
	size      uint16
	lane      uint8
	eliciting bool
	source    bool // carries the lane packet laneSeq
	resolved  bool
	probe     bool // of a size, which may well be too large: its loss says nothing else
	limited   bool // the path had had credit left over before it: the application set the pace
}

// lostRef names a lane packet that a path lost.
type lostRef struct {
	lane uint8
	path uint8
	seq  uint64 // lane sequence number
	pseq uint64 // path sequence number of the copy that was lost
}

// pathTx is the sending half of a path. Guarded by the bond's mutex; only the bond's run goroutine sends.
type pathTx struct {
	id     uint8
	name   string
	uplink *uplink
	remote netip.AddrPort
	limit  int64 // bits/s, 0: none
	ctrl   *rate.Controller

	state      PathState
	stateSince stamp
	dwell      time.Duration
	clean      int
	validated  bool
	validFrom  uint64 // probes before this one went to another address
	unvalBytes int

	next, low uint64 // next number to send; least whose fate is unknown
	largest   uint64 // largest acknowledged
	acked     bool   // anything acknowledged in this session
	ring      []sentRecord
	inflight  int64
	elicOut   int // unresolved ack-eliciting datagrams

	nextFree  stamp // pacer
	lastSend  stamp
	lastProbe stamp
	lastAck   stamp // when something new was last acknowledged
	lastData  stamp // when lane packets last came at busyRate, or the path came up
	dataFrom  stamp // since when dataN of them are counted
	dataN     int
	idle      bool // had credit left since the last datagram

	removed     bool  // taken out; only its place is kept
	wantOpen    bool  // a handshake is due
	learned     uint8 // for a path learned from the peer: its number there plus one
	heard       stamp // when a handshake or another address last named the path
	tailChecked uint64
	search      mtuSearch

	reorder     time.Duration
	rtt         time.Duration // smoothed, of probes and reports
	rttMin      time.Duration
	owdRel      int64 // smoothed one-way delay against the unknown clock offset, µs
	owdVar      int64
	haveOWD     bool
	lastPackets uint32
	lastBytes   uint32
	lastRecv    uint32
	haveReport  bool

	// lossShort is over about the last lossMemory packets, lossFound without those of before the rate was found, lossYoung of
	// which are still to come. What overflowed the queue then counts for repair all the same: it shelters the lanes that
	// open next. With lossFound in its place the windows of two in 25 simulated runs stayed small for good.
	lossShort, lossFound, lossYoung float64

	sent, lost uint64
	fates      Fates  // of this session
	lastLost   uint64 // number of the last lost datagram plus one
	sentBytes  uint64
	repairs    uint64 // of sent: FEC
	resent     uint64 // of sent: packets sent before
	recv       uint64 // datagrams received on the same path
	recvBytes  uint64
	newlyLostB int64
}

func newPathTx(id uint8, name string, u *uplink, remote netip.AddrPort, limit int64) *pathTx {
	p := &pathTx{id: id, name: name, uplink: u, limit: limit, ring: make([]sentRecord, pathWindow)}
	if u.rate > 0 && (limit == 0 || u.rate < limit) {
		p.limit = u.rate
	}
	p.ctrl = rate.New(rate.Config{Cap: p.limit})
	p.setRemote(remote)
	p.reset()
	return p
}

func (p *pathTx) setRemote(a netip.AddrPort) {
	p.remote = a
	p.validated, p.validFrom = false, p.next
	p.unvalBytes = 0
	p.search.reset(p.uplink.mtu)
}

// reset forgets what belongs to a session; the rate controller's knowledge of the path stays.
func (p *pathTx) reset() {
	p.state, p.stateSince, p.clean, p.dwell = PathOpening, 0, 0, 0
	p.next, p.low, p.largest, p.acked, p.validFrom = 0, 0, 0, false, 0
	p.inflight, p.elicOut = 0, 0
	p.nextFree, p.lastProbe, p.lastAck = 0, 0, 0
	p.haveReport, p.haveOWD = false, false
	p.tailChecked, p.lastData, p.dataFrom, p.dataN, p.idle = 0, 0, 0, 0, false
	p.fates, p.lastLost = Fates{}, 0
	if p.ctrl.State() != rateStartup {
		// The delays of another session have another offset: a new controller, near the old rate.
		p.ctrl = rate.New(rate.Config{Cap: p.limit, InitialRate: p.ctrl.Bandwidth() / 2})
	}
	p.reorder = 4 * time.Millisecond
	p.search.reset(p.uplink.mtu)
	clear(p.ring)
}

func (p *pathTx) rec(seq uint64) *sentRecord { return &p.ring[seq%pathWindow] }

// finding tells whether the rate controller still looks for the path's rate, for which it fills the path's queue.
func (p *pathTx) finding() bool {
	state := p.ctrl.State()
	return state == rateStartup || state == rateDrain
}

// usable tells whether new data may go on the path.
func (p *pathTx) usable() bool { return p.state == PathUp }

// record notes a datagram and returns its path sequence number; the ring has room (see full).
func (p *pathTx) record(now time.Time, at stamp, size int, eliciting, source bool, lane uint8, laneSeq uint64) uint64 {
	seq := p.next
	p.next++
	*p.rec(seq) = sentRecord{at: at, laneSeq: laneSeq, size: uint16(size), lane: lane, eliciting: eliciting, source: source, limited: p.idle}
	p.idle = false
	if eliciting {
		p.inflight += int64(size)
		p.elicOut++
	}
	if !p.validated {
		p.unvalBytes += size
	}
	p.sent++
	p.sentBytes += uint64(size)
	p.lastSend = at
	p.ctrl.OnSend(now, size)
	return seq
}

// carried notes a lane packet.
func (p *pathTx) carried(at stamp) {
	if at-p.dataFrom > us(time.Second) {
		p.dataFrom, p.dataN = at, 0
	}
	if p.dataN++; p.dataN >= busyRate {
		p.lastData = at
	}
}

// quiet tells whether the path has had nothing but keep-alives to carry for a while.
func (p *pathTx) quiet(at stamp) bool { return at-p.lastData > us(idleAfter) }

// blocked tells whether the address has had all it may get before it answers.
func (p *pathTx) blocked() bool { return !p.validated && p.unvalBytes > maxUnvalidated }

func (p *pathTx) full() bool { return p.next-p.low >= pathWindow }

// pace charges the pacer for a datagram of size bytes (with UDP and IP headers).
func (p *pathTx) pace(at stamp, size int) {
	if floor := at - us(maxBurst); p.nextFree < floor {
		p.nextFree = floor
	}
	r := max(p.ctrl.PacingRate(), 10_000)
	p.nextFree += stamp(int64(size) * 8 * 1_000_000 / r)
}

// credit tells whether the pacer and the inflight cap let a datagram out now.
func (p *pathTx) credit(at stamp, size int) bool {
	return p.nextFree <= at && p.inflight+int64(size) <= p.ctrl.InflightCap() && !p.full() &&
		(p.validated || p.unvalBytes+size <= maxUnvalidated)
}

// oldestUnanswered returns when the first ack-eliciting datagram after the last acknowledged one was sent.
func (p *pathTx) oldestUnanswered() (stamp, bool) {
	from := p.low
	if p.acked {
		from = max(from, p.largest+1)
	}
	for s := from; s < p.next; s++ {
		if r := p.rec(s); r.eliciting && !r.resolved {
			return r.at, true
		}
	}
	return 0, false
}

// onReport takes the path's section of a report and appends the lane packets it shows to be lost.
func (p *pathTx) onReport(now time.Time, at stamp, s *pathReport, lost []lostRef) []lostRef {
	largest := extend(s.largest, p.next)
	if largest >= p.next {
		return lost // not ours: never sent
	}
	newAck := !p.acked || largest > p.largest
	if newAck {
		p.largest, p.acked = largest, true
		p.lastAck = at
	}
	largestAt := p.rec(p.largest).at
	if p.low > p.largest {
		largestAt = at
	}
	// Not p.rtt, of probes answered on the same path: reports come back on the quickest, and what is in flight is what
	// they have not told yet. With p.rtt, Drain left a queue as long as the difference, and took it for a rival's.
	var told time.Duration
	if newAck {
		told = (at - largestAt).duration()
	}
	var ackPkts, lostPkts int
	limited := false
	p.newlyLostB = 0
	reorder := us(p.reorder)
	for seq := p.low; seq <= largest; seq++ {
		r := p.rec(seq)
		if r.resolved {
			continue
		}
		back := largest - seq
		gone := false
		switch {
		case back == 0:
		case back > 8*uint64(s.span):
			gone = true // older than what reports tell: its lane knows better
		default:
			i := back - 1
			gone = int(i/8) < len(s.missing) && s.missing[i/8]&(1<<(i%8)) != 0
		}
		if !gone {
			limited = limited || r.limited
			p.resolve(r)
			p.search.acked(at, p.packetSize(r), r.probe)
			p.fates.Packets++
			ackPkts++
			continue
		}
		if r.at > largestAt-reorder {
			continue // may still come
		}
		p.resolve(r)
		p.search.lost(p.packetSize(r), r.probe)
		if r.probe {
			continue
		}
		if r.eliciting {
			lostPkts++
			p.newlyLostB += int64(r.size)
		}
		if r.source {
			lost = append(lost, lostRef{r.lane, p.id, r.laneSeq, seq})
		}
		p.lose(seq)
	}
	for p.low < p.next && p.rec(p.low).resolved {
		p.low++
	}
	p.updateDelay(s)
	if p.haveReport {
		dPkts, dBytes := s.packets-p.lastPackets, s.bytes-p.lastBytes
		elapsed := time.Duration(s.at-p.lastRecv) * time.Microsecond
		if dPkts > 0 && dPkts < 1<<31 {
			n := float64(ackPkts + lostPkts)
			if n > 0 {
				share := float64(lostPkts) / n
				p.lossShort += min(1, n/lossMemory) * (share - p.lossShort)
				p.lossYoung = max(p.lossYoung-n, 0)
				p.lossFound += min(1, n/(lossMemory-p.lossYoung)) * (share - p.lossFound)
			}
			if p.state == PathUp {
				finding := p.finding()
				p.ctrl.OnReport(now, rate.Sample{
					Delivered: int64(dBytes), Lost: p.newlyLostB,
					DeliveredPackets: int64(dPkts), LostPackets: int64(lostPkts),
					RecvElapsed: elapsed,
					OWD:         time.Duration(int32(s.owd)) * time.Microsecond,
					OWDMin:      time.Duration(int32(s.owdMin)) * time.Microsecond,
					RTT:         told, Inflight: p.inflight, AppLimited: limited || ackPkts == 0,
				})
				if finding && !p.finding() {
					p.lossFound, p.lossYoung = 0, lossMemory
				}
			}
			p.lastPackets, p.lastBytes, p.lastRecv = s.packets, s.bytes, s.at
		}
	} else {
		p.haveReport = true
		p.lastPackets, p.lastBytes, p.lastRecv = s.packets, s.bytes, s.at
	}
	return lost
}

// lose counts a lost datagram.
func (p *pathTx) lose(seq uint64) {
	p.lost++
	p.fates.Packets++
	p.fates.Lost++
	if p.lastLost == 0 || p.lastLost != seq {
		p.fates.Runs++
	}
	p.lastLost = seq + 1
}

func (p *pathTx) resolve(r *sentRecord) {
	r.resolved = true
	if r.eliciting {
		p.inflight -= int64(r.size)
		p.elicOut--
	}
}

// giveUp declares everything unanswered on the path lost, because the path went silent; that is no sign of congestion
// and the rate controller is not told of it as loss.
func (p *pathTx) giveUp(lost []lostRef) []lostRef {
	for seq := p.low; seq < p.next; seq++ {
		r := p.rec(seq)
		if r.resolved {
			continue
		}
		p.resolve(r)
		if r.source {
			lost = append(lost, lostRef{r.lane, p.id, r.laneSeq, seq})
		}
		if !r.probe {
			p.lose(seq)
		}
	}
	p.low = p.next
	return lost
}

func (p *pathTx) updateDelay(s *pathReport) {
	owd := int64(int32(s.owd))
	if !p.haveOWD {
		p.owdRel, p.haveOWD = owd, true
		return
	}
	d := owd - p.owdRel
	p.owdRel += d / 8
	if d < 0 {
		d = -d
	}
	p.owdVar += (d - p.owdVar) / 8
}

func (p *pathTx) onRTT(rtt time.Duration) {
	if p.rtt == 0 {
		p.rtt, p.rttMin = rtt, rtt
	}
	p.rtt += (rtt - p.rtt) / 8
	p.rttMin = min(p.rttMin, rtt)
}

// onEcho takes the answer to a probe.
func (p *pathTx) onEcho(at stamp, seq32 uint32) {
	seq := extend(seq32, p.next)
	if seq >= p.next || p.next-seq > pathWindow {
		return
	}
	p.onRTT((at - p.rec(seq).at).duration())
	p.validated = p.validated || seq >= p.validFrom
	p.clean++
}

package bond

import (
	"time"

	"github.com/landbridge/landbridge/fec"
)

// The sending side's FEC: when repairs are owed, and how long a loss waits for them.

// onSource notes a packet sent for the first time.
func (t *laneTx) onSource(at stamp, seq uint64, payload []byte, path uint8) {
	ratio := max(t.ctl.Ratio(), t.shelter)
	begun := t.begun(at)
	starts := begun && len(payload) >= fullSize
	if starts {
		ratio = max(ratio, t.start)
	}
	if t.class == Bulk && ratio == 0 && !(begun && t.start > 0) {
		t.enc = nil // no copy of each packet for nothing
		t.uncovered, t.debt, t.tailFrom, t.tailDue = 0, 0, 0, 0
		return
	}
	if t.enc == nil {
		t.enc = fec.NewEncoder(fecWindow, maxPacket)
	}
	t.enc.Add(seq, payload)
	if len(payload) < t.least {
		ratio = t.ctl.Ratio()
	}
	t.debt += ratio
	if t.tailDue > 0 { // the train before it has not had all its repairs: it goes on
		t.uncovered, t.tailDue, t.tailFrom = t.tailLen, 0, at
	}
	if t.uncovered == 0 {
		clear(t.repaired[:])
	}
	t.uncovered++
	t.lastPath = path
	if t.class != Bulk || t.shelter > 0 || starts {
		t.tailFrom = at
	}
}

const (
	// A bulk lane's least repair ratio while its QUIC window is small: a copy of everything up to shelterFull of what the
	// bond can carry, half up to shelterHalf.
	shelterFull = 0.15
	shelterHalf = 0.5
	// shelterLoss is the loss from which shelter is worth it.
	shelterLoss = 0.001
	// shelterLeast is the least length of a packet that shelter is for once the lane has brought shelterAcks packets: shorter
	// ones are mostly bare acknowledgements, and a node that only receives sends nothing else for hours. Before that they
	// count: without, the window of one simulated heavy lane in ten stayed under 50 packets.
	shelterLeast = 160
	shelterAcks  = 1 << 14
	// interactiveNeed is the window in bytes that makes an interactive lane grown.
	interactiveNeed = 512 << 10
)

// setShelter protects a lane while its connection's window has not reached what the bond can carry. quic-go then counts
// reordering by packets and time, and each loss it sees holds its slow start up, or ends it when two overlap; once the
// window is large, a cut that is undone costs nothing. Repair is cheap meanwhile: the lane does not fill the paths yet.
func (s *Session) setShelter(l *Lane) {
	l.tx.shelter, l.tx.least, l.tx.start = 0, 0, s.startRatio()
	if l.rx.received > shelterAcks {
		l.tx.least = shelterLeast
	}
	c := l.conn.Load()
	if c == nil || l.tx.class == Realtime {
		return
	}
	var loss float64
	for _, p := range s.b.paths {
		if p.usable() && !(l.tx.class == Bulk && s.leftOut(p)) {
			loss = max(loss, p.lossShort)
		}
	}
	if loss < shelterLoss {
		return
	}
	rate, rtt := s.capacity()
	need := float64(rate) / 8 * rtt.Seconds()
	if l.tx.class == Interactive {
		need = interactiveNeed
	}
	switch grown := float64(c.ConnectionStats().CongestionWindow) / max(need, 1); {
	case grown < shelterFull:
		l.tx.shelter = 1
	case grown < shelterHalf:
		l.tx.shelter = 0.5
	}
}

// fecHold is how long a packet that a path lost waits for its repairs before it is sent again.
func (s *Session) fecHold(t *laneTx, p *pathTx) time.Duration {
	switch {
	case t.enc == nil || t.shelter > 0 || !p.usable():
		return 0 // sheltered lanes want the packet back soonest, by whatever way; of a path gone silent nothing is to come
	case t.class == Bulk:
		return s.startHold(p)
	}
	return 25 * time.Millisecond
}

// feedFEC tells the overhead controller what became of the packets since the last time.
func (t *laneTx) feedFEC(now time.Time) {
	if t.sentSince < 50 && (t.sentSince == 0 || t.lostSince == 0) {
		return
	}
	t.ctl.OnReport(now, t.sentSince, t.lostSince, t.badSince)
	t.sentSince, t.lostSince, t.badSince = 0, 0, 0
}

// toRepair is what a repair is to cover: the encoder's packets from the first one that the peer is not known to have. A
// symbol is as long as the longest packet in it: with all of them, the tail of one keep-alive was three symbols of 1500 bytes.
func (t *laneTx) toRepair() (first uint64, n int) {
	first, n = t.enc.Window()
	if first < t.base {
		n -= int(min(t.base-first, uint64(n)))
		first = t.base
	}
	return first, n
}

// sendRepair sends a repair symbol if the lane owes one: by its ratio, or for a tail that went quiet.
func (s *Session) sendRepair(now time.Time, at stamp, l *Lane) (bool, stamp) {
	t := l.tx
	if t.enc == nil || t.uncovered == 0 && t.tailDue == 0 {
		return false, 0
	}
	if t.tailFrom > 0 && t.queue.len() == 0 && t.uncovered > 0 {
		if due := t.tailFrom + us(tailAfter); at < due {
			if t.debt < 1 {
				return false, due
			}
		} else {
			t.tailDue, t.tailLen = t.ctl.TailRepairs(t.uncovered), t.uncovered
			t.tailFrom, t.uncovered, t.debt = 0, 0, 0
		}
	}
	if t.debt < 1 && t.tailDue == 0 {
		return false, 0
	}
	first, n := t.toRepair()
	if n == 0 {
		t.tailDue, t.debt = 0, 0
		return false, 0
	}
	if t.tailDue > 0 { // what is missing before the train must not cost it its repairs
		k := min(n, t.tailLen)
		first, n = first+uint64(n-k), k
	}
	var p *pathTx
	var wait stamp
	if size := t.enc.Size(first, n); t.class == Bulk && t.shelter == 0 {
		// The first packets fill all paths, and the slowest one's are waited for.
		p, wait = s.pick(at, t.class, pickSpread, size, t.lastPath)
	} else {
		p, wait = s.pickRepair(at, t, size)
	}
	if p == nil {
		return false, wait
	}
	b := s.b
	m := b.out.next(headerSize)
	out, err := t.enc.Repair(m, first, n, repairKey(p.id, uint32(p.next)))
	if err != nil {
		t.tailDue, t.debt = 0, 0
		return false, 0
	}
	size := len(out) + tagSize + frameOverhead
	h := header{kind: kindRepair, path: p.id, bond: b.id, sent: uint32(at), lane: l.id, aux: uint8(n - 1), laneSeq: uint32(first)}
	seq := p.record(now, at, size, true, false, l.id, 0)
	h.seq = uint32(seq)
	h.put(out)
	b.out.bufs[b.out.n] = out
	b.out.add(p, outDatagram{aead: s.sealAEAD, seq: seq})
	p.pace(at, size)
	t.repairs++
	p.repairs++
	for i := range t.repaired {
		t.repaired[i] -= t.repaired[i] / repairForget
	}
	t.repaired[p.id] += us(p.rtt / repairSpread)
	if t.tailDue > 0 {
		t.tailDue--
	} else {
		t.debt--
	}
	return true, 0
}

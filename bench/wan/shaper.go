package wan

import (
	"math/rand/v2"
	"time"
)

// ethernetHeader is what a frame has more than its IP packet.
const ethernetHeader = 14

// fullFrame is the largest frame of the usual MTU.
const fullFrame = 1514

// Counters count frames of one direction since the link's start. Offered =
// TooBig + Policed + QueueDrops + Sent, and Sent + Duplicated = Lost + Outage +
// Overflow + Delivered + InFlight. Queue and Dark are the link's state at that
// moment.
type Counters struct {
	Offered    uint64 `json:"offered"`
	TooBig     uint64 `json:"too_big"`     // dropped: above the MTU
	Policed    uint64 `json:"policed"`     // dropped: no token
	QueueDrops uint64 `json:"queue_drops"` // dropped: queue full
	Sent       uint64 `json:"sent"`        // left the queue: used the wire
	SentBytes  uint64 `json:"sent_bytes"`  // of Ethernet frame, of Sent
	Lost       uint64 `json:"lost"`        // random and burst loss
	Outage     uint64 `json:"outage"`      // lost in an outage or while darkened
	Overflow   uint64 `json:"overflow"`    // lost: too many frames in flight (a bound on memory)
	Reordered  uint64 `json:"reordered"`
	Corrupted  uint64 `json:"corrupted"`
	Duplicated uint64 `json:"duplicated"`
	Delivered  uint64 `json:"delivered"`
	// DeliveredBytes are bytes of Ethernet frame, of Delivered.
	DeliveredBytes uint64 `json:"delivered_bytes"`
	InFlight       uint64 `json:"in_flight"`
	Other          uint64 `json:"other"` // frames passed outside the model (neighbour discovery), in no other counter

	Queue time.Duration `json:"queue_ns"` // how long a frame offered now would wait
	Dark  bool          `json:"dark"`     // nothing gets through: an outage, or darkened
}

// Delivery is a frame's fate. Times are since the link's start.
type Delivery struct {
	// Copies to deliver: 0 = dropped or lost, 2 = duplicated.
	Copies int
	// Depart is when the frame's last bit leaves the queue, At when it arrives.
	Depart, At time.Duration
	// Late marks a frame held back by Reorder: At is not in order.
	Late bool
	// Corrupt, if not 0, is a random number to pass to Flip with the frame.
	Corrupt uint64
}

// Flip corrupts one byte of b as random (a Delivery's Corrupt) says. The byte
// changes for certain. It does nothing when b is empty.
func Flip(b []byte, random uint64) {
	if len(b) == 0 {
		return
	}
	b[(random>>8)%uint64(len(b))] ^= byte(random%255) + 1
}

// Shaper is the model of one direction of a link. It is a pure state machine:
// time is an argument (since the link's start, never running backwards), the
// same seed and the same calls give the same results. Not safe for concurrent
// use. Use NewShaper.
type Shaper struct {
	imp Impairment
	rng *rand.Rand
	jit jitter

	free      time.Duration // when the transmitter has sent all it holds
	departs   ring[time.Duration]
	lastAt    time.Duration // latest in-order delivery
	bad       bool          // Gilbert-Elliott state
	tokens    float64       // policer, bytes
	tokensAt  time.Duration
	count     Counters
	queueLen  time.Duration
	queuePkts int
}

// NewShaper returns a shaper for an impairment that Validate accepts; others
// panic, since every text or API that brings one in has checked it.
func NewShaper(imp Impairment, seed uint64) *Shaper {
	s := &Shaper{
		rng: rand.New(rand.NewPCG(seed, 0x6c616e6462726964)),
		// A stream of its own: whether jitter is on must not change which frames are lost.
		jit: jitter{rng: rand.New(rand.NewPCG(seed, 0x6a69747465720000))},
	}
	s.set(imp)
	s.tokens = s.burst()
	return s
}

func (s *Shaper) set(imp Impairment) {
	if err := imp.Validate(); err != nil {
		panic("wan: " + err.Error())
	}
	imp.Outages = append([]Outage(nil), imp.Outages...)
	s.imp = imp
	s.queueLen, s.queuePkts = imp.Queue, imp.QueuePackets
	if s.queueLen == 0 {
		s.queueLen = DefaultQueue
	}
	if s.queuePkts == 0 {
		s.queuePkts = DefaultQueuePackets
	}
}

// Impairment returns what the shaper applies now.
func (s *Shaper) Impairment() Impairment {
	imp := s.imp
	imp.Outages = append([]Outage(nil), imp.Outages...)
	return imp
}

// SetImpairment changes the link from now on. What is queued drains at the new
// rate, also if it now exceeds the queue (drop-tail: it was admitted). Frames
// that Offer returned earlier with Depart after now are part of that: their
// owner moves them by calling the returned function on Depart and adding the
// difference to At. Frames on the wire keep their delay, and order is kept.
func (s *Shaper) SetImpairment(now time.Duration, imp Impairment) (moved func(depart time.Duration) time.Duration) {
	old := s.imp.Rate
	s.police(now)
	s.set(imp)
	s.tokens = min(s.tokens, s.burst())
	if old == s.imp.Rate || s.free <= now {
		return func(d time.Duration) time.Duration { return d }
	}
	ratio := 0.0 // unlimited: what is queued leaves at once
	if s.imp.Rate > 0 {
		ratio = float64(old) / float64(s.imp.Rate)
	}
	moved = func(d time.Duration) time.Duration {
		if d <= now {
			return d
		}
		return now + time.Duration(float64(d-now)*ratio)
	}
	shift := moved(s.free) - s.free
	s.free += shift
	if shift < 0 { // the last arrival comes forward with its departure
		s.lastAt = max(now, s.lastAt+shift)
	}
	for i := range s.departs.len() {
		p := s.departs.at(i)
		*p = moved(*p)
	}
	return moved
}

// Counters returns the counts so far, without Queue and Dark. Delivered counts
// frames as soon as their delivery is decided.
func (s *Shaper) Counters() Counters { return s.count }

// Backlog is how long a frame offered now would wait in the queue.
func (s *Shaper) Backlog(now time.Duration) time.Duration { return max(0, s.free-now) }

// Offer decides the fate of a frame of so many Ethernet bytes. It does not
// allocate once its ring has grown to the queue's length.
func (s *Shaper) Offer(now time.Duration, frameBytes int) Delivery {
	s.count.Offered++
	imp := &s.imp
	if imp.MTU > 0 && frameBytes-ethernetHeader > imp.MTU {
		s.count.TooBig++
		return Delivery{}
	}
	if imp.Policer.Rate > 0 {
		s.police(now)
		if s.tokens < float64(frameBytes) {
			s.count.Policed++
			return Delivery{}
		}
		s.tokens -= float64(frameBytes)
	}
	depart := now
	if imp.Rate > 0 {
		for s.departs.len() > 0 && *s.departs.at(0) <= now {
			s.departs.pop()
		}
		tx := time.Duration(int64(frameBytes) * 8 * int64(time.Second) / imp.Rate)
		if wait := s.free - now; wait > 0 {
			if wait+tx > s.queueLen || s.departs.len() >= s.queuePkts {
				s.count.QueueDrops++
				return Delivery{}
			}
			depart = s.free
		}
		depart += tx
		s.free = depart
		s.departs.push(depart)
	}
	s.count.Sent++
	s.count.SentBytes += uint64(frameBytes)

	// Every frame draws the same numbers whatever happens to it, so that an
	// outage or a burst does not change the fate of what comes after it.
	lost := s.lost()
	late := imp.Reorder.Probability > 0 && s.rng.Float64() < imp.Reorder.Probability
	dup := imp.Duplicate > 0 && s.rng.Float64() < imp.Duplicate
	corrupt := uint64(0)
	if imp.Corrupt > 0 && s.rng.Float64() < imp.Corrupt {
		corrupt = s.rng.Uint64() | 1<<63 // never 0
	}
	if s.dark(depart) {
		s.count.Outage++
		return Delivery{Depart: depart}
	}
	if lost {
		s.count.Lost++
		return Delivery{Depart: depart}
	}

	at := depart + imp.Delay
	if imp.Jitter > 0 {
		at += time.Duration(s.jit.sample(depart) * float64(imp.Jitter))
		at = max(at, depart)
	}
	at = max(at, s.lastAt)
	if late {
		at += imp.Reorder.Extra
		s.count.Reordered++
	} else {
		s.lastAt = at
	}
	d := Delivery{Copies: 1, Depart: depart, At: at, Late: late, Corrupt: corrupt}
	if corrupt != 0 {
		s.count.Corrupted++
	}
	if dup {
		d.Copies = 2
		s.count.Duplicated++
	}
	s.count.Delivered += uint64(d.Copies)
	s.count.DeliveredBytes += uint64(d.Copies * frameBytes)
	return d
}

// dark reports whether an outage takes what leaves the queue at t.
func (s *Shaper) dark(t time.Duration) bool {
	for _, o := range s.imp.Outages {
		if o.dark(t) {
			return true
		}
	}
	return false
}

// lost steps the loss models by one frame.
func (s *Shaper) lost() bool {
	lost := s.imp.Loss > 0 && s.rng.Float64() < s.imp.Loss
	if ge := &s.imp.GE; ge.P > 0 {
		u := s.rng.Float64()
		if s.bad {
			s.bad = u >= ge.R
		} else {
			s.bad = u < ge.P
		}
		if v := s.rng.Float64(); s.bad && v >= ge.H {
			lost = true
		}
	} else {
		s.bad = false
	}
	return lost
}

func (s *Shaper) burst() float64 {
	if s.imp.Policer.Burst > 0 {
		return float64(s.imp.Policer.Burst)
	}
	return max(fullFrame, float64(s.imp.Policer.Rate)/8*0.05)
}

// police fills the token bucket up to now.
func (s *Shaper) police(now time.Duration) {
	if s.imp.Policer.Rate > 0 {
		s.tokens = min(s.burst(), s.tokens+(now-s.tokensAt).Seconds()*float64(s.imp.Policer.Rate)/8)
	}
	s.tokensAt = now
}

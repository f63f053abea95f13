package fec

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// seed is TEST_SEED or a fixed one, and is printed.
func seed(t testing.TB) uint64 {
	t.Helper()
	n := uint64(20260101)
	if s := os.Getenv("TEST_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 0, 64); err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
	}
	if _, bench := t.(*testing.B); !bench { // would break benchmark output for tools
		t.Logf("TEST_SEED=%d", n)
	}
	return n
}

// gilbert loses packets at random, and in a bad state that it enters and leaves by chance.
type gilbert struct {
	random, enter, leave, lossInBad float64
	bad                             bool
}

// burstyLoss loses the share mean in bursts of the mean length burst.
func burstyLoss(mean, burst float64) gilbert {
	if burst <= 1 {
		return gilbert{random: mean}
	}
	return gilbert{enter: mean / (1 - mean) / burst, leave: 1 / burst, lossInBad: 1}
}

func (g *gilbert) lost(r *rand.Rand) bool {
	if g.bad {
		g.bad = r.Float64() >= g.leave
	} else {
		g.bad = r.Float64() < g.enter
	}
	return g.bad && r.Float64() < g.lossInBad || r.Float64() < g.random
}

// simulation sends numbered packets over three paths in virtual time, with the repairs a ratio asks for.
type simulation struct {
	rate    float64 // source packets a second
	window  int
	span    time.Duration // repairs cover at most this much
	due     time.Duration // a packet not there this long after it was sent is unrecovered
	delays  [3]time.Duration
	loss    [3]gilbert
	payload int

	random                    *rand.Rand
	encoder                   *Encoder
	decoder                   *Decoder
	seq                       uint64
	now                       time.Duration
	debt                      float64
	key                       uint32
	queue                     []arrival       // in flight, in order
	packets                   []simPacket     // by sequence number
	delay                     []time.Duration // of repaired packets, from when they would have come
	sent, lost, late, repairs int
	judged                    uint64
}

type simPacket struct {
	sent, expected, got time.Duration
	lost                bool
}

type arrival struct {
	at     time.Duration
	repair bool
	first  uint64
	n      int
	key    uint32
	symbol []byte
}

func newSimulation(seed uint64, rate float64, loss gilbert) *simulation {
	const window, payload = 256, 16
	return &simulation{
		rate: rate, window: window, payload: payload,
		span:    50 * time.Millisecond,
		due:     110*time.Millisecond + 60*time.Millisecond,
		delays:  [3]time.Duration{90 * time.Millisecond, 110 * time.Millisecond, 80 * time.Millisecond},
		loss:    [3]gilbert{loss, loss, loss},
		random:  rand.New(rand.NewPCG(seed, 1)),
		encoder: NewEncoder(window, payload),
		decoder: NewDecoder(window, payload),
	}
}

func (s *simulation) push(path int, a arrival) bool {
	if s.loss[path].lost(s.random) {
		return false
	}
	a.at = s.now + s.delays[path]
	i := len(s.queue)
	for i > 0 && s.queue[i-1].at > a.at {
		i--
	}
	s.queue = slices.Insert(s.queue, i, a)
	return true
}

// deliver hands over what has arrived by now.
func (s *simulation) deliver(t testing.TB) {
	for len(s.queue) > 0 && s.queue[0].at <= s.now {
		a := s.queue[0]
		s.queue = s.queue[1:]
		var out []Packet
		if a.repair {
			var err error
			if out, err = s.decoder.Repair(a.first, a.n, a.key, a.symbol, nil); err != nil {
				t.Fatal(err)
			}
		} else {
			s.note(a.first, a.at)
			out = s.decoder.Source(a.first, a.symbol, nil)
		}
		for _, p := range out {
			s.note(p.Seq, a.at)
		}
	}
}

func (s *simulation) note(seq uint64, at time.Duration) {
	p := &s.packets[seq]
	if p.got != 0 {
		return
	}
	p.got = at
	if p.lost {
		s.delay = append(s.delay, max(at-p.expected, 0))
	}
}

// step sends one source packet and what repair is due at this ratio.
func (s *simulation) step(t testing.TB, ratio float64) {
	s.now += time.Duration(float64(time.Second) / s.rate)
	s.deliver(t)
	payload := make([]byte, s.payload)
	for i := range payload {
		payload[i] = byte(s.seq >> (8 * (i % 8)))
	}
	path := int(s.seq % 3)
	s.encoder.Add(s.seq, payload)
	ok := s.push(path, arrival{first: s.seq, symbol: payload})
	s.packets = append(s.packets, simPacket{sent: s.now, expected: s.now + s.delays[path], lost: !ok})
	s.seq++
	for s.debt += ratio; s.debt >= 1; s.debt-- {
		s.repair(t, (path+1+s.random.IntN(2))%3, int(s.span.Seconds()*s.rate))
	}
}

func (s *simulation) repair(t testing.TB, path, n int) {
	first, held := s.encoder.Window()
	if n = min(n, held); n < held {
		first += uint64(held - n)
	}
	s.key++
	symbol, err := s.encoder.Repair(nil, first, n, s.key)
	if err != nil {
		t.Fatal(err)
	}
	s.repairs++
	s.push(path, arrival{repair: true, first: first, n: n, key: s.key, symbol: symbol})
}

// judge counts the packets that have become due since the call before.
func (s *simulation) judge() (sent, lost, unrecovered int) {
	for s.judged < s.seq && s.packets[s.judged].sent+s.due <= s.now {
		p := &s.packets[s.judged]
		sent++
		if p.lost {
			lost++
		}
		if p.got == 0 || p.got > p.sent+s.due {
			unrecovered++
		}
		s.judged++
	}
	s.sent, s.lost, s.late = s.sent+sent, s.lost+lost, s.late+unrecovered
	return sent, lost, unrecovered
}

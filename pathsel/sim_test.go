package pathsel

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/pathsel/stamp"
)

const ms = time.Millisecond

// testSeed is printed by failing tests; TEST_SEED sets it.
func testSeed(t testing.TB) uint64 {
	seed := rand.Uint64()
	if v := os.Getenv("TEST_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// sim runs sender, reflector, table and Select over the emulator's model of links, in virtual time, in steps of a
// millisecond.
type sim struct {
	t      testing.TB
	now    time.Duration
	sender *stamp.Sender
	refl   stamp.Reflector
	table  *Table
	paths  []*simPath
	policy Policy
	d      Decision
	events []stamp.Event
	moves  [NumClasses]int
	// onDecide is called after each decision.
	onDecide func(now time.Duration, changed bool, states []PathState, before *Decision)
	states   []PathState
	quiet    bool // do not log moves
	idle     bool // no flows: no path is used
}

// simPath is one path: a shaper each way.
type simPath struct {
	links  [2]*wan.Shaper
	flying [2][]simPacket
	// traffic is passive packets a second and way, as a bond with traffic counts them; reported every 50 ms.
	traffic  int
	interval time.Duration
	seen     [2]Counts
	losing   [2]bool
	reported time.Duration
	rng      *rand.Rand
	imp      [2]wan.Impairment
	sent     [2]int // probes, and replies
}

type simPacket struct {
	at time.Duration
	b  []byte
}

const clockOffset = 1000 * time.Second // of the peer

func newSim(t testing.TB, seed uint64, links ...string) *sim {
	s := &sim{t: t, sender: stamp.NewSender(0), table: NewTable(0), policy: DefaultPolicy()}
	key := stamp.NewKey(1, [16]byte{5})
	s.refl.AddKey(key)
	for i, text := range links {
		imp, err := wan.ParseImpairment(text)
		if err != nil {
			t.Fatal(err)
		}
		p := &simPath{imp: [2]wan.Impairment{imp, imp}, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		for w := range p.links {
			p.links[w] = wan.NewShaper(imp, seed*31+uint64(2*i+w))
		}
		s.paths = append(s.paths, p)
		s.sender.AddPath(0, uint8(i), key)
		if err := s.table.Add(0, uint8(i), string(rune('a'+i))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// set changes one way of a path, or both with way 2.
func (s *sim) set(path int, way Way, text string) {
	imp, err := wan.ParseImpairment(text)
	if err != nil {
		s.t.Fatal(err)
	}
	for w := range Way(2) {
		if way == w || way == 2 {
			s.paths[path].links[w].SetImpairment(s.now, imp)
			s.paths[path].imp[w] = imp
		}
	}
}

func (s *sim) offer(p *simPath, w Way, b []byte) {
	if d := p.links[w].Offer(s.now, len(b)+42); d.Copies > 0 {
		p.flying[w] = append(p.flying[w], simPacket{d.At, b})
	}
}

// due removes the packets that have arrived.
func (p *simPath) due(now time.Duration, w Way) (out [][]byte) {
	rest := p.flying[w][:0]
	for _, f := range p.flying[w] {
		if f.at <= now {
			out = append(out, f.b)
		} else {
			rest = append(rest, f)
		}
	}
	p.flying[w] = rest
	return out
}

func (s *sim) run(until time.Duration) {
	for ; s.now < until; s.now += ms {
		for i, p := range s.paths {
			for _, b := range p.due(s.now, Out) {
				if rep, err := s.refl.Reflect(nil, b, 60, s.now+clockOffset, s.now+clockOffset); err == nil {
					s.offer(p, Back, rep)
					p.sent[Back]++
				}
			}
			for _, b := range p.due(s.now, Back) {
				ev, err := s.sender.Receive(s.now, b, uint8(i), s.events[:0])
				if err != nil {
					s.t.Fatal(err)
				}
				s.observe(ev)
			}
			s.passive(i, p)
		}
		for {
			id, b, ok := s.sender.Due(s.now, nil)
			if !ok {
				break
			}
			s.table.ProbeSent(s.now, id)
			s.offer(s.paths[id], Out, b)
			s.paths[id].sent[Out]++
		}
		s.observe(s.sender.Expire(s.now, s.events[:0]))
		if s.now%(20*ms) == 0 {
			s.decide()
		}
	}
}

func (s *sim) observe(ev []stamp.Event) {
	for i := range ev {
		s.table.Probe(&ev[i])
	}
	s.events = ev[:0]
}

// passive counts traffic by the same chances of loss, delivered a round trip later.
func (s *sim) passive(i int, p *simPath) {
	if p.traffic == 0 {
		return
	}
	for w := range p.seen {
		for range p.traffic / 1000 {
			p.seen[w].Packets++
			lost := p.rng.Float64() < p.imp[w].MeanLoss()
			if lost {
				p.seen[w].Lost++
				if !p.losing[w] {
					p.seen[w].Bursts++
				}
			}
			p.losing[w] = lost
		}
	}
	if s.now-p.reported >= 50*ms {
		p.reported = s.now
		for w, c := range p.seen {
			s.table.Traffic(s.now, uint8(i), Way(w), c)
			p.seen[w] = Counts{}
		}
	}
}

func (s *sim) decide() {
	s.table.Advance(s.now)
	for i := range s.paths {
		if d := s.table.Interval(uint8(i)); d != s.paths[i].interval {
			s.paths[i].interval = d
			s.sender.Pace(s.now, uint8(i), d)
		}
		if until := s.table.Boost(uint8(i)); until > s.now {
			s.sender.Boost(s.now, uint8(i), until)
		}
	}
	s.states = s.table.States(s.now, s.states[:0])
	was := s.d.Clone()
	changed := s.d.Update(s.now, s.states, &s.policy)
	for i := range s.paths {
		id := uint8(i)
		s.table.Use(id, !s.idle && (s.d.Classes[Realtime].Path == id || s.d.Classes[Interactive].Path == id))
	}
	for c := range s.d.Classes {
		if was.Classes[c].OK && s.d.Classes[c].Path != was.Classes[c].Path {
			s.moves[c]++
			if !s.quiet {
				s.t.Logf("%v %s: %s", s.now, Class(c), s.d.Classes[c].Reason(s.now))
			}
		}
	}
	if s.onDecide != nil {
		s.onDecide(s.now, changed, s.states, was)
	}
}

func (s *sim) state(path int) PathState { return s.states[path] }

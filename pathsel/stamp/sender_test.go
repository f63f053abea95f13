package stamp

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
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

// world is a sender and a reflector in virtual time, 500 s apart by their clocks.
type world struct {
	s      *Sender
	r      Reflector
	now    time.Duration
	flying []arrival
	// out and back say how long a packet takes; negative: lost.
	out, back func(now time.Duration, seq uint32) time.Duration
	events    []Event
	lost      [2]int // in truth, out and back
	dup       bool
	errs      int
}

type arrival struct {
	at    time.Duration
	b     []byte
	reply bool
}

const offset = 500 * time.Second

func newWorld(interval time.Duration) *world {
	w := &world{s: NewSender(interval)}
	fixed := func(time.Duration, uint32) time.Duration { return 90 * ms }
	w.out, w.back = fixed, fixed
	key := NewKey(7, [16]byte{1})
	w.r.AddKey(key)
	w.s.AddPath(0, 3, key)
	return w
}

func (w *world) send(b []byte, reply bool, delay time.Duration) {
	if delay < 0 {
		if reply {
			w.lost[1]++
		} else {
			w.lost[0]++
		}
		return
	}
	w.flying = append(w.flying, arrival{w.now + delay, b, reply})
	if w.dup {
		w.flying = append(w.flying, arrival{w.now + delay + 3*ms, b, reply})
	}
}

func (w *world) run(until time.Duration) {
	for ; w.now < until; w.now += ms {
		slices.SortStableFunc(w.flying, func(a, b arrival) int { return int(a.at - b.at) })
		for len(w.flying) > 0 && w.flying[0].at <= w.now {
			a := w.flying[0]
			w.flying = w.flying[1:]
			var err error
			if a.reply {
				w.events, err = w.s.Receive(w.now, a.b, 0, w.events)
			} else if rep, rerr := w.r.Reflect(nil, a.b, 60, w.now+offset, w.now+offset+50*time.Microsecond); rerr == nil {
				w.send(rep, true, w.back(w.now, 0))
			}
			if err != nil {
				w.errs++
			}
		}
		for {
			_, b, ok := w.s.Due(w.now, nil)
			if !ok {
				break
			}
			w.send(b, false, w.out(w.now, 0))
		}
		w.events = w.s.Expire(w.now, w.events)
	}
}

// fates adds the events up.
func (w *world) fates() (out, back, answered, replies int) {
	for _, e := range w.events {
		if e.Kind == EventReply {
			replies++
			continue
		}
		out, back, answered = out+e.OutLost, back+e.BackLost, answered+e.Answered
	}
	return out, back, answered, replies
}

func TestReplyTimes(t *testing.T) {
	w := newWorld(0)
	w.out = func(time.Duration, uint32) time.Duration { return 70 * ms }
	w.run(2 * time.Second)
	if len(w.events) == 0 {
		t.Fatal("no events")
	}
	for _, e := range w.events {
		if e.Kind != EventReply {
			continue
		}
		want := Event{Kind: EventReply, Path: 3, At: e.At, Sent: e.At - 160*ms, RTT: 160*ms - 50*time.Microsecond, Out: 70*ms + offset, Back: 90*ms - offset - 50*time.Microsecond, TTL: 60}
		if e != want {
			t.Fatalf("%+v, want %+v", e, want)
		}
	}
}

// TestAttribution loses probes and replies at random: every loss is found, and on the right side.
func TestAttribution(t *testing.T) {
	seed := testSeed(t)
	for _, tt := range []struct {
		name         string
		out, back    float64
		jitter       time.Duration
		dup          bool
		interval     time.Duration
		asymmetryErr int // losses that may be blamed on the other side
	}{
		{"clean", 0, 0, 0, false, 0, 0},
		{"out 5 %", 0.05, 0, 0, false, 0, 0},
		{"back 5 %", 0, 0.05, 0, false, 0, 0},
		{"both 10 %", 0.1, 0.1, 0, false, 0, 0},
		{"out 90 %", 0.9, 0, 0, false, 0, 0},
		{"jitter within the interval", 0.05, 0.05, 20 * ms, false, 0, 0},
		{"duplicates", 0.05, 0.02, 0, true, 0, 0},
		{"boosted, reordering", 0.05, 0.05, 12 * ms, false, BoostInterval, 12},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(tt.interval)
			w.dup = tt.dup
			link := func(loss float64) func(time.Duration, uint32) time.Duration {
				return func(now time.Duration, _ uint32) time.Duration {
					if now > 1*time.Second && now < 60*time.Second && rng.Float64() < loss {
						return -1
					}
					return 90*ms + time.Duration(rng.Int64N(int64(tt.jitter)+1))
				}
			}
			w.out, w.back = link(tt.out), link(tt.back)
			w.run(65 * time.Second)
			out, back, answered, replies := w.fates()
			if out+back != w.lost[0]+w.lost[1] || abs(out-w.lost[0]) > tt.asymmetryErr {
				t.Errorf("found %d lost out and %d back, in truth %v", out, back, w.lost)
			}
			st := w.s.Stats()
			// Replies that overtook others at the very end wait for those.
			waiting := 0
			if tt.jitter > tt.interval && tt.interval > 0 {
				waiting = int(2 * tt.jitter / tt.interval)
			}
			if d := replies - answered; d < 0 || d > waiting || st.Late > 0 || st.ReflectorRestart > 0 || w.errs > 0 {
				t.Errorf("%d replies, %d answered, stats %+v", replies, answered, st)
			}
			if tt.dup != (st.Duplicate > 0) {
				t.Errorf("duplicates %d", st.Duplicate)
			}
		})
	}
}

func abs(n int) int { return max(n, -n) }

// TestFateWaits: a loss is known 25 ms after a later reply, and without one after 2 s; a delay that steps up is none.
func TestFateWaits(t *testing.T) {
	w := newWorld(0)
	w.out = func(now time.Duration, _ uint32) time.Duration {
		if now >= time.Second && now < 1050*ms {
			return -1
		}
		return 90 * ms
	}
	w.run(3 * time.Second)
	for _, e := range w.events {
		if e.Kind == EventFate && e.OutLost > 0 {
			// The probe of 1050 ms is answered at 1230 ms.
			if e.At < 1255*ms || e.At > 1256*ms {
				t.Errorf("loss known at %v, want 1.255s", e.At)
			}
		}
	}
	if out, back, _, _ := w.fates(); out != 1 || back != 0 {
		t.Errorf("lost %d and %d, want 1 and 0", out, back)
	}

	w = newWorld(0)
	w.out = func(now time.Duration, _ uint32) time.Duration {
		if now >= time.Second {
			return 400 * ms
		}
		return 90 * ms
	}
	w.run(4 * time.Second)
	if out, back, _, _ := w.fates(); out != 0 || back != 0 {
		t.Errorf("after a step of the delay: lost %d and %d", out, back)
	}
}

// TestDark takes the way back down for five seconds: all those replies were lost on the way back, and the probes not.
func TestDark(t *testing.T) {
	for _, way := range []string{"out", "back"} {
		w := newWorld(0)
		dark := func(now time.Duration, _ uint32) time.Duration {
			if now >= 2*time.Second && now < 7*time.Second {
				return -1
			}
			return 90 * ms
		}
		if way == "out" {
			w.out = dark
		} else {
			w.back = dark
		}
		w.run(6900 * ms)
		if n := len(w.s.paths[3].ring); w.s.paths[3].next-w.s.paths[3].base > uint32(n) {
			t.Errorf("%d in flight", w.s.paths[3].next-w.s.paths[3].base)
		}
		w.run(9 * time.Second)
		if out, back, _, _ := w.fates(); [2]int{out, back} != w.lost || out+back != 100 {
			t.Errorf("%s: lost %d and %d, want %v", way, out, back, w.lost)
		}
	}
}

func TestReflectorRestart(t *testing.T) {
	w := newWorld(0)
	w.run(20 * time.Second)
	w.r.AddKey(NewKey(7, [16]byte{1})) // its counters start anew
	w.run(40 * time.Second)
	out, back, answered, _ := w.fates()
	if out+back != 0 || answered < 780 || w.s.Stats().ReflectorRestart != 1 {
		t.Errorf("lost %d and %d, answered %d, %+v", out, back, answered, w.s.Stats())
	}
}

func TestSchedule(t *testing.T) {
	s := NewSender(0)
	for id := range uint8(4) {
		s.AddPath(0, id, nil)
	}
	sent := make(map[uint8][]time.Duration)
	step := func(until time.Duration) {
		for {
			next, ok := s.Next()
			if !ok || next > until {
				return
			}
			id, b, ok := s.Due(next, nil)
			if !ok || len(b) != PacketLen {
				t.Fatalf("nothing due at %v", next)
			}
			sent[id] = append(sent[id], next)
			s.Expire(next, nil)
		}
	}
	step(999 * ms)
	for id := range uint8(4) {
		if n := len(sent[id]); n < 19 || n > 20 {
			t.Errorf("path %d: %d probes in a second, want 20", id, n)
		}
	}
	s.Boost(1000*ms, 2, 1500*ms)
	step(1999 * ms)
	if n := len(sent[2]); n < 228 || n > 231 {
		t.Errorf("boosted for half a second: %d probes in all, want 230", n)
	}
	s.RemovePath(1)
	before := len(sent[1])
	// Nobody asks for ten seconds: the missed probes are not made up for.
	n := 0
	for _, _, ok := s.Due(12*time.Second, nil); ok; _, _, ok = s.Due(12*time.Second, nil) {
		n++
	}
	if n != 3 || len(sent[1]) != before {
		t.Errorf("%d probes after a pause, want one for each of 3 paths", n)
	}
	for id := range uint8(4) {
		s.RemovePath(id)
	}
	if _, ok := s.Next(); ok {
		t.Error("due without paths")
	}
}

// TestForeignReplies: an open path believes any reflector, one with a key none but ours.
func TestForeignReplies(t *testing.T) {
	key := NewKey(7, [16]byte{1})
	var foreign Reflector
	foreign.AllowOpen(100)
	for _, tt := range []struct {
		name string
		key  *Key
		want error
	}{{"open", nil, nil}, {"with key", key, ErrLength}} {
		s := NewSender(0)
		s.AddPath(0, 3, tt.key)
		_, b, _ := s.Due(0, nil)
		rep, err := foreign.Reflect(nil, b[:PacketLen], 60, 100*time.Second, 100*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		rep[36], rep[37] = 0, 0 // it does not know of the error estimate
		ev, err := s.Receive(180*ms, rep, 3, nil)
		if !errors.Is(err, tt.want) || (tt.want == nil) != (len(ev) == 2) {
			t.Errorf("%s: %v, %v", tt.name, ev, err)
		}
		if tt.want == nil && ev[0].RTT != 180*ms {
			t.Errorf("RTT %v", ev[0].RTT)
		}
	}
}

func TestUnmatched(t *testing.T) {
	key := NewKey(7, [16]byte{1})
	s := NewSender(0)
	s.AddPath(0, 3, key)
	s.Due(time.Second, nil)
	for _, tt := range []struct {
		name string
		r    Reply
	}{
		{"other path", Reply{Path: 4, Key: 7, T1: time.Second}},
		{"other key", Reply{Path: 3, Key: 8, T1: time.Second}},
		{"not sent yet", Reply{Path: 3, Key: 7, Seq: 1, T1: time.Second}},
		{"long ago", Reply{Path: 3, Key: 7, Seq: 1 << 31, T1: time.Second}},
		{"other time", Reply{Path: 3, Key: 7, T1: 2 * time.Second}},
		{"open", Reply{Path: 3, Open: true, T1: time.Second}},
	} {
		if ev, err := s.Reply(tt.r, nil); !errors.Is(err, ErrUnmatched) || len(ev) > 0 {
			t.Errorf("%s: %v, %v", tt.name, ev, err)
		}
	}
	if ev, err := s.Reply(Reply{Path: 3, Key: 7, T1: time.Second, T4: 2 * time.Second}, nil); err != nil || len(ev) != 2 {
		t.Errorf("the right one: %v, %v", ev, err)
	}
}

func TestSteadyAllocations(t *testing.T) {
	key := NewKey(7, [16]byte{1})
	s := NewSender(0)
	s.AddPath(0, 3, key)
	var r Reflector
	r.AddKey(key)
	now := time.Duration(0)
	buf, rep, ev := make([]byte, 0, Len), make([]byte, 0, Len), make([]Event, 0, 8)
	if n := testing.AllocsPerRun(500, func() {
		now += DefaultInterval
		_, b, _ := s.Due(now, buf[:0])
		rep, _ = r.Reflect(rep[:0], b, 60, now, now)
		ev, _ = s.Receive(now+90*ms, rep, 3, ev[:0])
	}); n != 0 {
		t.Errorf("%v allocations a probe", n)
	}
	if s.Stats().Answered < 500 {
		t.Errorf("%+v", s.Stats())
	}
}

func BenchmarkProbeAndReply(b *testing.B) {
	key := NewKey(7, [16]byte{1})
	s := NewSender(0)
	s.AddPath(0, 3, key)
	var r Reflector
	r.AddKey(key)
	now := time.Duration(0)
	buf, rep, ev := make([]byte, 0, Len), make([]byte, 0, Len), make([]Event, 0, 8)
	b.ReportAllocs()
	for b.Loop() {
		now += DefaultInterval
		_, p, _ := s.Due(now, buf[:0])
		rep, _ = r.Reflect(rep[:0], p, 60, now, now)
		ev, _ = s.Receive(now+90*ms, rep, 3, ev[:0])
	}
}

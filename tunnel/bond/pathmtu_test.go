package bond

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// mtuWay is a path as the search sees it: it takes packets up to size, loses some, and answers in rtt.
type mtuWay struct {
	m       mtuSearch
	now     stamp
	size    int
	refuse  int // the system refuses more; 0: nothing
	loss    float64
	rnd     *rand.Rand
	probes  int
	lost    int
	answers []mtuAnswer
}

type mtuAnswer struct {
	at   stamp
	size int
	ok   bool
}

const (
	mtuWayRTT  = 100_000
	mtuWayWait = 250_000
)

func newMTUWay(top, size int, seed uint64) *mtuWay {
	w := &mtuWay{size: size, rnd: rand.New(rand.NewPCG(seed, 3))}
	w.m.reset(top)
	return w
}

// step lets 10 ms pass; silent leaves lost probes without a word.
func (w *mtuWay) step(silent bool) {
	w.now += us(tickInterval)
	for _, s := range w.m.due(w.now, mtuWayWait, nil) {
		w.probes++
		switch {
		case w.refuse > 0 && s > w.refuse:
			w.m.refused(s)
		case s > w.size || w.rnd.Float64() < w.loss:
			w.lost++
			if !silent {
				w.answers = append(w.answers, mtuAnswer{w.now + mtuWayRTT, s, false})
			}
		default:
			w.answers = append(w.answers, mtuAnswer{w.now + mtuWayRTT, s, true})
		}
	}
	for len(w.answers) > 0 && w.answers[0].at <= w.now {
		if a := w.answers[0]; a.ok {
			w.m.acked(w.now, a.size, true)
		} else {
			w.m.lost(a.size, true)
		}
		w.answers = w.answers[1:]
	}
}

// until steps until the condition holds and returns how long that took.
func (w *mtuWay) until(t *testing.T, silent bool, most time.Duration, cond func() bool) time.Duration {
	t.Helper()
	start := w.now
	for !cond() {
		if w.step(silent); (w.now - start).duration() > most {
			t.Fatalf("not after %v: size %d, known %v, step %d, limit %d", most, w.m.size, w.m.known, w.m.step, w.m.limit)
		}
	}
	return (w.now - start).duration()
}

func TestMTUSearch(t *testing.T) {
	for _, tc := range []struct {
		name              string
		top, size, refuse int
		silent            bool
		want, probes      int
		within            time.Duration
	}{
		{name: "all of it", top: 1500, size: 1500, want: 1500, probes: 2, within: 150 * time.Millisecond},
		{name: "least uplink", top: 1280, size: 1280, want: 1280, probes: 0, within: 10 * time.Millisecond},
		{name: "carrier of 1400", top: 1500, size: 1400, want: 1400, probes: 4 + 16 + 10, within: 500 * time.Millisecond},
		{name: "nothing is said of lost ones", top: 1500, size: 1400, silent: true, want: 1400, probes: 4 + 16 + 10, within: 1100 * time.Millisecond},
		{name: "between two sizes", top: 1500, size: 1439, want: 1430, probes: 4 + 16 + 7, within: 500 * time.Millisecond},
		{name: "under all sizes", top: 1500, size: 1290, want: 1280, probes: 4 + 16 + 16, within: 500 * time.Millisecond},
		{name: "uplink of 1450, path of 1420", top: 1450, size: 1420, want: 1420, probes: 4 + 11 + 3, within: 500 * time.Millisecond},
		{name: "interface became smaller", top: 1500, size: 1500, refuse: 1420, want: 1420, probes: 40, within: 500 * time.Millisecond},
		{name: "smaller interface, smaller path", top: 1500, size: 1400, refuse: 1450, want: 1400, probes: 40, within: 700 * time.Millisecond},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newMTUWay(tc.top, tc.size, 1)
			w.refuse = tc.refuse
			took := w.until(t, tc.silent, 10*time.Second, func() bool { return w.m.known })
			if w.m.size != tc.want || w.probes > tc.probes || took > tc.within {
				t.Errorf("size %d after %d probes and %v, want %d after %d and %v at the most", w.m.size, w.probes, took, tc.want, tc.probes, tc.within)
			}
			// An idle path then costs a probe each five seconds, and ever rarer ones of the uplink's size.
			w.probes, w.lost = 0, 0
			for range 6000 { // a minute
				w.step(tc.silent)
			}
			if w.m.size != tc.want || w.probes > 24+16 || w.lost > 16 {
				t.Errorf("size %d, %d probes and %d of them lost in an idle minute, want %d, 40 and 16 at the most", w.m.size, w.probes, w.lost, tc.want)
			}
		})
	}
}

// With loss the answer may be too small at first, and is right in the end; it is never too large.
func TestMTUSearchUnderLoss(t *testing.T) {
	first := testSeed(t)
	right := 0
	const runs = 400
	for seed := first; seed < first+runs; seed++ {
		size := mtuSizes[seed%uint64(len(mtuSizes))]
		w := newMTUWay(1500, size, seed)
		w.loss = 0.2
		for range 200 {
			if w.step(seed%2 == 0); w.m.size > size {
				t.Fatalf("seed %d: size %d on a path of %d", seed, w.m.size, size)
			}
		}
		if !w.m.known {
			t.Fatalf("seed %d: nothing known after two seconds", seed)
		}
		if w.m.size == size {
			right++
		}
	}
	if right < runs*9/10 {
		t.Errorf("%d of %d right with a fifth of the probes lost, want nine tenths", right, runs)
	}
}

// A path that comes to carry less, or more.
func TestMTUChanges(t *testing.T) {
	for _, tc := range []struct {
		name     string
		from, to int
		refuse   int
		data     int // large datagrams a step that are lost on the way to less
		within   time.Duration
	}{
		{"less, under data", 1500, 1400, 0, 4, 800 * time.Millisecond},
		{"less, idle", 1500, 1400, 0, 0, 6 * time.Second},
		{"less than any", 1500, 1280, 0, 4, 1200 * time.Millisecond},
		{"interface less", 1500, 1400, 1400, 0, 6 * time.Second},
		{"more", 1400, 1500, 0, 0, 6 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newMTUWay(1500, tc.from, 1)
			w.until(t, false, 10*time.Second, func() bool { return w.m.known })
			w.size, w.refuse = tc.to, tc.refuse
			took := w.until(t, false, tc.within, func() bool {
				for range tc.data {
					if w.m.size > tc.to {
						w.m.lost(w.m.size-2, false)
					}
					w.m.acked(w.now, 1100, false)
				}
				return w.m.settled() && w.m.size == tc.to
			})
			t.Logf("known after %v", took)
		})
	}
}

// What is lost for other reasons makes no black hole, and a probe that was only late makes up for it.
func TestMTULossIsNoBlackHole(t *testing.T) {
	w := newMTUWay(1500, 1500, 1)
	w.until(t, false, time.Second, func() bool { return w.m.known })
	w.probes = 0
	for range 100 {
		for range mtuHole - 1 {
			w.m.lost(1498, false)
		}
		w.m.acked(w.now, 1498, false)
		w.m.acked(w.now, 1500, false)
		w.step(false)
	}
	for range 10 * mtuHole {
		w.m.lost(1200, false) // as small ones are lost too
	}
	w.step(false)
	if w.probes != 0 {
		t.Errorf("%d probes of a path that loses packets of all sizes, want none", w.probes)
	}
	w.m.check()
	for w.m.size == 1500 {
		w.now += mtuWayWait
		w.m.due(w.now, mtuWayWait, nil)
	}
	w.m.acked(w.now, 1500, true)
	if w.m.size != 1500 || !w.m.settled() {
		t.Errorf("size %d, settled %v after a late answer, want 1500", w.m.size, w.m.settled())
	}
}

// mtuSocket refuses datagrams as an interface does whose MTU is smaller than what the uplink was said to have.
type mtuSocket struct {
	Socket
	most int
}

func (s *mtuSocket) WriteBatch(ms []Message) (int, error) {
	if i := slices.IndexFunc(ms, func(m Message) bool { return len(m.Buf) > s.most }); i >= 0 {
		n, err := s.Socket.WriteBatch(ms[:i])
		if err == nil {
			err = syscall.EMSGSIZE
		}
		return n, err
	}
	return s.Socket.WriteBatch(ms)
}

// Each bond finds what its paths carry, by word of the network or of its own interface, and opens lanes that fit.
func TestPathMTUIsFound(t *testing.T) {
	small := func(mtu int) wan.Impairment {
		return wan.Impairment{Rate: 20e6, Delay: 20 * time.Millisecond, MTU: mtu}
	}
	for _, tc := range []struct {
		name     string
		links    []worldLink
		refuse   int // datagrams of b's first uplink, at most
		toB, toA []int
	}{
		{"equal", bothWays(small(1500), small(1500)), 0, []int{1500, 1500}, []int{1500, 1500}},
		{"one small", bothWays(small(1400), small(0)), 0, []int{1400, 1500}, []int{1400, 1500}},
		{"one way small", []worldLink{{aToB: small(1400), bToA: small(1500)}, {aToB: small(1500), bToA: small(1440)}}, 0, []int{1400, 1500}, []int{1500, 1440}},
		{"interface small", bothWays(small(1500), small(1500)), 1420 - 28, []int{1500, 1500}, []int{1420, 1500}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorldOf(t, testSeed(t), worldConfig{links: tc.links, wrap: func(isA bool, i int, s Socket) Socket {
					if tc.refuse > 0 && !isA && i == 0 {
						return &mtuSocket{s, tc.refuse}
					}
					return s
				}})
				defer w.close()
				sa, sb := w.sessions()
				<-sa.Started()
				<-sb.Started()
				la, lb := w.rawLane(sa, sb, Bulk)
				for _, e := range []struct {
					name string
					s    *side
					l    *Lane
					want []int
				}{{"a", w.a, la, tc.toB}, {"b", w.b, lb, tc.toA}} {
					for i, p := range e.s.bond.Stats().Paths {
						if p.MTU != e.want[i] {
							t.Errorf("%s: path %s carries %d, want %d", e.name, p.Name, p.MTU, e.want[i])
						}
						if p.Loss > 0.001 || p.Lost > p.Sent/20 {
							t.Errorf("%s: path %s has a loss of %.3f, and %d of %d: probes of its size count", e.name, p.Name, p.Loss, p.Lost, p.Sent)
						}
					}
					if got, want := e.l.MaxPacketSize(), slices.Min(e.want)-28-Overhead; got != want {
						t.Errorf("%s: largest lane packet %d, want %d", e.name, got, want)
					}
					if fit := e.l.Fit(); fit != FitWell {
						t.Errorf("%s: fit %d, want well", e.name, fit)
					}
				}
			})
		})
	}
}

// A lane whose packets fit only some paths or none says so, and those it still has hold up nothing.
func TestLaneOutgrowsItsPaths(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		clean := wan.Impairment{Rate: 20e6, Delay: 20 * time.Millisecond}
		w := newWorld(t, testSeed(t), clean, clean)
		defer w.close()
		sa, sb := w.sessions()
		la0, _ := w.rawLane(sa, sb, Interactive) // opened before anything is known
		<-sa.Started()
		<-sb.Started()
		time.Sleep(time.Second)
		if got, fit := la0.MaxPacketSize(), la0.Fit(); got != mtuLeast-28-Overhead || fit != FitBadly {
			t.Errorf("a lane opened at once takes %d bytes and fits %d, want %d and badly", got, fit, mtuLeast-28-Overhead)
		}
		la, lb := w.rawLane(sa, sb, Bulk)
		shrink := func(i, mtu int) {
			small := clean
			small.MTU = mtu
			if err := w.links[i].SetImpairment(wan.AtoB, small); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []Fit{FitBadly, FitNowhere} {
			shrink(i, 1400)
			time.Sleep(8 * time.Second)
			if fit := la.Fit(); fit != want {
				t.Errorf("after %d paths became small: fit %d, want %d", i+1, fit, want)
			}
		}
		stop := collect(lb)
		for i := range 3 * laneQueue {
			if _, err := la.WriteTo(make([]byte, la.MaxPacketSize()), nil); err != nil {
				t.Fatal(i, err)
			}
		}
		if _, err := la.WriteTo(stampPacket(make([]byte, 200), 0), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		exactlyOnce(t, stop(), 1)
		if l, err := sa.OpenLane(Bulk); err != nil || l.MaxPacketSize() != 1400-28-Overhead || l.Fit() != FitWell {
			t.Errorf("a new lane takes %d bytes and fits %d, want %d and well (%v)", l.MaxPacketSize(), l.Fit(), 1400-28-Overhead, err)
		}
	})
}

// IPv6's header is longer by 20 bytes.
func TestDatagramSizeIPv6(t *testing.T) {
	u := &uplink{mtu: 1500}
	for _, tc := range []struct {
		addr string
		want int
	}{{"192.0.2.1:1", mtuLeast - 28}, {"[::ffff:192.0.2.1]:1", mtuLeast - 28}, {"[2001:db8::1]:1", mtuLeast - 48}} {
		p := newPathTx(0, "p", u, netip.MustParseAddrPort(tc.addr), 0)
		if p.mtu() != tc.want {
			t.Errorf("%s takes datagrams of %d bytes, want %d", tc.addr, p.mtu(), tc.want)
		}
		r := sentRecord{size: uint16(p.mtu() + frameOverhead)}
		if got := p.packetSize(&r); got != mtuLeast {
			t.Errorf("%s: the packet of its largest datagram has %d bytes, want %d", tc.addr, got, mtuLeast)
		}
	}
}

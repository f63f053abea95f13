package rate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// A small discrete-event simulation of one bottleneck: token-bucket policer,
// drop-tail queue, then wire loss, delay and jitter. Senders are the Controller
// and models of TCP CUBIC and BBR. Time is computed, nothing sleeps.

const simPacket = 1472

type simLink struct {
	rate   float64 // bits/s
	queue  time.Duration
	delay  time.Duration // one way, both directions
	jitter time.Duration
	loss   float64
	ge     [3]float64 // enter, leave, delivery inside
	back   float64    // loss of reports
	police float64    // bits/s; no queue then
	burst  float64    // bytes of the policer's bucket
}

type simEvent struct {
	at  time.Duration
	seq uint64
	fn  func()
}

// simHeap is a binary heap by time, then order of insertion.
type simHeap []simEvent

func (h simHeap) less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h *simHeap) push(e simEvent) {
	*h = append(*h, e)
	o := *h
	for i := len(o) - 1; i > 0; {
		p := (i - 1) / 2
		if !o.less(i, p) {
			break
		}
		o[i], o[p] = o[p], o[i]
		i = p
	}
}

func (h *simHeap) pop() simEvent {
	o := *h
	top, n := o[0], len(o)-1
	o[0] = o[n]
	o[n] = simEvent{}
	o = o[:n]
	*h = o
	for i := 0; ; {
		l := 2*i + 1
		if l >= n {
			return top
		}
		if r := l + 1; r < n && o.less(r, l) {
			l = r
		}
		if !o.less(l, i) {
			return top
		}
		o[i], o[l] = o[l], o[i]
		i = l
	}
}

type sim struct {
	t      *testing.T
	rng    *rand.Rand
	now    time.Duration
	events simHeap
	seq    uint64

	link    simLink
	q       []simPkt // waiting and in service
	qBytes  float64
	serving bool
	tokens  float64
	tokenAt time.Duration
	bad     bool
	jit     [2]float64
	jitAt   time.Duration
	lastArr time.Duration

	carried float64 // bytes that left the bottleneck
	dropped float64 // bytes dropped before it
	offered float64
	byFlow  [4]float64
	qSum    float64 // integral of queueing delay over packets
	qCount  float64
}

type simPkt struct {
	flow int
	num  int64
	size float64
	sent time.Duration
	arr  func(p simPkt, at time.Duration)
	ent  time.Duration
}

var simEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s *sim) time() time.Time { return simEpoch.Add(s.now) }

func newSim(t *testing.T, seed uint64, l simLink) *sim {
	return &sim{t: t, rng: rand.New(rand.NewPCG(seed, 17)), link: l, tokens: l.burst}
}

func (s *sim) at(d time.Duration, fn func()) {
	s.seq++
	s.events.push(simEvent{max(d, s.now), s.seq, fn})
}

func (s *sim) run(until time.Duration) {
	for len(s.events) > 0 && s.events[0].at <= until {
		e := s.events.pop()
		s.now = e.at
		e.fn()
	}
	s.now = until
}

// queueDelay is how long a packet coming now would wait.
func (s *sim) queueDelay() time.Duration {
	return time.Duration(s.qBytes * 8 / s.link.rate * 1e9)
}

// jitterNow is a smoothed Ornstein-Uhlenbeck process with a correlation time of
// 20 ms and a deviation of half the link's jitter, within +-jitter.
func (s *sim) jitterNow() time.Duration {
	if s.link.jitter == 0 {
		return 0
	}
	const rho = 0.9048374 // 1 ms steps, 10 ms time constant
	noise := math.Sqrt(math.Pow(1-rho*rho, 3) / (1 + rho*rho))
	for s.jitAt < s.now {
		next := 2*rho*s.jit[0] - rho*rho*s.jit[1] + noise*s.rng.NormFloat64()
		s.jit[1], s.jit[0] = s.jit[0], next
		s.jitAt += time.Millisecond
	}
	x := max(-1, min(1, s.jit[0]/2))
	return time.Duration(x * float64(s.link.jitter))
}

func (s *sim) send(p simPkt) {
	p.sent, p.ent = s.now, s.now
	s.offered += p.size
	if s.link.police > 0 {
		s.tokens = min(s.link.burst, s.tokens+seconds(s.now-s.tokenAt)*s.link.police/8)
		s.tokenAt = s.now
		if s.tokens < p.size {
			s.dropped += p.size
			return
		}
		s.tokens -= p.size
	}
	if seconds(s.link.queue) < (s.qBytes+p.size)*8/s.link.rate-p.size*8/s.link.rate {
		s.dropped += p.size
		return
	}
	s.q = append(s.q, p)
	s.qBytes += p.size
	if !s.serving {
		s.serve()
	}
}

func (s *sim) serve() {
	s.serving = true
	p := s.q[0]
	s.at(s.now+time.Duration(p.size*8/s.link.rate*1e9), func() {
		s.q = s.q[1:]
		s.qBytes -= p.size
		if len(s.q) > 0 {
			s.serve()
		} else {
			s.serving = false
		}
		s.carried += p.size
		s.byFlow[p.flow] += p.size
		s.qSum += seconds(s.now - p.ent)
		s.qCount++
		if s.wireLoss() {
			return
		}
		arr := max(s.now+s.link.delay+s.jitterNow(), s.lastArr)
		s.lastArr = arr
		s.at(arr, func() { p.arr(p, arr) })
	})
}

func (s *sim) wireLoss() bool {
	l := s.link
	if l.ge[0] > 0 {
		if s.bad {
			s.bad = s.rng.Float64() >= l.ge[1]
		} else {
			s.bad = s.rng.Float64() < l.ge[0]
		}
		if s.bad && s.rng.Float64() >= l.ge[2] {
			return true
		}
	}
	return s.rng.Float64() < l.loss
}

// meanLoss is the wire's loss in the long run.
func (l simLink) meanLoss() float64 {
	g := 0.0
	if l.ge[0] > 0 {
		g = l.ge[0] / (l.ge[0] + l.ge[1]) * (1 - l.ge[2])
	}
	return 1 - (1-g)*(1-l.loss)
}

// bondFlow drives a Controller as the bond does: paced sending, reports every
// 10 ms from the receiver, losses found by a gap of three packets later.
type bondFlow struct {
	s    *sim
	c    *Controller
	flow int
	num  int64
	next time.Duration
	stop bool

	demand func() bool // nil: always something to send
	hungry bool        // had nothing to send since the last report
	dark   bool        // outage: nothing passes

	clock  func(time.Duration) time.Duration // receiver's clock
	rxMax  int64
	rxPkts int64
	rxByte int64
	rxLast time.Duration
	owdMin time.Duration
	owd    time.Duration
	fresh  bool

	// sender's view
	repMax  int64
	repPkts int64
	repByte int64
	repLast time.Duration
	repAny  bool
	infl    int64
	minCap  float64
	maxPace float64
	rtt     time.Duration
	sentAt  [1 << 16]time.Duration // by number; 0 is not in flight
	step    time.Duration
	starved float64       // share of reports that say app-limited without cause
	ce      int           // marks in each report
	bunch   time.Duration // reports arrive together at multiples of it
}

func newBondFlow(s *sim, cfg Config) *bondFlow {
	f := &bondFlow{s: s, c: New(cfg), rxMax: -1, repMax: -1, owdMin: math.MaxInt64, minCap: math.Inf(1)}
	f.clock = func(d time.Duration) time.Duration { return d + time.Hour }
	f.step = 10 * time.Millisecond
	return f
}

func (f *bondFlow) start() {
	f.next = f.s.now
	f.s.at(f.s.now, f.pace)
	f.s.at(f.s.now+f.step, f.report)
}

const simTick = time.Millisecond

// pace sends what is due, in bursts of at most one tick, as a batching pacer.
func (f *bondFlow) pace() {
	if f.stop {
		return
	}
	now := f.s.now
	r := float64(f.c.PacingRate())
	f.maxPace = max(f.maxPace, r)
	if f.next < now-2*simTick {
		f.next = now - 2*simTick
	}
	for f.next <= now {
		if f.infl+simPacket > f.c.InflightCap() {
			f.next = now + simTick
			break
		}
		if f.demand != nil && !f.demand() {
			f.hungry = true
			f.next = now
			break
		}
		f.c.OnSend(f.s.time(), simPacket)
		f.infl += simPacket
		f.sentAt[f.num%int64(len(f.sentAt))] = max(now, 1)
		p := simPkt{flow: f.flow, num: f.num, size: simPacket, arr: f.arrive}
		f.num++
		if !f.dark {
			f.s.send(p)
		}
		f.next += time.Duration(simPacket * 8 / r * 1e9)
	}
	f.s.at(max(f.next, now+simTick/4), f.pace)
}

func (f *bondFlow) arrive(p simPkt, at time.Duration) {
	if f.dark {
		return
	}
	rx := f.clock(at)
	f.rxPkts++
	f.rxByte += int64(p.size)
	f.rxMax = max(f.rxMax, p.num)
	f.rxLast = rx
	f.owd = rx - p.sent
	f.owdMin = min(f.owdMin, f.owd)
	f.fresh = true
}

func (f *bondFlow) report() {
	if f.stop {
		return
	}
	f.s.at(f.s.now+f.step, f.report)
	if f.rxMax < 0 || f.dark {
		return
	}
	pkts, bytes, top, last, owd, owdMin := f.rxPkts, f.rxByte, f.rxMax, f.rxLast, f.owd, f.owdMin
	if f.fresh {
		f.owdMin = math.MaxInt64
	}
	fresh := f.fresh
	f.fresh = false
	if f.s.rng.Float64() < f.s.link.back {
		return
	}
	arrives := f.s.now + f.s.link.delay
	if f.bunch > 0 {
		arrives = (arrives + f.bunch - 1) / f.bunch * f.bunch
	}
	f.s.at(arrives, func() {
		if !fresh {
			owdMin = owd
		}
		smp := Sample{
			Delivered:        bytes - f.repByte,
			DeliveredPackets: pkts - f.repPkts,
			OWD:              owd,
			OWDMin:           owdMin,
			AppLimited:       f.hungry || f.s.rng.Float64() < f.starved,
			CE:               f.ce,
		}
		f.hungry = false
		if f.repAny {
			smp.RecvElapsed = last - f.repLast
		}
		if at := f.sentAt[top%int64(len(f.sentAt))]; at > 0 {
			f.rtt = f.s.now - at
		}
		smp.RTT = f.rtt
		total := (top - f.repMax)
		smp.LostPackets = max(total-smp.DeliveredPackets, 0)
		smp.Lost = smp.LostPackets * simPacket
		for n := f.repMax + 1; n <= top; n++ {
			if at := &f.sentAt[n%int64(len(f.sentAt))]; *at > 0 {
				*at = 0
				f.infl -= simPacket
			}
		}
		smp.Inflight = f.infl
		f.repMax, f.repPkts, f.repByte, f.repLast, f.repAny = top, pkts, bytes, last, true
		f.c.OnReport(f.s.time(), smp)
	})
}

// maxSeeds bounds what the tests ask for.
var maxSeeds = 1 << 20

// seeds are that of TEST_SEED, or 1 to TEST_SEEDS, or 1 to n.
func seeds(t testing.TB, n int) []uint64 {
	if v := os.Getenv("TEST_SEED"); v != "" {
		x, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED %q: %v", v, err)
		}
		return []uint64{x}
	}
	n = min(n, maxSeeds)
	if v := os.Getenv("TEST_SEEDS"); v != "" {
		x, err := strconv.Atoi(v)
		if err != nil || x < 1 {
			t.Fatalf("TEST_SEEDS %q: want a number of at least 1", v)
		}
		n = x
	}
	out := make([]uint64, n)
	for i := range out {
		out[i] = uint64(i + 1)
	}
	return out
}

// hard adds seeds that once failed on a link, unless one seed was asked for.
func hard(all []uint64, link string, of map[string][]uint64) []uint64 {
	if os.Getenv("TEST_SEED") != "" {
		return all
	}
	return append(all, of[link]...)
}

// meter measures carried bytes and queue from a moment on.
type meter struct {
	s             *sim
	at            time.Duration
	carried, drop float64
	offered       float64
	qSum, qCount  float64
	flow          [4]float64
}

func (s *sim) meter() meter {
	return meter{s, s.now, s.carried, s.dropped, s.offered, s.qSum, s.qCount, s.byFlow}
}

func (m meter) util(rate float64) float64 {
	return (m.s.carried - m.carried) * 8 / rate / seconds(m.s.now-m.at)
}
func (m meter) queue() time.Duration {
	return duration((m.s.qSum - m.qSum) / max(m.s.qCount-m.qCount, 1))
}
func (m meter) lost() float64 { return (m.s.dropped - m.drop) / max(m.s.offered-m.offered, 1) }
func (m meter) share(i int) float64 {
	return (m.s.byFlow[i] - m.flow[i]) / max(m.s.carried-m.carried, 1)
}

func atLeast[T float64 | time.Duration](t *testing.T, what string, got, want T) {
	t.Helper()
	if got < want {
		t.Errorf("%s %v, want at least %v", what, got, want)
	}
}

func atMost[T float64 | time.Duration](t *testing.T, what string, got, want T) {
	t.Helper()
	if got > want {
		t.Errorf("%s %v, want at most %v", what, got, want)
	}
}

// trace prints the flow's state as time goes by when RATE_TRACE is set.
func trace(s *sim, f *bondFlow, every time.Duration) {
	if os.Getenv("RATE_TRACE") == "" {
		return
	}
	var prev float64
	var fn func()
	fn = func() {
		fmt.Printf("%7.2f %-14s share %.2f bw %6.2f pace %6.2f got %6.2f q %5.1f seen %5.1f base %v floor %.3f loss %.3f burst %.1f noise %.1f infl %d cap %d\n", seconds(s.now), f.c.State(), f.c.share,
			float64(f.c.Bandwidth())/1e6, float64(f.c.PacingRate())/1e6, (s.byFlow[f.flow]-prev)*8/1e6/seconds(every),
			seconds(s.queueDelay())*1e3, seconds(f.c.QueueDelay())*1e3, (f.c.BaseOWD() - time.Hour).Round(100*time.Microsecond), f.c.LossFloor(), f.c.Loss(), f.c.loss.burst, f.c.noise*1e3, f.infl/simPacket, f.c.InflightCap()/simPacket)
		prev = s.byFlow[f.flow]
		s.at(s.now+every, fn)
	}
	s.at(s.now+every, fn)
}

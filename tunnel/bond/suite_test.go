package bond

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/landbridge/landbridge/bench/wan"
)

// The simulated suite: whole transfers over emulated carriers in virtual time, with the invariants that hold whatever the
// carriers do, and bounds a scenario (suite_cases_test.go).

// simCase is one scenario.
type simCase struct {
	name   string
	links  []worldLink
	flows  int // at once on one lane; 0: one
	warm   time.Duration
	run    time.Duration // what is measured, after warm
	a, b   skew
	later  int             // links that join during the run
	script func(r *simRun) // what happens meanwhile, in a goroutine of its own
	race   bool            // also under the race detector, which takes ten times as long
	want   simBounds
}

// simBounds are a scenario's own bounds.
type simBounds struct {
	ofLimit  float64       // goodput, at least
	stall    time.Duration // longest pause of a flow's reader, at most
	overhead float64       // bytes sent as Ethernet frames, both directions, over payload, at most
	quicLost uint64        // packets quic-go took for lost, at most
	jain     float64       // fairness between the flows, at least
}

// simResult is what a run measured.
type simResult struct {
	seed     uint64
	mbit     float64
	ofLimit  float64
	stall    time.Duration
	overhead float64
	quicLost uint64
	jain     float64
	window   uint64 // least congestion window seen while measuring, packets
}

// simRun is a run under way.
type simRun struct {
	t     testing.TB
	c     *simCase
	w     *world
	lane  *lanePair
	start time.Time               // of the flows
	base  [2]quic.ConnectionStats // of both ends before the flows
	done  chan struct{}

	mu     sync.Mutex
	faults []string
	peaks  map[string]int
}

// at waits until d after the warm-up and tells whether the run still goes on.
func (r *simRun) at(d time.Duration) bool {
	t := time.NewTimer(time.Until(r.start.Add(r.c.warm + d)))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.done:
		return false
	}
}

// fault notes a broken invariant; each kind once.
func (r *simRun) fault(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if strings.HasPrefix(f, kind+": ") {
			return
		}
	}
	r.faults = append(r.faults, kind+": "+fmt.Sprintf(format, args...))
}

// did notes what a step of the script came to.
func (r *simRun) did(err error) {
	if err != nil {
		r.fault("script", "%v", err)
	}
}

// change alters one direction of a link.
func (r *simRun) change(link int, d wan.Direction, f func(*wan.Impairment)) {
	imp := r.w.links[link].Impairment(d)
	f(&imp)
	r.did(r.w.links[link].SetImpairment(d, imp))
}

// wireBytes is what both nodes have sent so far, as Ethernet frames, over removed paths too.
func (w *world) wireBytes() uint64 {
	var n uint64
	for _, s := range []*side{w.a, w.b} {
		s.bond.mu.Lock()
		for _, p := range s.bond.paths {
			n += p.sentBytes
		}
		s.bond.mu.Unlock()
	}
	return n
}

// simFlow is one stream from b to a.
type simFlow struct {
	warm, measured int64
	stall          time.Duration
	err            error
}

func (f *simFlow) read(s io.Reader, start time.Time, warm, run time.Duration) [32]byte {
	h := sha256.New()
	buf := make([]byte, 64<<10)
	last := start.Add(warm)
	for {
		n, err := s.Read(buf)
		since := time.Since(start)
		switch {
		case since < warm:
			f.warm += int64(n)
		case since < warm+run:
			f.measured += int64(n)
			f.stall = max(f.stall, time.Since(last))
			last = time.Now()
		}
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			// A reader that was still waiting at the end of what is measured has stalled until then.
			f.stall = max(f.stall, start.Add(warm+run).Sub(last))
			return [32]byte(h.Sum(nil))
		}
		if err != nil {
			f.err = fmt.Errorf("receive: %w", err)
			return [32]byte{}
		}
	}
}

func simWrite(s io.Writer, seed uint64, flow int, until time.Time) ([32]byte, error) {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(flow), byte(flow >> 8), 1})
	h := sha256.New()
	buf := make([]byte, 16<<10)
	for time.Now().Before(until) {
		_, _ = src.Read(buf) // never fails
		h.Write(buf)
		if _, err := s.Write(buf); err != nil {
			return [32]byte{}, fmt.Errorf("send: %w", err)
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

// transfer runs the flows and fills the result.
func (r *simRun) transfer(seed uint64) simResult {
	t, c, p := r.t, r.c, r.lane
	n := max(c.flows, 1)
	flows := make([]simFlow, n)
	sums := make([][2][32]byte, n)
	var wg sync.WaitGroup
	for i := range flows {
		wg.Go(func() {
			s, err := p.cb.OpenUniStreamSync(t.Context())
			if err != nil {
				r.fault("flow", "open: %v", err)
				return
			}
			defer s.Close()
			// The first bytes name the flow: streams are accepted in any order.
			if _, err := s.Write([]byte{byte(i >> 8), byte(i)}); err != nil {
				r.fault("flow", "send: %v", err)
				return
			}
			sums[i][0], err = simWrite(s, seed, i, r.start.Add(c.warm+c.run))
			if err != nil {
				r.fault("flow", "%v", err)
			}
		})
		wg.Go(func() {
			s, err := p.ca.AcceptUniStream(t.Context())
			if err != nil {
				r.fault("flow", "accept: %v", err)
				return
			}
			var id [2]byte
			if _, err := io.ReadFull(s, id[:]); err != nil {
				r.fault("flow", "receive: %v", err)
				return
			}
			i := int(id[0])<<8 | int(id[1])
			if i >= n {
				r.fault("flow", "number %d of %d", i, n)
				return
			}
			sums[i][1] = flows[i].read(s, r.start, c.warm, c.run)
			if err := flows[i].err; err != nil {
				r.fault("flow", "%v", err)
			}
		})
	}
	res := simResult{seed: seed}
	var wire0, wire1 uint64
	wg.Go(func() {
		time.Sleep(time.Until(r.start.Add(c.warm)))
		wire0 = r.w.wireBytes()
		end := r.start.Add(c.warm + c.run)
		for time.Now().Before(end) {
			cw := p.cb.ConnectionStats().CongestionWindow / uint64(quicConfig(p.lb).InitialPacketSize)
			if res.window == 0 || cw < res.window {
				res.window = cw
			}
			time.Sleep(20 * time.Millisecond)
		}
		wire1 = r.w.wireBytes()
	})
	wg.Wait()
	var total int64
	var sq float64
	for i := range flows {
		if sums[i][0] != sums[i][1] {
			r.fault("payload", "flow %d: SHA-256 differs", i)
		}
		total += flows[i].measured
		sq += float64(flows[i].measured) * float64(flows[i].measured)
		res.stall = max(res.stall, flows[i].stall)
	}
	res.jain = 1
	if n > 1 && sq > 0 {
		res.jain = float64(total) * float64(total) / (float64(n) * sq)
	}
	res.mbit = float64(total) * 8 / c.run.Seconds() / 1e6
	var down []wan.Impairment
	for _, l := range c.links {
		down = append(down, l.bToA)
	}
	res.ofLimit = res.mbit * 1e6 / wan.Limit(down...)
	if total > 0 {
		res.overhead = float64(wire1-wire0) / float64(total)
	}
	return res
}

// watch looks at every queue of both nodes until the run is over.
func (r *simRun) watch() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-r.done:
			return
		case <-tick.C:
		}
		for _, s := range []*side{r.w.a, r.w.b} {
			s.bond.mu.Lock()
			r.queues(s.bond)
			s.bond.mu.Unlock()
		}
	}
}

// queues checks every queue of a bond against its bound. Called with the bond's mutex held.
func (r *simRun) queues(b *Bond) {
	check := func(name string, n, most int) {
		r.peaks[name] = max(r.peaks[name], n)
		if n > most {
			r.fault("queue", "%s holds %d, allowed %d", name, n, most)
		}
	}
	check("paths", len(b.paths), maxPaths)
	for _, p := range b.paths {
		check("datagrams of a path without a fate", int(p.next-p.low), pathWindow)
	}
	s := b.sess
	if s == nil {
		return
	}
	check("lanes", len(s.live), maxLanes)
	check("losses left to FEC", s.deferred.len(), laneWindow*max(1, len(s.live)))
	for _, l := range s.live {
		check("lane packets not sent", l.tx.queue.len(), laneQueue)
		check("lane packets not confirmed", int(l.tx.next-l.tx.base), laneWindow)
		check("lane packets to send again", l.tx.again.len(), laneWindow)
		check("lane packets not in line", int(l.rx.high-min(l.rx.cum, l.rx.scan)), laneWindow)
		check("lane packets ready for QUIC", l.rx.ready.len(), deliverQueue)
	}
}

// settled checks, after the flows have ended and everything is quiet, that the bond confirmed every packet and that each
// QUIC packet came through, once: bytes sent on one end are the bytes received on the other. What quic-go took for lost
// was therefore late, never gone.
func (r *simRun) settled() {
	a, b := r.w.a.bond.Stats().Lanes[0], r.w.b.bond.Stats().Lanes[0]
	for name, l := range map[string][2]LaneStats{"a to b": {a, b}, "b to a": {b, a}} {
		if got := l[1].Received + l[1].Recovered; l[0].Unconfirmed != 0 || got != l[0].Sent {
			r.fault("lane loss", "%s: %d packets sent, %d arrived, %d not confirmed", name, l[0].Sent, got, l[0].Unconfirmed)
		}
	}
	// The bytes of a handshake that lost packets do not agree in quic-go's own books.
	ca, cb := r.lane.ca.ConnectionStats(), r.lane.cb.ConnectionStats()
	for name, n := range map[string][2]uint64{
		"b to a": {cb.BytesSent - r.base[1].BytesSent, ca.BytesReceived - r.base[0].BytesReceived},
		"a to b": {ca.BytesSent - r.base[0].BytesSent, cb.BytesReceived - r.base[1].BytesReceived},
	} {
		if n[0] != n[1] {
			r.fault("quic loss", "%s: %d bytes sent, %d received", name, n[0], n[1])
		}
	}
}

// simQuiet is how long the last repetitions and acknowledgements of a run may take.
const simQuiet = 2 * time.Second

const (
	// simGrown packets of congestion window within simGrowth show that a young lane is in slow start; it begins with 32.
	simGrown  = 128
	simGrowth = 5 * time.Second
	// simLanes is how many lanes a run may try. About one of sixty on heavy carriers leaves slow start for good, because its
	// handshake went so badly that a cut of QUIC's was real; the tunnel replaces such a lane too.
	simLanes = 3
)

// growing opens a bulk lane whose window grows.
func (r *simRun) growing(sa, sb *Session) *lanePair {
	for try := 1; ; try++ {
		p := r.w.lane(sa, sb, Bulk)
		window := p.grow(r.t)
		if window >= simGrown {
			return p
		}
		if try == simLanes {
			r.fault("young", "%d lanes one after the other stayed at a small window, the last at %d packets", try, window)
			return p
		}
		r.t.Logf("lane %d stayed at a window of %d packets", try, window)
		p.close()
		time.Sleep(laneLinger)
	}
}

// grow sends from b to a until the window is simGrown or simGrowth is over, and returns the window in packets.
func (p *lanePair) grow(t testing.TB) (window uint64) {
	s, err := p.cb.OpenUniStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		r, err := p.ca.AcceptUniStream(t.Context())
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		done <- err
	}()
	for start := time.Now(); time.Since(start) < simGrowth && window < simGrown; {
		if _, err := s.Write(make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
		window = p.cb.ConnectionStats().CongestionWindow / uint64(quicConfig(p.lb).InitialPacketSize)
	}
	s.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return window
}

// runSim runs a scenario once, inside a bubble.
func runSim(t testing.TB, c *simCase, seed uint64) simResult {
	r := &simRun{t: t, c: c, done: make(chan struct{}), peaks: map[string]int{}}
	r.w = newWorldOf(t, seed, worldConfig{links: c.links, later: c.later, clockA: c.a, clockB: c.b})
	defer r.w.close()
	sa, sb := r.w.sessions()
	<-sa.Started()
	<-sb.Started()
	r.lane = r.growing(sa, sb)
	defer r.lane.close()
	time.Sleep(simQuiet)
	r.base = [2]quic.ConnectionStats{r.lane.ca.ConnectionStats(), r.lane.cb.ConnectionStats()}
	r.start = time.Now()
	var wg sync.WaitGroup
	wg.Go(r.watch)
	if c.script != nil {
		wg.Go(func() { c.script(r) })
	}
	res := r.transfer(seed)
	close(r.done)
	wg.Wait()
	time.Sleep(simQuiet)
	r.settled()
	res.quicLost = r.lane.cb.ConnectionStats().PacketsLost
	c.want.check(r, res)
	if len(r.faults) > 0 {
		for _, f := range r.faults {
			t.Errorf("seed %d: %s", seed, f)
		}
		t.Logf("seed %d: %v", seed, res)
		t.Logf("seed %d: most in each queue: %v", seed, r.peaks)
		r.w.dump(t)
	}
	return res
}

func (b *simBounds) check(r *simRun, res simResult) {
	if res.ofLimit < b.ofLimit {
		r.fault("goodput", "%.3f of the limit, want at least %.3f", res.ofLimit, b.ofLimit)
	}
	if res.stall > b.stall {
		r.fault("stall", "%v, want at most %v", res.stall, b.stall)
	}
	if res.overhead > b.overhead {
		r.fault("overhead", "%.3f, want at most %.3f", res.overhead, b.overhead)
	}
	if res.quicLost > b.quicLost {
		r.fault("late", "quic-go took %d packets for lost, want at most %d", res.quicLost, b.quicLost)
	}
	if res.jain < b.jain {
		r.fault("fairness", "Jain index %.3f, want at least %.3f", res.jain, b.jain)
	}
}

func (r simResult) String() string {
	return fmt.Sprintf("%.1f Mbit/s, %.3f of the limit, overhead %.3f, stall %v, %d taken for lost, least window %d, Jain %.3f",
		r.mbit, r.ofLimit, r.overhead, r.stall.Round(time.Millisecond), r.quicLost, r.window, r.jain)
}

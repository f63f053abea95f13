package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/landbridge/landbridge/pathsel"
)

// The calls workload: G.711 over RTP (RFC 3550, RFC 3551), 20 ms of speech a packet.
const (
	Calls        = 20
	callInterval = 20 * time.Millisecond
	callPayload  = 160 // bytes: 8000 samples a second of one byte each
	rtpHeader    = 12
	callPacket   = rtpHeader + callPayload

	// callPort is where the first call is; each has an even port, the same at both ends (RFC 3550, section 11). The lab's
	// fleet document sends these ports direct.
	callPort, lastCallPort = 16384, 32767

	// callWarmup is at the beginning of each call and does not count: neighbours are resolved and flows are new once.
	callWarmup = time.Second
	// callDrain is how long packets may be under way at the end.
	callDrain = 2 * time.Second
)

// CallNetwork is what calls run over.
type CallNetwork interface {
	// OpenCall opens both ends of a call, each connected to the other's port. What one end writes, the other one reads as
	// one datagram, or not at all.
	OpenCall(port int) (client, origin net.Conn, err error)
}

// stampedConn is a net.Conn that knows when a datagram arrived, not only when it was read.
type stampedConn interface {
	ReadStamped(b []byte) (n int, at time.Time, err error)
}

// CallsOptions describe a calls run.
type CallsOptions struct {
	Seed   uint64
	Window time.Duration // measured
	// OnEnd is called when the measurement ends, Watch when it begins with a function that tells the payload received.
	OnEnd func()
	Watch func(received func() int64)
}

// CallsResult is what a calls run measured, over both directions of all calls.
type CallsResult struct {
	Calls    int
	Elapsed  time.Duration
	Bytes    int64 // of payload that arrived
	Sent     int
	Lost     int
	Delays   []time.Duration // one way, of every packet that arrived
	GapMax   time.Duration   // the longest time in which nothing arrived in one direction of a call
	MOS      float64         // mean over the calls
	MOSWorst float64         // of the worst call
	SumOK    bool
	Errors   []string
}

// callLeg is one direction of a call.
type callLeg struct {
	call    int
	back    bool // from the origin to the client
	payload uint64
	out, in net.Conn
	first   int // packets before this one are the warm-up

	mu       sync.Mutex
	sent     []time.Time
	arrived  []time.Time // zero: not yet
	received int64
	wrong    bool
	err      error
}

// RunCalls holds all calls at once and reports how they went. Packets that do not arrive are what is measured; the error is
// for calls that could not be set up, or a run that was cancelled.
func RunCalls(ctx context.Context, nw CallNetwork, opt CallsOptions) (CallsResult, error) {
	if opt.Window <= 0 {
		return CallsResult{}, fmt.Errorf("calls: window %v, want more than 0", opt.Window)
	}
	first := int(callWarmup / callInterval)
	count := first + int(opt.Window/callInterval)
	var legs []*callLeg
	closeAll := func() {
		for _, l := range legs {
			l.in.Close()
		}
	}
	for i := range Calls {
		client, origin, err := nw.OpenCall(callPort + 2*i)
		if err != nil {
			closeAll()
			return CallsResult{}, fmt.Errorf("call %d: %w", i, err)
		}
		for _, l := range []*callLeg{{out: client, in: origin}, {back: true, out: origin, in: client}} {
			l.call, l.first, l.payload = i, first, opt.Seed^uint64(len(legs)+1)<<32
			l.sent, l.arrived = make([]time.Time, 0, count), make([]time.Time, count)
			legs = append(legs, l)
		}
	}
	var readers, senders sync.WaitGroup
	for _, l := range legs {
		readers.Go(l.read)
	}
	begin := time.Now()
	stop, cancel := context.WithCancel(ctx)
	for i, l := range legs {
		// Callers do not speak in step.
		phase := callInterval * time.Duration(i) / time.Duration(len(legs))
		senders.Go(func() {
			if err := l.send(stop, begin.Add(phase), count); err != nil {
				cancel() // one broken socket and the run is worth nothing
			}
		})
	}
	received := func() (n int64) {
		for _, l := range legs {
			l.mu.Lock()
			n += l.received
			l.mu.Unlock()
		}
		return n
	}
	err := sleep(stop, callWarmup)
	if err == nil && opt.Watch != nil {
		opt.Watch(received)
	}
	senders.Wait()
	elapsed := time.Since(begin) - callWarmup
	if err == nil {
		err = sleep(stop, callDrain)
	}
	if err == nil && opt.OnEnd != nil {
		opt.OnEnd()
	}
	cancel()
	closeAll()
	readers.Wait()
	for _, l := range legs {
		if l.err != nil {
			return CallsResult{}, fmt.Errorf("call %d: %w", l.call, l.err)
		}
	}
	if err := ctx.Err(); err != nil {
		return CallsResult{}, fmt.Errorf("calls: %w", err)
	}
	return judgeCalls(legs, elapsed), err
}

// send sends the leg's packets when they are due.
func (l *callLeg) send(ctx context.Context, begin time.Time, count int) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var b [callPacket]byte
	for i := range count {
		timer.Reset(time.Until(begin.Add(time.Duration(i) * callInterval)))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		l.packet(b[:], i)
		l.mu.Lock()
		l.sent = append(l.sent, time.Now())
		l.mu.Unlock()
		if _, err := l.out.Write(b[:]); err != nil && !transient(err) {
			l.mu.Lock()
			l.err = fmt.Errorf("send: %w", err)
			l.mu.Unlock()
			return err
		}
	}
	return nil
}

// packet is the leg's packet of that number, the same at both ends.
func (l *callLeg) packet(b []byte, i int) {
	b[0], b[1] = 2<<6, 0 // version 2, payload type 0: PCMU
	binary.BigEndian.PutUint16(b[2:], uint16(i))
	binary.BigEndian.PutUint32(b[4:], uint32(i*callPayload))
	binary.BigEndian.PutUint32(b[8:], uint32(l.payload>>32)^uint32(l.payload))
	rng := rand.NewPCG(l.payload, uint64(i))
	for at := rtpHeader; at < callPacket; at += 8 {
		binary.LittleEndian.PutUint64(b[at:], rng.Uint64())
	}
}

// read notes what arrives until the socket is closed.
func (l *callLeg) read() {
	var b, want [callPacket + 1]byte
	for {
		n, at, err := readStamped(l.in, b[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil && transient(err):
			continue
		case err != nil:
			l.mu.Lock()
			l.err = fmt.Errorf("receive: %w", err)
			l.mu.Unlock()
			return
		}
		l.mu.Lock()
		if i, ok := l.number(b[:n]); ok {
			if l.packet(want[:callPacket], i); !slices.Equal(b[:n], want[:callPacket]) {
				l.wrong = true
			} else if l.arrived[i].IsZero() {
				l.arrived[i] = at
				if i >= l.first {
					l.received += callPayload
				}
			}
		} else {
			l.wrong = true
		}
		l.mu.Unlock()
	}
}

func readStamped(c net.Conn, b []byte) (int, time.Time, error) {
	if s, ok := c.(stampedConn); ok {
		return s.ReadStamped(b)
	}
	n, err := c.Read(b)
	return n, time.Now(), err
}

// number is which packet this is: RTP has 16 bits for it, and half of them are further than any packet is late.
func (l *callLeg) number(b []byte) (int, bool) {
	if len(b) != callPacket {
		return 0, false
	}
	last := len(l.sent) - 1
	i := last + int(int16(binary.BigEndian.Uint16(b[2:])-uint16(last)))
	return i, i >= 0 && i < len(l.sent)
}

func judgeCalls(legs []*callLeg, elapsed time.Duration) CallsResult {
	res := CallsResult{Elapsed: elapsed, SumOK: true, MOSWorst: 5}
	worst := make(map[int]float64) // R of each call's worse half
	for _, l := range legs {
		sent, arrived := l.sent[min(l.first, len(l.sent)):], l.arrived[min(l.first, len(l.sent)):len(l.sent)]
		res.Sent += len(sent)
		res.Bytes += l.received
		res.SumOK = res.SumOK && !l.wrong
		for i, at := range arrived {
			if at.IsZero() {
				res.Lost++
				continue
			}
			res.Delays = append(res.Delays, at.Sub(sent[i]))
		}
		res.GapMax = max(res.GapMax, longestGap(sent, arrived))
		r := playout(sent, arrived)
		if other, ok := worst[l.call]; !ok || r < other {
			worst[l.call] = r
		}
	}
	res.Calls = len(worst)
	for _, r := range worst {
		mos := pathsel.MOS(r)
		res.MOS += mos / float64(len(worst))
		res.MOSWorst = min(res.MOSWorst, mos)
	}
	return res
}

// longestGap is the longest time in which nothing arrived, from when the first packet could have been there until the last
// one could. A packet that was sent late, because this machine was busy, counts as if it had been sent when it was due.
func longestGap(sent, arrived []time.Time) time.Duration {
	var at []time.Duration // since the first packet was sent
	least := time.Duration(-1)
	for i, t := range arrived {
		if t.IsZero() {
			continue
		}
		delay := t.Sub(sent[i])
		at = append(at, time.Duration(i)*callInterval+delay)
		if least < 0 || delay < least {
			least = delay
		}
	}
	if len(at) == 0 {
		return time.Duration(len(sent)) * callInterval
	}
	slices.Sort(at)
	last, gap := least, time.Duration(0)
	for _, t := range append(at, time.Duration(len(sent)-1)*callInterval+least) {
		gap = max(gap, t-last)
		last = max(last, t)
	}
	return gap
}

// playout is the E-model's R of one direction at a player that begins each packet a fixed time after it was sent, and has
// found the best such time: what comes later than that is lost to it.
func playout(sent, arrived []time.Time) float64 {
	var delays []time.Duration
	for i, t := range arrived {
		if !t.IsZero() {
			delays = append(delays, t.Sub(sent[i]))
		}
	}
	if len(delays) == 0 {
		return 0
	}
	slices.Sort(delays)
	best := 0.0
	for _, late := range []float64{0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05} {
		buffer := delays[len(delays)-1-int(late*float64(len(delays)))]
		lost, bursts, in := 0, 0, false
		for i, t := range arrived {
			gone := t.IsZero() || t.Sub(sent[i]) > buffer
			if gone {
				if lost++; !in {
					bursts++
				}
			}
			in = gone
		}
		loss, ratio := float64(lost)/float64(len(sent)), 1.0
		if bursts > 0 {
			// The mean burst over what random loss of this much would have (G.107, section 7.4).
			ratio = float64(lost) / float64(bursts) * (1 - loss)
		}
		best = max(best, pathsel.RFactor(buffer+callInterval, loss, max(ratio, 1)))
	}
	return best
}

// transient tells errors of a datagram from those of a socket: a full queue or an unreachable neighbour is a lost packet.
func transient(err error) bool {
	for _, e := range []error{syscall.ENOBUFS, syscall.EAGAIN, syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

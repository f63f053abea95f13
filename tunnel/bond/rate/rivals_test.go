package rate

import (
	"math"
	"time"
)

// Models of the TCP flows the bond shares carriers with. They see per-packet
// acknowledgements over an equal, loss-free way back.

const tcpPacket = 1514

// tcpFlow is the part both models share: a window of packets in flight,
// acknowledged one by one, lost when three later ones arrive.
type tcpFlow struct {
	s      *sim
	flow   int
	cc     tcpControl
	num    int64
	infl   map[int64]*tcpSent
	order  []int64 // outstanding, oldest first
	deliv  float64
	delivT time.Duration
	next   time.Duration
	queued bool
	stop   bool
	acks   int64
}

type tcpSent struct {
	at     time.Duration
	deliv  float64
	delivT time.Duration
}

type tcpControl interface {
	window() float64 // packets
	pace() float64   // packets/s, 0 for none
	ack(now, rtt time.Duration, rate float64, infl int)
	lose(now time.Duration, sent time.Duration)
}

func newTCP(s *sim, flow int, cc tcpControl) *tcpFlow {
	return &tcpFlow{s: s, flow: flow, cc: cc, infl: map[int64]*tcpSent{}}
}

func (f *tcpFlow) start() {
	f.try()
	f.s.at(f.s.now+time.Second, func() { f.timeout(-1) })
}

// timeout gives up what is in flight after a second without acknowledgements.
func (f *tcpFlow) timeout(acks int64) {
	if f.acks == acks {
		for _, n := range f.order {
			if f.infl[n] != nil {
				f.cc.lose(f.s.now, f.infl[n].at)
			}
		}
		clear(f.infl)
		f.order = f.order[:0]
		f.try()
	}
	acks = f.acks
	f.s.at(f.s.now+time.Second, func() { f.timeout(acks) })
}

func (f *tcpFlow) timer() {
	f.queued = false
	f.try()
}

func (f *tcpFlow) try() {
	for !f.stop && float64(len(f.infl)) < f.cc.window() {
		if p := f.cc.pace(); p > 0 {
			if f.next > f.s.now {
				if !f.queued {
					f.queued = true
					f.s.at(f.next, f.timer)
				}
				return
			}
			f.next = max(f.next, f.s.now-time.Millisecond) + time.Duration(1e9/p)
		}
		if len(f.infl) == 0 {
			f.delivT = f.s.now
		}
		f.infl[f.num] = &tcpSent{at: f.s.now, deliv: f.deliv, delivT: f.delivT}
		f.order = append(f.order, f.num)
		f.s.send(simPkt{flow: f.flow, num: f.num, size: tcpPacket, arr: func(p simPkt, _ time.Duration) {
			f.s.at(f.s.now+f.s.link.delay, func() { f.acked(p.num) })
		}})
		f.num++
	}
}

func (f *tcpFlow) acked(n int64) {
	x := f.infl[n]
	if x == nil {
		return
	}
	delete(f.infl, n)
	f.acks++
	f.deliv++
	f.delivT = f.s.now
	rate := (f.deliv - x.deliv) / max(seconds(f.s.now-x.delivT), 1e-3)
	f.cc.ack(f.s.now, f.s.now-x.at, rate, len(f.infl))
	for len(f.order) > 0 {
		o := f.order[0]
		y := f.infl[o]
		if y == nil {
			f.order = f.order[1:]
			continue
		}
		if o >= n-3 {
			break
		}
		delete(f.infl, o)
		f.order = f.order[1:]
		f.cc.lose(f.s.now, y.at)
	}
	f.try()
}

// cubic is RFC 9438 with HyStart's delay exit left out and the TCP-friendly
// region in.
type cubic struct {
	cwnd, ssthresh, wmax, k float64
	epoch                   time.Duration
	west                    float64
	minRTT                  time.Duration
	cutAt                   time.Duration
}

func newCubic() *cubic { return &cubic{cwnd: 10, ssthresh: 1e9} }

func (c *cubic) window() float64 { return c.cwnd }
func (c *cubic) pace() float64   { return 0 }

func (c *cubic) ack(now, rtt time.Duration, _ float64, infl int) {
	if c.minRTT == 0 || rtt < c.minRTT {
		c.minRTT = rtt
	}
	if c.cwnd < c.ssthresh {
		c.cwnd++
		// HyStart: leave slow start once delay has grown by an eighth.
		if rtt > c.minRTT+max(4*time.Millisecond, min(c.minRTT/8, 16*time.Millisecond)) {
			c.ssthresh = c.cwnd
		}
		return
	}
	if c.epoch == 0 {
		c.epoch = now
		if c.wmax < c.cwnd {
			c.wmax = c.cwnd
		}
		c.k = math.Cbrt((c.wmax - c.cwnd) / 0.4)
		c.west = c.cwnd
	}
	t := seconds(now-c.epoch) + seconds(c.minRTT)
	target := c.wmax + 0.4*math.Pow(t-c.k, 3)
	target = min(target, 1.5*c.cwnd)
	c.west += 3 * 0.3 / 1.7 / c.cwnd
	if target > c.cwnd {
		c.cwnd += (target - c.cwnd) / c.cwnd
	}
	c.cwnd = max(c.cwnd, c.west)
}

func (c *cubic) lose(now, sent time.Duration) {
	if sent < c.cutAt {
		return
	}
	c.cutAt = now
	if c.cwnd < c.wmax {
		c.wmax = c.cwnd * 0.85 // fast convergence
	} else {
		c.wmax = c.cwnd
	}
	c.cwnd = max(2, c.cwnd*0.7)
	c.ssthresh = c.cwnd
	c.epoch = 0
}

// bbr is BBR as in Linux (version 1): maximum rate of ten rounds, minimum delay
// of ten seconds, gain cycle 1.25, 0.75, 1 x 6, window of two products.
type bbr struct {
	state  int // 0 startup, 1 drain, 2 probe, 3 probe rtt
	bw     [10]float64
	slot   int
	roundT time.Duration
	minRTT time.Duration
	minAt  time.Duration
	full   float64
	flat   int
	phase  int
	phaseT time.Duration
	probeT time.Duration
}

func newBBR() *bbr { return &bbr{} }

func (b *bbr) max() float64 {
	m := 0.0
	for _, x := range b.bw {
		m = max(m, x)
	}
	return m
}

func (b *bbr) gain() float64 {
	switch b.state {
	case 0:
		return 2.885
	case 1:
		return 1 / 2.885
	case 2:
		return [8]float64{1.25, .75, 1, 1, 1, 1, 1, 1}[b.phase]
	}
	return 1
}

func (b *bbr) bdp() float64 { return b.max() * seconds(b.minRTT) }

func (b *bbr) window() float64 {
	if b.minRTT == 0 {
		return 10
	}
	switch b.state {
	case 0:
		return max(10, 2.885*b.bdp())
	case 3:
		return 4
	}
	return max(4, 2*b.bdp()) + 4
}

func (b *bbr) pace() float64 {
	if b.minRTT == 0 {
		return 0
	}
	return max(10, b.max()*b.gain())
}

func (b *bbr) ack(now, rtt time.Duration, rate float64, infl int) {
	expired := b.minRTT > 0 && now-b.minAt > 10*time.Second
	if b.minRTT == 0 || rtt <= b.minRTT || expired {
		b.minRTT, b.minAt = rtt, now
	}
	if expired && b.state != 3 {
		b.state, b.probeT = 3, now
	}
	if now-b.roundT > rtt {
		b.roundT = now
		b.slot = (b.slot + 1) % len(b.bw)
		b.bw[b.slot] = 0
		if b.state == 0 {
			if m := b.max(); m > b.full*1.25 {
				b.full, b.flat = m, 0
			} else if b.flat++; b.flat >= 3 {
				b.state = 1
			}
		}
	}
	b.bw[b.slot] = max(b.bw[b.slot], rate)
	switch b.state {
	case 1:
		if float64(infl) <= b.bdp() {
			b.state, b.phase, b.phaseT = 2, 2, now
		}
	case 2:
		d := now - b.phaseT
		if d > b.minRTT && (b.phase != 0 || float64(infl) >= 1.25*b.bdp()*0.98 || d > 2*b.minRTT) ||
			b.phase == 1 && float64(infl) <= b.bdp() {
			b.phase, b.phaseT = (b.phase+1)%8, now
		}
	case 3:
		if now-b.probeT > 200*time.Millisecond+rtt {
			b.state, b.phase, b.phaseT = 2, 2, now
			b.minAt = now
		}
	}
}

func (b *bbr) lose(now, sent time.Duration) {}

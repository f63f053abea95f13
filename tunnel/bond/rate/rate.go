// Package rate finds, for one path of a bond, how fast to send on it.
//
// The model is BBRv3's (draft-ietf-ccwg-bbr): a bottleneck rate and a base
// delay, probed in turns, with an inflight bound derived from both. It departs
// from the draft where the receiver tells more than TCP's acknowledgements do:
//
//   - Delivery rates come from the receiver's clock, so a bunched return path
//     does not distort them, and while the queue is known to be busy they are
//     averaged instead of maximised: with jitter a maximum overestimates.
//   - Queueing is read from the one-way delay. Cruise holds a queue of a few
//     milliseconds, which proves the link full without ever overfilling it;
//     Up runs when that queue cannot be kept.
//   - Loss that stays when the sender slows down is the path's own (LossFloor)
//     and is credited: the estimate is in terms of bytes sent, not delivered.
//
// Use New, then call OnSend for every datagram, OnReport for every report of the
// receiver, and send at PacingRate with at most InflightCap in flight.
//
// A Controller is a pure state machine: no goroutines, no clock, no memory
// shared with the caller, no allocation after New. It is not safe for
// concurrent use; the path's owner serialises the calls.
package rate

import (
	"math"
	"time"
)

// Config bounds a Controller. The zero value is usable.
type Config struct {
	InitialRate int64 // bits/s to start at; default 4 Mbit/s
	Cap         int64 // bits/s never exceeded, also while probing; 0 means none
	MinRate     int64 // bits/s never gone below; default 128 kbit/s
	MaxDatagram int   // bytes of a full datagram; default 1472
}

const (
	defaultInitialRate = 4_000_000
	defaultMinRate     = 128_000 // ten full datagrams a second: enough to notice a path that heals
	defaultMaxDatagram = 1472

	// maxRate bounds estimates against a receiver that reports nonsense:
	// 100 Gbit/s is beyond any NIC this runs on.
	maxRate = 100e9 / 8
)

func (c *Config) setDefaults() {
	if c.InitialRate <= 0 {
		c.InitialRate = defaultInitialRate
	}
	if c.MinRate <= 0 {
		c.MinRate = defaultMinRate
	}
	if c.MaxDatagram <= 0 {
		c.MaxDatagram = defaultMaxDatagram
	}
	if c.Cap > 0 {
		c.InitialRate = min(c.InitialRate, c.Cap)
		c.MinRate = min(c.MinRate, c.Cap)
	}
}

// Sample is what one report of the receiver says about the time since the
// previous one that arrived. Lost reports widen it; nothing else is needed.
type Sample struct {
	Delivered        int64 // bytes newly received
	Lost             int64 // bytes newly deemed lost
	DeliveredPackets int64
	LostPackets      int64
	// RecvElapsed is the time, on the receiver's clock, from the arrival of the
	// last packet of the previous report to that of the last packet of this one.
	RecvElapsed time.Duration
	// OWD and OWDMin are receiver clock minus sender clock of the last and of
	// the quickest packet of the interval. Their offset is unknown.
	OWD, OWDMin time.Duration
	// RTT is the time from the sending of the newest packet told of to this report, by whatever way that came, queues
	// included; 0 when no newer packet is told of than before.
	RTT        time.Duration
	Inflight   int64 // bytes sent, neither delivered nor lost yet
	AppLimited bool  // the sender had nothing queued at some time of the interval
	CE         int   // packets marked ECN-CE
}

// Controller is the rate controller of one path. Make it with New.
type Controller struct {
	cfg Config

	rates   sampler
	delay   delayFilter
	loss    lossFilter
	rtt     time.Duration // shortest recent round trip
	lastRTT time.Duration // the longest lately
	rttAt   time.Time
	last    time.Time // last report
	told    time.Time // when the newest packet reported was sent
	sent    time.Time // last OnSend
	inited  bool
	fed     bool // there was always something to send in the last report's time

	inflight  int64
	siblings  int
	sentBytes int64
	bw        float64 // bottleneck rate in sent terms, bytes/s

	machine
}

// New returns a Controller in Startup.
func New(cfg Config) *Controller {
	cfg.setDefaults()
	c := &Controller{cfg: cfg}
	c.bw = float64(cfg.InitialRate) / 8
	c.loss.init()
	return c
}

// OnSend accounts for a datagram of that many bytes handed to the socket.
// Every datagram counts: repair, retransmissions and reports too.
func (c *Controller) OnSend(now time.Time, bytes int) {
	if !c.sent.IsZero() && now.Sub(c.sent) > idleTrust {
		c.restart(now, now.Sub(c.sent))
	}
	c.sent = now
	c.inflight += int64(bytes)
	c.sentBytes += int64(bytes)
}

// SetSiblings says how many other paths of one's own share a link with this one,
// as those do that start at the same uplink. They share it best when each knows.
func (c *Controller) SetSiblings(n int) { c.siblings = max(n, 0) }

// maxGap is the longest receiver interval a rate is computed from. A longer one
// spans an outage or an idle time and says nothing of the rate, nor of the loss.
const maxGap = 400 * time.Millisecond

// maxStep is the most one report moves a filter by, however long it was awaited.
const maxStep = 50 * time.Millisecond

// OnReport takes in what a report says. Reports that arrive out of order or
// repeat earlier ones must be filtered out before.
func (c *Controller) OnReport(now time.Time, s Sample) {
	if s.Delivered < 0 || s.Lost < 0 || s.DeliveredPackets < 0 || s.LostPackets < 0 || s.RecvElapsed < 0 {
		return
	}
	c.inflight = max(s.Inflight, 0)
	dt := min(max(now.Sub(c.last), 0), maxStep)
	c.last = now
	if s.DeliveredPackets > 0 {
		c.delay.add(now, s.OWDMin, c.delayWindow())
	}
	c.updateRTT(now, s.RTT)
	if s.RecvElapsed > maxGap {
		c.rates.reset()
	} else {
		c.rates.add(s)
		c.loss.add(s, c.floorEligible(now))
	}
	c.inited, c.fed = true, !s.AppLimited
	c.step(now, s, dt)
}

// rttWindow is how long a shortest round trip is believed.
const rttWindow = 10 * time.Second

func (c *Controller) updateRTT(now time.Time, rtt time.Duration) {
	if rtt <= 0 {
		return
	}
	c.told = now.Add(-rtt)
	c.lastRTT = max(rtt, c.lastRTT+(rtt-c.lastRTT)/8) // reports may alternate between ways
	if c.rtt == 0 || rtt <= c.rtt {
		c.rtt, c.rttAt = rtt, now
	} else if q := c.queue(); now.Sub(c.rttAt) > rttWindow && q < 2*c.target()+c.delay.jitter() {
		// A queue must not pass for distance.
		c.rtt, c.rttAt = rtt, now
	}
}

// roundTrip is the base round trip, with a guess before there is one.
func (c *Controller) roundTrip() time.Duration {
	if c.rtt == 0 {
		return 200 * time.Millisecond
	}
	return max(c.rtt, 5*time.Millisecond)
}

// delayWindow is the time the queue is averaged over: short beside the loop on a
// quiet path, several times what jitter stays correlated for on a shaky one.
func (c *Controller) delayWindow() time.Duration {
	return min(50*time.Millisecond+20*c.delay.jitter(), 200*time.Millisecond)
}

// rateWindow is the receiver time a rate sample spans: jitter at its two ends
// must be small beside it.
func (c *Controller) rateWindow() time.Duration {
	return min(max(c.roundTrip()/2, 50*time.Millisecond, 40*c.delay.jitter()), 250*time.Millisecond)
}

func (c *Controller) clamp(r float64) float64 {
	r = min(max(r, float64(c.cfg.MinRate)/8), maxRate)
	if c.cfg.Cap > 0 {
		r = min(r, float64(c.cfg.Cap)/8)
	}
	return r
}

// PacingRate is the rate to send at now, in bits/s of datagram bytes.
func (c *Controller) PacingRate() int64 {
	return int64(c.clamp(c.pacing()) * 8)
}

// InflightCap is the most bytes to have in flight now. It is a second fence: in
// a steady state pacing alone keeps below it.
func (c *Controller) InflightCap() int64 {
	least := 10 * float64(c.cfg.MaxDatagram)
	return int64(max(least, c.inflightCap()))
}

// Bandwidth estimates the bottleneck's rate in bits/s of bytes sent: what is
// lost behind the bottleneck has passed it and counts.
func (c *Controller) Bandwidth() int64 { return int64(c.clamp(c.bw) * 8) }

// QueueDelay is the queue at the bottleneck over the last tens of milliseconds,
// with what jitter adds to the delay of an empty path taken off.
func (c *Controller) QueueDelay() time.Duration { return max(c.queue(), 0) }

// ExtraDelay is the mean one-way delay of the last tens of milliseconds over the
// base, jitter included; 0 before the first report.
func (c *Controller) ExtraDelay() time.Duration { return max(c.delay.over(), 0) }

// BaseOWD is the one-way delay of the empty path, with the clocks' unknown
// offset as in Sample.OWD.
func (c *Controller) BaseOWD() time.Duration { return c.delay.base() }

// LossFloor is the share of packets, 0 to 1, that the path loses by itself.
func (c *Controller) LossFloor() float64 { return c.loss.floor }

// Loss is the share of packets lost lately, 0 to 1.
func (c *Controller) Loss() float64 { return c.loss.recent }

func seconds(d time.Duration) float64 { return float64(d) / float64(time.Second) }

func duration(s float64) time.Duration {
	return time.Duration(min(max(s, 0), math.MaxInt32) * float64(time.Second))
}

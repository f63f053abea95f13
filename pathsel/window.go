package pathsel

import (
	"math"
	"time"
)

const (
	// lossSeconds is the loss window: at 20 probes a second the least loss of interest, 1 %, shows 12 times in it.
	lossSeconds = 60
	// trafficWeight is the most that the traffic of one second counts in the window, in packets: a little more than the
	// probes of a second. Traffic that filled a queue for two seconds must not stand for the idle minute that follows.
	trafficWeight = 25
	// delaySamples are kept for median and 95th percentile: 13 s of probes.
	delaySamples = 256
	// delaySpacing thins samples out, so that a boosted path does not forget in a second what it was like.
	delaySpacing = 20 * time.Millisecond
	// recentSamples are what the recent delay is the median of: 0.4 s of probes.
	recentSamples = 8
)

// Counts are packets of one direction of a path, in the order they were sent: Bursts is the number of runs of losses.
type Counts struct {
	Packets, Lost, Bursts int
}

func (c *Counts) add(d Counts) {
	c.Packets += d.Packets
	c.Lost += d.Lost
	c.Bursts += d.Bursts
}

// second is one second of the window.
type second struct {
	probes, traffic Counts
	minDelay        time.Duration // of the direction; noDelay for none
}

const noDelay = time.Duration(math.MaxInt64)

// lossWindow holds the last lossSeconds seconds. The zero value is ready.
type lossWindow struct {
	seconds [lossSeconds]second
	at      int64 // the newest second's number, counted from 1
	losing  bool  // the last probe was lost
}

func (w *lossWindow) second(now time.Duration) *second {
	n := int64(now/time.Second) + 1
	for i := max(w.at+1, n-lossSeconds+1); i <= n; i++ {
		w.seconds[i%lossSeconds] = second{minDelay: noDelay}
		w.at = i
	}
	return &w.seconds[w.at%lossSeconds]
}

// probes adds a run of lost probes and a run of delivered ones behind it.
func (w *lossWindow) probes(now time.Duration, lost, delivered int) {
	c := &w.second(now).probes
	c.Packets += lost + delivered
	c.Lost += lost
	if lost > 0 && !w.losing {
		c.Bursts++
	}
	if lost > 0 || delivered > 0 {
		w.losing = delivered == 0
	}
}

func (w *lossWindow) traffic(now time.Duration, c Counts) { w.second(now).traffic.add(c) }

// counts adds the last n seconds up, each by its larger sample. Of traffic, a second counts by its packets up to
// trafficWeight for the shares of lost packets and of bursts; the number of packets is what there was.
func (w *lossWindow) counts(now time.Duration, n int64) (c Counts) {
	w.second(now)
	var weight, lost, bursts float64
	for i := max(w.at-n+1, 1); i <= w.at; i++ {
		s := &w.seconds[i%lossSeconds]
		of, part := s.probes, 1.0
		if s.traffic.Packets >= s.probes.Packets {
			of = s.traffic
			part = min(1, trafficWeight/float64(max(of.Packets, 1)))
		}
		c.add(of)
		weight += part * float64(of.Packets)
		lost += part * float64(of.Lost)
		bursts += part * float64(of.Bursts)
	}
	if lost > 0 && weight < float64(c.Packets) {
		scale := float64(c.Packets) / weight
		c.Lost = min(max(int(math.Round(lost*scale)), 1), c.Packets)
		c.Bursts = min(max(int(math.Round(bursts*scale)), 1), c.Lost)
	}
	return c
}

// busy is the traffic of this second and the one before.
func (w *lossWindow) busy(now time.Duration) int {
	n := w.second(now).traffic.Packets
	if w.at > 1 {
		n += w.seconds[(w.at-1)%lossSeconds].traffic.Packets
	}
	return n
}

func (w *lossWindow) minDelay(now time.Duration) time.Duration {
	w.second(now)
	least := noDelay
	for i := max(w.at-lossSeconds+1, 1); i <= w.at; i++ {
		least = min(least, w.seconds[i%lossSeconds].minDelay)
	}
	return least
}

// delayWindow holds delaySamples samples, in order of time and of size. The zero value is ready.
type delayWindow struct {
	ring   [delaySamples]time.Duration
	sorted [delaySamples]time.Duration
	n      int
	next   int

	recent     [recentSamples]time.Duration
	recentNext int
	recentN    int
}

// addRecent takes every sample, add those of the long window.
func (w *delayWindow) addRecent(d time.Duration) {
	w.recent[w.recentNext] = d
	w.recentNext = (w.recentNext + 1) % recentSamples
	w.recentN = min(w.recentN+1, recentSamples)
}

func (w *delayWindow) add(d time.Duration) {
	if w.n == delaySamples {
		i := w.find(w.ring[w.next])
		copy(w.sorted[i:w.n-1], w.sorted[i+1:w.n])
		w.n--
	}
	i := w.find(d)
	copy(w.sorted[i+1:w.n+1], w.sorted[i:w.n])
	w.sorted[i] = d
	w.n++
	w.ring[w.next] = d
	w.next = (w.next + 1) % delaySamples
}

// find returns the first index whose sample is not less than d.
func (w *delayWindow) find(d time.Duration) int {
	lo, hi := 0, w.n
	for lo < hi {
		if mid := (lo + hi) / 2; w.sorted[mid] < d {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// quantile returns the smallest sample that is not less than the share q of all; 0 without samples.
func (w *delayWindow) quantile(q float64) time.Duration {
	if w.n == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(w.n))) - 1
	return w.sorted[min(max(i, 0), w.n-1)]
}

// recentMedian returns the lower median of the last samples; false when there are too few for one.
func (w *delayWindow) recentMedian() (time.Duration, bool) {
	if w.recentN < recentSamples {
		return 0, false
	}
	a := w.recent
	for i := 1; i < len(a); i++ {
		for j := i; j > 0 && a[j] < a[j-1]; j-- {
			a[j], a[j-1] = a[j-1], a[j]
		}
	}
	return a[(recentSamples-1)/2], true
}

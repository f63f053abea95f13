package pathsel

import (
	"math"
	"time"
)

// The test for a rise of loss: the log-likelihood ratio of "loss is p1" against "loss is p0" summed over packets, never
// below 0 (Page's CUSUM). p0 is what the path had in the last 60 s, p1 the least that is worth a move, both by what losses prove.
const (
	// lossAlarm is the sum at which the rise is believed. A false alarm is due once in eight hours of a direction's probes
	// where 5 % are lost, in 36 where 1 % are. One more makes it 2.7 times as rare, and a true one ten fast probes later.
	lossAlarm = 10.0
	// lossDoubt is the sum at which more probes are asked for: one loss on a path that has less than 2 %, two on
	// others.
	lossDoubt = 1.2
	// lossMore is the sum that keeps more probes coming: a second loss soon after.
	lossMore = 2.0
	// lossSure is the sum at which they go on beyond the budget.
	lossSure = 5.0
	// A path with less loss than lossFloor is treated as if it had this much: one loss in a thousand is no rise.
	lossFloor = 0.005
	// Below five points more nobody notices; a lossy path must get 2.5 times worse.
	lossRise   = 0.05
	lossFactor = 2.5
	// lossPrior packets of which one is lost stand in for what is not known of a new path.
	lossPrior = 100
	// lossUnsure is by how many standard deviations p0 is taken above what the path showed. A path that was chosen for its
	// little loss had luck as well, and what it usually loses is no rise.
	lossUnsure = 0.5
	// readyPackets are needed before a rise can be told from a path that always was like this: 10 s of probes.
	readyPackets = 200
	// runLoss is what each further loss of a run counts beside the first: losses come in bursts, and a burst of five is
	// no five proofs that the path is worse than it was.
	runLoss = 0.2
	// batchCap bounds what one report of the bond can add: its packets are not independent trials.
	batchCap = 4.0
)

// lossTest is the CUSUM of one direction. The zero value is ready after tune.
type lossTest struct {
	sum         float64
	perLoss     float64
	perDelivery float64
	p0, p1      float64
	since       Counts // packets since the sum left 0
	ready       bool   // p0 is known well enough for an alarm
	alarm       bool   // set by the owner: since goes on until reset
}

// tune sets the hypotheses from the long window.
func (t *lossTest) tune(long Counts) {
	seen := long.proofs() + 1
	t.p0 = max((seen+lossUnsure*math.Sqrt(seen))/float64(long.Packets+lossPrior), lossFloor)
	t.p1 = min(max(t.p0+lossRise, t.p0*lossFactor), 0.95)
	t.p0 = min(t.p0, t.p1*0.9)
	t.ready = long.Packets >= readyPackets
	t.perLoss = math.Log(t.p1 / t.p0)
	t.perDelivery = math.Log((1 - t.p1) / (1 - t.p0))
}

// proofs is what the lost packets count.
func (c Counts) proofs() float64 { return float64(c.Bursts) + runLoss*float64(c.Lost-c.Bursts) }

// add takes lost packets and then delivered ones.
func (t *lossTest) add(lost, delivered int) { t.take(Counts{lost + delivered, lost, min(lost, 1)}) }

func (t *lossTest) take(c Counts) {
	if t.perLoss == 0 {
		t.tune(Counts{})
	}
	t.sum += c.proofs()*t.perLoss + float64(c.Packets-c.Lost)*t.perDelivery
	t.since.Packets += c.Packets
	t.since.Lost += c.Lost
	switch {
	case t.alarm:
		t.sum = max(t.sum, 0)
	case t.sum <= 0:
		t.reset()
	case !t.ready:
		t.sum = min(t.sum, lossAlarm/2)
	}
}

// batch takes counts whose order is not known.
func (t *lossTest) batch(c Counts) {
	before := t.sum
	t.take(c)
	t.sum = min(t.sum, before+batchCap)
}

func (t *lossTest) reset() { t.sum, t.since = 0, Counts{} }

// level estimates the loss since it rose. The packets that gave the alarm are a biased sample, so a few at p1 are added.
func (t *lossTest) level() float64 {
	const weight = 10
	return (float64(t.since.Lost) + weight*t.p1) / float64(t.since.Packets+weight)
}

// The test for a rise of delay.
const (
	// delayRise is the least rise that counts, delayRiseMax the largest that can be needed: 60 ms must always be seen.
	delayRise    = 30 * time.Millisecond
	delayRiseMax = 45 * time.Millisecond
	// delayRiseDevs is the rise in mean deviations, for paths with jitter.
	delayRiseDevs = 5
	// baseUp and baseDown are the shares by which the slow average follows a sample: 30 s up at 20 a second, so that a new
	// route becomes normal in time, and fast down.
	baseUp   = 1.0 / 600
	baseDown = 1.0 / 16
	devGain  = 1.0 / 256
)

// delayTest compares the recent delay of one direction with its slow average. The zero value is ready.
type delayTest struct {
	base, dev float64 // ns
	samples   int
}

func (t *delayTest) add(d time.Duration) {
	x := float64(d)
	if t.samples++; t.samples == 1 {
		t.base = x
		return
	}
	diff := x - t.base
	t.dev += (math.Abs(diff) - t.dev) * devGain
	switch {
	case t.samples <= recentSamples:
		t.base += diff / float64(t.samples)
	case diff > 0:
		t.base += diff * baseUp
	default:
		t.base += diff * baseDown
	}
}

func (t *delayTest) threshold() time.Duration {
	return min(max(delayRise, time.Duration(delayRiseDevs*t.dev)), delayRiseMax)
}

// rise returns by how much the recent median is above the average.
func (t *delayTest) rise(recent time.Duration) time.Duration {
	return recent - time.Duration(t.base)
}

package rate

import "math"

const (
	// lossBlock is the number of packets one observation of loss spans: longer
	// than most bursts, so that blocks are nearly independent.
	lossBlock = 64
	// floorBlocks is how many blocks the floor averages over, about 13,000
	// packets: at 4 % in bursts of ten it then strays by less than a point.
	floorBlocks = 200
	// recentBlocks is how many blocks Loss averages over.
	recentBlocks = 16
	// floorKnown is the number of blocks from which on the floor is used to
	// judge loss. Fewer could be one lucky stretch between two bursts.
	floorKnown = 8
	// firstBurst is the burstiness assumed before it is known.
	firstBurst = 6
	// maxFloor bounds what is taken for the path's own loss.
	maxFloor = 0.4
	// lossMargin is the loss over the floor that is never congestion.
	lossMargin = 0.02
	// unknownFloor is granted to a path whose floor is not known yet.
	unknownFloor = 0.1
	// lossSigma is the confidence, in standard deviations, asked of loss
	// before it counts as congestion.
	lossSigma = 3
	// grossLoss is the loss over the floor that no burst explains.
	grossLoss = 0.15
)

// lossFilter learns how much the path loses by itself, how burstily, and tells
// whether loss of late is significantly more than that.
type lossFilter struct {
	n, lost int64 // the open block
	openBad bool  // some of the open block was not eligible for the floor
	recent  float64
	recentN int
	floor   float64
	floorN  int
	burst   float64 // variance of a block's losses over their mean; 1 is independent loss
	packets int64   // since mark
	losses  int64   // since mark
}

func (l *lossFilter) init() { l.burst = firstBurst }

// add counts a report. eligible says that no loss in it can be congestion.
func (l *lossFilter) add(s Sample, eligible bool) {
	n := s.DeliveredPackets + s.LostPackets
	l.packets += n
	l.losses += s.LostPackets
	l.n += n
	l.lost += s.LostPackets
	if !eligible {
		l.openBad = true
	}
	if l.n < lossBlock {
		return
	}
	p := float64(l.lost) / float64(l.n)
	l.recentN = min(l.recentN+1, recentBlocks)
	l.recent += (p - l.recent) / float64(l.recentN)
	if !l.openBad {
		l.learn(p, float64(l.n))
	}
	l.n, l.lost, l.openBad = 0, 0, false
}

func (l *lossFilter) learn(p, n float64) {
	l.floorN = min(l.floorN+1, floorBlocks)
	if l.floorN > 4 {
		// Index of dispersion, against the floor before this block.
		mean := max(l.floor*n, 0.25)
		x := p * n
		d := (x - l.floor*n) * (x - l.floor*n) / mean
		l.burst += (min(d, 4*lossBlock) - l.burst) / floorBlocks * 2
		l.burst = min(max(l.burst, 1), lossBlock)
	}
	l.floor += (p - l.floor) / float64(l.floorN)
	l.floor = min(l.floor, maxFloor)
}

// known tells whether the floor rests on enough packets.
func (l *lossFilter) known() bool { return l.floorN >= floorKnown }

// sigma is the standard deviation of the loss seen over n packets of a path
// that loses at the floor, the floor's own uncertainty included.
func (l *lossFilter) sigma(n float64) float64 {
	if n <= 0 {
		return 1
	}
	known := float64(max(l.floorN, 1)) * lossBlock
	return math.Sqrt(max(l.floor, 0.002) * l.burst * (1/n + 1/known))
}

// mark starts an episode.
func (l *lossFilter) mark() { l.packets, l.losses = 0, 0 }

// excess tells whether the episode lost significantly more than the floor, and
// gross whether it did so by far.
func (l *lossFilter) excess() (significant, gross bool) {
	n := float64(l.packets)
	if n < 2*lossBlock {
		return false, false
	}
	over := float64(l.losses)/n - l.floor - lossMargin
	sigma := l.sigma(n)
	if !l.known() {
		over -= unknownFloor
	}
	return over > lossSigma*sigma, over > max(grossLoss, 2*lossSigma*sigma)
}

// episode is the share lost since mark.
func (l *lossFilter) episode() float64 {
	return float64(l.losses) / float64(max(l.packets, 1))
}

// accept takes p for the floor, to be refined from here.
func (l *lossFilter) accept(p float64) {
	l.floor = min(p, maxFloor)
	l.floorN = floorKnown
}

// fold averages p, seen over n packets, into the floor.
func (l *lossFilter) fold(p, n float64) {
	blocks := max(int(n/lossBlock), 1)
	l.floorN = min(l.floorN+blocks, floorBlocks)
	l.floor += (min(p, maxFloor) - l.floor) * min(1, float64(blocks)/float64(l.floorN))
}

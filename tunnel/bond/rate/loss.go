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
	// maxFloor bounds what is taken for the path's own loss.
	maxFloor = 0.4
	// lossMargin is the loss over the floor that is never congestion.
	lossMargin = 0.02
	// lossSigma is the confidence, in standard deviations, asked of loss
	// before it counts as congestion.
	lossSigma = 3
)

// lossFilter learns how much the path loses by itself, how burstily, and tells
// whether loss of late is significantly more than that.
type lossFilter struct {
	n, lost   int64 // the open block
	openBad   bool  // some of the open block was not eligible for the floor
	recent    float64
	recentN   int
	floor     float64
	floorN    int
	burst     float64 // variance of a block's losses over their mean; 1 is independent loss
	episodeN  int64   // packets since mark
	episodeLo int64   // lost since mark
}

func (l *lossFilter) init() { l.burst = 4 }

// add counts a report. eligible says that no loss in it can be congestion.
func (l *lossFilter) add(s Sample, eligible bool) {
	n := s.DeliveredPackets + s.LostPackets
	l.episodeN += n
	l.episodeLo += s.LostPackets
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
// that loses at the floor.
func (l *lossFilter) sigma(n float64) float64 {
	if n <= 0 {
		return 1
	}
	return math.Sqrt(max(l.floor, 0.002) * l.burst / n)
}

// mark starts an episode for excess.
func (l *lossFilter) mark() { l.episodeN, l.episodeLo = 0, 0 }

// excess tells whether the episode lost significantly more than the floor.
func (l *lossFilter) excess() bool {
	n := float64(l.episodeN)
	if n < lossBlock {
		return false
	}
	return float64(l.episodeLo)/n > l.floor+lossMargin+lossSigma*l.sigma(n)
}

func (l *lossFilter) episode() float64 {
	if l.episodeN == 0 {
		return 0
	}
	return float64(l.episodeLo) / float64(l.episodeN)
}

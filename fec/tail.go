package fec

import "math"

const (
	// MaxTail is the most repairs TailRepairs asks for. A tail is answered with at most tailSpare more than a copy
	// of itself, too: past that, retransmission is cheaper than the rare case.
	MaxTail     = 32
	tailSpare   = 2
	defaultTail = 0.005
	// tailSafety divides the target chance of an incomplete tail, since burstiness is estimated from few bursts.
	tailSafety = 4
	// forgetLoss is the remembered number of lost packets below which loss counts as not seen.
	forgetLoss = 0.05
)

// blockPackets is the least number of packets over which losses are counted to see how they bunch: about a small
// object. Smaller reports are put together, so that it does not matter if the caller ends a report at each loss.
const blockPackets = 32

// burstiness remembers how unevenly losses fall on blocks of packets: the sum over blocks of the squared deviation from
// the mean, against what independent losses would give.
type burstiness struct {
	loss   decaying // lost, sent
	block  decaying // the same of the block that is not complete yet
	blocks decaying // the same of all blocks that are
	square float64  // sum over blocks of lost^2
	cross  float64  // sum of lost x sent
	sizes  float64  // sum of sent^2
}

func (b *burstiness) decay(f float64) {
	b.loss.decay(f)
	b.blocks.decay(f)
	b.square *= f
	b.cross *= f
	b.sizes *= f
}

func (b *burstiness) add(sent, lost float64) {
	b.loss.add(lost, sent)
	b.block.add(lost, sent)
	if sent, lost = b.block.den, b.block.num; sent < blockPackets {
		return
	}
	b.block = decaying{}
	b.blocks.add(lost, sent)
	b.square += lost * lost
	b.cross += lost * sent
	b.sizes += sent * sent
}

// correlation estimates that of the fates of neighbouring packets, 0 for independent losses, by the index of dispersion
// of the losses per block: 1 + 2 sum (1-k/n) r^k for blocks of n packets.
func (b *burstiness) correlation() float64 {
	p := b.blocks.ratio()
	if p <= 0 || p >= 1 {
		return 0
	}
	deviation := b.square - 2*p*b.cross + p*p*b.sizes
	dispersion := deviation / (p * (1 - p) * b.blocks.den)
	n := b.sizes / b.blocks.den // the size of the block that a packet is in
	lo, hi := 0.0, maxCorrelation
	for range 20 {
		mid := (lo + hi) / 2
		if dispersionOf(mid, n) < dispersion {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// maxCorrelation means bursts of 50 packets; longer ones are outages, which no tail repair helps against.
const maxCorrelation = 0.98

// dispersionOf is the index of dispersion of the number of losses in n packets, for correlation r of neighbours.
func dispersionOf(r, n float64) float64 {
	if n <= 1 {
		return 1
	}
	return (1+r)/(1-r) - 2*r*(1-math.Pow(r, n))/(n*(1-r)*(1-r))
}

// TailRepairs is how many repair symbols to send at once over the last n source packets of a lane that goes idle, so
// that the chance that the tail stays incomplete is below Limits.Tail, given the loss seen and how it bunches. It is 0
// while there is no loss, at least 1 when some was seen, and at most MaxTail and n+2.
//
// Losses are taken for a Markov chain of the loss rate and the correlation seen; the tail is complete if of its n
// packets and m repairs together at most m are lost.
func (c *Controller) TailRepairs(n int) int {
	if n < 1 || c.bursts.loss.num < forgetLoss {
		return 0
	}
	n = min(n, MaxWindow)
	limit := min(MaxTail, n+tailSpare)
	p := clamp(c.bursts.loss.ratio(), 0, 1)
	if recent := c.loss.ratio(); recent > p {
		p = min(recent, 1)
	}
	r := c.bursts.correlation()
	afterLoss, afterArrival := p+r*(1-p), p*(1-r)
	accept := 1 - c.limits.Tail/tailSafety

	// arrived[l] and lost[l]: chance of l losses so far with the last packet arrived, or lost.
	var arrived, lost [MaxTail + 1]float64
	arrived[0], lost[0] = 1-p, 0
	lost[1] = p
	for t := 2; t <= n+limit; t++ {
		for l := limit; l >= 0; l-- {
			a := arrived[l]*(1-afterArrival) + lost[l]*(1-afterLoss)
			if l > 0 {
				lost[l] = arrived[l-1]*afterArrival + lost[l-1]*afterLoss
			} else {
				lost[l] = 0
			}
			arrived[l] = a
		}
		if m := t - n; m >= 1 {
			sum := 0.0
			for l := 0; l <= m; l++ {
				sum += arrived[l] + lost[l]
			}
			if sum >= accept {
				return m
			}
		}
	}
	return limit
}

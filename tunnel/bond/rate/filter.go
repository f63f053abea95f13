package rate

import "time"

// samplerSize holds 250 ms of reports 2 ms apart, or 1.2 s at the usual 10 ms.
const samplerSize = 128

type interval struct {
	elapsed    time.Duration
	delivered  int64
	lost       int64
	packets    int64
	appLimited bool
}

// sampler keeps the latest report intervals and sums them over any recent span
// of receiver time.
type sampler struct {
	ring [samplerSize]interval
	n    int // filled
	head int // next to write
	late interval
	all  interval // ever
}

func (s *sampler) reset() { *s = sampler{all: s.all} }

func (s *sampler) add(x Sample) {
	s.late.elapsed += x.RecvElapsed
	s.late.delivered += x.Delivered
	s.late.lost += x.Lost
	s.late.packets += x.DeliveredPackets + x.LostPackets
	s.late.appLimited = s.late.appLimited || x.AppLimited
	// Nothing arrived since: what was found lost goes with the next arrivals.
	if s.late.elapsed == 0 || x.Delivered == 0 {
		return
	}
	s.ring[s.head] = s.late
	s.all.elapsed += s.late.elapsed
	s.all.delivered += s.late.delivered
	s.all.lost += s.late.lost
	s.all.packets += s.late.packets
	s.late = interval{}
	s.head = (s.head + 1) % samplerSize
	s.n = min(s.n+1, samplerSize)
}

// over sums the newest intervals until they span at least window. ok is false
// while there are too few.
func (s *sampler) over(window time.Duration) (sum interval, ok bool) {
	for i := 1; i <= s.n; i++ {
		v := &s.ring[(s.head-i+samplerSize)%samplerSize]
		sum.elapsed += v.elapsed
		sum.delivered += v.delivered
		sum.lost += v.lost
		sum.packets += v.packets
		sum.appLimited = sum.appLimited || v.appLimited
		if sum.elapsed >= window {
			return sum, true
		}
	}
	return sum, false
}

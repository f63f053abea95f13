package wan

import (
	"errors"
	"fmt"
	"time"
)

// ErrImpairment is wrapped by every error about an impairment's values or text.
var ErrImpairment = errors.New("invalid impairment")

const (
	// DefaultQueue is the length of a queue whose impairment names none: what
	// carrier equipment tends to have at these rates.
	DefaultQueue = 100 * time.Millisecond
	// DefaultQueuePackets bounds a queue in frames as well, so that a flood of
	// tiny frames cannot make it grow without end.
	DefaultQueuePackets = 10_000

	// maxRate keeps size*8e9/rate and its inverse well inside an int64.
	maxRate = 100_000_000_000
	// maxTime bounds every duration: more is a typing error in a test.
	maxTime = time.Hour
	// maxBytes bounds MTU and policer burst.
	maxBytes = 1 << 30
	// maxOutages bounds the list walked for every frame.
	maxOutages = 64
)

// GE is the Gilbert-Elliott burst loss model, stepped once a frame. In the good
// state nothing is lost; in the bad state a frame survives with chance H. The
// mean stay in the bad state is 1/R frames. The zero value loses nothing.
type GE struct {
	P float64 // chance a frame of entering the bad state
	R float64 // chance a frame of leaving it
	H float64 // chance of delivery inside it
}

// MeanLoss is the stationary loss of the model, 0..1.
func (g GE) MeanLoss() float64 {
	if g.P <= 0 {
		return 0
	}
	return g.P / (g.P + g.R) * (1 - g.H)
}

// Reorder holds back a share of the frames, so that later ones overtake them.
type Reorder struct {
	Probability float64
	Extra       time.Duration
}

// Outage is a period in which everything that leaves the queue is lost.
type Outage struct {
	Start    time.Duration // since the link's start
	Duration time.Duration
	Every    time.Duration // repeats with this period; 0 = once
}

// dark reports whether the outage covers t (time since the link's start).
func (o Outage) dark(t time.Duration) bool {
	t -= o.Start
	if t < 0 {
		return false
	}
	if o.Every > 0 {
		t %= o.Every
	}
	return t < o.Duration
}

// Policer is a token bucket without a queue: what exceeds it is dropped.
type Policer struct {
	Rate  int64 // bits a second; 0 = no policer
	Burst int   // bytes; 0 = 50 ms of Rate, at least one full frame
}

// Impairment says what one direction of a link does to frames. The zero value
// is a perfect link: no limit, no delay, no loss.
type Impairment struct {
	Rate         int64         // bits a second of Ethernet frame; 0 = unlimited
	Queue        time.Duration // drop-tail queue, in time at Rate; 0 = DefaultQueue
	QueuePackets int           // and in frames; 0 = DefaultQueuePackets
	Delay        time.Duration // one way, without serialisation and queueing
	Jitter       time.Duration // delay varies in Delay +- Jitter, correlated, in order
	Loss         float64       // chance of losing a frame, 0..1
	GE           GE
	Reorder      Reorder
	Duplicate    float64
	Corrupt      float64 // chance of one flipped byte
	Outages      []Outage
	MTU          int // IP bytes; larger packets vanish without ICMP; 0 = no limit
	Policer      Policer
}

// MeanLoss is the share of frames lost on the wire in the long run, 0..1:
// random loss and bursts together. Queue drops, policing and outages are not in
// it.
func (i Impairment) MeanLoss() float64 {
	return 1 - (1-i.Loss)*(1-i.GE.MeanLoss())
}

// Capacity is what the link lets through in the long run, in bits a second of
// Ethernet frame: the lesser of its rate and its policer's; 0 = unlimited.
func (i Impairment) Capacity() int64 {
	if i.Policer.Rate > 0 && (i.Rate == 0 || i.Policer.Rate < i.Rate) {
		return i.Policer.Rate
	}
	return i.Rate
}

// Validate reports the first value outside its range, wrapping ErrImpairment.
func (i Impairment) Validate() error {
	if i.Rate < 0 || i.Rate > maxRate {
		return fmt.Errorf("%w: rate %d bit/s outside 0..%d", ErrImpairment, i.Rate, int64(maxRate))
	}
	if i.Policer.Rate < 0 || i.Policer.Rate > maxRate {
		return fmt.Errorf("%w: policer rate %d bit/s outside 0..%d", ErrImpairment, i.Policer.Rate, int64(maxRate))
	}
	for _, c := range []struct {
		name string
		p    float64
	}{
		{"loss", i.Loss}, {"ge p", i.GE.P}, {"ge r", i.GE.R}, {"ge h", i.GE.H},
		{"reorder", i.Reorder.Probability}, {"duplicate", i.Duplicate}, {"corrupt", i.Corrupt},
	} {
		if !(c.p >= 0 && c.p <= 1) { // also catches NaN
			return fmt.Errorf("%w: %s %v outside 0..1", ErrImpairment, c.name, c.p)
		}
	}
	for _, c := range []struct {
		name string
		d    time.Duration
	}{
		{"queue", i.Queue}, {"delay", i.Delay}, {"jitter", i.Jitter}, {"reorder delay", i.Reorder.Extra},
	} {
		if c.d < 0 || c.d > maxTime {
			return fmt.Errorf("%w: %s %v outside 0..%v", ErrImpairment, c.name, c.d, maxTime)
		}
	}
	for _, c := range []struct {
		name string
		n    int
	}{
		{"queue packets", i.QueuePackets}, {"mtu", i.MTU}, {"policer burst", i.Policer.Burst},
	} {
		if c.n < 0 || c.n > maxBytes {
			return fmt.Errorf("%w: %s %d outside 0..%d", ErrImpairment, c.name, c.n, maxBytes)
		}
	}
	if i.Policer.Burst > 0 && i.Policer.Rate == 0 {
		return fmt.Errorf("%w: policer burst %d without a rate", ErrImpairment, i.Policer.Burst)
	}
	if len(i.Outages) > maxOutages {
		return fmt.Errorf("%w: %d outages, at most %d", ErrImpairment, len(i.Outages), maxOutages)
	}
	for _, o := range i.Outages {
		if o.Start < 0 || o.Start > maxTime {
			return fmt.Errorf("%w: outage start %v outside 0..%v", ErrImpairment, o.Start, maxTime)
		}
		if o.Duration <= 0 || o.Duration > maxTime {
			return fmt.Errorf("%w: outage of %v outside 1ns..%v", ErrImpairment, o.Duration, maxTime)
		}
		if o.Every != 0 && (o.Every < o.Duration || o.Every > maxTime) {
			return fmt.Errorf("%w: outage of %v repeats every %v, want %v..%v", ErrImpairment, o.Duration, o.Every, o.Duration, maxTime)
		}
	}
	return nil
}

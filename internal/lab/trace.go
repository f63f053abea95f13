package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"
)

// TraceInterval is the resolution of traces and of the report's plots.
const TraceInterval = 100 * time.Millisecond

// CarrierCount is one carrier at one moment, counted since the link's start.
type CarrierCount struct {
	DeliveredBytes uint64        // arrived at the far end, in the direction of the payload
	Queue          time.Duration // how long a frame sent now would wait
}

// Trace is a run in steps of TraceInterval, as "--trace FILE" writes it: column-wise, every list as long as Seconds.
type Trace struct {
	// Seconds is the end of each step, since the trace's start.
	Seconds     []float64                `json:"seconds"`
	GoodputMbit []float64                `json:"goodput_mbit"`
	Carriers    map[string]*CarrierTrace `json:"carriers"`
	Marks       []Mark                   `json:"marks,omitempty"`
}

// CarrierTrace is one carrier's part of a Trace.
type CarrierTrace struct {
	Mbit    []float64 `json:"mbit"`     // delivered in the direction of the payload, Ethernet bytes
	QueueMS []float64 `json:"queue_ms"` // waiting time at the end of the step
}

// Mark is an interval worth showing: a carrier that was dark.
type Mark struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Label string  `json:"label"`
}

// tracer fills a Trace from two counters that only grow. One goroutine.
type tracer struct {
	trace    Trace
	begin    time.Time
	last     time.Time
	received func() int64
	carriers func() map[string]CarrierCount
	lastRecv int64
	lastCar  map[string]CarrierCount
}

func newTracer(now time.Time, received func() int64, carriers func() map[string]CarrierCount) *tracer {
	t := &tracer{
		begin: now, last: now, received: received, carriers: carriers,
		lastRecv: received(), lastCar: carriers(),
	}
	t.trace.Carriers = make(map[string]*CarrierTrace)
	for name := range t.lastCar {
		t.trace.Carriers[name] = &CarrierTrace{}
	}
	return t
}

// run samples until ctx ends.
func (t *tracer) run(ctx context.Context) {
	tick := time.NewTicker(TraceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.sample(time.Now())
		}
	}
}

// sample closes the step that ends now. Rates are over the step's real length: a busy machine delays the tick.
func (t *tracer) sample(now time.Time) {
	step := now.Sub(t.last)
	if step <= 0 {
		return
	}
	recv, car := t.received(), t.carriers()
	t.trace.Seconds = append(t.trace.Seconds, round(now.Sub(t.begin).Seconds(), 3))
	t.trace.GoodputMbit = append(t.trace.GoodputMbit, mbit(recv-t.lastRecv, step))
	for name, c := range t.trace.Carriers {
		cur, prev := car[name], t.lastCar[name]
		delta := int64(0)
		if cur.DeliveredBytes > prev.DeliveredBytes {
			delta = int64(cur.DeliveredBytes - prev.DeliveredBytes)
		}
		c.Mbit = append(c.Mbit, mbit(delta, step))
		c.QueueMS = append(c.QueueMS, millis(cur.Queue))
	}
	t.last, t.lastRecv, t.lastCar = now, recv, car
}

// mark notes an interval in wall-clock time.
func (t *tracer) mark(from, to time.Time, label string) {
	t.trace.Marks = append(t.trace.Marks, Mark{
		From: round(from.Sub(t.begin).Seconds(), 3), To: round(to.Sub(t.begin).Seconds(), 3), Label: label,
	})
}

// WriteFile writes the trace as one JSON object.
func (t *Trace) WriteFile(path string) error {
	b, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode the trace: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	return nil
}

// clone returns a copy that no longer changes.
func (t *Trace) clone() *Trace {
	c := &Trace{
		Seconds: slices.Clone(t.Seconds), GoodputMbit: slices.Clone(t.GoodputMbit), Marks: slices.Clone(t.Marks),
		Carriers: make(map[string]*CarrierTrace, len(t.Carriers)),
	}
	for name, v := range t.Carriers {
		c.Carriers[name] = &CarrierTrace{Mbit: slices.Clone(v.Mbit), QueueMS: slices.Clone(v.QueueMS)}
	}
	return c
}

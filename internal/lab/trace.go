package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// TraceInterval is the resolution of traces and of the pages' plots.
const TraceInterval = 100 * time.Millisecond

// traceVersion is in every trace, so that a reader knows what it has before it.
const traceVersion = 1

// What a trace may hold at the most. A run of maxWindow stays below it; what is above is no trace of ours.
const (
	maxTraceBytes    = 128 << 20
	maxTraceSteps    = 2 * int(maxWindow/TraceInterval)
	maxTraceCarriers = 16
	maxTraceLanes    = 512
	maxTraceMarks    = 4096
	maxTraceWord     = 64
	maxTraceValue    = 1e12
)

// ErrTrace is wrapped by every complaint about a trace's contents.
var ErrTrace = errors.New("invalid trace")

// Column is one quantity, one value for each step of a trace. NaN, null in JSON, is a step in which it was not known.
type Column []float64

// MarshalJSON writes what JSON cannot carry as null.
func (c Column) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+6*len(c))
	b = append(b, '[')
	for i, v := range c {
		if i > 0 {
			b = append(b, ',')
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendFloat(b, v, 'g', -1, 64)
		}
	}
	return append(b, ']'), nil
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (c *Column) UnmarshalJSON(b []byte) error {
	var vs []*float64
	if err := json.Unmarshal(b, &vs); err != nil {
		return err
	}
	*c = make(Column, len(vs))
	for i, v := range vs {
		(*c)[i] = math.NaN()
		if v != nil {
			(*c)[i] = *v
		}
	}
	return nil
}

// Trace is a run in steps of TraceInterval, as "--trace FILE" writes it: column-wise, every list as long as Seconds.
// Rates are over the step, everything else is as it was at the step's end.
type Trace struct {
	Version int       `json:"version"`
	Began   time.Time `json:"began"`
	Result  *Result   `json:"result,omitempty"` // of the run
	Upload  bool      `json:"upload,omitempty"` // the payload went to the origin
	// Seconds is the end of each step, since the trace's start.
	Seconds     Column                   `json:"seconds"`
	GoodputMbit Column                   `json:"goodput_mbit"` // payload at the receiver
	Carriers    map[string]*CarrierTrace `json:"carriers"`
	Lanes       []*LaneTrace             `json:"lanes,omitempty"`
	Marks       []Mark                   `json:"marks,omitempty"`
}

// CarrierTrace is one carrier's part of a Trace: its link with both directions, which have the same model.
type CarrierTrace struct {
	RateMbit float64  `json:"rate_mbit,omitempty"` // 0: no limit
	DelayMS  float64  `json:"delay_ms"`            // one way, without queue
	ToClient WayTrace `json:"to_client"`
	ToOrigin WayTrace `json:"to_origin"`
}

// WayTrace is one direction of a carrier.
type WayTrace struct {
	Link LinkTrace  `json:"link"`
	Path *PathTrace `json:"path,omitempty"` // only through Landbridge
}

// LinkTrace is what the emulator did, which is the truth. Frames are counted by the second.
type LinkTrace struct {
	Mbit       Column `json:"mbit"`        // delivered, Ethernet bytes
	QueueMS    Column `json:"queue_ms"`    // how long a frame offered now would wait
	Offered    Column `json:"offered"`     // frames
	QueueDrops Column `json:"queue_drops"` // of these: not taken, for a full queue, the policer or the MTU
	Lost       Column `json:"lost"`        // of these: lost on the wire, outages included
	Delivered  Column `json:"delivered"`
}

// PathTrace is what the gateways say of the path over the carrier: the sender's, except DeliveredMbit. Losses are
// fractions from 0 to 1, packets are counted by the second. See admin.Path for what each means.
type PathTrace struct {
	State         []string `json:"state"` // "" is unknown
	Controller    []string `json:"controller"`
	SentMbit      Column   `json:"sent_mbit"`
	DeliveredMbit Column   `json:"delivered_mbit"`
	RTTMS         Column   `json:"rtt_ms"`
	ExtraDelayMS  Column   `json:"extra_delay_ms"`
	QueueMS       Column   `json:"queue_ms"`
	CapacityMbit  Column   `json:"capacity_mbit"`
	PacingMbit    Column   `json:"pacing_mbit"`
	Loss          Column   `json:"loss"`
	LossFloor     Column   `json:"loss_floor"`
	Packets       Column   `json:"packets"`
	Repairs       Column   `json:"repairs"` // of Packets: FEC
	Resent        Column   `json:"resent"`  // of Packets: sent before
}

// LaneTrace is one lane of the border's bond at one of its ends.
type LaneTrace struct {
	Node          string `json:"node"`
	ID            int    `json:"id"`
	Class         string `json:"class"`
	WindowPackets Column `json:"window_packets"` // QUIC's congestion window; unknown while the lane is not there
	Lost          Column `json:"lost"`           // packets QUIC saw as lost, by the second
}

// Mark is an interval worth showing: a carrier that was dark.
type Mark struct {
	From    float64 `json:"from"`
	To      float64 `json:"to"`
	Label   string  `json:"label"`
	Carrier string  `json:"carrier,omitempty"` // whose it is; "" is everybody's
}

func (c *LinkTrace) columns() []*Column {
	return []*Column{&c.Mbit, &c.QueueMS, &c.Offered, &c.QueueDrops, &c.Lost, &c.Delivered}
}

func (p *PathTrace) columns() []*Column {
	return []*Column{
		&p.SentMbit, &p.DeliveredMbit, &p.RTTMS, &p.ExtraDelayMS, &p.QueueMS, &p.CapacityMbit, &p.PacingMbit, &p.Loss,
		&p.LossFloor, &p.Packets, &p.Repairs, &p.Resent,
	}
}

func (l *LaneTrace) columns() []*Column { return []*Column{&l.WindowPackets, &l.Lost} }

// ways are the carrier's directions, that of the payload first.
func (c *CarrierTrace) ways(upload bool) (payload, back *WayTrace) {
	if upload {
		return &c.ToOrigin, &c.ToClient
	}
	return &c.ToClient, &c.ToOrigin
}

// payload is the carrier's direction in which the payload went; nil without such a carrier.
func (t *Trace) payload(carrier string) *WayTrace {
	c := t.Carriers[carrier]
	if c == nil {
		return nil
	}
	w, _ := c.ways(t.Upload)
	return w
}

// carrierNames are the trace's carriers, in the scenario table's order as far as they are in it.
func (t *Trace) carrierNames() []string {
	var out []string
	for _, name := range carriers {
		if t.Carriers[name] != nil {
			out = append(out, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Carriers)) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
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

// ReadTraceFile reads what WriteFile wrote.
func ReadTraceFile(path string) (*Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the trace: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTraceBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the trace: %w", err)
	}
	t, err := ParseTrace(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// ParseTrace decodes and checks a trace. Errors wrap ErrTrace.
func ParseTrace(b []byte) (*Trace, error) {
	if len(b) > maxTraceBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTrace, maxTraceBytes)
	}
	var t Trace
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrace, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows the object", ErrTrace)
	}
	if err := t.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrace, err)
	}
	return &t, nil
}

var carrierShape = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)

// check reports the first thing that cannot be in a trace of ours.
func (t *Trace) check() error {
	if t.Version != traceVersion {
		return fmt.Errorf("version %d, want %d", t.Version, traceVersion)
	}
	n := len(t.Seconds)
	if n > maxTraceSteps {
		return fmt.Errorf("%d steps, at most %d", n, maxTraceSteps)
	}
	last := 0.0
	for i, s := range t.Seconds {
		if !(s >= last && s <= maxTraceValue) { // also catches NaN
			return fmt.Errorf("step %d ends at %v s, the one before at %v", i, s, last)
		}
		last = s
	}
	if err := checkColumns("goodput_mbit", n, &t.GoodputMbit); err != nil {
		return err
	}
	if len(t.Carriers) > maxTraceCarriers || len(t.Lanes) > maxTraceLanes || len(t.Marks) > maxTraceMarks {
		return fmt.Errorf("%d carriers, %d lanes, %d marks, at most %d, %d, %d", len(t.Carriers), len(t.Lanes), len(t.Marks),
			maxTraceCarriers, maxTraceLanes, maxTraceMarks)
	}
	for name, c := range t.Carriers {
		if !carrierShape.MatchString(name) || c == nil {
			return fmt.Errorf("carrier %q, want 1 to 15 lower-case letters and digits, and an object", name)
		}
		if err := c.check(n); err != nil {
			return fmt.Errorf("carrier %s: %w", name, err)
		}
	}
	for i, l := range t.Lanes {
		if l == nil {
			return fmt.Errorf("lane %d is null", i)
		}
		if err := checkWords(l.Node, l.Class); err != nil {
			return fmt.Errorf("lane %d: %w", i, err)
		}
		if err := checkColumns("columns", n, l.columns()...); err != nil {
			return fmt.Errorf("lane %d: %w", i, err)
		}
	}
	for i, m := range t.Marks {
		if !(m.From >= 0 && m.From <= m.To && m.To <= maxTraceValue) {
			return fmt.Errorf("mark %d from %v to %v", i, m.From, m.To)
		}
		if err := checkWords(m.Label, m.Carrier); err != nil {
			return fmt.Errorf("mark %d: %w", i, err)
		}
	}
	return nil
}

func (c *CarrierTrace) check(n int) error {
	if !(c.RateMbit >= 0 && c.RateMbit <= maxTraceValue && c.DelayMS >= 0 && c.DelayMS <= maxTraceValue) {
		return fmt.Errorf("rate %v Mbit/s, delay %v ms", c.RateMbit, c.DelayMS)
	}
	for _, w := range []*WayTrace{&c.ToClient, &c.ToOrigin} {
		if err := checkColumns("link", n, w.Link.columns()...); err != nil {
			return err
		}
		p := w.Path
		if p == nil {
			continue
		}
		if err := checkColumns("path", n, p.columns()...); err != nil {
			return err
		}
		if len(p.State) != n || len(p.Controller) != n {
			return fmt.Errorf("path: %d states, %d of the controller, want %d", len(p.State), len(p.Controller), n)
		}
		if err := errors.Join(checkWords(p.State...), checkWords(p.Controller...)); err != nil {
			return fmt.Errorf("path: %w", err)
		}
	}
	return nil
}

func checkColumns(what string, n int, cs ...*Column) error {
	for i, c := range cs {
		if len(*c) != n {
			return fmt.Errorf("%s %d has %d values, want %d", what, i, len(*c), n)
		}
		for _, v := range *c {
			if v < 0 || v > maxTraceValue {
				return fmt.Errorf("%s %d holds %v, want 0 to %g", what, i, v, maxTraceValue)
			}
		}
	}
	return nil
}

func checkWords(words ...string) error {
	for _, w := range words {
		if len(w) > maxTraceWord {
			return fmt.Errorf("a word of %d letters, at most %d: %.20q", len(w), maxTraceWord, w)
		}
	}
	return nil
}

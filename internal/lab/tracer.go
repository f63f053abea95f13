package lab

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
)

// tracer fills a Trace from counters that only grow. One goroutine.
type tracer struct {
	trace    Trace
	begin    time.Time
	last     time.Time
	received func() int64                    // payload
	links    func() ([]wan.LinkStats, error) // A is the client's side; an error leaves the step unknown
	nodes    func() map[string]admin.Status  // what the gateways say; nil without a tunnel
	lastRecv int64
	lastLink map[string]wan.LinkStats
	lastNode map[string]admin.Status
	dark     map[string]float64 // since when, in seconds
}

func newTracer(
	now time.Time, use []wan.Carrier, upload bool, received func() int64, links func() ([]wan.LinkStats, error), nodes func() map[string]admin.Status,
) *tracer {
	t := &tracer{begin: now, last: now, received: received, links: links, nodes: nodes, dark: make(map[string]float64)}
	t.trace = Trace{Version: traceVersion, Began: now.UTC().Round(0), Upload: upload, Carriers: make(map[string]*CarrierTrace)}
	for _, l := range use {
		c := &CarrierTrace{RateMbit: round(float64(l.Impairment.Rate)/1e6, 3), DelayMS: millis(l.Impairment.Delay)}
		if nodes != nil {
			c.ToClient.Path, c.ToOrigin.Path = &PathTrace{}, &PathTrace{}
		}
		t.trace.Carriers[l.Name] = c
	}
	t.lastRecv, t.lastLink = received(), t.linkStats()
	if nodes != nil {
		t.lastNode = nodes()
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

func (t *tracer) linkStats() map[string]wan.LinkStats {
	stats, err := t.links()
	if err != nil {
		return nil // the run itself reports a dead emulator
	}
	out := make(map[string]wan.LinkStats, len(stats))
	for _, s := range stats {
		out[s.Name] = s
	}
	return out
}

// sample closes the step that ends now. Rates are over the step's real length: a busy machine delays the tick.
func (t *tracer) sample(now time.Time) {
	step := now.Sub(t.last)
	if step <= 0 {
		return
	}
	recv, links := t.received(), t.linkStats()
	var nodes map[string]admin.Status
	if t.nodes != nil {
		nodes = t.nodes()
	}
	at := round(now.Sub(t.begin).Seconds(), 3)
	t.trace.Seconds = append(t.trace.Seconds, at)
	t.trace.GoodputMbit = append(t.trace.GoodputMbit, mbit(recv-t.lastRecv, step))
	for name, c := range t.trace.Carriers {
		was, had := t.lastLink[name]
		is, have := links[name]
		c.ToOrigin.Link.add(step, was.AtoB, is.AtoB, had && have)
		c.ToClient.Link.add(step, was.BtoA, is.BtoA, had && have)
		if have {
			t.noteDark(name, at-step.Seconds(), is.AtoB.Dark || is.BtoA.Dark)
		}
		if t.nodes != nil {
			c.ToOrigin.Path.add(t.lastNode, nodes, machineSha, machineFra, name)
			c.ToClient.Path.add(t.lastNode, nodes, machineFra, machineSha, name)
		}
	}
	t.addLanes(nodes)
	t.last, t.lastRecv, t.lastLink, t.lastNode = now, recv, links, nodes
}

// noteDark follows a carrier's outages; both ends of one are taken for the beginning of the step they were noticed in.
func (t *tracer) noteDark(carrier string, at float64, dark bool) {
	since, was := t.dark[carrier]
	switch {
	case dark && !was:
		t.dark[carrier] = max(0, round(at, 3))
	case !dark && was:
		delete(t.dark, carrier)
		t.trace.Marks = append(t.trace.Marks, Mark{From: since, To: max(since, round(at, 3)), Label: carrier + " dark", Carrier: carrier})
	}
}

// done returns the trace, once no sample will follow.
func (t *tracer) done() *Trace {
	if n := len(t.trace.Seconds); n > 0 {
		for _, name := range t.trace.carrierNames() {
			t.noteDark(name, t.trace.Seconds[n-1], false)
		}
	}
	slices.SortStableFunc(t.trace.Marks, func(a, b Mark) int { return int(math.Copysign(1, a.From-b.From)) })
	return &t.trace
}

// perSecond is a counter's rate; unknown when it went backwards, as after a restart.
func perSecond(was, is uint64, step time.Duration) float64 {
	if is < was || step <= 0 {
		return math.NaN()
	}
	return round(float64(is-was)/step.Seconds(), 1)
}

func megabits(was, is uint64, step time.Duration) float64 {
	return round(perSecond(was, is, step)*8/1e6, 3)
}

// add appends one step; known is false when a reading failed.
func (c *LinkTrace) add(step time.Duration, was, is wan.WayStats, known bool) {
	row := []float64{
		megabits(was.DeliveredBytes, is.DeliveredBytes, step),
		millis(is.Queue),
		perSecond(was.Offered, is.Offered, step),
		perSecond(was.QueueDrops+was.Policed+was.TooBig, is.QueueDrops+is.Policed+is.TooBig, step),
		perSecond(was.Lost+was.Outage+was.Overflow, is.Lost+is.Outage+is.Overflow, step),
		perSecond(was.Delivered, is.Delivered, step),
	}
	for i, col := range c.columns() {
		if !known {
			row[i] = math.NaN()
		}
		*col = append(*col, row[i])
	}
}

// add appends one step of the path over a carrier from one gateway to another.
func (p *PathTrace) add(before, after map[string]admin.Status, from, to, carrier string) {
	was, wasAt, ok1 := pathOf(before, from, to, carrier)
	is, isAt, ok2 := pathOf(after, from, to, carrier)
	farWas, farWasAt, ok3 := pathOf(before, to, from, carrier)
	far, farAt, ok4 := pathOf(after, to, from, carrier)
	unknown := math.NaN()
	row := []float64{unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown, unknown}
	state, controller := "", ""
	if ok2 {
		state, controller = is.State, is.Controller
		copy(row[2:], []float64{
			round(is.RTTMs, 2), round(is.ExtraDelayMs, 2), round(is.QueueMs, 2), round(is.CapacityMbit, 3), round(is.PacingMbit, 3),
			round(is.LossTx, 5), round(is.LossFloor, 5),
		})
	}
	if ok1 && ok2 {
		step := isAt.Sub(wasAt)
		row[0] = megabits(was.SentBytes, is.SentBytes, step)
		row[9] = perSecond(was.SentPackets, is.SentPackets, step)
		row[10] = perSecond(was.RepairSent, is.RepairSent, step)
		row[11] = perSecond(was.Retransmits, is.Retransmits, step)
	}
	if ok3 && ok4 {
		row[1] = megabits(farWas.RecvBytes, far.RecvBytes, farAt.Sub(farWasAt))
	}
	for i, col := range p.columns() {
		*col = append(*col, row[i])
	}
	p.State, p.Controller = append(p.State, state), append(p.Controller, controller)
}

// pathOf finds a path in what a gateway says. The lab names paths CARRIER-CARRIER.
func pathOf(nodes map[string]admin.Status, node, peer, carrier string) (admin.Path, time.Time, bool) {
	st, ok := nodes[node]
	if !ok {
		return admin.Path{}, time.Time{}, false
	}
	for _, p := range st.Peers {
		if p.Name != peer {
			continue
		}
		for _, path := range p.Paths {
			if c, _, _ := strings.Cut(path.Name, "-"); c == carrier {
				return path, st.Taken, true
			}
		}
	}
	return admin.Path{}, time.Time{}, false
}

// addLanes appends one step of every lane between the gateways, and begins those that are new.
func (t *tracer) addLanes(nodes map[string]admin.Status) {
	n := len(t.trace.Seconds)
	for _, node := range []string{machineSha, machineFra} {
		peer := map[string]string{machineSha: machineFra, machineFra: machineSha}[node]
		for _, l := range lanesOf(nodes, node, peer) {
			have := slices.ContainsFunc(t.trace.Lanes, func(x *LaneTrace) bool { return x.is(node, l) })
			if !have && len(t.trace.Lanes) < maxTraceLanes {
				x := &LaneTrace{Node: node, ID: l.ID, Class: l.Class}
				for len(x.WindowPackets) < n-1 {
					x.WindowPackets, x.Lost = append(x.WindowPackets, math.NaN()), append(x.Lost, math.NaN())
				}
				t.trace.Lanes = append(t.trace.Lanes, x)
			}
		}
	}
	for _, x := range t.trace.Lanes {
		peer := map[string]string{machineSha: machineFra, machineFra: machineSha}[x.Node]
		window, lost := math.NaN(), math.NaN()
		for _, l := range lanesOf(nodes, x.Node, peer) {
			if !x.is(x.Node, l) {
				continue
			}
			window = float64(l.WindowPackets)
			for _, was := range lanesOf(t.lastNode, x.Node, peer) {
				if x.is(x.Node, was) {
					lost = perSecond(was.LostPackets, l.LostPackets, nodes[x.Node].Taken.Sub(t.lastNode[x.Node].Taken))
				}
			}
		}
		x.WindowPackets, x.Lost = append(x.WindowPackets, window), append(x.Lost, lost)
	}
}

func (l *LaneTrace) is(node string, x admin.Lane) bool {
	return l.Node == node && l.ID == x.ID && l.Class == x.Class
}

func lanesOf(nodes map[string]admin.Status, node, peer string) []admin.Lane {
	for _, p := range nodes[node].Peers {
		if p.Name == peer {
			return p.Lanes
		}
	}
	return nil
}

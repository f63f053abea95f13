package lab

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is one run of a workload: the object that "landbridge lab run --json" prints. Fields that do not apply to the
// workload are left out.
type Result struct {
	Scenario string   `json:"scenario"`
	Workload string   `json:"workload"` // one of Workloads
	Via      string   `json:"via"`      // one of ViaNames
	Seed     uint64   `json:"seed"`
	Seconds  float64  `json:"seconds"` // measured
	Agent    bool     `json:"agent"`   // the client sits behind an agent and its two access links
	Carriers []string `json:"carriers"`
	// Congestion is the kernel's congestion control on the client and the origin.
	Congestion string `json:"congestion"`
	Flows      int    `json:"flows,omitempty"`
	Upload     bool   `json:"upload,omitempty"`
	// Jain is the fairness index of the flows' goodput, where there are several.
	Jain float64 `json:"jain,omitempty"`

	GoodputMbit     float64 `json:"goodput_mbit"`      // payload at the receiver
	FirstSecondMbit float64 `json:"first_second_mbit"` // the same in the first second
	// FirstSecondShare is the first second's goodput over that of the rest of the run.
	FirstSecondShare float64 `json:"first_second_share,omitempty"`
	// SecondHalfMbit is the goodput of the window's second half: slow starts are over in most ways.
	SecondHalfMbit float64 `json:"second_half_mbit,omitempty"`
	LimitMbit      float64 `json:"limit_mbit"` // what loss-free TCP could carry in what the loss leaves
	OfLimit        float64 `json:"of_limit"`
	PayloadBytes   int64   `json:"payload_bytes"`
	SHA256OK       bool    `json:"sha256_ok"`     // every byte checked against what the sender sent
	FirstByteMS    float64 `json:"first_byte_ms"` // from the first dial to the first payload byte
	StallMSMax     float64 `json:"stall_ms_max"`
	// WireBytes are Ethernet bytes that left the border links' queues, both directions, a competitor's too; WireOverhead is their ratio to
	// the payload: 1.00 would be nothing but payload.
	WireBytes    uint64  `json:"wire_bytes"`
	WireOverhead float64 `json:"wire_overhead"`
	BestPathRTT  float64 `json:"best_path_rtt_ms"` // unloaded, access links included when there is an agent

	Paths map[string]PathResult `json:"paths"`

	*ObjectFigures
	*CallFigures
	*OutageFigures

	Competitor *CompetitorResult `json:"competitor,omitempty"`
	Steps      []StepResult      `json:"steps,omitempty"`
	Junk       *JunkResult       `json:"junk,omitempty"`

	CPUSeconds map[string]float64 `json:"cpu_seconds"` // user and system time of each process during the run
	// OtherCPU is the processor time of everything else on the machine, interrupts included.
	OtherCPU float64  `json:"other_cpu_seconds"`
	Errors   []string `json:"errors"`
	// Warnings are about the machine, not the tunnel: frames that the emulator read too late.
	Warnings []string `json:"warnings,omitempty"`
}

// PathResult is one carrier during a run, both directions added up, as the emulator counted them.
type PathResult struct {
	Sent       uint64 `json:"sent"`        // frames put on the wire
	Lost       uint64 `json:"lost"`        // of those: lost on it, outages included
	QueueDrops uint64 `json:"queue_drops"` // frames dropped before the wire because the queue was full
	Policed    uint64 `json:"policed"`     // and because a policer had no token for them
	SentBytes  uint64 `json:"sent_bytes"`
	ToClient   uint64 `json:"to_client_bytes"` // of SentBytes
	ToOrigin   uint64 `json:"to_origin_bytes"`
	// The same a second: what an idle path costs.
	ToClientKbit float64 `json:"to_client_kbit"`
	ToOriginKbit float64 `json:"to_origin_kbit"`

	RTTMillis float64 `json:"rtt_ms"` // as the tunnel sees it at the end; without a tunnel: the link's own
	Share     float64 `json:"share"`  // of all bytes sent on the border
}

// ObjectFigures are the objects' part of a Result, of the objects and mixed workloads.
type ObjectFigures struct {
	Objects      int     `json:"objects"`
	FreshObjects int     `json:"fresh_objects"`
	P50          float64 `json:"p50_ms"`
	P90          float64 `json:"p90_ms"`
	P99          float64 `json:"p99_ms"`
	Max          float64 `json:"max_ms"`
	FreshP50     float64 `json:"fresh_p50_ms"`
	FreshP90     float64 `json:"fresh_p90_ms"`
	FreshP99     float64 `json:"fresh_p99_ms"`
	P50OfRTT     float64 `json:"p50_of_rtt"`
	P99OfRTT     float64 `json:"p99_of_rtt"`
}

// CallFigures are the calls workload's part of a Result: over both directions of all calls.
type CallFigures struct {
	Calls    int     `json:"calls"`
	Packets  int     `json:"packets"`
	CallLoss float64 `json:"loss"`
	OWDP50   float64 `json:"owd_p50_ms"` // one-way delay of what arrived
	OWDP99   float64 `json:"owd_p99_ms"`
	GapMax   float64 `json:"gap_max_ms"` // the longest time in which nothing arrived in one direction of a call; 20 is none
	// MOS is the E-model's mean opinion score (ITU-T G.107) of the worse half of each call, with the best fixed playout
	// time: the mean over the calls, and that of the worst.
	MOS      float64 `json:"mos"`
	MOSWorst float64 `json:"mos_worst"`
}

// OutageFigures are a Result's part where links go dark again and again: the longest stall around each outage.
type OutageFigures struct {
	Outages  int     `json:"outages"`
	StallP99 float64 `json:"stall_ms_p99"`
}

// Failed says why the run counts as failed, or nothing: a byte that differs, or a flow or object that failed.
func (r *Result) Failed() string {
	switch {
	case !r.SHA256OK:
		return "payload differs from what was sent"
	case len(r.Errors) > 0:
		return r.Errors[0]
	case r.PayloadBytes == 0 && r.Workload != WorkloadIdle:
		return "no payload arrived"
	}
	return ""
}

func (r *Result) setBulk(b BulkResult) {
	r.Seconds = round(b.Elapsed.Seconds(), 3)
	r.GoodputMbit = mbit(b.Bytes, b.Elapsed)
	r.FirstSecondMbit = round(float64(b.FirstSecond)*8/1e6, 2)
	r.SecondHalfMbit = mbit(b.SecondHalf, b.Elapsed/2)
	r.PayloadBytes = b.Bytes
	r.SHA256OK = b.SumOK
	r.FirstByteMS = millis(b.FirstByte)
	r.StallMSMax = millis(b.StallMax)
	if rest := b.Elapsed - time.Second; rest > 0 && b.Bytes > b.FirstSecond {
		r.FirstSecondShare = round(float64(b.FirstSecond)*rest.Seconds()/float64(b.Bytes-b.FirstSecond), 3)
	}
	if len(b.FlowBytes) > 1 {
		r.Jain = round(Jain(b.FlowBytes), 4)
	}
	if len(b.Stalls) > 0 {
		r.OutageFigures = &OutageFigures{Outages: len(b.Stalls), StallP99: millis(Quantile(b.Stalls, 0.99))}
	}
	r.Errors = append(r.Errors, b.Errors...)
}

func (r *Result) setObjects(o ObjectsResult) {
	r.Seconds = round(o.Elapsed.Seconds(), 3)
	r.GoodputMbit = mbit(o.Bytes, o.Elapsed)
	r.PayloadBytes = o.Bytes
	r.SHA256OK = o.SumOK
	r.Errors = append(r.Errors, o.Errors...)
	r.ObjectFigures = r.objectFigures(o)
	// Objects come one after the other: the longest anybody waited is the slowest object.
	r.StallMSMax = max(r.Max, millis(Quantile(o.Fresh, 1)))
}

// setMixed: all figures but those of the objects are the bulk flows'.
func (r *Result) setMixed(b BulkResult, o ObjectsResult) {
	r.setBulk(b)
	r.PayloadBytes += o.Bytes
	r.SHA256OK = r.SHA256OK && o.SumOK
	r.Errors = append(r.Errors, o.Errors...)
	r.ObjectFigures = r.objectFigures(o)
}

func (r *Result) objectFigures(o ObjectsResult) *ObjectFigures {
	f := &ObjectFigures{
		Objects:      len(o.Warm),
		FreshObjects: len(o.Fresh),
		P50:          millis(Quantile(o.Warm, 0.5)),
		P90:          millis(Quantile(o.Warm, 0.9)),
		P99:          millis(Quantile(o.Warm, 0.99)),
		Max:          millis(Quantile(o.Warm, 1)),
		FreshP50:     millis(Quantile(o.Fresh, 0.5)),
		FreshP90:     millis(Quantile(o.Fresh, 0.9)),
		FreshP99:     millis(Quantile(o.Fresh, 0.99)),
	}
	if r.BestPathRTT > 0 {
		f.P50OfRTT = round(f.P50/r.BestPathRTT, 3)
		f.P99OfRTT = round(f.P99/r.BestPathRTT, 3)
	}
	return f
}

func (r *Result) setCalls(c CallsResult) {
	r.Seconds = round(c.Elapsed.Seconds(), 3)
	r.GoodputMbit = mbit(c.Bytes, c.Elapsed)
	r.PayloadBytes = c.Bytes
	r.SHA256OK = c.SumOK
	r.StallMSMax = millis(c.GapMax)
	f := &CallFigures{
		Calls: c.Calls, Packets: c.Sent, OWDP50: millis(Quantile(c.Delays, 0.5)), OWDP99: millis(Quantile(c.Delays, 0.99)),
		GapMax: millis(c.GapMax), MOS: round(c.MOS, 3), MOSWorst: round(c.MOSWorst, 3),
	}
	if c.Sent > 0 {
		f.CallLoss = round(float64(c.Lost)/float64(c.Sent), 5)
	}
	r.CallFigures = f
}

// setWire fills what the emulator counted; call it after the workload's figures.
func (r *Result) setWire(paths map[string]PathResult) {
	r.WireBytes = 0
	for _, p := range paths {
		r.WireBytes += p.SentBytes
	}
	r.Paths = make(map[string]PathResult, len(paths))
	for name, p := range paths {
		if r.WireBytes > 0 {
			p.Share = round(float64(p.SentBytes)/float64(r.WireBytes), 3)
		}
		if r.Seconds > 0 {
			p.ToClientKbit = round(float64(p.ToClient)*8/1e3/r.Seconds, 1)
			p.ToOriginKbit = round(float64(p.ToOrigin)*8/1e3/r.Seconds, 1)
		}
		r.Paths[name] = p
	}
	if r.PayloadBytes > 0 {
		r.WireOverhead = round(float64(r.WireBytes)/float64(r.PayloadBytes), 3)
	}
	if r.LimitMbit > 0 {
		r.OfLimit = round(r.GoodputMbit/r.LimitMbit, 3)
	}
}

// WriteJSON writes the result as one line.
func (r *Result) WriteJSON(w io.Writer) error {
	c := *r
	if c.Errors == nil {
		c.Errors = []string{}
	}
	if err := json.NewEncoder(w).Encode(&c); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// WriteTable writes the result for people.
func (r *Result) WriteTable(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	way := fmt.Sprintf("via %s over %s", r.Via, strings.Join(r.Carriers, "+"))
	behind := "client - agent - sha"
	if !r.Agent {
		behind = "client - sha"
	}
	row("run", "%s %s, seed %d, %.1f s, %s, %s", r.Scenario, r.Workload, r.Seed, r.Seconds, way, behind)
	if r.CallFigures == nil && r.Workload != WorkloadIdle {
		row("goodput", "%.1f Mbit/s of %.1f possible (%.2f), first second %.1f", r.GoodputMbit, r.LimitMbit, r.OfLimit, r.FirstSecondMbit)
	}
	if r.Flows > 1 {
		row("flows", "%d, Jain index %.3f", r.Flows, r.Jain)
	}
	o, c := r.ObjectFigures, r.CallFigures
	if c == nil && (o == nil || r.Workload == WorkloadMixed) && r.Workload != WorkloadIdle {
		row("longest stall", "%.0f ms (first byte after %.0f ms)", r.StallMSMax, r.FirstByteMS)
	}
	switch {
	case c != nil:
		row("calls", "%d: MOS %.2f (worst %.2f), %.2f %% of %d packets lost, longest gap %.0f ms", c.Calls, c.MOS, c.MOSWorst, 100*c.CallLoss, c.Packets, c.GapMax)
		row("one way", "p50 %.1f  p99 %.1f ms; the best path's round trip is %.1f ms", c.OWDP50, c.OWDP99, r.BestPathRTT)
	case o != nil:
		row("best path", "%.1f ms round trip", r.BestPathRTT)
		row("warm objects", "%d: p50 %.0f  p90 %.0f  p99 %.0f  max %.0f ms (p50 %.2f, p99 %.2f of the best path)",
			o.Objects, o.P50, o.P90, o.P99, o.Max, o.P50OfRTT, o.P99OfRTT)
		row("fresh objects", "%d: p50 %.0f  p90 %.0f  p99 %.0f ms", o.FreshObjects, o.FreshP50, o.FreshP90, o.FreshP99)
	}
	if o := r.OutageFigures; o != nil {
		row("outages", "%d: longest stall around each p99 %.0f ms", o.Outages, o.StallP99)
	}
	if c := r.Competitor; c != nil {
		row("competitor", "%s on %s: %.1f Mbit/s, %.2f of the carrier, %.2f left to the workload", c.Via, c.Carrier, c.GoodputMbit, c.Share, c.WorkloadShare)
	}
	if j := r.Junk; j != nil {
		row("junk", "%s", j)
	}
	for _, s := range r.Steps {
		row("rate step", "%s", s)
	}
	var toClient, toOrigin uint64
	for _, p := range r.Paths {
		toClient, toOrigin = toClient+p.ToClient, toOrigin+p.ToOrigin
	}
	row("on the wire", "%.1f MB for %.1f MB of payload (%.3f): %.1f to the client, %.1f to the origin", float64(r.WireBytes)/1e6,
		float64(r.PayloadBytes)/1e6, r.WireOverhead, float64(toClient)/1e6, float64(toOrigin)/1e6)
	for _, name := range slices.Sorted(maps.Keys(r.Paths)) {
		p := r.Paths[name]
		lost := 0.0
		if p.Sent > 0 {
			lost = 100 * float64(p.Lost) / float64(p.Sent)
		}
		drops := fmt.Sprintf("%d queue drops", p.QueueDrops)
		if p.Policed > 0 {
			drops += fmt.Sprintf(", %d policed (%.2f %%)", p.Policed, 100*float64(p.Policed)/float64(p.Policed+p.Sent))
		}
		if r.Workload == WorkloadIdle {
			drops += fmt.Sprintf(", %.0f kbit/s to the client, %.0f to the origin", p.ToClientKbit, p.ToOriginKbit)
		}
		row("  "+name, "%4.1f %% of the bytes, %d frames, %.2f %% lost, %s, rtt %.0f ms", 100*p.Share, p.Sent, lost, drops, p.RTTMillis)
	}
	var cpu []string
	for _, name := range slices.Sorted(maps.Keys(r.CPUSeconds)) {
		cpu = append(cpu, fmt.Sprintf("%s %.1f s", name, r.CPUSeconds[name]))
	}
	row("cpu", "%s, all else %.1f s", strings.Join(cpu, ", "), r.OtherCPU)
	sum := "yes"
	if !r.SHA256OK {
		sum = "NO"
	}
	row("sha-256 ok", "%s", sum)
	for _, e := range r.Errors {
		row("error", "%s", e)
	}
	for _, e := range r.Warnings {
		row("warning", "%s", e)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

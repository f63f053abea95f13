package lab

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sampleReport is a report with every feature of the page, made from a seed.
func sampleReport(seed uint64) *Report {
	rng := rand.New(rand.NewPCG(seed, 0))
	trace := func(steps int, goodput float64, shares map[string]float64, dark string) *Trace {
		t := &Trace{Version: traceVersion, Carriers: make(map[string]*CarrierTrace)}
		for name := range shares {
			t.Carriers[name] = &CarrierTrace{}
		}
		for i := range steps {
			at := float64(i+1) / 10
			t.Seconds = append(t.Seconds, at)
			isDark := dark != "" && at > 4 && at <= 7
			sum := 0.0
			for _, name := range carriers {
				s, ok := shares[name]
				if !ok {
					continue
				}
				v := goodput * s * (0.95 + 0.1*rng.Float64()) * min(1, at)
				if isDark && name == dark {
					v = 0
				}
				sum += v
				link := &t.Carriers[name].ToClient.Link
				link.Mbit, link.QueueMS = append(link.Mbit, v*1.12), append(link.QueueMS, 10)
			}
			t.GoodputMbit = append(t.GoodputMbit, sum)
		}
		if dark != "" {
			t.Marks = []Mark{{From: 4, To: 7, Label: dark + " dark", Carrier: dark}}
		}
		return t
	}
	all := map[string]float64{"ct": 0.33, "cu": 0.36, "cm": 0.31}
	return &Report{
		Made: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Kernel: "Linux 6.1", CPUs: 2, Go: "go1.26", Network: "kernel",
		Scenario: "typical", Seed: seed, LimitMbit: 141.1, Seconds: 71,
		Links:    []LinkSummary{{"ct", "50mbit queue 100ms delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3"}, {"cu", "50mbit delay 110ms"}},
		Payloads: []Payload{{"go-src.tar.gz", 37_000_000, strings.Repeat("ab", 32)}, {"go-src.tar", 157_000_000, strings.Repeat("cd", 32)}},
		Legs: []Leg{
			{
				Title: "go-src.tar.gz, directly over cu", Via: ViaDirect, Carriers: []string{"cu"}, Total: 37_000_000, Bytes: 1_200_000, Seconds: 9,
				SHA256OK: true, Goodput: 1.07, WouldTake: 277, StallMSMax: 330, WireOverhead: 1.098, Shares: map[string]float64{"cu": 1},
				Trace: trace(90, 1.1, map[string]float64{"cu": 1}, ""),
			},
			{
				Title: "go-src.tar.gz, through Landbridge", Via: ViaLandbridge, Carriers: carriers, Total: 37_000_000, Bytes: 37_000_000, Seconds: 2.7,
				Complete: true, SHA256OK: true, Goodput: 108.4, StallMSMax: 38, WireOverhead: 1.14, Shares: all, Trace: trace(27, 110, all, ""),
			},
			{
				Title: "go-src.tar.gz 4 times over, cu dark for 3 s", Via: ViaLandbridge, Carriers: carriers, Total: 148_000_000, Bytes: 148_000_000,
				Seconds: 12.2, Complete: true, SHA256OK: true, Goodput: 97, StallMSMax: 412, WireOverhead: 1.16, Shares: all, Dark: "cu",
				Trace: trace(122, 108, all, "cu"),
			},
		},
	}
}

// writeSample leaves the sample page at REPORT_SAMPLE, for eyes.
func writeSample(t *testing.T, r *Report) {
	if dir := os.Getenv("REPORT_SAMPLE"); dir != "" {
		if err := r.WriteFiles(dir); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPageIsSelfContainedAndWellFormed(t *testing.T) {
	r := sampleReport(testSeed(t))
	writeSample(t, r)
	var b bytes.Buffer
	if err := WritePage(&b, r); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	checkPage(t, text, 3)
	for _, want := range []string{"108", "limit 141", "cu dark", "would take 4 min 37 s", "make demo", strings.Repeat("ab", 32)} {
		if !strings.Contains(text, want) {
			t.Errorf("page lacks %q", want)
		}
	}
}

// checkPage holds a page to what all of ours are: one file, complete by itself, with so many charts, all well-formed.
func checkPage(t *testing.T, text string, charts int) {
	t.Helper()
	for _, bad := range []string{"http://", "https://", "<script", "<link", "@import", "url(", "src=", "NaN", "Inf", "%!", "ZgotmplZ"} {
		if strings.Contains(text, bad) {
			t.Errorf("page contains %q", bad)
		}
	}
	for _, tag := range []string{"html", "head", "body", "main", "style", "section", "table", "ul"} {
		if opened, closed := strings.Count(text, "<"+tag+">")+strings.Count(text, "<"+tag+" "), strings.Count(text, "</"+tag+">"); opened != closed {
			t.Errorf("%d <%s> opened, %d closed", opened, tag, closed)
		}
	}
	n := 0
	for rest := text; ; n++ {
		i := strings.Index(rest, "<svg")
		if i < 0 {
			break
		}
		j := strings.Index(rest[i:], "</svg>") + len("</svg>")
		if err := wellFormed(rest[i : i+j]); err != nil {
			t.Errorf("drawing %d: %v", n, err)
		}
		rest = rest[i+j:]
	}
	if n != charts*len(chartSizes) {
		t.Errorf("%d drawings, want %d charts in %d sizes", n, charts, len(chartSizes))
	}
}

func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestPageEscapesAndSurvivesLittle(t *testing.T) {
	for name, r := range map[string]*Report{
		"nothing":   {},
		"no traces": {Legs: []Leg{{Via: ViaDirect}, {Via: ViaLandbridge, Dark: "ct"}, {Via: ViaLandbridge}}},
		"empty traces": {Legs: []Leg{
			{Via: ViaDirect, Trace: &Trace{}}, {Via: ViaLandbridge, Trace: &Trace{Carriers: map[string]*CarrierTrace{"ct": {}}}},
		}},
		"markup": {Scenario: "<b>", Legs: []Leg{{Title: "<i>", Via: ViaDirect, Error: "<u>", Carriers: []string{"<s>"}}, {Via: ViaLandbridge}}},
	} {
		var b bytes.Buffer
		if err := WritePage(&b, r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, bad := range []string{"<b>", "<i>", "<u>", "<s>", "NaN"} {
			if body := b.String(); strings.Contains(body[strings.Index(body, "<body"):], bad) && (bad != "<b>" || name == "markup" && strings.Contains(body, "<b></b>")) {
				t.Errorf("%s: page contains %q", name, bad)
			}
		}
	}
}

func TestReportFilesRoundTrip(t *testing.T) {
	r, dir := sampleReport(testSeed(t)), filepath.Join(t.TempDir(), "new", "demo")
	if err := r.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var again Report
	if err := json.Unmarshal(b, &again); err != nil {
		t.Fatal(err)
	}
	if len(again.Legs) != 3 || again.Legs[2].Dark != "cu" || len(again.Legs[1].Trace.Seconds) != 27 || again.Failed() != "" {
		t.Errorf("came back as %+v", again)
	}
}

func TestReportFails(t *testing.T) {
	var page bytes.Buffer
	bad := sampleReport(1)
	bad.Legs[2].Error, bad.Legs[2].Complete = "connection reset", false
	if err := WritePage(&page, bad); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(page.String(), "This run failed") || strings.Contains(page.String(), "complete after 12.2 s") {
		t.Error("the page praises a transfer that failed")
	}
	for name, spoil := range map[string]func(*Report){
		"wrong sum":  func(r *Report) { r.Legs[0].SHA256OK = false },
		"incomplete": func(r *Report) { r.Legs[1].Complete = false },
		"error":      func(r *Report) { r.Legs[2].Error = "reset" },
	} {
		r := sampleReport(1)
		if r.Failed() != "" {
			t.Fatalf("sample fails: %s", r.Failed())
		}
		if spoil(r); r.Failed() == "" {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestResultJSONHasTheAgreedFields(t *testing.T) {
	common := []string{
		"scenario", "workload", "seed", "goodput_mbit", "limit_mbit", "of_limit", "sha256_ok", "wire_overhead", "stall_ms_max",
		"paths", "best_path_rtt_ms", "errors", "cpu_seconds", "first_second_mbit",
	}
	objects := []string{"p50_ms", "p90_ms", "p99_ms", "fresh_p50_ms", "fresh_p99_ms", "p50_of_rtt", "p99_of_rtt"}
	paths := map[string]PathResult{"ct": {Sent: 100, Lost: 2, SentBytes: 150_000, RTTMillis: 181}, "cu": {SentBytes: 50_000}}
	ms := time.Millisecond
	bulk, objs := &Result{Scenario: "typical", LimitMbit: 141, BestPathRTT: 164}, &Result{BestPathRTT: 164}
	bulk.setBulk(BulkResult{
		Bytes: 180_000, Elapsed: 4 * time.Second, FirstSecond: 30_000, SecondHalf: 100_000, SumOK: true, FlowBytes: []int64{90_000, 30_000, 60_000},
		Stalls: []time.Duration{10 * ms, 250 * ms, 20 * ms},
	})
	bulk.Competitor, bulk.Steps = &CompetitorResult{Via: ViaTCPBBR, Carrier: "ct"}, []StepResult{{Carrier: "ct", FromMbit: 50, ToMbit: 16}}
	onlyBulk := []string{"jain", "first_second_share", "second_half_mbit", "outages", "stall_ms_p99", "competitor", "steps"}
	objs.setObjects(ObjectsResult{Bytes: 180_000, Elapsed: time.Second, SumOK: true, Warm: []time.Duration{164 * ms, 328 * ms}, Fresh: []time.Duration{200 * ms}})
	talk := &Result{BestPathRTT: 160}
	talk.setCalls(CallsResult{
		Calls: 20, Elapsed: time.Second, Bytes: 180_000, Sent: 4, Lost: 1, Delays: []time.Duration{80 * ms, 81 * ms, 99 * ms}, GapMax: 41 * ms, MOS: 4.2, MOSWorst: 4, SumOK: true,
	})
	callFields := []string{"calls", "packets", "loss", "owd_p50_ms", "owd_p99_ms", "gap_max_ms", "mos", "mos_worst"}
	for name, tc := range map[string]struct {
		r    *Result
		want []string
	}{"bulk": {bulk, append(onlyBulk, common...)}, "objects": {objs, append(objects, common...)}, "calls": {talk, append(callFields, common...)}} {
		tc.r.setWire(paths)
		var b bytes.Buffer
		if err := tc.r.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		for _, f := range tc.want {
			if v, ok := m[f]; !ok || v == nil && f != "cpu_seconds" {
				t.Errorf("%s: field %s is missing: %v", name, f, v)
			}
		}
		if m["wire_overhead"] != 1.111 || m["paths"].(map[string]any)["ct"].(map[string]any)["share"] != 0.75 {
			t.Errorf("%s: wire_overhead %v, paths %v", name, m["wire_overhead"], m["paths"])
		}
		if b.Reset(); tc.r.WriteTable(&b) != nil || strings.Contains(b.String(), "%!") {
			t.Errorf("%s: table: %s", name, b.String())
		}
	}
	if bulk.Jain != 0.8571 || bulk.FirstSecondShare != 0.6 || bulk.SecondHalfMbit != 0.4 || bulk.Outages != 3 || bulk.StallP99 != 250 {
		t.Errorf("bulk: Jain %v, first second %v, outages %+v", bulk.Jain, bulk.FirstSecondShare, bulk.OutageFigures)
	}
	if objs.P50OfRTT != 1 || objs.P99OfRTT != 2 || objs.StallMSMax != 328 {
		t.Errorf("objects: %+v", objs.ObjectFigures)
	}
	if f := *talk.CallFigures; f != (CallFigures{20, 4, 0.25, 81, 99, 41, 4.2, 4}) || talk.StallMSMax != 41 {
		t.Errorf("calls: %+v", f)
	}
	if bulk.Failed() != "" {
		t.Errorf("failed: %s", bulk.Failed())
	}
	idle := &Result{Workload: WorkloadIdle, Seconds: 10, SHA256OK: true}
	idle.setWire(map[string]PathResult{"ct": {ToClient: 80_000, ToOrigin: 40_000, SentBytes: 120_000}})
	if p := idle.Paths["ct"]; p.ToClientKbit != 64 || p.ToOriginKbit != 32 || idle.Failed() != "" {
		t.Errorf("idle: %+v, failed %q", p, idle.Failed())
	}
	for name, spoil := range map[string]func(*Result){
		"sum": func(r *Result) { r.SHA256OK = false }, "errors": func(r *Result) { r.Errors = []string{"x"} }, "nothing": func(r *Result) { r.PayloadBytes = 0 },
	} {
		r := *bulk
		if spoil(&r); r.Failed() == "" {
			t.Errorf("%s: not noticed", name)
		}
	}
}

package lab

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTracePage(t *testing.T) {
	seed := testSeed(t)
	objects := sampleTrace(seed, 100)
	objects.Upload = true
	objects.Result.Workload, objects.Result.ObjectFigures = WorkloadObjects, &ObjectFigures{Objects: 30, P50: 171, P99: 199}
	failed := sampleTrace(seed, 1)
	failed.Result.Errors, failed.Result.Warnings = []string{"flow 3: <reset>"}, []string{"ct: 4 frames dropped by the device"}
	var b bytes.Buffer
	if err := WriteTracePage(&b, []*Trace{sampleTrace(seed, 250), objects, failed}); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	// Goodput, three panels each of rate, delay and loss, windows, the other direction.
	checkPage(t, text, 3*12)
	for _, want := range []string{
		"3 runs in the lab", "1 March 2026", `href="#run2"`, `id="run2"`, "86.3 %", "ct dark", "limit 141", "171 / 199 ms", "This run failed",
		"flow 3: &lt;reset&gt;", "4 frames dropped", "One bulk flow to the client", "30 objects",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("page lacks %q", want)
		}
	}
	if dir := os.Getenv("REPORT_SAMPLE"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, "trace.html"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTracePageSurvivesLittle(t *testing.T) {
	bare := func(steps int) *Trace { // as of a run without a tunnel
		tr := sampleTrace(1, steps)
		tr.Lanes, tr.Result = nil, nil
		for _, c := range tr.Carriers {
			c.ToClient.Path, c.ToOrigin.Path = nil, nil
		}
		return tr
	}
	unknown := sampleTrace(1, 20)
	for _, c := range unknown.Carriers {
		for _, w := range []*WayTrace{&c.ToClient, &c.ToOrigin} {
			for _, col := range append(w.Link.columns(), w.Path.columns()...) {
				for i := range *col {
					(*col)[i] = math.NaN()
				}
			}
			w.Path.State, w.Path.Controller = make([]string, 20), make([]string, 20)
		}
	}
	for name, tc := range map[string]struct {
		traces []*Trace
		charts int
	}{
		"no runs":          {nil, 0},
		"nothing in it":    {[]*Trace{{Version: traceVersion}}, 2},
		"no steps":         {[]*Trace{sampleTrace(1, 0)}, 12},
		"one step":         {[]*Trace{sampleTrace(1, 1)}, 12},
		"no tunnel":        {[]*Trace{bare(30)}, 11},
		"nothing is known": {[]*Trace{unknown}, 12},
		"other carriers":   {[]*Trace{{Version: traceVersion, Carriers: map[string]*CarrierTrace{"sat": {}, "fibre": {}}}}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := WriteTracePage(&b, tc.traces); err != nil {
				t.Fatal(err)
			}
			checkPage(t, b.String(), tc.charts)
		})
	}
}

func TestTraceReportWritesAFile(t *testing.T) {
	path, err := TraceReport(filepath.Join(t.TempDir(), "new"), []*Trace{sampleTrace(1, 10)})
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() < 10_000 {
		t.Errorf("%v, %v", fi, err)
	}
	if _, err := TraceReport(path, nil); err == nil {
		t.Error("a file was taken for a directory")
	}
}

func TestPathFiguresLeaveDeadTimeOut(t *testing.T) {
	p := &PathTrace{State: []string{"up", "down", "", "up"}}
	got := p.alive(Column{1, 2, 3, 4})
	if got[0] != 1 || !math.IsNaN(got[1]) || !math.IsNaN(got[2]) || got[3] != 4 {
		t.Errorf("%v", got)
	}
	tr := &Trace{Seconds: Column{0.1, 0.2, 0.3, 0.5}}
	if d := tr.notUp(&PathTrace{State: []string{"up", "down", "", "suspect"}}); round(d, 6) != 0.3 {
		t.Errorf("not up for %v s, want 0.3", d)
	}
}

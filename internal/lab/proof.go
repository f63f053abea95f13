package lab

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
)

// The checks of Proof, in its order.
const (
	CheckProbes   = "probes"   // round trips and loss against the emulator's record, with every processor busy
	CheckDark     = "dark"     // carriers that go dark under new realtime flows, and such flows while none is
	CheckBrownout = "brownout" // carriers that become worse under a realtime flow
	CheckOracle   = "oracle"   // calls and objects on picked paths beside the best carrier alone
	CheckJunk     = "junk"     // a bulk transfer under junk, with the guard and without
)

// ProofChecks are all of them.
var ProofChecks = []string{CheckProbes, CheckDark, CheckBrownout, CheckOracle, CheckJunk}

// ProofOptions say what Proof measures.
type ProofOptions struct {
	Name      string
	Checks    []string // nil: ProofChecks
	Scenarios []string // of CheckDark and CheckOracle; nil: typical and heavy
	// Window is how long each workload of CheckOracle runs; 0 is 15 s.
	Window   time.Duration
	Seed     uint64
	Programs string // as in Options
	Dir      string // of paths.json and paths.md
}

// The files of a Proof.
const (
	proofJSON     = "paths.json"
	proofMarkdown = "paths.md"
)

// What the checks promise.
const (
	maxProbeError = 0.3   // ms, p95
	maxLossError  = 0.2   // of the truth
	maxDarkPick   = 200.0 // ms
	maxLostFlows  = 0.002 // a packet on its way to the carrier's NIC may be lost to the machine
	maxBrownout   = 2000.0
	maxOfOracle   = 1.1
	maxJunkCost   = 0.1
	// lossChance is how many deviations calls may lose more than the oracle's in their run; losses come lossBurst at once, as
	// calls share their bursts.
	lossChance, lossBurst = 2.0, 8.0
)

// Proof is what the live paths promise, measured.
type Proof struct {
	Made    time.Time       `json:"made"`
	Kernel  string          `json:"kernel"`
	Go      string          `json:"go"`
	CPUs    int             `json:"cpus"`
	Seed    uint64          `json:"seed"`
	Seconds float64         `json:"seconds"` // that it took
	Probes  []ProbeFigures  `json:"probes,omitempty"`
	Dark    []DarkTrial     `json:"dark,omitempty"`
	Steady  []SteadyTrial   `json:"steady,omitempty"`
	Brown   []BrownoutTrial `json:"brownouts,omitempty"`
	Oracle  []OracleTrial   `json:"oracle,omitempty"`
	Junk    []JunkTrial     `json:"junk,omitempty"`
	Errors  []string        `json:"errors,omitempty"` // of checks that did not come about
	Rows    []ProofRow      `json:"rows"`
}

// ProofRow is one promise beside what was measured.
type ProofRow struct {
	What     string `json:"what"`
	Case     string `json:"case"`
	Target   string `json:"target,omitempty"` // nothing: only reported
	Measured string `json:"measured"`
	Met      bool   `json:"met"`
	Note     string `json:"note,omitempty"`
}

func (o *ProofOptions) check() error {
	if len(o.Checks) == 0 {
		o.Checks = ProofChecks
	}
	for _, c := range o.Checks {
		if !slices.Contains(ProofChecks, c) {
			return fmt.Errorf("%w: check %q, want one of %s", ErrOptions, c, strings.Join(ProofChecks, ", "))
		}
	}
	if o.Window == 0 {
		o.Window = 15 * time.Second
	}
	if o.Window < time.Second || o.Window > maxWindow {
		return fmt.Errorf("%w: %v, want 1 s to %v", ErrOptions, o.Window, maxWindow)
	}
	if len(o.Scenarios) == 0 {
		o.Scenarios = []string{"typical", "heavy"}
	}
	for _, s := range o.Scenarios {
		if _, err := scenarioLinks(s); err != nil {
			return err
		}
	}
	return nil
}

// darkScenarios are those that carriers went dark in, in order.
func (p *Proof) darkScenarios() (out []string) {
	for _, d := range p.Dark {
		if !slices.Contains(out, d.Scenario) {
			out = append(out, d.Scenario)
		}
	}
	return out
}

// judge makes the rows.
func (p *Proof) judge() {
	p.Rows = nil
	row := func(met bool, what, where, target, measured string, note ...string) {
		p.Rows = append(p.Rows, ProofRow{what, where, target, measured, met, strings.Join(note, "; ")})
	}
	for _, prober := range []string{ProberNIC, ProberUser} {
		if len(p.Probes) == 0 {
			break
		}
		worst := func(value func(*ProbeFigures) float64) float64 { return worstProbe(p.Probes, prober, value) }
		p95 := worst(func(f *ProbeFigures) float64 { return f.ErrorP95 })
		target, lossTarget := "", ""
		if prober == ProberNIC {
			target, lossTarget = fmt.Sprintf("at most %g ms (p95)", maxProbeError), fmt.Sprintf("within %g %%", 100*maxLossError)
		}
		row(prober != ProberNIC || p95 <= maxProbeError, "probe RTT, error", prober+", processors busy", target, fmt.Sprintf("p50 %.3f, p95 %.3f, max %.1f ms",
			worst(func(f *ProbeFigures) float64 { return f.ErrorP50 }), p95, worst(func(f *ProbeFigures) float64 { return f.ErrorMax })),
			fmt.Sprintf("the truth is sure to %.2f ms (p95)", worst(func(f *ProbeFigures) float64 { return f.TruthSlack })))
		loss := worst((*ProbeFigures).LossError)
		row(prober != ProberNIC || loss <= maxLossError, "probe loss, error", prober+", 1 to 10 %", lossTarget, fmt.Sprintf("%.1f %% of the truth", 100*loss))
	}
	daemon := map[bool]string{false: "daemon running", true: "daemon stopped (SIGSTOP)"}
	for _, scenario := range p.darkScenarios() {
		for _, stopped := range []bool{false, true} {
			var picks []string
			met := true
			for _, d := range p.Dark {
				if d.Stopped != stopped || d.Scenario != scenario {
					continue
				}
				picks = append(picks, fmt.Sprintf("%s %.0f", d.Link, d.LastPick))
				met = met && d.Picked > 0 && d.LastPick < maxDarkPick && d.Elsewhere >= 0
			}
			if len(picks) > 0 {
				row(met, "dark path, last new flow on it", scenario+", "+daemon[stopped], fmt.Sprintf("under %g ms after it went dark", maxDarkPick), strings.Join(picks, ", ")+" ms")
			}
		}
	}
	for i := range p.Steady {
		s := &p.Steady[i]
		row(s.Lost <= int(maxLostFlows*float64(s.Flows)), "new flows while nothing is dark", s.Scenario+" "+s.Link+", "+daemon[s.Stopped], fmt.Sprintf("at most %g %% without a carrier", 100*maxLostFlows),
			fmt.Sprintf("%d of %d without; %.2f %% kept from it", s.Lost, s.Flows, 100*float64(s.Elsewhere)/float64(max(s.Flows, 1))))
	}
	for _, b := range p.Brown {
		measured := fmt.Sprintf("moved after %.0f ms", b.MovedMS)
		switch {
		case b.Moved:
		case b.MovedMS == 0:
			measured = "was not there"
		default:
			measured = "not moved"
		}
		row(b.Moved && b.MovedMS <= maxBrownout, "brownout under a realtime flow", b.Link+", "+b.Change, fmt.Sprintf("moved within %g ms", maxBrownout), measured, b.Why...)
	}
	for i := range p.Oracle {
		o := &p.Oracle[i]
		row(o.met(), o.Workload+" beside the oracle", o.Scenario+", oracle "+o.Carrier, o.target(), o.measured(), o.warnings()...)
	}
	for i := range p.Junk {
		j := &p.Junk[i]
		target := ""
		if j.Guard == "enforce" {
			target = fmt.Sprintf("costs at most %g %%", 100*maxJunkCost)
		}
		row(target == "" || j.Cost() <= maxJunkCost, "bulk under junk", "clean, guard "+j.Guard, target, j.measured(), j.notes()...)
	}
}

func (o *OracleTrial) met() bool {
	if r := o.Ratio(); r == 0 || r > maxOfOracle {
		return false
	}
	// Calls that are quick and broken are no better.
	return o.Picked.CallFigures == nil || o.Picked.MOS*maxOfOracle >= o.Oracle.MOS && o.Picked.CallLoss <= o.mostLoss()
}

// mostLoss is the loss that calls may have: the oracle's, and what chance makes of it in two runs. It is 0 where nothing was sent.
func (o *OracleTrial) mostLoss() float64 {
	a, b := float64(o.Picked.Packets), float64(o.Oracle.Packets)
	if a == 0 || b == 0 {
		return 0
	}
	p := max(o.Oracle.CallLoss, lossBurst/b) // one burst may be missing there
	return maxOfOracle*o.Oracle.CallLoss + lossChance*math.Sqrt(lossBurst*p*(1/a+1/b))
}

func (o *OracleTrial) target() string {
	target := fmt.Sprintf("p99 at most %g of the oracle's", maxOfOracle)
	if o.Picked == nil || o.Oracle == nil || o.Picked.CallFigures == nil || o.Oracle.CallFigures == nil {
		return target
	}
	return fmt.Sprintf("%s, MOS no less by more; loss too, and %g deviations of chance: at most %.2f %%", target, lossChance, 100*o.mostLoss())
}

func (o *OracleTrial) measured() string {
	switch {
	case o.Picked == nil || o.Oracle == nil:
		return "not measured"
	case o.Picked.CallFigures != nil:
		a, b := o.Picked.CallFigures, o.Oracle.CallFigures
		return fmt.Sprintf("one way p99 %.1f of %.1f ms (%.2f), loss %.2f of %.2f %%, longest gap %.0f of %.0f ms, MOS %.2f of %.2f, worst %.2f of %.2f",
			a.OWDP99, b.OWDP99, o.Ratio(), 100*a.CallLoss, 100*b.CallLoss, a.GapMax, b.GapMax, a.MOS, b.MOS, a.MOSWorst, b.MOSWorst)
	}
	a, b := o.Picked.ObjectFigures, o.Oracle.ObjectFigures
	return fmt.Sprintf("p99 %.0f of %.0f ms (%.2f), p50 %.0f of %.0f ms", a.P99, b.P99, o.Ratio(), a.P50, b.P50)
}

func (o *OracleTrial) warnings() (out []string) {
	for name, r := range map[string]*Result{"picked": o.Picked, "oracle": o.Oracle} {
		if r == nil {
			continue
		}
		for _, w := range slices.Concat(r.Errors, r.Warnings) {
			out = append(out, name+": "+w)
		}
	}
	slices.Sort(out)
	return out
}

func (j *JunkTrial) measured() string {
	if j.Alone == nil || j.Under == nil {
		return "not measured"
	}
	return fmt.Sprintf("%.1f to %.1f Mbit/s (%+.1f %%)", j.Alone.GoodputMbit, j.Under.GoodputMbit, -100*j.Cost())
}

func (j *JunkTrial) notes() (out []string) {
	if j.Under != nil && j.Under.Junk != nil {
		out = append(out, j.Under.Junk.String())
	}
	for _, r := range []*Result{j.Alone, j.Under} {
		if r != nil {
			out = append(out, slices.Concat(r.Errors, r.Warnings)...)
		}
	}
	return out
}

// Failed says which promises were not kept, or nothing.
func (p *Proof) Failed() string {
	var out []string
	for _, r := range p.Rows {
		if !r.Met {
			out = append(out, r.What+" ("+r.Case+")")
		}
	}
	return strings.Join(append(out, p.Errors...), "; ")
}

// WriteMarkdown writes the table.
func (p *Proof) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Live paths: what they promise, measured\n\n%s, %s, %d CPUs, %s; seed %d; %.0f s. Made by \"landbridge lab paths\".\n\n",
		p.Made.UTC().Format("2 January 2006"), p.Kernel, p.CPUs, p.Go, p.Seed, p.Seconds)
	b.WriteString("| what | case | target | measured | met | notes |\n|---|---|---|---|---|---|\n")
	for _, r := range p.Rows {
		met := "yes"
		switch {
		case r.Target == "":
			met = ""
		case !r.Met:
			met = "NO"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.What, r.Case, r.Target, r.Measured, met, cell([]string{r.Note}))
	}
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "\nFailed: %s\n", e)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteFiles writes paths.json and paths.md into dir.
func (p *Proof) WriteFiles(dir string) error {
	if err := writeReport(dir, proofJSON, proofMarkdown, p, p.WriteMarkdown); err != nil {
		return fmt.Errorf("proof: %w", err)
	}
	return nil
}

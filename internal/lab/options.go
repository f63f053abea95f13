package lab

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/hint"
)

// The workloads of a run.
const (
	WorkloadBulk    = "bulk"
	WorkloadObjects = "objects"
	WorkloadCalls   = "calls"
	WorkloadMixed   = "mixed"
	WorkloadIdle    = "idle"
)

// Workloads are all of them.
var Workloads = []string{WorkloadBulk, WorkloadObjects, WorkloadMixed, WorkloadCalls, WorkloadIdle}

// maxWindow bounds a run: traces and samples are kept in memory.
const maxWindow = time.Hour

// RunOptions say what Run measures.
type RunOptions struct {
	Options
	Workload string        // one of Workloads
	Window   time.Duration // how long
	Flows    int           // bulk and mixed: connections at once; 0 is 1
	Upload   bool          // bulk: client to origin
	Bytes    int64         // bulk: end after so many bytes a flow; 0: the window ends it
	Trace    bool
	// Competitor is ViaTCPCubic or ViaTCPBBR: one such flow between the gateways over CompetitorCarrier, all the time.
	Competitor        string
	CompetitorCarrier string
	Steps             []RateStep
	// Junk is how many junk datagrams a second come at gateway sha's bond port on a carrier, from a host between its NIC
	// and the link; 0 for none. JunkCarrier "" is the first in use.
	Junk        int
	JunkCarrier string
}

// maxFlows bounds the connections of a bulk run: each has a thread's worth of buffers.
const maxFlows = 1000

func (o *RunOptions) check() error {
	switch {
	case !slices.Contains(Workloads, o.Workload):
		return fmt.Errorf("%w: workload %q, want one of %s", ErrOptions, o.Workload, strings.Join(Workloads, ", "))
	case o.Window <= 0 || o.Window > maxWindow:
		return fmt.Errorf("%w: %v, want more than 0 s and at most %v", ErrOptions, o.Window, maxWindow)
	case o.Flows < 0 || o.Flows > maxFlows:
		return fmt.Errorf("%w: %d flows, want 1 to %d", ErrOptions, o.Flows, maxFlows)
	case o.Bytes < 0:
		return fmt.Errorf("%w: %d bytes, want 0 or more", ErrOptions, o.Bytes)
	case o.Workload == WorkloadMixed && o.Window <= 2*mixedSettle:
		return fmt.Errorf("%w: %v of the mixed workload, want more than %v: objects begin after %v of bulk", ErrOptions, o.Window, 2*mixedSettle, mixedSettle)
	case o.Workload != WorkloadBulk && (o.Upload || o.Bytes > 0) || o.Workload != WorkloadBulk && o.Workload != WorkloadMixed && o.Flows > 1:
		return fmt.Errorf("%w: flows are for the bulk and mixed workloads, upload and bytes for bulk alone", ErrOptions)
	}
	if o.Workload == WorkloadCalls {
		if err := o.checkCalls(); err != nil {
			return err
		}
	}
	return o.checkBesides()
}

// checkCalls is for the one workload that is not TCP.
func (o *RunOptions) checkCalls() error {
	w, err := wayNamed(cmp.Or(o.Via, ViaLandbridge))
	switch {
	case err != nil:
		return err
	case w.forwards || w.multipath:
		return fmt.Errorf("%w: %s carries TCP alone, and calls are UDP", ErrOptions, w.name)
	case w.name == ViaLandbridge && !o.NoAgent:
		return hint.With(fmt.Errorf("%w: calls are direct flows, which enter at gateway sha", ErrOptions), "add --no-agent")
	}
	return nil
}

// checkBesides is for what happens beside the workload.
func (o *RunOptions) checkBesides() error {
	used := func(carrier string) bool { return len(o.Carriers) == 0 || slices.Contains(o.Carriers, carrier) }
	switch {
	case (o.Competitor == "") != (o.CompetitorCarrier == ""):
		return fmt.Errorf("%w: a competitor needs its kind and its carrier", ErrOptions)
	case o.Competitor != "" && o.Competitor != ViaTCPCubic && o.Competitor != ViaTCPBBR:
		return fmt.Errorf("%w: competitor %q, want %s or %s", ErrOptions, o.Competitor, ViaTCPCubic, ViaTCPBBR)
	case o.Competitor != "" && !(slices.Contains(carriers, o.CompetitorCarrier) && used(o.CompetitorCarrier)):
		return fmt.Errorf("%w: competitor on carrier %q, which is not in use", ErrOptions, o.CompetitorCarrier)
	case o.Junk < 0 || o.Junk > wan.MaxFloodRate:
		return fmt.Errorf("%w: %d junk packets a second, want 0 to %d", ErrOptions, o.Junk, wan.MaxFloodRate)
	case o.JunkCarrier != "" && (o.Junk == 0 || !slices.Contains(carriers, o.JunkCarrier) || !used(o.JunkCarrier)):
		return fmt.Errorf("%w: junk on carrier %q, which is not in use, or there is none", ErrOptions, o.JunkCarrier)
	case len(o.Steps) > maxSteps:
		return fmt.Errorf("%w: %d rate steps, want at most %d", ErrOptions, len(o.Steps), maxSteps)
	}
	for _, s := range o.Steps {
		switch {
		case !used(s.Carrier):
			return fmt.Errorf("%w: rate step of carrier %q, which is not in use", ErrOptions, s.Carrier)
		case s.At >= o.Window:
			return fmt.Errorf("%w: rate step at %v, after the end at %v", ErrOptions, s.At, o.Window)
		}
	}
	return nil
}

// Landbridge's programs, in the directory of the running one.
const (
	gatewayProgram = "landbridge-gateway"
	agentProgram   = "landbridge-agent"
)

// programDir is where programs are looked for first.
func (o Options) programDir() (string, error) {
	if o.Programs != "" {
		return o.Programs, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the running program: %w", err)
	}
	return filepath.Dir(self), nil
}

// findPrograms makes sure that Landbridge's programs are there.
func findPrograms(o Options) error {
	dir, err := o.programDir()
	if err != nil {
		return err
	}
	for _, name := range []string{gatewayProgram, agentProgram} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return hint.With(fmt.Errorf("find %s: %w", name, err), "build all programs with \"make build\" and run bin/landbridge")
		}
	}
	return nil
}

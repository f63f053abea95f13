package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/landbridge/landbridge/internal/hint"
)

// The workloads of a run.
const (
	WorkloadBulk    = "bulk"
	WorkloadObjects = "objects"
)

// maxWindow bounds a run: traces and samples are kept in memory.
const maxWindow = time.Hour

// RunOptions say what Run measures.
type RunOptions struct {
	Options
	Workload string        // WorkloadBulk or WorkloadObjects
	Window   time.Duration // how long
	Flows    int           // bulk: connections at once; 0 is 1
	Upload   bool          // bulk: client to origin
	Bytes    int64         // bulk: end after so many bytes a flow; 0: the window ends it
	Trace    bool
}

// maxFlows bounds the connections of a bulk run: each has a thread's worth of buffers.
const maxFlows = 1000

func (o *RunOptions) check() error {
	switch {
	case o.Workload != WorkloadBulk && o.Workload != WorkloadObjects:
		return fmt.Errorf("%w: workload %q, want %s or %s", ErrOptions, o.Workload, WorkloadBulk, WorkloadObjects)
	case o.Window <= 0 || o.Window > maxWindow:
		return fmt.Errorf("%w: %v, want more than 0 s and at most %v", ErrOptions, o.Window, maxWindow)
	case o.Flows < 0 || o.Flows > maxFlows:
		return fmt.Errorf("%w: %d flows, want 1 to %d", ErrOptions, o.Flows, maxFlows)
	case o.Bytes < 0:
		return fmt.Errorf("%w: %d bytes, want 0 or more", ErrOptions, o.Bytes)
	case o.Workload == WorkloadObjects && (o.Flows > 1 || o.Upload || o.Bytes > 0):
		return fmt.Errorf("%w: flows, upload and bytes are for the bulk workload", ErrOptions)
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

package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/lab"
)

// newLabPathsCommand is "landbridge lab paths": the promises of live paths, measured.
func newLabPathsCommand(name *string) *cobra.Command {
	var o lab.ProofOptions
	cmd := &cobra.Command{
		Use:   "paths",
		Short: "Measure what the live paths promise, and write one table",
		Long: `Paths measures probes against the emulator's own record with every processor busy, carriers that go dark under new
realtime flows, or brown out under one, calls and objects on picked paths beside the best carrier alone, and a bulk transfer under
junk; it prints the table and writes it to paths.md and paths.json. All of it takes about twelve minutes. The exit code is 1
when a promise was not kept.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name = *name
			p, err := lab.Prove(cmd.Context(), o, cmd.ErrOrStderr())
			if p != nil {
				if werr := p.WriteMarkdown(cmd.OutOrStdout()); werr != nil && err == nil {
					err = werr
				}
			}
			if err != nil {
				return labError(err)
			}
			if why := p.Failed(); why != "" {
				return errors.New("not kept: " + why)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Checks, "only", nil, "checks, of probes,dark,brownout,oracle,junk (default all)")
	f.StringSliceVar(&o.Scenarios, "scenarios", nil, "scenarios of the dark and oracle checks (default typical,heavy)")
	f.DurationVar(&o.Window, "oracle-for", 15*time.Second, "how long each workload beside the oracle runs")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of losses, jitter and payload")
	f.StringVar(&o.Dir, "out", "bench-paths", "`directory` for paths.md and paths.json")
	f.StringVar(&o.Programs, "programs", "", "directory of landbridge-gateway (default that of this program)")
	return cmd
}

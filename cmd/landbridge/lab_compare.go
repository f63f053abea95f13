package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/lab"
)

// newLabCompareCommand is "landbridge lab compare": the table of ways side by side.
func newLabCompareCommand(name *string) *cobra.Command {
	var o lab.CompareOptions
	var bulk, objects float64
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure Landbridge beside other ways across the border, and write one table",
		Long: `Compare runs objects and bulk over every way and in every scenario, without an agent, prints the table and writes it to
peers.md and peers.json. A tool that is not on this machine is a row that says so; "make bench-peers" installs them
first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name = *name
			o.Bulk, o.Objects = time.Duration(bulk*float64(time.Second)), time.Duration(objects*float64(time.Second))
			c, err := lab.Compare(cmd.Context(), o, cmd.ErrOrStderr())
			if c != nil {
				if werr := c.WriteMarkdown(cmd.OutOrStdout()); werr != nil && err == nil {
					err = werr
				}
			}
			return labError(err)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Scenarios, "scenarios", nil, "scenarios (default clean,typical,heavy,skewed,outage)")
	f.StringSliceVar(&o.Vias, "via", nil, "ways across the border (default all)")
	f.StringVar(&o.Carrier, "carrier", "ct", "the carrier of ways that take one")
	f.Float64Var(&bulk, "seconds", 20, "how long each bulk flow runs")
	f.Float64Var(&objects, "object-seconds", 20, "how long objects are asked for")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of losses, jitter and payload")
	f.StringVar(&o.Dir, "out", "bench-peers", "`directory` for peers.md and peers.json")
	f.StringVar(&o.Programs, "programs", "", "directory of landbridge-gateway and others' programs (default that of this program)")
	return cmd
}

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/lab"
)

// newLabReportCommand is "landbridge lab report": what "lab run --trace" recorded, as a page.
func newLabReportCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "report TRACE.json...",
		Short: "Draw what lab runs recorded with --trace as a page",
		Long: `Report draws the traces of lab runs, in the order given, as one page DIR/report.html: a table of the runs, and for
each run goodput over time by path, one-way delay and queue, FEC beside loss, and the lanes' congestion windows. The
page is one file without scripts that needs no network.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var traces []*lab.Trace
			for _, path := range args {
				t, err := lab.ReadTraceFile(path)
				if err != nil {
					return err
				}
				traces = append(traces, t)
			}
			page, err := lab.TraceReport(dir, traces)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "report: %s\n", page)
			return nil
		},
	}
	cmd.Flags().StringVarP(&dir, "out", "o", "bench-report", "`directory` for report.html")
	return cmd
}

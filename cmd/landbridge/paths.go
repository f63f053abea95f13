package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
)

func init() { commands = append(commands, newPaths) }

func newPaths() *cobra.Command {
	var from nodeFlags
	var watch watchFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "paths [--watch] [--node NAME | --socket PATH]",
		Short: "Show what a node knows of its paths, and which of them each class uses",
		Long: `For each path: the median round trip, its 95th percentile and jitter, the loss each way as the scores count it, the mean
length of a loss burst, what the bond delivered lately and what the path is believed to carry, and when it was last heard.
For each class: where it is, since when, what it could take instead, and why it moved.

With --watch the table is redrawn in place, with sparklines of round trip, loss and rate, newest on the right; the round
trip's begins at the least of the time shown, the others at 0.`,
		Example: "  landbridge paths --watch\n  landbridge paths --node sha --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := watch.check("paths"); err != nil {
				return err
			}
			views := make(map[string]*admin.PathsView) // by socket
			show := func(out io.Writer, columns int) error {
				shown := 0
				return from.each(func(socket string, c *admin.Client) error {
					p, err := c.Paths(cmd.Context())
					if err != nil {
						return err
					}
					if asJSON {
						return json.NewEncoder(out).Encode(p)
					}
					if shown++; shown > 1 {
						fmt.Fprintln(out)
					}
					v := views[socket]
					if v == nil {
						v = new(admin.PathsView)
						views[socket] = v
					}
					v.Add(p)
					if watch.on {
						return v.WriteText(out, columns, marks())
					}
					return v.WriteText(out, 0, nil)
				})
			}
			if !watch.on {
				return show(cmd.OutOrStdout(), 0)
			}
			return watchNodes(cmd, &watch, asJSON, show)
		},
	}
	from.register(cmd)
	watch.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the JSON document, one line a node")
	return cmd
}

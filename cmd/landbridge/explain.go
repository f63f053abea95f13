package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
)

func init() { commands = append(commands, newExplain) }

func newExplain() *cobra.Command {
	var from nodeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain FLOW",
		Short: "Say where a flow goes and why: class, rule, path, candidates",
		Long: `FLOW is one end, ADDR:PORT, or a 5-tuple, [PROTOCOL] ADDR:PORT ADDR:PORT, either end first. An address without a port
stands for all its ports. All nodes on this machine are asked unless one is named.

Exit code 1 means that no node has such a flow.`,
		Example: "  landbridge explain 10.10.0.7:51234\n  landbridge explain udp 10.10.0.7:51234 10.20.0.9:16400",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := admin.ParseFlow(strings.Join(args, " "))
			if err != nil {
				return cli.Usage(err)
			}
			found := 0
			err = from.each(func(_ string, c *admin.Client) error {
				x, err := c.Explain(cmd.Context(), q)
				if errors.Is(err, admin.ErrNoFlow) {
					return nil
				}
				if err != nil {
					return err
				}
				if found++; asJSON {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(x)
				}
				if found > 1 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				return x.WriteText(cmd.OutOrStdout())
			})
			if err == nil && found == 0 {
				err = hint.With(fmt.Errorf("explain %s: %w", q, admin.ErrNoFlow), "flows are forgotten some time after their last packet")
			}
			return err
		},
	}
	from.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the JSON document, one line a node")
	return cmd
}

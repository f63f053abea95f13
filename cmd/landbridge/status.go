package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
)

func init() { commands = append(commands, newStatus) }

func newStatus() *cobra.Command {
	var from nodeFlags
	var watch watchFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--node NAME | --socket PATH]",
		Short: "Show what a running node does: peers, paths, flows, drops",
		Long: `Asks a node on this machine over its status socket. Without --node and --socket, all nodes found here are shown.
Losses are before repair; share is each path's part of the bytes now being sent to the peer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := watch.check("status"); err != nil {
				return err
			}
			show := func(out io.Writer) error {
				paths, err := from.sockets()
				if err != nil {
					return err
				}
				return showNodes(cmd.Context(), out, paths, asJSON)
			}
			if !watch.on {
				return show(cmd.OutOrStdout())
			}
			return watchNodes(cmd, &watch, asJSON, func(out io.Writer, _ int) error { return show(out) })
		},
	}
	from.register(cmd)
	watch.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the JSON document, one line a node")
	return cmd
}

func showNodes(ctx context.Context, out io.Writer, sockets []string, asJSON bool) error {
	shown := 0
	return askEach(sockets, func(_ string, c *admin.Client) error {
		st, err := c.Fetch(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return json.NewEncoder(out).Encode(st)
		}
		if shown++; shown > 1 {
			fmt.Fprintln(out)
		}
		return st.WriteText(out)
	})
}

// watchNodes shows a picture again and again, and goes on while the node restarts: that is when people watch.
func watchNodes(cmd *cobra.Command, watch *watchFlags, asJSON bool, picture func(out io.Writer, columns int) error) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	s := newScreen(out)
	defer s.close()
	return watch.run(ctx, func() error {
		if asJSON {
			if err := picture(out, 0); err != nil && ctx.Err() == nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "%v\n", err)
			}
			return nil
		}
		return s.draw(func(w io.Writer, columns int) error {
			if err := picture(w, columns); err != nil && ctx.Err() == nil {
				fmt.Fprintf(w, "%v\n", err)
			}
			return nil
		})
	})
}

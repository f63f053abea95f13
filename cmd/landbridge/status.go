package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
)

func init() { commands = append(commands, newStatus) }

func newStatus() *cobra.Command {
	var node, socket string
	var asJSON, watch bool
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "status [--node NAME | --socket PATH]",
		Short: "Show what a running node does: peers, paths, flows, drops",
		Long: `Asks a node on this machine over its status socket. Without --node and --socket, all nodes found here are shown.
Losses are before repair; share is each path's part of the bytes now being sent to the peer.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if every < 100*time.Millisecond {
				return cli.Usage(fmt.Errorf("status: interval %s, want at least 100ms", every))
			}
			if !watch {
				return showStatus(cmd.Context(), cmd.OutOrStdout(), node, socket, asJSON)
			}
			return watchStatus(cmd.Context(), cmd.OutOrStdout(), node, socket, asJSON, every)
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "the node's `NAME`")
	cmd.Flags().StringVar(&socket, "socket", "", "the node's status socket, by `PATH`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the JSON document, one line a node")
	cmd.Flags().BoolVar(&watch, "watch", false, "print again and again until interrupted")
	cmd.Flags().DurationVar(&every, "interval", time.Second, "how often --watch prints")
	cmd.MarkFlagsMutuallyExclusive("node", "socket")
	return cmd
}

func sockets(node, socket string) ([]string, error) {
	switch {
	case socket != "":
		return []string{socket}, nil
	case node != "":
		return []string{admin.DefaultSocket(node)}, nil
	}
	found, err := admin.Sockets()
	if err == nil && len(found) == 0 {
		err = hint.With(fmt.Errorf("status: no node runs here: no socket in %s", admin.Dir()), "name its socket with --socket")
	}
	return found, err
}

func showStatus(ctx context.Context, out io.Writer, node, socket string, asJSON bool) error {
	paths, err := sockets(node, socket)
	if err != nil {
		return err
	}
	return showNodes(ctx, out, paths, asJSON)
}

func showNodes(ctx context.Context, out io.Writer, paths []string, asJSON bool) error {
	var failed []error
	shown := 0
	for _, path := range paths {
		st, err := admin.Fetch(ctx, path)
		if err != nil { // the socket of a node that crashed does not hide the others
			failed = append(failed, err)
			continue
		}
		if asJSON {
			if err := json.NewEncoder(out).Encode(st); err != nil {
				return err
			}
			continue
		}
		if shown++; shown > 1 {
			fmt.Fprintln(out)
		}
		if err := st.WriteText(out); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// watchStatus goes on while the node restarts: that is when people watch.
func watchStatus(ctx context.Context, out io.Writer, node, socket string, asJSON bool, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if !asJSON {
			fmt.Fprint(out, "\x1b[H\x1b[J") // cursor home, clear below (ECMA-48)
		}
		if err := showStatus(ctx, out, node, socket, asJSON); err != nil && ctx.Err() == nil {
			fmt.Fprintf(out, "%v\n", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

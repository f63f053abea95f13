package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
)

func init() { commands = append(commands, newEvents) }

func newEvents() *cobra.Command {
	var from nodeFlags
	var follow, asJSON, decisions bool
	cmd := &cobra.Command{
		Use:   "events [--follow] [--json]",
		Short: "Show what happened to paths and choices lately",
		Long: fmt.Sprintf(`Prints a node's latest events, at most %d, oldest first: moves of a class to another path and why, and changes of a
path's state. --decisions prints the log of decisions with all that went into them instead, for "landbridge replay".`, admin.MaxEvents),
		Example: "  landbridge events --follow\n  landbridge events --decisions | landbridge replay - --set realtime.dwell=5s",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return fmt.Errorf("events: %d arguments, want none", len(args))
			case decisions && (follow || asJSON):
				return fmt.Errorf("events: --decisions goes alone")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if decisions {
				return from.each(func(_ string, c *admin.Client) error { return c.Decisions(cmd.Context(), cmd.OutOrStdout()) })
			}
			sockets, err := from.sockets()
			if err != nil {
				return err
			}
			e := eventReader{out: cmd.OutOrStdout(), asJSON: asJSON, many: len(sockets) > 1, last: make(map[string]uint64), life: make(map[string]int64)}
			if !follow {
				return e.read(cmd.Context(), sockets)
			}
			return e.follow(cmd, sockets)
		},
	}
	from.register(cmd)
	cmd.Flags().BoolVar(&follow, "follow", false, "go on with new ones until interrupted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, one line an event")
	cmd.Flags().BoolVar(&decisions, "decisions", false, "print the log of decisions")
	return cmd
}

// followEvery is how soon a new event is seen.
const followEvery = 250 * time.Millisecond

// eventReader prints the events of some nodes, each once.
type eventReader struct {
	out    io.Writer
	asJSON bool
	many   bool              // nodes: each line says whose it is
	last   map[string]uint64 // number, by socket
	life   map[string]int64  // in which it was counted
}

// nodeEvent is an event as --json prints it.
type nodeEvent struct {
	Node string `json:"node"`
	admin.Event
}

func (r *eventReader) read(ctx context.Context, sockets []string) error {
	var all []nodeEvent
	err := askEach(sockets, func(socket string, c *admin.Client) error {
		e, err := c.Events(ctx, r.last[socket])
		if last := r.last[socket]; err == nil && last > 0 && e.Life != r.life[socket] { // it has started again
			e, err = c.Events(ctx, 0)
		}
		if err != nil {
			return err
		}
		r.last[socket], r.life[socket] = e.Last, e.Life
		if e.Missed > 0 && !r.asJSON {
			fmt.Fprintf(r.out, "%d older events of %s are forgotten\n", e.Missed, e.Node)
		}
		for _, x := range e.Events {
			all = append(all, nodeEvent{e.Node, x})
		}
		return nil
	})
	slices.SortStableFunc(all, func(a, b nodeEvent) int { return a.At.Compare(b.At) })
	for i := range all {
		if err := r.print(&all[i]); err != nil {
			return err
		}
	}
	return err
}

func (r *eventReader) print(e *nodeEvent) error {
	if r.asJSON {
		return json.NewEncoder(r.out).Encode(e)
	}
	if r.many {
		if _, err := fmt.Fprintf(r.out, "%s  ", e.Node); err != nil {
			return err
		}
	}
	return e.WriteText(r.out)
}

// follow goes on while a node restarts, and says once that it does not answer.
func (r *eventReader) follow(cmd *cobra.Command, sockets []string) error {
	complaint := ""
	w := watchFlags{every: followEvery}
	return w.run(cmd.Context(), func() error {
		err := r.read(cmd.Context(), sockets)
		text := ""
		if err != nil && cmd.Context().Err() == nil {
			text = err.Error()
		}
		if text != "" && text != complaint {
			cli.Report(cmd.ErrOrStderr(), cmd.Root().Name(), err)
		}
		complaint = text
		return nil
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/admin"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
)

// nodeFlags say which running nodes a command asks: one by name or socket, or all that are found on this machine.
type nodeFlags struct{ node, socket string }

func (n *nodeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&n.node, "node", "", "the node's `NAME`")
	cmd.Flags().StringVar(&n.socket, "socket", "", "the node's status socket, by `PATH`")
	cmd.MarkFlagsMutuallyExclusive("node", "socket")
}

// sockets lists the nodes' sockets, at least one.
func (n *nodeFlags) sockets() ([]string, error) {
	switch {
	case n.socket != "":
		return []string{n.socket}, nil
	case n.node != "":
		return []string{admin.DefaultSocket(n.node)}, nil
	}
	found, err := admin.Sockets()
	if err == nil && len(found) == 0 {
		err = hint.With(fmt.Errorf("no node runs here: no socket in %s", admin.Dir()), "name its socket with --socket")
	}
	return found, err
}

// each asks every node. The socket of a node that crashed does not hide the others.
func (n *nodeFlags) each(ask func(socket string, c *admin.Client) error) error {
	paths, err := n.sockets()
	if err != nil {
		return err
	}
	return askEach(paths, ask)
}

func askEach(sockets []string, ask func(socket string, c *admin.Client) error) error {
	var failed []error
	for _, path := range sockets {
		c := admin.NewClient(path)
		failed = append(failed, ask(path, c))
		c.Close()
	}
	return errors.Join(failed...)
}

// watchFlags are those of a command that shows something again and again.
type watchFlags struct {
	on    bool
	every time.Duration
}

// minInterval keeps a watcher from being a load.
const minInterval = 100 * time.Millisecond

func (w *watchFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.on, "watch", false, "print again and again until interrupted")
	cmd.Flags().DurationVar(&w.every, "interval", time.Second, "how often --watch prints")
}

func (w *watchFlags) check(name string) error {
	if w.every < minInterval {
		return cli.Usage(fmt.Errorf("%s: interval %s, want at least %s", name, w.every, minInterval))
	}
	return nil
}

// run calls show until ctx ends.
func (w *watchFlags) run(ctx context.Context, show func() error) error {
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		if err := show(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

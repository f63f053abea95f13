// Command landbridge is the program for people: it makes keys, checks configuration, shows what a running node does,
// and looks at the machine.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
)

// commands are the subcommands; each file appends its own in init.
var commands []func() *cobra.Command

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "landbridge",
		Short: "Keys, configuration checks, status and diagnosis for Landbridge",
		Long: `Landbridge carries traffic across a border over several carriers at once.
This program makes keys, checks configuration, shows what a running node does, and looks at the machine.
The nodes themselves are landbridge-gateway and landbridge-agent.

` + cli.ExitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range commands {
		root.AddCommand(c())
	}
	return root
}

func main() { os.Exit(cli.Main(newRoot())) }

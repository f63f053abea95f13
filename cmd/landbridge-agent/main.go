// Command landbridge-agent is a site's end of the tunnel: it carries the site's flows to its gateway over one or several
// access links.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/node"
)

func newRoot() *cobra.Command {
	var path, socket string
	var debug bool
	root := &cobra.Command{
		Use:   "landbridge-agent --config agent.yaml",
		Short: "A Landbridge site agent",
		Long: `Runs a site's agent: flows from its LAN interfaces (or through its SOCKS5 and HTTP CONNECT proxies) to prefixes that
its gateway announces go through the tunnel. The agent may be behind NAT, and its address may change.

SIGHUP reads the file again. SIGINT or SIGTERM stops. "landbridge status" shows a running agent, "landbridge check
--agent FILE" validates the file.

` + cli.ExitCodes,
		Example: "  landbridge keygen plant.key\n  landbridge-agent --config agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return node.RunAgent(cmd.Context(), path, socket, cli.Logger(debug))
		},
	}
	f := root.Flags()
	f.StringVar(&path, "config", "", "the agent's file (required)")
	f.StringVar(&socket, "socket", "", "status socket (default: the node's name under /run/landbridge)")
	f.BoolVar(&debug, "debug", false, "log more")
	_ = root.MarkFlagRequired("config") // fails only for a flag that is not there
	return root
}

func main() { os.Exit(cli.Main(newRoot())) }

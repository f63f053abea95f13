// Command landbridge-gateway is a gateway at a border: it holds the bonds to its peers over the carriers and carries the
// flows of the sites behind it.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/node"
)

func newRoot() *cobra.Command {
	var fleet, name, key, socket string
	var debug bool
	root := &cobra.Command{
		Use:   "landbridge-gateway --fleet fleet.yaml --node NAME --key NAME.key",
		Short: "A Landbridge gateway",
		Long: `Runs one gateway of a fleet document. Peers, routes and exits follow from the document, which is the same
file on both sides of the border. Gateways need no start order and reconnect by themselves.

SIGHUP reads the document again: peers, sites and tenants change without touching flows of peers that stay.
SIGINT or SIGTERM stops. "landbridge status" shows a running gateway, "landbridge check" validates the document.

` + cli.ExitCodes,
		Example: "  landbridge keygen sha.key\n  landbridge-gateway --fleet fleet.yaml --node sha --key sha.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return node.RunGateway(cmd.Context(), fleet, name, key, socket, cli.Logger(debug))
		},
	}
	f := root.Flags()
	f.StringVar(&fleet, "fleet", "", "fleet document (required)")
	f.StringVar(&name, "node", "", "this gateway's name in the document (required)")
	f.StringVar(&key, "key", "", "this gateway's private key file (required)")
	f.StringVar(&socket, "socket", "", "status socket (default: the node's name under /run/landbridge)")
	f.BoolVar(&debug, "debug", false, "log more")
	for _, n := range []string{"fleet", "node", "key"} {
		_ = root.MarkFlagRequired(n) // fails only for a flag that is not there
	}
	return root
}

func main() { os.Exit(cli.Main(newRoot())) }

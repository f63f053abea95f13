package node

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/journal"
)

// decisionFlags say where the log of decisions is kept.
type decisionFlags struct {
	dir   string
	bytes int64
	keep  int
}

// noDecisions is the directory that means none.
const noDecisions = "off"

func (d *decisionFlags) register(f *pflag.FlagSet) {
	f.StringVar(&d.dir, "decisions", "", "`DIR` to keep the log of path decisions in, for \"landbridge replay DIR\"; off: in memory alone (default $LOGS_DIRECTORY, which systemd sets, else off)")
	f.Int64Var(&d.bytes, "decisions-size", journal.DefaultFileBytes, "`BYTES` from which that log begins a new file")
	f.IntVar(&d.keep, "decisions-keep", journal.DefaultKeep, "how many `FILES` of it to keep, compressed but for the newest")
}

func (d *decisionFlags) config() journal.Config {
	dir := d.dir
	if dir == "" {
		dir, _, _ = strings.Cut(os.Getenv("LOGS_DIRECTORY"), ":")
	}
	if dir == noDecisions {
		dir = ""
	}
	return journal.Config{Dir: dir, FileBytes: d.bytes, Keep: d.keep}
}

// GatewayCommand is the command line of landbridge-gateway.
func GatewayCommand() *cobra.Command {
	var fleet, name, key, socket string
	var decisions decisionFlags
	var debug bool
	root := &cobra.Command{
		Use:   "landbridge-gateway --fleet fleet.yaml --node NAME --key NAME.key",
		Short: "A Landbridge gateway",

		Version: cli.Version(),
		Long: `Runs one gateway of a fleet document. Peers, routes and exits follow from the document, which is the same
file on both sides of the border. Gateways need no start order and reconnect by themselves.

SIGHUP reads the document again: peers, sites and tenants change without touching flows of peers that stay. A document
with a mistake is refused, and the gateway goes on as it was. SIGINT or SIGTERM stops, a second one at once.
"landbridge status" shows a running gateway, "landbridge check" validates the document.

` + cli.ExitCodes,
		Example: "  landbridge keygen sha.key\n  landbridge-gateway --fleet fleet.yaml --node sha --key sha.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return RunGateway(cmd.Context(), fleet, name, key, socket, decisions.config(), cli.Logger(debug))
		},
	}
	f := root.Flags()
	f.StringVar(&fleet, "fleet", "", "fleet document `FILE` (required)")
	f.StringVar(&name, "node", "", "this gateway's `NAME` in the document (required)")
	f.StringVar(&key, "key", "", "this gateway's private key `FILE` (required)")
	f.StringVar(&socket, "socket", "", "status socket `PATH` (default: NAME.sock in /run/landbridge, or where that cannot be in the user's own directory)")
	decisions.register(f)
	f.BoolVar(&debug, "debug", false, "log more")
	for _, n := range []string{"fleet", "node", "key"} {
		_ = root.MarkFlagRequired(n) // fails only for a flag that is not there
	}
	return root
}

// AgentCommand is the command line of landbridge-agent.
func AgentCommand() *cobra.Command {
	var path, socket string
	var decisions decisionFlags
	var debug bool
	root := &cobra.Command{
		Use:   "landbridge-agent --config agent.yaml",
		Short: "A Landbridge site agent",

		Version: cli.Version(),
		Long: `Runs a site's agent: flows from its LAN interfaces (or through its SOCKS5 and HTTP CONNECT proxies) to prefixes that
its gateway announces go through the tunnel. The agent may be behind NAT, and its address may change.

Without root or capabilities an agent still offers its proxies: leave lan out of its file.

SIGHUP reads the file again. SIGINT or SIGTERM stops, a second one at once. "landbridge status" shows a running agent,
"landbridge check --agent FILE" validates the file.

` + cli.ExitCodes,
		Example: "  landbridge keygen plant.key\n  landbridge-agent --config agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return RunAgent(cmd.Context(), path, socket, decisions.config(), cli.Logger(debug))
		},
	}
	f := root.Flags()
	f.StringVar(&path, "config", "", "the agent's `FILE` (required)")
	f.StringVar(&socket, "socket", "", "status socket `PATH` (default: NAME.sock in /run/landbridge, or where that cannot be in the user's own directory)")
	decisions.register(f)
	f.BoolVar(&debug, "debug", false, "log more")
	_ = root.MarkFlagRequired("config") // fails only for a flag that is not there
	return root
}

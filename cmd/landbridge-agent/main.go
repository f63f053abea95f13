// Command landbridge-agent is a site's end of the tunnel: it carries the site's flows to its gateway over one or several
// access links.
package main

import (
	"os"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/node"
)

func main() { os.Exit(cli.Main(node.AgentCommand())) }

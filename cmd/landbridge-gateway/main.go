// Command landbridge-gateway is a gateway at a border: it holds the bonds to its peers over the carriers and carries the
// flows of the sites behind it.
package main

import (
	"os"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/node"
)

func main() { os.Exit(cli.Main(node.GatewayCommand())) }

package main

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/doctor"
)

func init() { commands = append(commands, newDoctor) }

func newDoctor() *cobra.Command {
	var fleet, node, agent string
	var asJSON, proxyOnly bool
	cmd := &cobra.Command{
		Use:   "doctor [NIC...]",
		Short: "Look at this machine: kernel, capabilities, limits, NICs",
		Long: `Checks whether a node can run here and prints what is missing, what is lost by that, and what to do. NICs are
named on the command line or taken from a configuration, whose addresses are then compared with the machine's.
Nothing is changed.

Exit code 3 means that something needed is missing; warnings do not change the exit code.`,
		Example: "  landbridge doctor\n  landbridge doctor --fleet fleet.yaml --node sha\n  landbridge doctor --agent agent.yaml",
		Args: func(_ *cobra.Command, _ []string) error {
			switch {
			case (fleet == "") != (node == ""):
				return fmt.Errorf("doctor: --fleet and --node go together")
			case fleet != "" && agent != "":
				return fmt.Errorf("doctor: either --fleet or --agent")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, nics []string) error {
			o := doctor.Options{Capture: !proxyOnly, NICs: nics}
			var local error
			if fleet != "" || agent != "" {
				n, err := nodeOf(fleet, node, agent)
				if err != nil {
					return err
				}
				ifs, err := config.SystemInterfaces()
				if err != nil {
					return err
				}
				local = checkLocal(cmd, n, ifs)
				if agent != "" && len(n.LAN) == 0 {
					o.Capture = false
				}
				for _, u := range n.Uplinks {
					o.NICs = append(o.NICs, u.Interface)
				}
				o.NICs = append(o.NICs, n.LAN...)
				if local == nil { // each is there, or the node starts without it
					o.Spare = slices.Clone(o.NICs)
				}
				slices.Sort(o.NICs)
				o.NICs = slices.Compact(o.NICs)
			}
			results := doctor.Run(o)
			var err error
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(results)
			} else {
				err = doctor.WriteText(cmd.OutOrStdout(), results)
			}
			switch {
			case err != nil:
				return err
			case local != nil:
				return local
			case doctor.Worst(results) == doctor.Fail:
				return cli.Capability(cli.ErrSilent)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&fleet, "fleet", "", "take the NICs from this fleet document `FILE`")
	cmd.Flags().StringVar(&node, "node", "", "and this gateway of it, by `NAME`")
	cmd.Flags().StringVar(&agent, "agent", "", "take the NICs from this agent's `FILE`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as one JSON list")
	cmd.Flags().BoolVar(&proxyOnly, "proxy-only", false, "the node is to offer its proxies only, without capture")
	return cmd
}

func nodeOf(fleet, node, agent string) (*config.NodeConfig, error) {
	if agent != "" {
		a, err := config.LoadAgent(agent)
		if err != nil {
			return nil, err
		}
		n, err := a.Node(nil)
		return n, cli.Usage(err)
	}
	f, err := config.Load(fleet)
	if err != nil {
		return nil, err
	}
	return f.Node(node)
}

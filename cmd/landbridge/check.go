package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
)

func init() { commands = append(commands, newCheck) }

func newCheck() *cobra.Command {
	var node, agent string
	var local bool
	cmd := &cobra.Command{
		Use:   "check FLEET [--node NAME] | check --agent FILE",
		Short: "Validate a fleet document or an agent's file",
		Long: `Reads the document, reports every problem with its line, and prints what the nodes make of it: peers, paths and
routes. Nothing is contacted and, without --local, the machine is not looked at, so it may run anywhere.`,
		Example: "  landbridge check fleet.yaml\n  landbridge check fleet.yaml --node sha --local\n  landbridge check --agent agent.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case agent == "" && len(args) != 1:
				return fmt.Errorf("check: %d documents named, want 1", len(args))
			case agent != "" && (len(args) != 0 || node != ""):
				return fmt.Errorf("check: --agent goes without a fleet document and without --node")
			case agent == "" && local && node == "":
				return fmt.Errorf("check: --local needs --node")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			var ifs []config.Interface
			if local {
				var err error
				if ifs, err = config.SystemInterfaces(); err != nil {
					return err
				}
			}
			if agent != "" {
				return checkAgent(cmd, agent, local, ifs)
			}
			fleet, err := config.Load(args[0])
			if err != nil {
				return err
			}
			names := []string{node}
			if node == "" {
				names = nil
				for _, g := range fleet.Gateways {
					names = append(names, g.Name)
				}
			}
			fmt.Fprintf(out, "%s: ok: %d regions, %d gateways, %d borders, %d tenants\n", args[0], len(fleet.Regions), len(fleet.Gateways), len(fleet.Borders), len(fleet.Tenants))
			for _, name := range names {
				n, err := fleet.Node(name)
				if err != nil {
					return err
				}
				printNode(out, n)
				if local {
					if err := checkLocal(cmd, n, ifs); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "show only the gateway `NAME`")
	cmd.Flags().StringVar(&agent, "agent", "", "check an agent's `FILE` instead")
	cmd.Flags().BoolVar(&local, "local", false, "also compare interfaces and addresses with this machine")
	return cmd
}

// checkLocal compares a node with this machine. What the node starts without is said, and no error.
func checkLocal(cmd *cobra.Command, n *config.NodeConfig, ifs []config.Interface) error {
	late, err := config.CheckLocal(n, ifs)
	cli.Warn(cmd.ErrOrStderr(), cmd.Root().Name(), late)
	return err
}

func checkAgent(cmd *cobra.Command, file string, local bool, ifs []config.Interface) error {
	out := cmd.OutOrStdout()
	a, err := config.LoadAgent(file)
	if err != nil {
		return err
	}
	n, err := a.Node(ifs)
	if err != nil {
		return cli.Usage(err)
	}
	fmt.Fprintf(out, "%s: ok\n", file)
	printNode(out, n)
	if a.SOCKS5 != "" {
		fmt.Fprintf(out, "  socks5 on %s\n", a.SOCKS5)
	}
	if a.HTTPConnect != "" {
		fmt.Fprintf(out, "  http connect on %s\n", a.HTTPConnect)
	}
	if local {
		return checkLocal(cmd, n, ifs)
	}
	return nil
}

func printNode(out io.Writer, n *config.NodeConfig) {
	fmt.Fprintf(out, "\nnode %s", n.Name)
	if n.Region != "" {
		fmt.Fprintf(out, " in %s", n.Region)
	}
	if len(n.LAN) > 0 {
		fmt.Fprintf(out, ", captures on %s", strings.Join(n.LAN, ", "))
	}
	if n.PreserveSource {
		fmt.Fprint(out, ", keeps source addresses at its exit")
	}
	fmt.Fprintln(out)
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range n.Peers {
		fmt.Fprintf(tw, "  %s %s\tkey %s\n", p.Kind, p.Name, p.PublicKey)
		for _, q := range p.Paths {
			u := n.Uplink(q.Uplink)
			from := "any address"
			if u.Address.IsValid() {
				from = u.Address.String()
			}
			fmt.Fprintf(tw, "    path %s\t%s on %s to %s%s\n", q.Name, from, u.Interface, q.Remote, capped(q.Rate))
		}
		if p.Kind == config.PeerAgent {
			fmt.Fprintf(tw, "    \treaches us on %s\n", strings.Join(p.Uplinks, ", "))
		}
	}
	for _, r := range n.Routes {
		via := "exit here"
		if r.Via != "" {
			via = "via " + r.Via
		}
		fmt.Fprintf(tw, "  route %s\t%s (%s)\n", r.Prefix, via, strings.Trim(r.Tenant+"/"+r.Site, "/"))
	}
	for _, b := range n.Blocked {
		fmt.Fprintf(tw, "  blocked %s\t%s (%s/%s)\n", b.Prefix, b.Reason, b.Tenant, b.Site)
	}
	for _, t := range n.Tenants {
		for i := range t.Rules {
			fmt.Fprintf(tw, "  rule %d of %s\t%s\n", i+1, t.Name, &t.Rules[i])
		}
	}
	if n.Policy != pathsel.DefaultPolicy() {
		fmt.Fprint(tw, "  classes\tchoose by knobs of their own, not the defaults\n")
	}
	if n.Guard.Mode != config.GuardOff {
		fmt.Fprintf(tw, "  guard\t%s, %d kinds of traffic allowed beside the bond\n", n.Guard.Mode, len(n.Guard.Allow))
	}
	tw.Flush()
}

func capped(r config.Rate) string {
	if r == 0 {
		return ""
	}
	return ", at most " + r.String()
}

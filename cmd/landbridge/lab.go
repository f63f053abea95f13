package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/lab"
)

func init() { commands = append(commands, newLabCommand) }

// newLabCommand is "landbridge lab": the test bench on one machine.
func newLabCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Bring up a border on this machine, measure on it, or play with it",
		Long: `The lab is a client, a site agent, two gateways and an origin in network namespaces of this machine, with
emulated carriers between the gateways: client - agent = two access links = sha = ct, cu, cm = fra - origin.

Scenarios: clean, typical, heavy, skewed, outage, policed. All of it needs root, except "lab demo", which has a way without.`,
	}
	var name string
	cmd.PersistentFlags().StringVar(&name, "name", lab.DefaultName, "the lab's name; labs of different names can be up at once")
	cmd.AddCommand(
		newLabUpCommand(&name), newLabDownCommand(&name), newLabStatusCommand(&name), newLabRunCommand(&name), newLabCompareCommand(&name), newLabPathsCommand(&name),
		newLabDemoCommand(&name), newLabExecCommand(&name), newLabShellCommand(&name), newLabDarkCommand(&name),
		newLabEmulateCommand(), newLabServeCommand(), newLabReportCommand(),
	)
	return cmd
}

// labError gives an error of the lab its exit code.
func labError(err error) error {
	switch {
	case errors.Is(err, lab.ErrOptions):
		return cli.Usage(err)
	case errors.Is(err, lab.ErrPrivilege):
		return cli.Capability(err)
	}
	return err
}

// labFlags are the flags of every command that brings a lab up.
func labFlags(cmd *cobra.Command, o *lab.Options) {
	f := cmd.Flags()
	f.BoolVar(&o.NoAgent, "no-agent", false, "put the client straight behind gateway sha")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of losses, jitter and payload")
	f.StringVar(&o.Via, "via", lab.ViaLandbridge, "the way across the border: "+strings.Join(lab.ViaNames(), ", "))
	f.StringSliceVar(&o.Carriers, "carriers", nil, "carriers to use, of ct,cu,cm (default all, or the best where the way takes one)")
	f.StringVar(&o.Guard, "guard", "", "the gateways' guard: "+strings.Join(lab.GuardModes, ", ")+" (default that of a fleet document, off)")
	f.StringVar(&o.Programs, "programs", "", "directory of landbridge-gateway, landbridge-agent and others' programs (default that of this program)")
}

func newLabUpCommand(name *string) *cobra.Command {
	var o lab.Options
	cmd := &cobra.Command{
		Use:   "up [SCENARIO]",
		Short: "Bring a lab up and leave it up (default scenario typical)",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Scenario = *name, "typical"
			if len(args) == 1 {
				o.Scenario = args[0]
			}
			return labError(lab.Up(cmd.Context(), o, cmd.OutOrStdout()))
		},
	}
	labFlags(cmd, &o)
	return cmd
}

func newLabDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take a lab down, also after a crash",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := lab.Down(*name)
			if err == nil && !found {
				fmt.Fprintf(cmd.ErrOrStderr(), "no lab named %q was up\n", *name)
			}
			return labError(err)
		},
	}
}

func newLabStatusCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show a lab's processes and what its links carried",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return labError(lab.Status(*name, cmd.OutOrStdout())) },
	}
}

func newLabRunCommand(name *string) *cobra.Command {
	var (
		o         lab.RunOptions
		secs      float64
		steps     []string
		asJSON    bool
		traceFile string
	)
	cmd := &cobra.Command{
		Use:   "run SCENARIO --workload bulk|objects|mixed|calls|idle",
		Short: "Bring a lab up, measure one workload, take it down",
		Long: `Run brings a lab up, waits until the tunnel is warm, runs the workload and takes the lab down.

bulk moves incompressible bytes in one TCP flow (--flows N for more) from the origin to the client, or the other way
with --upload. objects asks for 32 KiB objects one after the other, two on a warm connection for each on a fresh one.
mixed does both at once: objects beside a bulk flow that fills the border. idle does nothing: what the paths cost then.
calls holds 20 G.711 calls of 50 packets a second each way, as direct flows that gateways put on the carrier that is best
for realtime (with --no-agent), and with --via tcp-cubic over the plain routes of one carrier.
--competitor runs one TCP flow between the gateways over one carrier beside the workload, and the result says how they
shared it. --rate-step ct:16mbit@10s changes a carrier's rate on the way, and the result says how long its queue lasted
and until the new rate was used; give it once for each step. --junk 200000 sends junk at a carrier's NIC meanwhile, with
--guard enforce to have it dropped there; the result says how much of it could be made.
Every byte is checked. The result goes to standard output, progress to standard error; the exit code is 1 when a
check failed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name, o.Scenario, o.Window, o.Trace = *name, args[0], time.Duration(secs*float64(time.Second)), traceFile != ""
			for _, text := range steps {
				s, err := lab.ParseRateStep(text)
				if err != nil {
					return labError(err)
				}
				o.Steps = append(o.Steps, s)
			}
			res, trace, err := lab.Run(cmd.Context(), o, cmd.ErrOrStderr())
			if err != nil {
				return labError(err)
			}
			if trace != nil {
				if err := trace.WriteFile(traceFile); err != nil {
					return err
				}
			}
			write := res.WriteTable
			if asJSON {
				write = res.WriteJSON
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if why := res.Failed(); why != "" {
				return errors.New("the run failed: " + why)
			}
			return nil
		},
	}
	labFlags(cmd, &o.Options)
	f := cmd.Flags()
	f.StringVar(&o.Workload, "workload", lab.WorkloadBulk, "one of "+strings.Join(lab.Workloads, ", "))
	f.Float64Var(&secs, "seconds", 20, "how long to measure")
	f.IntVar(&o.Flows, "flows", 1, "bulk: TCP connections at once")
	f.BoolVar(&o.Upload, "upload", false, "bulk: from the client to the origin")
	f.StringVar(&o.Competitor, "competitor", "", "one competing TCP flow: tcp-cubic or tcp-bbr")
	f.StringVar(&o.CompetitorCarrier, "competitor-carrier", "", "the competitor's `carrier`")
	f.StringArrayVar(&steps, "rate-step", nil, "change a `carrier:rate@time`, both directions, such as ct:16mbit@10s")
	f.IntVar(&o.Junk, "junk", 0, "junk datagrams a second at gateway sha's NIC on a carrier, beside the workload")
	f.StringVar(&o.JunkCarrier, "junk-carrier", "", "the `carrier` of the junk (default the first)")
	f.BoolVar(&asJSON, "json", false, "print one JSON object instead of a table")
	f.StringVar(&traceFile, "trace", "", "write what links, paths and lanes did, in steps of 100 ms, to this `file`; see \"lab report\"")
	return cmd
}

func newLabDemoCommand(name *string) *cobra.Command {
	var o lab.DemoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Move the Go source tree across the border, directly and through Landbridge, and write a report page",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Name = *name
			report, err := lab.Demo(cmd.Context(), o, cmd.OutOrStdout())
			if err != nil {
				return labError(err)
			}
			if why := report.Failed(); why != "" {
				return errors.New("the demo failed: " + why)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Scenario, "scenario", "typical", "the border's state")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of losses and jitter")
	f.StringVar(&o.Dir, "out", "demo", "`directory` for report.json and report.html")
	f.BoolVar(&o.Memory, "memory", false, "use the in-memory network even as root")
	f.StringVar(&o.Programs, "programs", "", "directory of landbridge-gateway and landbridge-agent (default that of this program)")
	return cmd
}

func newLabExecCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "exec MACHINE -- COMMAND [ARG...]",
		Short: "Run a command on one of the lab's machines: client, agent, sha, fra, origin",
		Args:  cobra.MinimumNArgs(2),
		RunE:  func(_ *cobra.Command, args []string) error { return labError(lab.Exec(*name, args[0], args[1:])) },
	}
}

func newLabShellCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "shell MACHINE",
		Short: "Open a shell on one of the lab's machines",
		Args:  cobra.ExactArgs(1),
		RunE:  func(_ *cobra.Command, args []string) error { return labError(lab.Exec(*name, args[0], nil)) },
	}
}

func newLabDarkCommand(name *string) *cobra.Command {
	var end bool
	var span time.Duration
	cmd := &cobra.Command{
		Use:   "dark LINK",
		Short: "Let a link of a lab that is up carry nothing, for a time or until --end",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := lab.Dark(*name, args[0], !end); err != nil || end || span <= 0 {
				return labError(err)
			}
			select {
			case <-cmd.Context().Done():
			case <-time.After(span):
			}
			return labError(lab.Dark(*name, args[0], false))
		},
	}
	cmd.Flags().BoolVar(&end, "end", false, "let it carry again")
	cmd.Flags().DurationVar(&span, "for", 0, "let it carry again after so long")
	return cmd
}

// newLabEmulateCommand is the process of the emulated links, which the lab starts itself.
func newLabEmulateCommand() *cobra.Command {
	var links, socket string
	cmd := &cobra.Command{
		Use:    "emulate",
		Short:  "Run a lab's emulated links (started by the lab)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.Emulate(cmd.Context(), links, socket)
		},
	}
	cmd.Flags().StringVar(&links, "links", "", "`file` with the links")
	cmd.Flags().StringVar(&socket, "socket", "", "unix `socket` to answer on")
	return cmd
}

// newLabServeCommand is the origin's web server, which "lab up" starts itself.
func newLabServeCommand() *cobra.Command {
	var via string
	cmd := &cobra.Command{
		Use:    "serve",
		Short:  "Serve the origin's pages (started by the lab)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.Serve(cmd.Context(), via)
		},
	}
	cmd.Flags().StringVar(&via, "via", lab.ViaLandbridge, "the lab's way across the border")
	return cmd
}

package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/hint"
)

// Up brings a lab up that stays until Down, with a web server at the origin, and says how to use it.
func Up(ctx context.Context, o Options, progress io.Writer) (err error) {
	if w, err := wayNamed(cmp.Or(o.Via, ViaLandbridge)); err == nil && w.forwards {
		return hint.With(fmt.Errorf("%w: %s carries one port for \"lab run\", not what people do on the client", ErrOptions, w.name),
			"a lab to play with goes via %s", strings.Join(routedNames(), ", "))
	}
	lab, err := start(ctx, o, true)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.down())
		}
	}()
	o = lab.state.Options
	if err := lab.waitReady(ctx, kernelNetwork{o}); err != nil {
		return err
	}
	cold, err := lab.waitWarm(ctx, warmTimeout)
	if err != nil {
		return err
	}
	if cold != "" {
		fmt.Fprintf(progress, "not warm after %v: %s\n", warmTimeout, cold)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the running program: %w", err)
	}
	if _, err := lab.start(originProcess, machineOrigin, true, self, "lab", "serve", "--via", o.Via); err != nil {
		return err
	}
	name := ""
	if o.Name != DefaultName {
		name = " --name " + o.Name
	}
	ask := ""
	for _, node := range lab.nodes()[:min(1, len(lab.nodes()))] {
		ask = "\n  landbridge status --socket " + lab.socket(node)
	}
	fmt.Fprintf(progress, `lab %s is up: %s, %s over %s; state in %s
  landbridge lab exec%s client -- curl -o /dev/null http://%s/bytes/50000000
  landbridge lab shell%s client
  landbridge lab status%s%s
  landbridge lab dark%s %s
  landbridge lab down%s
`, o.Name, o.Scenario, o.Via, strings.Join(o.Carriers, "+"), lab.dir, name, originAddr.Addr(), name, name, ask, name, o.Carriers[0], name)
	lab.em.Close()
	return nil
}

// Status describes a lab that is up.
func Status(name string, w io.Writer) error {
	lab, err := openNamed(name)
	if err != nil {
		return err
	}
	o := lab.state.Options
	fmt.Fprintf(w, "lab %s: %s, %s over %s, seed %d, up for %v, state in %s\n", o.Name, o.Scenario, o.Via,
		strings.Join(o.Carriers, "+"), o.Seed, time.Since(lab.state.Started).Round(time.Second), lab.dir)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nprocess\tpid\tstate\tcpu\n")
	for _, p := range lab.state.Processes {
		word := "running"
		if !p.alive() {
			word = "ended, see " + p.Log
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%.1f s\n", p.Name, p.PID, word, p.cpu().Seconds())
	}
	if lab.em, err = dialEmulator(lab.socket(emulatorProcess)); err != nil {
		t.Flush()
		return err
	}
	defer lab.em.Close()
	stats, err := lab.em.Stats()
	if err != nil {
		t.Flush()
		return err
	}
	fmt.Fprintf(t, "\nlink\tdirection\tsent\tMB\tlost\tqueue drops\toutage\tin flight\tqueue ms\tstate\n")
	for _, l := range stats {
		for _, d := range []struct {
			name string
			wan.WayStats
		}{{"to the origin", l.AtoB}, {"to the client", l.BtoA}} {
			state := "lit"
			if d.Dark {
				state = "dark"
			}
			fmt.Fprintf(t, "%s\t%s\t%d\t%.1f\t%d\t%d\t%d\t%d\t%.1f\t%s\n", l.Name, d.name, d.Sent, float64(d.SentBytes)/1e6,
				d.Lost, d.QueueDrops, d.Outage, d.InFlight, millis(d.Queue), state)
		}
	}
	return t.Flush()
}

// Dark switches a link of a lab that is up off or on.
func Dark(name, link string, off bool) error {
	lab, err := openNamed(name)
	if err != nil {
		return err
	}
	if lab.em, err = dialEmulator(lab.socket(emulatorProcess)); err != nil {
		return err
	}
	defer lab.em.Close()
	return lab.em.Darken(link, off)
}

// Exec replaces this process by a command on one of the lab's machines; it only returns on error.
func Exec(name, machine string, command []string) error {
	lab, err := openNamed(name)
	if err != nil {
		return err
	}
	o := lab.state.Options
	if !slices.Contains(o.machines(), machine) {
		return hint.With(fmt.Errorf("%w: machine %q", ErrOptions, machine), "this lab has %s", strings.Join(o.machines(), ", "))
	}
	if len(command) == 0 {
		command = []string{"/bin/sh"}
		if sh := os.Getenv("SHELL"); sh != "" {
			command[0] = sh
		}
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	env := append(os.Environ(), "LANDBRIDGE_LAB="+o.Name, "LANDBRIDGE_MACHINE="+machine)
	return wan.InNamespace(o.namespace(machine), func() error {
		// Of all threads this one goes on: in the namespace.
		if err := syscall.Exec(path, command, env); err != nil {
			return fmt.Errorf("exec %s: %w", path, err)
		}
		return nil
	})
}

// openNamed is open with the default name, for people's commands.
func openNamed(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if !nameShape.MatchString(name) {
		return nil, fmt.Errorf("%w: name %q, want 1 to 8 lower-case letters and digits", ErrOptions, name)
	}
	if os.Geteuid() != 0 {
		return nil, hint.With(ErrPrivilege, "run it with sudo")
	}
	return open(name)
}

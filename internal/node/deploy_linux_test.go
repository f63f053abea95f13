package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// unit reads a service file of deploy/: its settings by name.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
	must(t, err)
	out := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			out[key] = append(out[key], value)
		}
	}
	return out
}

// TestUnits: the units call the programs with flags they have, and give them time and signals as they expect.
func TestUnits(t *testing.T) {
	for name, cmd := range map[string]*cobra.Command{"landbridge-gateway@.service": GatewayCommand(), "landbridge-agent.service": AgentCommand()} {
		u := unit(t, name)
		for _, key := range []string{"ExecStart", "ExecReload", "TimeoutStopSec", "RestartPreventExitStatus", "RuntimeDirectory"} {
			if len(u[key]) != 1 {
				t.Fatalf("%s: %s is there %d times, want once", name, key, len(u[key]))
			}
		}
		args := strings.Fields(u["ExecStart"][0])
		if filepath.Base(args[0]) != cmd.Name() {
			t.Errorf("%s starts %s, want %s", name, args[0], cmd.Name())
		}
		if err := cmd.ParseFlags(args[1:]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := cmd.ValidateRequiredFlags(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if u["ExecReload"][0] != "/bin/kill -HUP $MAINPID" || u["RestartPreventExitStatus"][0] != "2 3" || u["RuntimeDirectory"][0] != "landbridge" {
			t.Errorf("%s: %v", name, u)
		}
		if d, err := time.ParseDuration(u["TimeoutStopSec"][0] + "s"); err != nil || d <= stopTimeout {
			t.Errorf("%s: TimeoutStopSec %v, want more than the program's own %v", name, u["TimeoutStopSec"], stopTimeout)
		}
	}
}

// TestUnitCapabilities: a plain user with the capabilities of the unit can do all a gateway does.
func TestUnitCapabilities(t *testing.T) {
	t.Parallel()
	caps := map[string]uintptr{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_BPF": unix.CAP_BPF, "CAP_PERFMON": unix.CAP_PERFMON, "CAP_NET_RAW": unix.CAP_NET_RAW}
	u := unit(t, "landbridge-gateway@.service")
	if u["AmbientCapabilities"][0] != u["CapabilityBoundingSet"][0] {
		t.Error("ambient and bounding capabilities differ")
	}
	var ambient []uintptr
	for _, name := range strings.Fields(u["AmbientCapabilities"][0]) {
		c, ok := caps[name]
		if !ok {
			t.Fatalf("%s is not what doctor asks for", name)
		}
		ambient = append(ambient, c)
	}
	m := newMachines(t)
	m.serve("origin", "10.20.0.2:80", echo)
	must(t, os.Chmod(m.dir, 0o777))
	for _, name := range []string{"sha", "fra"} {
		must(t, os.Chown(m.file(name+".key"), nobody, nobody))
		m.runWith(RoleGateway, name, nobody, ambient, "--fleet", "fleet.yaml", "--node", name, "--key", name+".key", "--socket", m.file(name+".sock"))
	}
	m.works(testTimeout, "client", "10.20.0.2:80")
}

package lab

import (
	"cmp"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
)

func normalised(t *testing.T, o Options) Options {
	t.Helper()
	o, err := o.normalise()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestDocumentsAreWhatTheProgramsRead(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opt   Options
		paths int
	}{
		{"agent", Options{Scenario: "typical"}, 3},
		{"no agent", Options{Scenario: "clean", NoAgent: true}, 3},
		{"two carriers", Options{Scenario: "heavy", Carriers: []string{"ct", "cm"}}, 2},
		{"one carrier", Options{Scenario: "skewed", Carriers: []string{"cu"}, NoAgent: true}, 1},
		{"guarded", Options{Scenario: "clean", NoAgent: true, Guard: "enforce"}, 3},
		{"opposed classes", Options{Scenario: "heavy", NoAgent: true, opposed: true}, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, o := t.TempDir(), normalised(t, tc.opt)
			if err := writeDocuments(dir, o); err != nil {
				t.Fatal(err)
			}
			f, err := config.Load(filepath.Join(dir, fleetFile))
			if err != nil {
				t.Fatal(err)
			}
			n, err := f.Node("sha")
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(n.Peers, func(p config.Peer) bool { return p.Name == "fra" })
			if i < 0 || len(n.Peers[i].Paths) != tc.paths {
				t.Errorf("sha's peers: %+v, want fra with %d paths", n.Peers, tc.paths)
			}
			if want := cmp.Or(tc.opt.Guard, "off"); n.Guard.Mode.String() != want {
				t.Errorf("guard %v, want %s", n.Guard.Mode, want)
			}
			// Every call goes direct, and the workloads that are to be tunnelled do not.
			rules := 1
			if tc.opt.opposed {
				rules = 2
			}
			if len(n.Tenants) != 1 || len(n.Tenants[0].Rules) != rules {
				t.Fatalf("tenants %+v, want one with %d rules", n.Tenants, rules)
			}
			if q := n.Tenants[0].Rules[0]; tc.opt.opposed && (q.Class != pathsel.Interactive || !slices.Equal(q.Ports, []config.PortRange{{First: quickPort, Last: quickPort}}) ||
				n.Policy.Classes[pathsel.Interactive].LossWeight != 0 || n.Policy.Classes[pathsel.Realtime].DelayWeight != 0) {
				t.Errorf("rule %v, policy %+v", &q, n.Policy)
			}
			r := n.Tenants[0].Rules[rules-1]
			if r.Action != config.ActionDirect || r.Class != pathsel.Realtime || !slices.Equal(r.Protocols, []uint8{17}) ||
				!slices.Equal(r.Ports, []config.PortRange{{First: callPort, Last: lastCallPort}}) || callPort+2*(Calls-1) > lastCallPort {
				t.Errorf("rule %v", &r)
			}
			if tc.opt.NoAgent {
				if _, err := os.Stat(filepath.Join(dir, agentFile)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("agent file: %v, want none", err)
				}
				return
			}
			a, err := config.LoadAgent(filepath.Join(dir, agentFile))
			if err != nil {
				t.Fatal(err)
			}
			an, err := a.Node([]config.Interface{
				{Name: "acc0", Addrs: []netip.Prefix{accessAddr(0, 2)}},
				{Name: "acc1", Addrs: []netip.Prefix{accessAddr(1, 2)}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(an.Peers) != 1 || len(an.Peers[0].Paths) != len(accessLinks) {
				t.Errorf("agent's peers: %+v, want one with a path for each access link", an.Peers)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name string
		opt  Options
		ok   bool
	}{
		{"least", Options{Scenario: "clean"}, true},
		{"all", Options{Name: "lb2", Scenario: "heavy", Via: ViaTCPBBR, Carriers: []string{"cm"}}, true},
		{"no scenario", Options{}, false},
		{"unknown scenario", Options{Scenario: "sunny"}, false},
		{"bad name", Options{Scenario: "clean", Name: "LB"}, false},
		{"name with a slash", Options{Scenario: "clean", Name: "../x"}, false},
		{"unknown way", Options{Scenario: "clean", Via: "pigeon"}, false},
		{"unknown carrier", Options{Scenario: "clean", Carriers: []string{"xx"}}, false},
		{"carrier twice", Options{Scenario: "clean", Carriers: []string{"ct", "ct"}}, false},
		{"TCP over two", Options{Scenario: "clean", Via: ViaTCPCubic, Carriers: []string{"ct", "cu"}}, false},
		{"MPTCP over two", Options{Scenario: "clean", Via: ViaMPTCPBBR, Carriers: []string{"ct", "cu"}}, true},
	} {
		_, err := tc.opt.normalise()
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v does not wrap ErrOptions", tc.name, err)
		}
	}
}

func TestBestCarrier(t *testing.T) {
	for scenario, want := range map[string]string{
		"clean": "cm", "typical": "cu", "heavy": "cu", "skewed": "ct",
	} {
		if got := normalised(t, Options{Scenario: scenario, Via: ViaTCPCubic}).Carriers; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: direct over %v, want %s", scenario, got, want)
		}
	}
}

func TestLimitIsThatOfTheTable(t *testing.T) {
	// As published in the design document for three carriers.
	for scenario, want := range map[string]float64{"clean": 143, "typical": 141, "heavy": 133} {
		links, err := scenarioLinks(scenario)
		if err != nil {
			t.Fatal(err)
		}
		if got := limitMbit(links); got < want-1 || got > want+1 {
			t.Errorf("%s: limit %.1f Mbit/s, want about %.0f", scenario, got, want)
		}
	}
}

func TestPlan(t *testing.T) {
	for _, tc := range []struct {
		name   string
		opt    Options
		wires  []string
		routes int
	}{
		{"landbridge", Options{Scenario: "clean"}, []string{"acc0", "acc1", "ct", "cu", "cm"}, 4},
		{"TCP", Options{Scenario: "clean", Via: ViaTCPCubic}, []string{"acc0", "acc1", "cm"}, 8},
		{"TCP, no agent", Options{Scenario: "clean", Via: ViaTCPCubic, NoAgent: true, Carriers: []string{"ct"}}, []string{"ct"}, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := normalised(t, tc.opt)
			p := makePlan(o)
			var names []string
			seen := make(map[netip.Addr]bool)
			ends := []end{}
			for _, w := range p.wires {
				names = append(names, w.name)
				ends = append(ends, w.a, w.b)
			}
			for _, l := range p.lans {
				ends = append(ends, l.a, l.b)
			}
			for _, e := range ends {
				if !slices.Contains(o.machines(), e.machine) {
					t.Errorf("end on machine %q, which is not in this lab", e.machine)
				}
				for _, a := range e.addrs {
					if seen[a.Addr()] {
						t.Errorf("address %v used twice", a)
					}
					seen[a.Addr()] = true
				}
			}
			if !slices.Equal(names, tc.wires) || len(p.routes) != tc.routes {
				t.Errorf("wires %v and %d routes, want %v and %d", names, len(p.routes), tc.wires, tc.routes)
			}
			for _, r := range p.routes {
				if !seen[r.via] {
					t.Errorf("route %+v over an address nobody has", r)
				}
			}
		})
	}
}

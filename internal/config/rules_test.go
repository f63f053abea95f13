package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landbridge/landbridge/pathsel"
)

func TestRules(t *testing.T) {
	f, err := Load("testdata/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Node("sha")
	if err != nil {
		t.Fatal(err)
	}
	fleet := []Rule{
		{Name: "ef", DSCP: []uint8{46, 44}, Class: pathsel.Realtime, HasClass: true},
		{Protocols: []uint8{47, 99}, Action: ActionDeny},
	}
	want := []NodeTenant{
		{"acme", true, append([]Rule{
			{Name: "backup", From: pfx("10.10.0.64/26"), To: pfx("10.20.0.9/32"), Protocols: []uint8{6}, Ports: []PortRange{{873, 873}}, Class: pathsel.Bulk, HasClass: true},
			{Name: "voice", Protocols: []uint8{17}, Ports: []PortRange{{5060, 5060}, {16384, 32767}}, Action: ActionDirect, Class: pathsel.Realtime, HasClass: true},
			{Name: "no-mail", Protocols: []uint8{6}, Ports: []PortRange{{25, 25}, {465, 465}}, Action: ActionDeny},
			{To: pfx("10.20.0.0/24", "fd00:20::/64"), Protocols: []uint8{6, 17}, Ports: []PortRange{{443, 443}}, Class: pathsel.Interactive, HasClass: true},
		}, fleet...)},
		{"other", false, fleet},
	}
	if diff := cmp.Diff(want, n.Tenants, cmpNet); diff != "" {
		t.Error(diff)
	}
	policy := pathsel.DefaultPolicy()
	policy.Classes[pathsel.Realtime].Dwell, policy.Classes[pathsel.Realtime].Hysteresis = 5*time.Second, 0.2
	policy.Classes[pathsel.Interactive].Margin, policy.Classes[pathsel.Interactive].LossWeight = 15*time.Millisecond, 8
	policy.Classes[pathsel.Bulk].Dwell, policy.Classes[pathsel.Bulk].DelayWeight = 30*time.Second, 0.5
	policy.Classes[pathsel.Bulk].LeaveBrownout = true
	policy.ElephantBytes, policy.BulkBytes = 512<<10, 16<<20
	if diff := cmp.Diff(policy, n.Policy); diff != "" {
		t.Error(diff)
	}
	if err := n.Policy.Validate(); err != nil {
		t.Error(err)
	}
	guard := Guard{Mode: GuardEnforce, UnknownPPS: 200, UnknownTotalPPS: 3000, Allow: []GuardAllow{
		{Name: "office", From: pfx("192.0.2.0/24"), Protocols: []uint8{6}, Ports: []PortRange{{22, 22}}},
		{Protocols: []uint8{1, 58}},
	}}
	if diff := cmp.Diff(guard, n.Guard, cmpNet); diff != "" {
		t.Error(diff)
	}
	other, err := f.Node("fra")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Guard{Mode: GuardObserve, UnknownPPS: DefaultUnknownPPS, UnknownTotalPPS: DefaultUnknownTotalPPS}, other.Guard, cmpNet); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Marks{DSCP: map[pathsel.Class]uint8{pathsel.Realtime: 46, pathsel.Bulk: 8}, Verdicts: true}, n.Marks); diff != "" {
		t.Error(diff)
	}
	// A node's view is a copy.
	n.Marks.DSCP[pathsel.Realtime] = 0
	n.Tenants[0].Rules[0].From[0] = netip.Prefix{}
	n.Guard.Allow[0].Ports[0].First = 1
	if f.Tenants[0].Rules[0].From[0] != pfx("10.10.0.64/26")[0] || f.Guard.Allow[0].Ports[0].First != 22 || f.Marks.DSCP[pathsel.Realtime] != 46 {
		t.Error("the view shares memory with the document")
	}
	checkRoundTrip(t, f)
}

// TestNoRules: without rules, classes and guard the defaults apply, and a gateway's guard is off.
func TestNoRules(t *testing.T) {
	f, err := Load("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Node("sha")
	if err != nil {
		t.Fatal(err)
	}
	if n.Policy != pathsel.DefaultPolicy() || n.Guard.Mode != GuardOff || n.Guard.UnknownPPS != DefaultUnknownPPS || n.Guard.UnknownTotalPPS != DefaultUnknownTotalPPS || n.Tenants[0].Rules != nil {
		t.Errorf("%+v %+v %+v", n.Policy, n.Guard, n.Tenants)
	}
	for _, key := range []string{"rules", "classes", "guard"} {
		if strings.Contains(string(f.Marshal()), key) {
			t.Errorf("%s marshalled", key)
		}
	}
}

func TestRuleErrors(t *testing.T) {
	base := read(t, "rules.yaml")
	const voice = "{name: voice, protocol: udp, ports: [5060, 16384-32767], class: realtime, action: direct}"
	for _, tc := range []struct {
		name  string
		edits []string
		want  string
	}{
		{"unknown key", []string{"{name: voice, protocol", "{name: voice, protcol"},
			`rules.yaml:29:23: tenant acme: rule 2: unknown key "protcol" (hint: did you mean "protocol"?)`},
		{"unknown action", []string{"16384-32767], class: realtime, action: direct", "16384-32767], class: realtime, action: dircet"},
			`rules.yaml:29:91: tenant acme: rule 2: action: "dircet", want allow, deny or direct (hint: did you mean "direct"?)`},
		{"unknown class", []string{"ports: 873, class: bulk", "ports: 873, class: best"},
			`rules.yaml:28:97: tenant acme: rule 1: class: "best", want realtime, interactive or bulk`},
		{"nothing said", []string{voice, "{name: voice, protocol: udp}"},
			`rules.yaml:29:9: tenant acme: rule 2 says neither what happens nor in which class (hint: add action (allow, deny or direct) or class)`},
		{"deny with class", []string{voice, "{dscp: 7, class: bulk, action: deny}"},
			`rules.yaml:29:9: tenant acme: rule 2 denies, so it cannot give a class`},
		{"protocol name", []string{voice, "{protocol: udpp, action: deny}"},
			`rules.yaml:29:20: tenant acme: rule 2: protocol: "udpp", want 0 to 255 or a name such as tcp (hint: did you mean "udp"?)`},
		{"protocol number", []string{voice, "{protocol: 256, action: deny}"},
			`rules.yaml:29:20: tenant acme: rule 2: protocol: "256", want 0 to 255 or a name such as tcp`},
		{"protocol twice", []string{voice, "{protocol: [tcp, 6], action: deny}"},
			`rules.yaml:29:26: tenant acme: rule 2: protocol: 6 is listed twice`},
		{"dscp", []string{voice, "{dscp: 64, action: deny}"},
			`rules.yaml:29:16: tenant acme: rule 2: dscp: "64", want 0 to 63 or a name such as ef`},
		{"ports without protocol", []string{voice, "{ports: 80, action: deny}"},
			`rules.yaml:29:9: tenant acme: rule 2 has ports and not only protocols with ports (hint: add protocol: tcp, udp or sctp)`},
		{"ports of icmp", []string{voice, "{ports: 80, protocol: [tcp, icmp], action: deny}"},
			`rules.yaml:29:9: tenant acme: rule 2 has ports and not only protocols with ports (hint: add protocol: tcp, udp or sctp)`},
		{"port 0", []string{"16384-32767", "0-100"},
			`rules.yaml:29:52: tenant acme: rule 2: ports "0-100": want a port or a range from 1 to 65535, such as 80 or 8000-8080`},
		{"port range", []string{"16384-32767", "32767-16384"},
			`rules.yaml:29:52: tenant acme: rule 2: ports "32767-16384": the range ends before it begins`},
		{"prefix", []string{"from: 10.10.0.64/26", "from: 10.10.0.65/26"},
			`rules.yaml:28:30: tenant acme: rule 1: from: prefix "10.10.0.65/26" has bits set beyond its length (hint: write 10.10.0.64/26)`},
		{"empty list", []string{"from: 10.10.0.64/26", "from: []"},
			`rules.yaml:28:30: tenant acme: rule 1: from: found an empty list, want a value or a list of them (hint: leave the key out to match everything)`},
		{"from elsewhere", []string{"from: 10.10.0.64/26", "from: 10.99.0.0/24"},
			`rules.yaml:28:30: tenant acme: rule 1: no site of the tenant has addresses in 10.99.0.0/24`},
		{"families", []string{"to: 10.20.0.9/32", `to: "fd00:20::9/128"`},
			`rules.yaml:28:9: tenant acme: rule 1 matches nothing: from and to are of different address families`},
		{"never reached", []string{"{name: no-mail, protocol: tcp, ports: [25, 465], action: deny}", "{from: 10.10.0.0/25, protocol: [udp], ports: [5060, 20000-20010], dscp: 0, class: bulk}"},
			`rules.yaml:30:9: tenant acme: rule 3 is never reached: rule 2 on line 29 matches all of it`},
		{"never reached in the defaults", []string{"{protocol: [gre, 99], action: deny}", "{dscp: va, protocol: gre, action: deny}"},
			`rules.yaml:37:5: rules: rule 2 is never reached: rule 1 on line 36 matches all of it`},
		{"class key", []string{"{dwell: 5s,", "{dwel: 5s,"},
			`rules.yaml:39:14: classes: realtime: unknown key "dwel" (hint: did you mean "dwell"?)`},
		{"class", []string{"  realtime: {dwell", "  realtme: {dwell"},
			`rules.yaml:39:3: classes: unknown key "realtme" (hint: did you mean "realtime"?)`},
		{"dwell", []string{"dwell: 5s", "dwell: 5"},
			`rules.yaml:39:21: classes: realtime: dwell: "5", want 0s to 1h0m0s, such as 500ms`},
		{"hysteresis", []string{"20%", "120%"},
			`rules.yaml:39:37: classes: realtime: hysteresis: "120%", want 0 to 1, such as 10% or 0.1`},
		{"weight", []string{"loss_weight: 8", "loss_weight: -8"},
			`rules.yaml:40:44: classes: interactive: loss_weight: "-8", want a number from 0 to 100`},
		{"elephant", []string{"512KiB", "512KB"},
			`rules.yaml:40:57: classes: interactive: elephant: "512KB", want 16KiB to 1024GiB, such as 256KiB`},
		{"elephant of the wrong class", []string{"  realtime: {dwell", "  realtime: {elephant: 1MiB, dwell"},
			`rules.yaml:39:14: classes: realtime: unknown key "elephant" (hint: known keys: dwell, hysteresis, margin, delay_weight, loss_weight, round_trip, leave_brownout)`},
		{"marks", []string{"realtime: ef, bulk: 8", "realtime: ff, bulk: 64", "verdicts: true", "verdict: true"}, lines(
			`rules.yaml:50:20: marks: dscp: realtime: "ff", want 0 to 63 or a name such as ef (hint: did you mean "ef"?)`,
			`rules.yaml:50:30: marks: dscp: bulk: "64", want 0 to 63 or a name such as ef`,
			`rules.yaml:51:3: marks: unknown key "verdict" (hint: did you mean "verdicts"?)`)},
		{"guard mode", []string{"mode: enforce", "mode: enforced"},
			`rules.yaml:43:9: guard: "enforced", want off, observe or enforce (hint: did you mean "enforce"?)`},
		{"guard of a gateway", []string{"guard: observe", "guard: watch"},
			`rules.yaml:18:12: gateway fra: guard: "watch", want off, observe or enforce`},
		{"guard without mode", []string{"  mode: enforce                         # off (the default), observe or enforce\n", ""},
			`rules.yaml:43:3: guard: "mode" is missing`},
		{"guard rate", []string{"unknown_pps: 200", "unknown_pps: 0"},
			`rules.yaml:44:16: guard: unknown_pps "0", want 1 to 1000000`},
		{"guard total", []string{"unknown_total_pps: 3000", "unknown_total_pps: 1000001"},
			`rules.yaml:45:22: guard: unknown_total_pps "1000001", want 1 to 1000000`},
		{"guard total of less than one", []string{"unknown_total_pps: 3000", "unknown_total_pps: 199"},
			`rules.yaml:43:3: guard: unknown_total_pps 199 is less than unknown_pps 200, which is for a single prefix`},
		{"guard list", []string{"{name: office, from", "{name: office, to"},
			`rules.yaml:47:22: guard: allow 1: unknown key "to" (hint: known keys: name, from, protocol, ports)`},
		{"guard ports", []string{"{protocol: [icmp, icmpv6]}", "{ports: 53}"},
			`rules.yaml:48:7: guard: allow 2 has ports and not only protocols with ports (hint: add protocol: tcp, udp or sctp)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parse("rules.yaml", []byte(edit(t, base, tc.edits...)))
			if err == nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v", err)
			}
			if err.Error() != tc.want {
				t.Errorf("got\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
}

// TestRuleLimits: too many rules are refused before they are compared with each other.
func TestRuleLimits(t *testing.T) {
	base := strings.Replace(read(t, "rules.yaml"), "rules:                                  #", "%s #", 1)
	var many strings.Builder
	many.WriteString("rules:\n")
	for i := range MaxRules + 1 {
		fmt.Fprintf(&many, "  - {protocol: tcp, ports: %d, action: deny}\n", i+1)
	}
	_, err := Parse([]byte(fmt.Sprintf(strings.ReplaceAll(base, "20%", "20%%"), many.String())))
	if err == nil || !strings.Contains(err.Error(), "rules: 1027 entries, the limit is 1024") {
		t.Errorf("%v", err)
	}
}

func TestPolicyFiles(t *testing.T) {
	want := pathsel.DefaultPolicy()
	want.Classes[pathsel.Realtime].Dwell, want.Classes[pathsel.Realtime].RoundTrip = 5*time.Second, false
	dir := t.TempDir()
	for name, doc := range map[string]string{
		"classes.yaml": "classes:\n  realtime: {dwell: 5s, round_trip: false}\n",
		"fleet.yaml":   read(t, "fleet.yaml") + "\nclasses:\n  realtime: {dwell: 5s, round_trip: false}\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadPolicy(dir + "/" + name); err != nil || got != want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	got := pathsel.DefaultPolicy()
	for _, s := range []string{"realtime.dwell=5s", "realtime.round_trip=false"} {
		if err := SetPolicy(&got, s); err != nil {
			t.Fatal(err)
		}
	}
	if got != want {
		t.Errorf("%v", got)
	}
	for _, s := range []string{"", "realtime", "realtime.dwell", "real.dwell=5s", "realtime.dwel=5s", "realtime.dwell=", "realtime.dwell=\"}", "a: b\n.x=y"} {
		if err := SetPolicy(&got, s); err == nil || got != want {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := LoadPolicy(dir + "/none"); !errors.Is(err, ErrUnreadable) {
		t.Errorf("%v", err)
	}
}

// TestAgentGuard: an agent's guard is written as the fleet's is.
func TestAgentGuard(t *testing.T) {
	doc := read(t, "agent.yaml")
	for _, tc := range []struct {
		text string
		want Guard
	}{
		{"", defaultGuard()},
		{"guard: observe\n", Guard{Mode: GuardObserve, UnknownPPS: DefaultUnknownPPS, UnknownTotalPPS: DefaultUnknownTotalPPS}},
		{"guard: {mode: enforce, unknown_pps: 5000}\n", Guard{Mode: GuardEnforce, UnknownPPS: 5000, UnknownTotalPPS: 5000}},
		{"guard: {mode: enforce, unknown_total_pps: 100, allow: [{protocol: tcp, ports: 22}]}\n", Guard{
			Mode: GuardEnforce, UnknownPPS: DefaultUnknownPPS, UnknownTotalPPS: 100, Allow: []GuardAllow{{Protocols: []uint8{6}, Ports: []PortRange{{22, 22}}}},
		}},
	} {
		a, err := ParseAgent([]byte(doc + tc.text))
		if err != nil {
			t.Fatal(err)
		}
		if n, err := a.Node(agentInterfaces); err != nil || cmp.Diff(tc.want, n.Guard, cmpNet) != "" {
			t.Errorf("%s%v %s", tc.text, err, cmp.Diff(tc.want, n.Guard, cmpNet))
		}
		again, err := ParseAgent(a.Marshal())
		if err != nil || cmp.Diff(tc.want, again.Guard, cmpNet) != "" {
			t.Errorf("%v %s\n%s", err, cmp.Diff(tc.want, again.Guard, cmpNet), a.Marshal())
		}
	}
	if _, err := ParseAgent([]byte(doc + "guard: enforced\n")); err == nil || !strings.Contains(err.Error(), `did you mean "enforce"?`) {
		t.Error(err)
	}
}

func TestAgentRules(t *testing.T) {
	doc := read(t, "agent.yaml") + "rules:\n  - {dscp: ef, class: realtime, action: direct}\nclasses:\n  bulk: {dwell: 1m}\n"
	a, err := ParseAgent([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseAgent(a.Marshal()); err != nil || cmp.Diff(a.Rules, again.Rules, cmpNet) != "" || a.Policy != again.Policy {
		t.Errorf("%v\n%s", err, a.Marshal())
	}
	n, err := a.Node(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r := n.Tenants[0].Rules; len(r) != 1 || r[0].Action != ActionDirect || n.Policy.Classes[pathsel.Bulk].Dwell != time.Minute || n.Guard.Mode != GuardOff {
		t.Errorf("%+v %+v", r, n.Policy)
	}
	_, err = ParseAgent([]byte(strings.Replace(doc, "dscp: ef", "ports: 5", 1)))
	if err == nil || !strings.Contains(err.Error(), "agent.yaml:17:5: rules: rule 1 has ports") {
		t.Errorf("%v", err)
	}
}

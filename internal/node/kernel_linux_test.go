package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/pathsel"
)

// TestCompileRules: sources, lists and routes become what the classifier has.
func TestCompileRules(t *testing.T) {
	cfg := nodeConfig(t, fleetOf([]int{1, 2, 3, 4}, `  acme:
    cross_border: true
    rules:
      - {from: 10.10.0.128/25, to: [10.20.0.0/24, 10.30.0.0/16], protocol: [tcp, udp], ports: [80, 8000-8080], action: deny}
      - {dscp: ef, class: realtime}
      - {action: direct}
    sites:
      hq:  {at: sha, prefixes: [10.10.0.0/24, 10.12.0.0/24]}
      fra: {at: fra, prefixes: [10.20.0.0/24]}
  other:
    cross_border: true
    rules:
      - {protocol: udp, action: direct}
      - {class: bulk}
    sites:
      sha: {at: sha, prefixes: [10.60.0.0/24]}
      fra: {at: fra, prefixes: [10.40.0.0/24]}
`), "sha")
	cfg.Peers = append(cfg.Peers, config.Peer{Name: "lon", Paths: cfg.Peers[0].Paths})
	cfg.Routes = append(cfg.Routes, config.Route{Prefix: netip.MustParsePrefix("10.50.0.0/24"), Tenant: "acme", Via: "lon"})
	groups := map[string]bpf.Group{"fra": 1, "lon": 2}
	r, err := compileRules(cfg, func(peer string) bpf.Group { return groups[peer] })
	must(t, err)
	var got []string
	for _, tn := range r.policy.Tenants {
		got = append(got, fmt.Sprintf("tenant %d %v group %d inbound %v", tn.ID, tn.Prefixes, tn.Group, tn.Inbound))
	}
	for _, v := range r.policy.Rules {
		got = append(got, fmt.Sprintf("%d: tenant %d %v proto %d ports %d-%d dscp %v %v %v group %d", v.ID, v.Tenant, v.Prefix, v.Protocol, v.Ports.From, v.Ports.To, v.DSCP, v.Action, v.Class, v.Group))
	}
	var want []string
	rest := func(tenant int) {
		want = append(want, fmt.Sprintf("2: tenant %d invalid Prefix proto 0 ports 0-0 dscp [46] allow realtime group 0", tenant),
			fmt.Sprintf("3: tenant %d 10.20.0.0/24 proto 0 ports 0-0 dscp [] direct none group 1", tenant),
			fmt.Sprintf("3: tenant %d 10.50.0.0/24 proto 0 ports 0-0 dscp [] direct none group 2", tenant),
			fmt.Sprintf("3: tenant %d invalid Prefix proto 0 ports 0-0 dscp [] direct none group 0", tenant))
	}
	want = append(want, "tenant 1 [10.10.0.0/24 10.12.0.0/24] group 1 inbound false", "tenant 2 [10.10.0.128/25] group 1 inbound false",
		"tenant 3 [10.20.0.0/24] group 1 inbound true", "tenant 4 [10.50.0.0/24] group 2 inbound true",
		"tenant 5 [10.60.0.0/24] group 1 inbound false", "tenant 6 [10.40.0.0/24] group 1 inbound true")
	rest(1)
	for _, to := range []string{"10.20.0.0/24", "10.30.0.0/16"} {
		for _, proto := range []int{6, 17} {
			for _, ports := range []string{"80-80", "8000-8080"} {
				want = append(want, fmt.Sprintf("1: tenant 2 %s proto %d ports %s dscp [] deny none group 0", to, proto, ports))
			}
		}
	}
	rest(2)
	for tenant := 3; tenant <= 4; tenant++ { // elsewhere
		want = append(want, fmt.Sprintf("2: tenant %d invalid Prefix proto 0 ports 0-0 dscp [46] allow realtime group 0", tenant),
			fmt.Sprintf("3: tenant %d invalid Prefix proto 0 ports 0-0 dscp [] direct none group 0", tenant))
	}
	want = append(want, "4: tenant 5 10.40.0.0/24 proto 17 ports 0-0 dscp [] direct none group 1",
		"4: tenant 5 invalid Prefix proto 17 ports 0-0 dscp [] direct none group 0", "5: tenant 5 invalid Prefix proto 0 ports 0-0 dscp [] allow bulk group 0",
		"4: tenant 6 invalid Prefix proto 17 ports 0-0 dscp [] direct none group 0") // elsewhere: no rule behind the last direct one
	if !slices.Equal(got, want) {
		t.Errorf("compiled\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fmt.Sprint(r.tenants) != "[acme acme acme acme other other]" || len(r.rules) != 5 || r.rules[1].number != 2 || r.rules[1].tenant != "acme" {
		t.Errorf("tenants %v, rules %+v", r.tenants, r.rules)
	}
	if r.policy.Strangers != bpf.Allow {
		t.Errorf("strangers: %v, want allow: they are turned away, and do not go round the tunnel", r.policy.Strangers)
	}
}

// TestCompileAgentRules: what an agent has beyond its gateway is everything, and so no site whose flows are answered directly.
func TestCompileAgentRules(t *testing.T) {
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	cfg := &config.NodeConfig{
		Tenants: []config.NodeTenant{{Name: "acme", CrossBorder: true, Rules: []config.Rule{{Action: config.ActionDirect}}}},
		Sources: []config.Source{{Tenant: "acme", Site: "plant", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.11.0.0/24")}}},
		Peers:   []config.Peer{{Name: "sha", Paths: []config.Path{{Name: "isp1-0"}}}},
		Routes:  []config.Route{{Prefix: everything[0], Tenant: "acme", Via: "sha"}, {Prefix: everything[1], Tenant: "acme", Via: "sha"}},
	}
	r, err := compileRules(cfg, func(string) bpf.Group { return 1 })
	must(t, err)
	if len(r.policy.Tenants) != 1 || r.policy.Tenants[0].Inbound || len(r.policy.Rules) != 1 {
		t.Errorf("%+v", r.policy)
	}
}

// TestRuleFor: what user space finds for a TCP flow.
func TestRuleFor(t *testing.T) {
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	tenants := []config.NodeTenant{{Name: "other", Rules: []config.Rule{{Action: config.ActionDeny}}}, {Name: "acme", Rules: []config.Rule{
		{DSCP: []uint8{46}, Action: config.ActionDeny},
		{Protocols: []uint8{17}, Action: config.ActionDeny},
		{From: prefix("10.10.0.0/28"), Ports: []config.PortRange{{First: 80, Last: 90}}, Action: config.ActionDeny},
		{To: prefix("10.20.0.0/24"), Protocols: []uint8{6}, HasClass: true},
	}}}
	for _, tc := range []struct {
		tenant, src, dst string
		want             int
	}{
		{"acme", "10.10.0.7:1", "10.20.0.1:80", 3},
		{"acme", "10.10.0.7:1", "10.20.0.1:90", 3},
		{"acme", "10.10.0.7:1", "10.20.0.1:91", 4},
		{"acme", "10.10.0.17:1", "10.20.0.1:80", 4},
		{"acme", "10.10.0.17:1", "10.21.0.1:80", 0},
		{"other", "10.10.0.17:1", "10.21.0.1:80", 1},
		{"third", "10.10.0.17:1", "10.21.0.1:80", 0},
	} {
		if _, got := ruleFor(tenants, tc.tenant, netip.MustParseAddrPort(tc.src), netip.MustParseAddrPort(tc.dst)); got != tc.want {
			t.Errorf("%s from %s to %s: rule %d, want %d", tc.tenant, tc.src, tc.dst, got, tc.want)
		}
	}
}

// TestGuardOf: the guard lets in the bond and its probes, the list, and direct flows from sites behind a peer.
func TestGuardOf(t *testing.T) {
	cfg := nodeConfig(t, fleetOf([]int{4500, 4510, 4600, 4610}, `  acme:
    cross_border: true
    rules:
      - {to: 10.10.0.0/16, protocol: udp, ports: [5000-5999, 7000], action: direct, class: realtime}
      - {protocol: tcp, ports: 22, action: deny}
    sites:
      hq:  {at: sha, prefixes: [10.10.0.0/24]}
      fra: {at: fra, prefixes: [10.20.0.0/24, 10.21.0.0/24]}
guard:
  mode: observe
  unknown_pps: 50
  allow:
    - {protocol: icmp}
    - {from: [192.0.2.0/24, 198.51.100.0/24], protocol: tcp, ports: 443}
`), "sha")
	g, err := guardOf(cfg)
	must(t, err)
	var got []string
	for _, a := range g.Allow {
		got = append(got, fmt.Sprintf("%v proto %d ports %d-%d", a.From, a.Protocol, a.Ports.From, a.Ports.To))
	}
	want := []string{
		"invalid Prefix proto 1 ports 0-0", "192.0.2.0/24 proto 6 ports 443-443", "198.51.100.0/24 proto 6 ports 443-443",
		"10.20.0.0/24 proto 17 ports 5000-5999", "10.21.0.0/24 proto 17 ports 5000-5999",
		"10.20.0.0/24 proto 17 ports 7000-7000", "10.21.0.0/24 proto 17 ports 7000-7000",
	}
	if !slices.Equal(got, want) {
		t.Errorf("allowed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if fmt.Sprint(g.BondPorts) != "[4500 4501 4510 4511]" || fmt.Sprint(g.Peers) != "[127.0.0.1]" || g.Mode != bpf.GuardObserve || g.StrangerRate != 50 || g.TotalRate != 2000 {
		t.Errorf("guard %+v", g)
	}
	agent := *cfg
	agent.Uplinks = []config.NodeUplink{{Name: "isp1", Interface: "eth0"}}
	agent.Peers = []config.Peer{{Name: "sha", Kind: config.PeerGateway, Paths: cfg.Peers[0].Paths, Sources: []config.Source{{
		Tenant: "acme", Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
	}}}}
	agent.Guard.Allow = nil
	if g, err := guardOf(&agent); err != nil || len(g.BondPorts) != 0 ||
		fmt.Sprint(g.Allow) != fmt.Sprint([]bpf.Inbound{{Protocol: 17, Ports: bpf.PortRange{From: 68}}, {Protocol: 17, Ports: bpf.PortRange{From: 546}}}) {
		t.Errorf("an agent's guard %+v, %v", g, err)
	}
	var none *carriers
	cfg.Guard.Mode = config.GuardEnforce
	if err := none.setGuard(cfg); err == nil {
		t.Error("enforcing without programs is no error")
	}
	cfg.Guard.Mode = config.GuardObserve
	must(t, none.setGuard(cfg))
}

// TestPatience: what remains of 200 ms after the way here, within bounds, and a round trip and more for answers.
func TestPatience(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct{ back, round, quiet, due time.Duration }{
		{0, 0, 0, 0}, // nothing is known
		{1 * ms, 2 * ms, 110 * ms, 105 * ms},
		{88 * ms, 176 * ms, 95 * ms, 280 * ms},
		{114 * ms, 228 * ms, 70 * ms, 330 * ms},
		{250 * ms, 500 * ms, 60 * ms, 600 * ms},
		{-40 * ms, 100 * ms, 110 * ms, 200 * ms}, // clocks far apart
	} {
		s := pathsel.PathState{RTT: pathsel.Delay{P95: tc.round}, Back: pathsel.Direction{Delay: pathsel.Delay{P95: tc.back}}}
		if quiet, due := patience(&s); quiet != tc.quiet || due != tc.due {
			t.Errorf("back %v, round trip %v: quiet %v, due %v; want %v, %v", tc.back, tc.round, quiet, due, tc.quiet, tc.due)
		}
		if tc.round > 0 && tc.back > 60*ms && tc.back < 120*ms && tc.back+tc.quiet+darkSpare > darkWithin {
			t.Errorf("back %v: a flow may go on it for %v", tc.back, tc.back+tc.quiet)
		}
	}
}

// TestOnlyAnswers: a peer whose probes have ceased, and that answers, has stopped asking; one that is silent, or never asked, has not.
func TestOnlyAnswers(t *testing.T) {
	const now, old = time.Hour, time.Hour - time.Second
	for _, tc := range []struct {
		live bpf.Live
		want bool
	}{
		{bpf.Live{Reply: now, Request: old}, true},
		{bpf.Live{Reply: now, Request: now - aloneAfter}, false},
		{bpf.Live{Reply: now, Request: 0}, false},
		{bpf.Live{Reply: old, Request: old}, false},
		{bpf.Live{Reply: now, Request: now}, false},
	} {
		if got := onlyAnswers(tc.live, now); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.live, got, tc.want)
		}
	}
}

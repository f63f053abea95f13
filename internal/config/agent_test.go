package config

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/pathsel"
)

func TestAgentErrors(t *testing.T) {
	base := read(t, "agent.yaml")
	for _, tc := range []struct {
		name  string
		edits []string
		want  string
	}{
		{"unknown key", []string{"socks5:", "sock5:"},
			`agent.yaml:14:1: document: unknown key "sock5" (hint: did you mean "socks5"?)`},
		{"missing", []string{"key: plant.key\n", "", "tenant: acme\n", ""}, lines(
			`agent.yaml:1:1: document: "tenant" is missing`,
			`agent.yaml:1:1: document: "key" is missing`)},
		{"no way in", []string{"lan: [lan0]\n", "", "socks5: 127.0.0.1:1080\n", "", "http_connect: \"[::1]:8080\"\n", ""},
			`agent.yaml:1:1: no flow could enter: neither LAN interfaces nor a proxy address (hint: add lan, socks5 or http_connect)`},
		{"proxy on a name", []string{"127.0.0.1:1080", "localhost:1080"},
			`agent.yaml:14:9: socks5: "localhost:1080": want the IP address to listen on, such as 127.0.0.1:1080`},
		{"proxy without address", []string{"127.0.0.1:1080", "\":1080\""},
			`agent.yaml:14:9: socks5: ":1080": want the IP address to listen on, such as 127.0.0.1:1080`},
		{"both proxies on one port", []string{"\"[::1]:8080\"", "127.0.0.1:1080"},
			`agent.yaml:1:1: socks5 and http_connect both listen on 127.0.0.1:1080`},
		{"gateway address without port", []string{"10.2.2.1:4500", "10.2.2.1"},
			`agent.yaml:8:30: gateway: address "10.2.2.1": want ip:port, such as 192.0.2.1:4500`},
		{"gateway address twice", []string{"10.2.2.1:4500", "10.2.1.1:4500"},
			`agent.yaml:8:30: gateway: address 10.2.1.1:4500 is listed twice`},
		{"no gateway addresses", []string{"[10.2.1.1:4500, 10.2.2.1:4500]", "[]"},
			`agent.yaml:8:14: gateway: addresses: none, want at least one`},
		{"no uplinks", []string{"  isp1: {interface: eth0, address: 10.2.1.2, rate: 20Mbit}\n  isp2: {interface: eth1, direct: route}\n", ""},
			`agent.yaml:9:1: document: "uplinks" has no value`},
		{"paths", []string{"lan: [lan0]", "paths: [isp1-0, isp1-2, isp3-1, isp2, isp2-01, isp1-0]\nlan: [lan0]"}, lines(
			`agent.yaml:12:17: path isp1-2: the gateway has no address 2, want 0 to 1`,
			`agent.yaml:12:25: path isp3-1: there is no uplink "isp3" (hint: did you mean "isp1"?)`,
			`agent.yaml:12:33: path "isp2" (hint: write the uplink's name, '-' and the position of the gateway's address, from 0)`,
			`agent.yaml:12:39: path "isp2-01" (hint: write the uplink's name, '-' and the position of the gateway's address, from 0)`,
			`agent.yaml:12:48: path isp1-0 is listed twice`)},
		{"lan is an uplink", []string{"[lan0]", "[eth0]"},
			`agent.yaml:10:3: interface eth0 is both a LAN interface and uplink isp1`},
		{"no prefixes", []string{"prefixes: [10.11.0.0/24]\n", ""},
			`agent.yaml:1:1: document: "prefixes" is missing`},
		{"empty prefixes", []string{"[10.11.0.0/24]", "[]"},
			`agent.yaml:13:11: prefixes: none, want the site's (hint: write those of the site in the fleet document)`},
		{"exit", []string{"lan: [lan0]", "lan: [lan0]\nexit: {preserve_sources: true}"},
			`agent.yaml:13:8: exit: unknown key "preserve_sources" (hint: did you mean "preserve_source"?)`},
		{"kept sources without a LAN", []string{"lan: [lan0]", "exit: {preserve_source: true}"},
			`agent.yaml:1:1: exit: preserve_source without LAN interfaces (hint: add lan: the replies to the clients' addresses are taken there)`},
		{"prefix twice", []string{"[10.11.0.0/24]", "[10.11.0.0/24, 10.11.0.128/25]"},
			`agent.yaml:13:26: agent: prefix 10.11.0.128/25 overlaps 10.11.0.0/24, claimed by agent on line 13`},
		{"bad public key", []string{keySHA, keySHA[:43] + "?"},
			`agent.yaml:7:15: gateway: public key: invalid key: illegal base64 data at input byte 43 (hint: landbridge keygen prints it)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseAgent([]byte(edit(t, base, tc.edits...)))
			if err == nil {
				t.Fatal("accepted")
			}
			if !errors.Is(err, ErrInvalid) {
				t.Error("not marked ErrInvalid")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

var agentInterfaces = []Interface{
	{Name: "lo", Up: true, Addrs: pfx("127.0.0.1/8")},
	{Name: "eth0", Up: true, Addrs: pfx("10.2.1.2/24")},
	{Name: "eth1", Up: true, Addrs: pfx("10.2.2.2/24", "fd00::2/64")},
	{Name: "lan0", Up: true, Addrs: pfx("10.11.0.1/24")},
}

func TestAgentNode(t *testing.T) {
	a, err := LoadAgent("testdata/agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if a.Key != "testdata/plant.key" {
		t.Errorf("key %q is not beside the file", a.Key)
	}
	ap := netip.MustParseAddrPort
	want := &NodeConfig{
		Name: "plant1", LAN: []string{"lan0"},
		Uplinks: []NodeUplink{
			{"isp1", "eth0", ap("10.2.1.2:0"), 20e6, true, DirectRedirect},
			{"isp2", "eth1", netip.AddrPort{}, 0, true, DirectRoute},
		},
		Peers: []Peer{{
			Name: "sha", PublicKey: mustKey(keySHA), Kind: PeerGateway, Uplinks: []string{"isp1", "isp2"},
			Paths:   []Path{{"isp1-0", "isp1", ap("10.2.1.1:4500"), 20e6}, {"isp2-1", "isp2", ap("10.2.2.1:4500"), 0}},
			Sources: []Source{{"acme", "", pfx("0.0.0.0/0", "::/0")}},
		}},
		Routes: []Route{
			{pfx("0.0.0.0/0")[0], "acme", "", "sha"},
			{pfx("10.11.0.0/24")[0], "acme", "plant", ""},
			{pfx("::/0")[0], "acme", "", "sha"},
		},
		Tenants: []NodeTenant{{"acme", true, nil}},
		Policy:  pathsel.DefaultPolicy(),
		Guard:   defaultGuard(),
		Sources: []Source{{"acme", "plant", pfx("10.11.0.0/24")}},
	}
	got, err := a.Node(agentInterfaces)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpNet); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAgentPairing(t *testing.T) {
	base := read(t, "agent.yaml")
	for _, tc := range []struct {
		name  string
		edits []string
		local []Interface
		want  string
	}{
		{"same network", nil, agentInterfaces, "isp1-0 isp2-1"},
		{"networks unknown", nil, nil, "isp1-0 isp1-1 isp2-0 isp2-1"},
		{"one near, one behind routers", []string{"10.2.2.1:4500", "203.0.113.1:4500"}, agentInterfaces, "isp1-0 isp2-0 isp2-1"},
		{"explicit", []string{"lan: [lan0]", "paths: [isp1-1, isp2-0]\nlan: [lan0]"}, agentInterfaces, "isp1-1 isp2-0"},
		{"other family", []string{"10.2.2.1:4500", `"[2001:db8::1]:4500"`, "10.2.1.1:4500", "203.0.113.1:4500"}, agentInterfaces, "isp1-0 isp2-0 isp2-1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, err := ParseAgent([]byte(edit(t, base, tc.edits...)))
			if err != nil {
				t.Fatal(err)
			}
			n, err := a.Node(tc.local)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, p := range n.Peers[0].Paths {
				names = append(names, p.Name)
			}
			if got := strings.Join(names, " "); got != tc.want {
				t.Errorf("paths %s, want %s", got, tc.want)
			}
		})
	}
	a, err := ParseAgent([]byte(edit(t, base, "[10.2.1.1:4500, 10.2.2.1:4500]", `["[fd00::1]:1"]`, "  isp2: {interface: eth1, direct: route}\n", "")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Node(nil); err == nil {
		t.Error("an agent without any path has a node")
	}
}

func TestCheckLocal(t *testing.T) {
	a, err := ParseAgent([]byte(read(t, "agent.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	n, err := a.Node(nil)
	if err != nil {
		t.Fatal(err)
	}
	if late, err := CheckLocal(n, agentInterfaces); late != nil || err != nil {
		t.Errorf("right machine: %v, %v", late, err)
	}
	for _, tc := range []struct {
		name         string
		local        []Interface
		late         bool // the node starts all the same
		want, advice string
	}{
		{"address elsewhere", []Interface{{Name: "eth0"}, {Name: "eth1", Addrs: pfx("10.2.1.2/24")}, {Name: "lan0"}}, false,
			"uplink isp1: 10.2.1.2 is no address of interface eth0", "10.2.1.2 is on interface eth1"},
		{"other address", []Interface{{Name: "eth0", Addrs: pfx("10.2.1.3/24", "fd00::3/64", "fe80::3/64")}, {Name: "eth1"}, {Name: "lan0"}}, false,
			"uplink isp1: 10.2.1.2 is no address of interface eth0", "eth0 has 10.2.1.3, fd00::3"},
		{"no address", []Interface{{Name: "eth0"}, {Name: "eth1"}, {Name: "lan0"}}, true,
			"uplink isp1: 10.2.1.2 is no address of interface eth0", "eth0 has no address"},
		{"no address but its own", []Interface{{Name: "eth0", Addrs: pfx("fe80::3/64")}, {Name: "eth1"}, {Name: "lan0"}}, true,
			"uplink isp1: 10.2.1.2 is no address of interface eth0", "eth0 has no address"},
		{"no interface", []Interface{{Name: "eth0", Addrs: pfx("10.2.1.2/24")}, {Name: "enp1s0"}, {Name: "lan0"}}, true,
			"uplink isp2: there is no interface eth1", "this machine has eth0, enp1s0, lan0"},
		{"no interface at all", []Interface{{Name: "enp1s0"}, {Name: "lan0"}}, false,
			"uplink isp1: there is no interface eth0\n" + ErrLocal.Error() + ": uplink isp2: there is no interface eth1", "this machine has enp1s0, lan0"},
		{"no lan", []Interface{{Name: "eth0", Addrs: pfx("10.2.1.2/24")}, {Name: "eth1"}}, false,
			"lan: there is no interface lan0", "this machine has eth0, eth1"},
		{"one lan of two", append([]Interface{{Name: "lan1"}}, agentInterfaces[1:3]...), true,
			"lan: there is no interface lan0", "this machine has lan1, eth0, eth1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := *n
			if tc.name == "one lan of two" {
				n.LAN = []string{"lan0", "lan1"}
			}
			late, err := CheckLocal(&n, tc.local)
			if tc.late {
				late, err = err, late
			}
			if late != nil {
				t.Errorf("late is %v, want it to be %v", late, tc.late)
			}
			if !errors.Is(err, ErrLocal) {
				t.Fatalf("got %v", err)
			}
			if got, want := err.Error(), ErrLocal.Error()+": "+tc.want; got != want {
				t.Errorf("error %q\nwant  %q", got, want)
			}
			if got := hint.Of(err); got != tc.advice {
				t.Errorf("hint %q, want %q", got, tc.advice)
			}
		})
	}
}

func TestSystemInterfaces(t *testing.T) {
	ifs, err := SystemInterfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifs {
		if i.Name != "lo" {
			continue
		}
		for _, p := range i.Addrs {
			if p == netip.MustParsePrefix("127.0.0.1/8") {
				return
			}
		}
		t.Skipf("lo has %v here, not 127.0.0.1/8", i.Addrs)
	}
	t.Skip("no lo here")
}

func FuzzParseAgent(f *testing.F) {
	a, err := ParseAgent([]byte(read(f, "agent.yaml")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Marshal())
	f.Add([]byte(read(f, "agent.yaml")))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParseAgent(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || len(Problems(err)) == 0 {
				t.Fatalf("unmarked error %v", err)
			}
			return
		}
		doc := a.Marshal()
		b, err := ParseAgent(doc)
		if err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		an, aerr := a.Node(agentInterfaces)
		bn, berr := b.Node(agentInterfaces)
		if diff := cmp.Diff(an, bn, cmpNet); diff != "" || (aerr == nil) != (berr == nil) {
			t.Fatalf("%s\n%v\n%v\n%s", diff, aerr, berr, doc)
		}
	})
}

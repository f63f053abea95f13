package config

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/pathsel"
)

const (
	keySHA   = "zswVB9wd3XKVlRwpCIjwla25BE0bc9aW5t8GXWg71Pw="
	keyFRA   = "a3nFfmoJUjkoLASBjpYRLz8DpAAbqXpWTCOFKj8epfw="
	keyPlant = "2tvRhKLVJvHr3VwG/a2TWbIodZtNf3nWZon6JUqthUY="
	keyOther = "m+Mod5WQeAlAfhRDn/GY1b/H3Ob5vHQ8s2kUb2ELSAE="
)

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edit replaces text that must be there exactly once, so that a case cannot silently test nothing.
func edit(t testing.TB, doc string, edits ...string) string {
	t.Helper()
	for i := 0; i+1 < len(edits); i += 2 {
		if n := strings.Count(doc, edits[i]); n != 1 {
			t.Fatalf("%q occurs %d times", edits[i], n)
		}
		doc = strings.Replace(doc, edits[i], edits[i+1], 1)
	}
	return doc
}

func lines(ss ...string) string { return strings.Join(ss, "\n") }

func TestParseErrors(t *testing.T) {
	base := read(t, "fleet.yaml")
	for _, tc := range []struct {
		name  string
		edits []string
		want  string
	}{
		{"unknown key, near", []string{"interface: ct0, address: 10.1.1.1", "interfase: ct0, address: 10.1.1.1"}, lines(
			`fleet.yaml:8:7: gateway sha: carrier ct: "interface" is missing`,
			`fleet.yaml:8:12: gateway sha: carrier ct: unknown key "interfase" (hint: did you mean "interface"?)`)},
		{"unknown key, far", []string{"regions: [cn, eu]", "regions: [cn, eu]\nvpn: true"},
			`fleet.yaml:3:1: document: unknown key "vpn" (hint: known keys: regions, gateways, borders, tenants, rules, classes, guard, marks)`},
		{"key twice", []string{"    region: cn\n", "    region: cn\n    region: eu\n"},
			`fleet.yaml:6:5: gateway sha: "region" is already there on line 5`},
		{"gateway twice", []string{"  fra:\n    region: eu", "  sha:\n    region: eu"}, lines(
			`fleet.yaml:15:3: gateways: "sha" is already there on line 4`,
			`fleet.yaml:25:20: border: unknown gateway "fra" (hint: did you mean "sha"?)`,
			`fleet.yaml:33:19: site acme/fra: unknown gateway "fra" (hint: did you mean "sha"?)`)},
		{"unknown region", []string{"region: eu", "region: ue"},
			`fleet.yaml:16:13: gateway fra: unknown region "ue" (hint: did you mean "eu"?)`},
		{"region twice", []string{"[cn, eu]", "[cn, eu, cn]"},
			`fleet.yaml:2:19: region "cn" is listed twice`},
		{"missing key and wrong type", []string{"    region: cn\n", "", "lan: [lan0]\n  fra", "lan: lan0\n  fra"}, lines(
			`fleet.yaml:4:3: gateway sha: "region" is missing`,
			`fleet.yaml:13:10: gateway sha: lan: found a single value, want a list (hint: write [lan0])`)},
		{"null value", []string{"    region: cn\n", "    region:\n"},
			`fleet.yaml:5:5: gateway sha: "region" has no value`},
		{"bad key text", []string{keySHA, "abc"},
			`fleet.yaml:6:17: gateway sha: public key: invalid key: 3 characters, want 44 of base64 (hint: landbridge keygen prints it)`},
		{"low order key", []string{keySHA, strings.Repeat("A", 43) + "="},
			`fleet.yaml:6:17: gateway sha: public key AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=: invalid key: point of low order (hint: landbridge keygen prints it)`},
		{"key twice in the fleet", []string{keyPlant, keyFRA},
			`fleet.yaml:32:78: site acme/plant: public key is used twice, first by gateway fra on line 17 (hint: every node needs a key of its own: landbridge keygen)`},
		{"address without port", []string{"address: 10.1.1.1:4500", "address: 10.1.1.1"},
			`fleet.yaml:8:37: gateway sha: carrier ct: address "10.1.1.1": want ip:port, such as 192.0.2.1:4500`},
		{"address is a name", []string{"address: 10.1.1.1:4500", "address: sha.example:4500"},
			`fleet.yaml:8:37: gateway sha: carrier ct: address "sha.example:4500": want ip:port, such as 192.0.2.1:4500`},
		{"port 0", []string{"10.1.1.1:4500", "10.1.1.1:0"},
			`fleet.yaml:8:37: gateway sha: carrier ct: address "10.1.1.1:0": port 0, want 1 to 65535`},
		{"any address", []string{"10.1.1.1:4500", "0.0.0.0:4500"},
			`fleet.yaml:8:37: gateway sha: carrier ct: address "0.0.0.0:4500": want the address of one interface`},
		{"unquoted IPv6", []string{"address: 10.1.1.1:4500", "address: [2001:db8::1]"},
			`fleet.yaml:8:37: gateway sha: carrier ct: address: found a list, want ip:port (hint: quote an IPv6 address: "[2001:db8::1]:4500")`},
		{"mapped", []string{"10.1.1.1:4500", `"[::ffff:10.1.1.1]:4500"`},
			`fleet.yaml:8:37: gateway sha: carrier ct: address "[::ffff:10.1.1.1]:4500": write the IPv4 address as 10.1.1.1`},
		{"address twice", []string{"10.1.2.2:4500", "10.1.1.1:4500"},
			`fleet.yaml:20:37: gateway fra: address 10.1.1.1:4500 is used twice, first by sha's uplink ct on line 8`},
		{"rate", []string{"rate: 50Mbit", "rate: 50 Mb/s"},
			`fleet.yaml:8:58: gateway sha: carrier ct: rate "50 Mb/s": want a number and bit, kbit, Mbit or Gbit, such as 50Mbit`},
		{"direct", []string{"rate: 50Mbit", "direct: routed"},
			`fleet.yaml:8:60: gateway sha: carrier ct: direct: "routed", want redirect or route (hint: did you mean "route"?)`},
		{"direct of an access link", []string{"rate: 1Gbit", "direct: route"},
			`fleet.yaml:12:7: gateway sha: access acc1: direct: route, but direct flows leave by carriers alone`},
		{"rate out of range", []string{"rate: 50Mbit", "rate: 50bit"},
			`fleet.yaml:8:58: gateway sha: carrier ct: rate "50bit" is outside 8kbit to 1000Gbit`},
		{"uplink name with dash", []string{"      cm: {interface: cm0, address: 10.1.3.1", "      c-m: {interface: cm0, address: 10.1.3.1"}, lines(
			`fleet.yaml:10:7: gateway sha: carrier c-m: the name has a '-', which separates the two uplinks in the name of a path`,
			`fleet.yaml:26:27: border sha-fra: path cm-cm: gateway sha has no carrier "cm" (hint: did you mean "ct"?)`)},
		{"uplink name in both maps", []string{"acc2: ", "ct: "},
			`fleet.yaml:13:7: gateway sha: uplink "ct" is already there on line 8 (hint: give each of the gateway's uplinks its own name)`},
		{"bad names", []string{"  acme:", "  \"a b\":", "      hq: ", "      -hq: "}, lines(
			`fleet.yaml:28:3: tenant a b: "a b" is no valid name (hint: use letters, digits, '_', '-' and '.', beginning with a letter or digit)`,
			`fleet.yaml:31:7: site a b/-hq: "-hq" is no valid name (hint: use letters, digits, '_', '-' and '.', beginning with a letter or digit)`)},
		{"long name", []string{"  acme:", "  " + strings.Repeat("a", 64) + ":"},
			`fleet.yaml:28:3: tenant ` + strings.Repeat("a", 64) + `: name of 64 characters, the limit is 63`},
		{"control characters stay off the terminal", []string{"  acme:", `  "a\x1b[2Jb\nc":`},
			"fleet.yaml:28:3: tenant a\uFFFD[2Jb\uFFFDc: \"a\\x1b[2Jb\\nc\" is no valid name (hint: use letters, digits, '_', '-' and '.', beginning with a letter or digit)"},
		{"interface name", []string{"interface: ct0, address: 10.1.1.1", "interface: a-very-long-name0, address: 10.1.1.1"},
			`fleet.yaml:8:23: gateway sha: carrier ct: "a-very-long-name0" is no valid interface name (1 to 15 characters without blanks, '/' and ':')`},
		{"lan is an uplink", []string{"lan: [lan0]\n  fra", "lan: [lan0, ct0]\n  fra"},
			`fleet.yaml:8:7: gateway sha: interface ct0 is both a LAN interface and uplink ct`},
		{"border to nowhere", []string{"between: [sha, fra]", "between: [sha, far]"},
			`fleet.yaml:25:20: border: unknown gateway "far" (hint: did you mean "fra"?)`},
		{"border with itself", []string{"between: [sha, fra]", "between: [sha, sha]"},
			`fleet.yaml:25:5: border sha-sha: joins a gateway with itself`},
		{"border of three", []string{"between: [sha, fra]", "between: [sha, fra, sha]"},
			`fleet.yaml:25:14: border: between names 3 gateways, want 2 (hint: write [sha, fra])`},
		{"border twice", []string{"tenants:", "  - between: [fra, sha]\ntenants:"},
			`fleet.yaml:27:5: border fra-sha: these gateways already have a border on line 25 (hint: list all paths in one border)`},
		{"path of unknown carrier", []string{"[ct-ct, cu-cu, cm-cm]", "[ct-ct, cu-cx, cucm, ct-ct]"}, lines(
			`fleet.yaml:26:20: border sha-fra: path cu-cx: gateway fra has no carrier "cx" (hint: did you mean "ct"?)`,
			`fleet.yaml:26:27: border sha-fra: path "cucm" (hint: write the two carriers' names: sha's, '-', fra's)`,
			`fleet.yaml:26:33: border sha-fra: path ct-ct is listed twice`)},
		{"path across families", []string{"10.1.1.2:4500", `"[fd00::2]:4500"`},
			`fleet.yaml:26:13: border sha-fra: path ct-ct joins 10.1.1.1 with fd00::2, of another address family`},
		{"site at unknown gateway", []string{"hq:    {at: sha", "hq:    {at: shaa"},
			`fleet.yaml:31:19: site acme/hq: unknown gateway "shaa" (hint: did you mean "sha"?)`},
		{"prefix claimed twice", []string{"10.30.0.0/24", "10.10.0.0/24"},
			`fleet.yaml:36:32: site local/sh: prefix 10.10.0.0/24 is claimed twice, first by site acme/hq on line 31`},
		{"prefix inside another", []string{"10.10.0.0/24", "10.0.0.0/8"}, lines(
			`fleet.yaml:32:35: site acme/plant: prefix 10.11.0.0/24 overlaps 10.0.0.0/8, claimed by site acme/hq on line 31`,
			`fleet.yaml:33:35: site acme/fra: prefix 10.20.0.0/24 overlaps 10.0.0.0/8, claimed by site acme/hq on line 31`,
			`fleet.yaml:36:32: site local/sh: prefix 10.30.0.0/24 overlaps 10.0.0.0/8, claimed by site acme/hq on line 31`)},
		{"host bits", []string{"10.10.0.0/24", "10.10.0.1/24"},
			`fleet.yaml:31:35: site acme/hq: prefix "10.10.0.1/24" has bits set beyond its length (hint: write 10.10.0.0/24)`},
		{"no length", []string{"10.10.0.0/24", "10.10.0.1"},
			`fleet.yaml:31:35: site acme/hq: prefix "10.10.0.1" has no length (hint: for a single host write 10.10.0.1/32)`},
		{"no boolean", []string{"cross_border: true", "cross_border: yes"},
			`fleet.yaml:29:19: tenant acme: cross_border: "yes" is neither true nor false`},
		{"an alias", []string{"region: eu", "region: *r"},
			`fleet.yaml:16:13: gateway fra: region: found a YAML anchor or alias, want a single value`},
		{"tab", []string{"    region: eu", "\tregion: eu"},
			`fleet.yaml:16:1: a tab (hint: indent with spaces)`},
		{"two documents", []string{"borders:", "---\nborders:"},
			`fleet.yaml:25:1: a second document in one file (hint: remove the --- line)`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := Parse([]byte(edit(t, base, tc.edits...)))
			if err == nil {
				t.Fatalf("accepted: %+v", f)
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

func TestParseOddDocuments(t *testing.T) {
	for _, tc := range []struct{ name, doc, want string }{
		{"empty", "", "fleet.yaml: the document is empty"},
		{"comment", "# nothing\n", "fleet.yaml: the document is empty"},
		{"scalar", "hello", "fleet.yaml:1:1: document: found a single value, want a mapping"},
		{"list", "- a\n", "fleet.yaml:1:1: document: found a list, want a mapping"},
		{"unclosed", "gateways: {", "fleet.yaml:1:11: could not find flow mapping end token '}'"},
		{"deep", strings.Repeat("[", 40), "fleet.yaml:1:33: brackets nested deeper than 32"},
		{"long line", strings.Repeat("x", maxLine+1), "fleet.yaml:1:1: line longer than 16384 bytes"},
		{"huge", strings.Repeat("#\n", maxFile), "fleet.yaml: 2097152 bytes is too large, the limit is 1048576"},
		{"no gateways", "regions: [cn]\ngateways: {}\n", "fleet.yaml:2:11: gateways: none, want at least one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Parse([]byte(tc.doc))
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestManyProblemsAreCut(t *testing.T) {
	doc := "regions: [cn]\ngateways:\n"
	for i := range 60 {
		doc += "  g" + strings.Repeat("x", i) + ": {wrong: 1}\n"
	}
	_, err := Parse([]byte(doc))
	ps := Problems(err)
	if len(ps) != maxProblems+1 || !strings.Contains(ps[maxProblems].Message, "more problems") {
		t.Fatalf("%d problems, last %v", len(ps), ps[len(ps)-1])
	}
}

func mustKey(s string) identity.PublicKey {
	k, err := identity.ParsePublicKey(s)
	if err != nil {
		panic(err)
	}
	return k
}

func pfx(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

var cmpNet = cmp.Options{
	cmpopts.IgnoreUnexported(Rule{}),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func TestNode(t *testing.T) {
	f, err := Load("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ap := netip.MustParseAddrPort
	acmeAtSHA := []Source{{"acme", "hq", pfx("10.10.0.0/24")}, {"acme", "plant", pfx("10.11.0.0/24", "fd00:11::/64")}}
	want := &NodeConfig{
		Name: "sha", Region: "cn", PublicKey: mustKey(keySHA), LAN: []string{"lan0"},
		Uplinks: []NodeUplink{
			{"ct", "ct0", ap("10.1.1.1:4500"), 50e6, false, DirectRedirect},
			{"cu", "cu0", ap("10.1.2.1:4500"), 0, false, DirectRoute},
			{"cm", "cm0", ap("10.1.3.1:4500"), 0, false, DirectRedirect},
			{"acc1", "acc0", ap("10.2.1.1:4500"), 1e9, true, DirectRedirect},
			{"acc2", "acc1", ap("10.2.2.1:4500"), 0, true, DirectRedirect},
		},
		Peers: []Peer{
			{
				Name: "fra", PublicKey: mustKey(keyFRA), Kind: PeerGateway, Uplinks: []string{"ct", "cu", "cm"},
				Paths: []Path{
					{"ct-ct", "ct", ap("10.1.1.2:4500"), 40e6},
					{"cu-cu", "cu", ap("10.1.2.2:4500"), 0},
					{"cm-cm", "cm", ap("10.1.3.2:4500"), 0},
				},
				Sources: []Source{{"acme", "fra", pfx("10.20.0.0/24")}},
			},
			{
				Name: "acme/plant", PublicKey: mustKey(keyPlant), Kind: PeerAgent, Uplinks: []string{"acc1", "acc2"},
				Sources: acmeAtSHA[1:],
			},
		},
		Routes: []Route{
			{pfx("10.10.0.0/24")[0], "acme", "hq", ""},
			{pfx("10.11.0.0/24")[0], "acme", "plant", "acme/plant"},
			{pfx("10.20.0.0/24")[0], "acme", "fra", "fra"},
			{pfx("10.30.0.0/24")[0], "local", "sh", ""},
			{pfx("fd00:11::/64")[0], "acme", "plant", "acme/plant"},
		},
		Tenants: []NodeTenant{{"acme", true, nil}, {"local", false, nil}},
		Policy:  pathsel.DefaultPolicy(),
		Guard:   defaultGuard(),
		Sources: []Source{acmeAtSHA[0], {"local", "sh", pfx("10.30.0.0/24")}},
	}
	got, err := f.Node("sha")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpNet); diff != "" {
		t.Errorf("sha (-want +got)\n%s", diff)
	}

	got, err = f.Node("fra")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Peer{{
		Name: "sha", PublicKey: mustKey(keySHA), Uplinks: []string{"ct", "cu", "cm"},
		Paths: []Path{
			{"ct-ct", "ct", ap("10.1.1.1:4500"), 40e6},
			{"cu-cu", "cu", ap("10.1.2.1:4500"), 0},
			{"cm-cm", "cm", ap("10.1.3.1:4500"), 0},
		},
		Sources: acmeAtSHA,
	}}, got.Peers, cmpNet); diff != "" {
		t.Errorf("fra's peers (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]Blocked{{pfx("10.30.0.0/24")[0], "local", "sh", "tenant local has not opted in to cross the border (cross_border)"}}, got.Blocked, cmpNet); diff != "" {
		t.Errorf("fra's blocked (-want +got)\n%s", diff)
	}
	if !got.PreserveSource {
		t.Error("fra does not preserve sources")
	}

	_, err = f.Node("fraa")
	if err == nil || hint.Of(err) != `did you mean "fra"?` {
		t.Errorf("unknown node: %v (hint %q)", err, hint.Of(err))
	}
}

// Four gateways: a and b in cn, c and d in eu, joined a-c, c-d, d-b; and a pair e-f of their own.
func relayFleet(cross bool) string {
	gw := func(name, region, addr string, seed byte) string {
		return "  " + name + ": {region: " + region + ", public_key: \"" + identity.FromSeed([32]byte{9, seed}).Public().String() +
			"\", carriers: {x: {interface: x0, address: " + addr + ":1}}, lan: [l0]}\n"
	}
	s := "regions: [cn, eu]\ngateways:\n" + gw("a", "cn", "10.0.0.1", 1) + gw("b", "cn", "10.0.0.2", 2) + gw("c", "eu", "10.0.0.3", 3) +
		gw("d", "eu", "10.0.0.4", 4) + gw("e", "cn", "10.0.0.5", 5)
	s += "borders: [{between: [a, c]}, {between: [c, d]}, {between: [d, b]}]\ntenants:\n  t:\n"
	if cross {
		s += "    cross_border: true\n"
	}
	s += "    sites:\n"
	for i, g := range []string{"a", "b", "c", "d", "e"} {
		s += "      s" + g + ": {at: " + g + ", prefixes: [10.1." + string(rune('0'+i)) + ".0/24]}\n"
	}
	return s
}

func TestRelayRoutes(t *testing.T) {
	vias := func(doc, node string) string {
		f, err := Parse([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		n, err := f.Node(node)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, r := range n.Routes {
			out = append(out, r.Site+">"+r.Via)
		}
		for _, b := range n.Blocked {
			out = append(out, b.Site+"!")
		}
		return strings.Join(out, " ")
	}
	for _, tc := range []struct {
		name  string
		cross bool
		extra string
		node  string
		want  string
	}{
		{"two borders away", true, "", "a", "sa> sb>c sc>c sd>c se!"},
		{"and from the other end", true, "", "b", "sa>d sb> sc>d sd>d se!"},
		{"in the middle", true, "", "c", "sa>a sb>d sc> sd>d se!"},
		{"opted out: only the own region", false, "", "c", "sc> sd>d sa! sb! se!"},
		{"opted out: not through another region", false, "", "a", "sa> sb! sc! sd! se!"},
		{"within the region, though the way through the other one is as short", true, ", {between: [a, e]}, {between: [e, b]}, {between: [c, b]}", "a", "sa> sb>e sc>c sd>c se>e"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			doc := relayFleet(tc.cross)
			doc = edit(t, doc, "{between: [d, b]}", "{between: [d, b]}"+tc.extra)
			if got := vias(doc, tc.node); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	base := read(t, "fleet.yaml")
	f, err := Parse([]byte(edit(t, base, "    paths: [ct-ct, cu-cu, cm-cm]\n", "", "10.1.1.2:4500", `"[2001:db8::2]:4500"`)))
	if err != nil {
		t.Fatal(err)
	}
	n, err := f.Node("sha")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range n.Peer("fra").Paths {
		names = append(names, p.Name)
	}
	if got, want := strings.Join(names, " "), "ct-cu ct-cm cu-cu cu-cm cm-cu cm-cm"; got != want {
		t.Errorf("paths %s, want %s: every pairing of one family", got, want)
	}
	f, err = Parse([]byte(edit(t, base, `    access:
      acc1: {interface: acc0, address: 10.2.1.1:4500, rate: 1Gbit}
      acc2: {interface: acc1, address: 10.2.2.1:4500}
`, "")))
	if err != nil {
		t.Fatal(err)
	}
	if n, err = f.Node("sha"); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(n.Peer("acme/plant").Uplinks, " "); got != "ct cu cm" {
		t.Errorf("without access links the agent may use %q, want the carriers", got)
	}
}

func TestRate(t *testing.T) {
	for in, want := range map[string]Rate{"50Mbit": 50e6, "1.5Gbit": 1.5e9, "800kbit": 8e5, "9600bit": 9600, "8kbit": 8000} {
		got, err := ParseRate(in)
		if err != nil || got != want {
			t.Errorf("%s = %d, %v, want %d", in, got, err, want)
		}
		if again, err := ParseRate(got.String()); err != nil || again != got {
			t.Errorf("%s printed as %s", in, got)
		}
	}
	for _, in := range []string{"", "bit", "50", "50mbit", "-5Mbit", "5e3Mbit", "NaNbit", "Infbit", "1Tbit", "2000Gbit", "1..5Mbit", "0Mbit"} {
		if r, err := ParseRate(in); err == nil {
			t.Errorf("%q accepted as %s", in, r)
		}
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	f, err := Load("testdata/fleet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checkRoundTrip(t, f)
}

// checkRoundTrip: what is accepted means the same after being written and read again, on every node.
func checkRoundTrip(t testing.TB, f *Fleet) {
	t.Helper()
	doc := f.Marshal()
	again, err := Parse(doc)
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	for _, g := range f.Gateways {
		a, err := f.Node(g.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := again.Node(g.Name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b, cmpNet); diff != "" {
			t.Fatalf("node %s\n%s\n%s", g.Name, diff, doc)
		}
	}
}

func FuzzParse(f *testing.F) {
	fleet, err := Load("testdata/fleet.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(fleet.Marshal())
	f.Add([]byte(read(f, "fleet.yaml")))
	f.Add([]byte(relayFleet(true)))
	f.Add([]byte(read(f, "rules.yaml")))
	f.Add([]byte("gateways: &a\n  x: *a\n<<: 1\n? [a]\n: !!str b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fleet, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || len(Problems(err)) == 0 {
				t.Fatalf("unmarked error %v", err)
			}
			if n := strings.Count(err.Error(), "\n"); n >= len(Problems(err)) {
				t.Fatalf("%d lines for %d problems", n+1, len(Problems(err)))
			}
			return
		}
		checkRoundTrip(t, fleet)
	})
}

package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/landbridge/landbridge/tunnel"
)

const twoTenants = `  acme:
    cross_border: true
    sites:
      hq:    {at: sha, prefixes: [10.10.0.0/24, "fd00:10::/64"]}
      plant: {at: sha, prefixes: [10.11.0.0/24], public_key: PLANT}
      fra:   {at: fra, prefixes: [10.20.0.0/24, 10.21.0.0/24]}
  local:
    sites:
      sh: {at: sha, prefixes: [10.30.0.0/24]}
      fr: {at: fra, prefixes: [10.40.0.0/24]}
`

func TestRouter(t *testing.T) {
	fleet := strings.Replace(fleetOf([]int{1, 2, 3, 4}, twoTenants), "PLANT", keyPlant.Public().String(), 1)
	for _, tc := range []struct {
		node, src, dst string
		tenant, next   string
		fails          string
	}{
		{"sha", "10.10.0.2", "10.20.0.2", "acme", "fra", ""},
		{"sha", "::ffff:10.10.0.2", "::ffff:10.20.0.2", "acme", "fra", ""},
		{"sha", "fd00:10::2", "10.20.0.2", "acme", "fra", ""},
		{"sha", "10.10.0.2", "10.11.0.2", "acme", "acme/plant", ""},
		{"sha", "10.11.0.2", "10.10.0.2", "acme", "", ""},
		{"sha", "10.20.0.2", "10.11.0.2", "acme", "acme/plant", ""}, // passed on
		{"fra", "10.10.0.2", "10.20.0.2", "acme", "", ""},
		{"fra", "10.20.0.2", "10.11.0.2", "acme", "sha", ""},
		{"sha", "10.10.0.2", "10.30.0.2", "", "", "tenant acme has no site with 10.30.0.2"}, // of another tenant
		{"sha", "10.30.0.2", "10.40.0.2", "", "", "destination 10.40.0.2 is closed to tenant local: tenant local has not opted in to cross the border"},
		{"sha", "192.0.2.1", "10.20.0.2", "", "", "source 192.0.2.1 belongs to no site known to sha"},
		{"sha", "10.10.0.2", "192.0.2.1", "", "", "tenant acme has no site with 192.0.2.1"},
	} {
		tenant, _, next, err := newRouter(nodeConfig(t, fleet, tc.node)).Route(netip.MustParseAddr(tc.src), netip.MustParseAddr(tc.dst))
		switch {
		case tc.fails != "":
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: %s to %s: %v, want %q", tc.node, tc.src, tc.dst, err, tc.fails)
			}
		case err != nil || tenant != tc.tenant || next != tc.next:
			t.Errorf("%s: %s to %s: tenant %q, next %q, %v; want %q, %q", tc.node, tc.src, tc.dst, tenant, next, err, tc.tenant, tc.next)
		}
	}
}

func TestAuthorise(t *testing.T) {
	fleet := strings.Replace(fleetOf([]int{1, 2, 3, 4}, twoTenants), "PLANT", keyPlant.Public().String(), 1)
	for _, tc := range []struct {
		node, from, tenant, src string
		fails                   string
	}{
		{"fra", "sha", "acme", "10.10.0.2", ""},
		{"fra", "sha", "acme", "10.11.0.2", ""},
		{"sha", "acme/plant", "acme", "10.11.0.2", ""},
		{"sha", "acme/plant", "acme", "10.10.0.2", "no site behind acme/plant has source 10.10.0.2"},
		{"sha", "fra", "acme", "10.10.0.2", "no site behind fra has source 10.10.0.2"}, // ours
		{"fra", "sha", "local", "10.10.0.2", `source 10.10.0.2 belongs to tenant acme, not "local"`},
		{"fra", "sha", "local", "10.30.0.2", "no site behind sha has source 10.30.0.2"}, // has not opted in
		{"fra", "nobody", "acme", "10.10.0.2", "peer nobody is not in the configuration of fra"},
	} {
		h := tunnel.Header{Tenant: tc.tenant, Src: netip.AddrPortFrom(netip.MustParseAddr(tc.src), 1)}
		err := newRouter(nodeConfig(t, fleet, tc.node)).Authorise(tc.from, h)
		if tc.fails == "" && err != nil || tc.fails != "" && (err == nil || err.Error() != tc.fails) {
			t.Errorf("%s: from %s, %s of %s: %v, want %q", tc.node, tc.from, tc.src, tc.tenant, err, tc.fails)
		}
	}
}

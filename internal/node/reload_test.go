package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
)

// TestReload: tenants and peers come and go, and the flows of those that stay do not notice.
func TestReload(t *testing.T) {
	o := serve(t, echo)
	const other = `  other:
    cross_border: true
    sites:
      sh: {at: sha, prefixes: [10.30.0.0/24]}
      fr: {at: fra, prefixes: [10.40.0.0/24]}
`
	sha, fra, ports, book := twoGateways(t, o, acme)
	stays := open(t, sha, "10.10.0.2:1000", "10.20.0.2:80")
	defer stays.Close()
	must(t, turn(stays))
	reload := func(fleet string) {
		t.Helper()
		must(t, sha.Reload(nodeConfig(t, fleet, "sha"), sha.opts), fra.Reload(nodeConfig(t, fleet, "fra"), fra.opts))
		if err := turn(stays); err != nil {
			t.Fatalf("the flow that was there: %v", err)
		}
	}
	wantReset(t, open(t, sha, "10.30.0.2:1000", "10.40.0.2:80"))

	reload(fleetOf(ports, acme+other))
	must(t, ask(open(t, sha, "10.30.0.2:1000", "10.40.0.2:80"), "the new tenant"))

	// Another order of the same things is no change.
	text := fleetOf(ports, acme+other)
	ct, cu := strings.Index(text, "      ct:"), strings.Index(text, "      cu:")
	line := func(i int) string { return text[i : i+strings.Index(text[i:], "\n")+1] }
	swapped := strings.Replace(text, line(ct)+line(cu), line(cu)+line(ct), 1)
	swapped = strings.Replace(swapped, "[ct-ct, cu-cu]", "[cu-cu, ct-ct]", 1)
	if swapped == text {
		t.Fatal("nothing swapped")
	}
	reload(swapped)

	// A prefix moves from the document; an agent comes and goes.
	reload(fleetOf(ports, strings.Replace(acme, "[10.20.0.0/24]", "[10.20.0.0/25]", 1)+other))
	wantReset(t, open(t, sha, "10.10.0.2:1000", "10.20.0.200:80"))
	plant := "      plant: {at: sha, prefixes: [10.11.0.0/24], public_key: " + keyPlant.Public().String() + "}\n"
	reload(fleetOf(ports, acme+plant))
	if len(sha.Status().Peers) != 2 {
		t.Errorf("peers %+v, want fra and the agent", sha.Status().Peers)
	}
	reload(fleetOf(ports, acme))
	wantReset(t, open(t, sha, "10.30.0.2:1000", "10.40.0.2:80"))
	if n := len(sha.Status().Peers); n != 1 {
		t.Errorf("%d peers, want 1", n)
	}

	// Closed for the tenant: the exit says so, whatever the other side believes.
	must(t, fra.Reload(nodeConfig(t, fleetOf(ports, strings.Replace(acme, "true", "false", 1)), "fra"), fra.opts))
	wantReset(t, open(t, sha, "10.10.0.2:1000", "10.20.0.2:80"))
	book.waitFor(t, "flow refused", "no site behind sha has source 10.10.0.2")
	must(t, turn(stays)) // permissions are for new flows

	// The peer itself goes: its flows are reset.
	alone := strings.Replace(fleetOf(ports, acme), "borders:\n  - between: [sha, fra]\n    paths: [ct-ct, cu-cu]\n", "", 1)
	must(t, sha.Reload(nodeConfig(t, alone, "sha"), sha.opts))
	wantReset(t, stays)
	must(t, sha.Reload(nodeConfig(t, fleetOf(ports, acme), "sha"), sha.opts), fra.Reload(nodeConfig(t, fleetOf(ports, acme), "fra"), fra.opts))
	eventually(t, testTimeout, func() error { return ask(open(t, sha, "10.10.0.2:1000", "10.20.0.2:80"), "again") })
}

// TestReloadRefused: what cannot change while the node runs is refused by name, and nothing changes.
func TestReloadRefused(t *testing.T) {
	o := serve(t, echo)
	sha, _, ports, _ := twoGateways(t, o, acme)
	base := fleetOf(ports, acme)
	for _, tc := range []struct {
		name, want string
		edit       func(cfg *config.NodeConfig, o *Options)
	}{
		{"lan", "reload sha: lan: change needs a restart", func(c *config.NodeConfig, _ *Options) { c.LAN = []string{"lan1"} }},
		{"carrier gone", "reload sha: uplinks: change needs a restart", func(c *config.NodeConfig, _ *Options) { c.Uplinks = c.Uplinks[:1] }},
		{"rate", "reload sha: uplinks: change needs a restart", func(c *config.NodeConfig, _ *Options) { c.Uplinks[1].Rate = 1e6 }},
		{"exit and name", "reload sha: name, exit: change needs a restart", func(c *config.NodeConfig, _ *Options) { c.Name, c.PreserveSource = "shb", true }},
		{"key", "reload sha: key: change needs a restart", func(_ *config.NodeConfig, o *Options) { o.Key = keyPlant }},
		{"proxies", "reload sha: socks5, http_connect: change needs a restart", func(_ *config.NodeConfig, o *Options) { o.SOCKS5, o.HTTPConnect = "127.0.0.1:1", "127.0.0.1:2" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg, opts := nodeConfig(t, base, "sha"), sha.opts
			tc.edit(cfg, &opts)
			err := sha.Reload(cfg, opts)
			if !errors.Is(err, ErrRestart) || err.Error() != tc.want || hint.Of(err) == "" {
				t.Errorf("%v, hint %q; want %q with a hint", err, hint.Of(err), tc.want)
			}
		})
	}
	// A peer that the bond refuses, after others have gone: all is as it was.
	cfg := nodeConfig(t, base, "sha")
	cfg.Peers[0].Uplinks, cfg.Peers[0].Paths[0].Uplink = []string{"ct"}, "nowhere"
	if err := sha.Reload(cfg, sha.opts); err == nil || !strings.Contains(err.Error(), `uplink "nowhere": unknown`) {
		t.Errorf("%v, want the unknown uplink", err)
	}
	eventually(t, testTimeout, func() error { return ask(open(t, sha, "10.10.0.2:1000", "10.20.0.2:80"), "as before") })
}

// TestReloadWhileFlowsDial: a peer is removed while the exit dials for its flows, which ask the node on their way.
func TestReloadWhileFlowsDial(t *testing.T) {
	ports := takePorts(t, 4)
	fleet := fleetOf(ports, acme)
	var fra *Node
	dialling := make(chan struct{})
	dial := func(ctx context.Context, _, _ netip.AddrPort) (net.Conn, error) {
		close(dialling)
		<-ctx.Done() // the peer is being removed now
		_ = fra.config()
		_ = fra.Status()
		return nil, ctx.Err()
	}
	fra, _ = startNode(t, nodeConfig(t, fleet, "fra"), Options{Key: keyFRA, Dial: dial})
	sha, _ := startNode(t, nodeConfig(t, fleet, "sha"), Options{Key: keySHA})
	c := open(t, sha, "10.10.0.2:1000", "10.20.0.2:80")
	defer c.Close()
	select {
	case <-dialling:
	case <-time.After(testTimeout):
		t.Fatal("the exit does not dial")
	}
	cfg := nodeConfig(t, fleet, "fra")
	cfg.Peers = nil
	done := make(chan error, 1)
	go func() { done <- fra.Reload(cfg, fra.opts) }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(testTimeout):
		buf := make([]byte, 1<<20)
		panic("reload hangs\n" + string(buf[:runtime.Stack(buf, true)]))
	}
	wantReset(t, c)
}

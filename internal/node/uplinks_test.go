package node

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/testport"
	"github.com/landbridge/landbridge/pathsel/probe"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// TestHasAddress: any interface's address counts, loopback's too.
func TestHasAddress(t *testing.T) {
	for a, want := range map[string]bool{"127.0.0.1": true, "192.0.2.77": false, "2001:db8::77": false} {
		if got := hasAddress(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}

// TestLateProbeSockets: an uplink that was not there at the start gets every socket for probes when it is, the reflector's and
// that for agents too.
func TestLateProbeSockets(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	there, opened := false, map[uint16]bool{}
	listen := func(u config.NodeUplink, port uint16) (probe.Conn, error) {
		if !there {
			return nil, fmt.Errorf("open: %w", unix.ENODEV)
		}
		opened[port] = true
		return probe.Listen(netip.MustParseAddrPort("127.0.0.1:0"), "")
	}
	u := config.NodeUplink{Name: "cu", Address: netip.MustParseAddrPort("10.1.2.1:4500")}
	cfg := &config.NodeConfig{Uplinks: []config.NodeUplink{u}}
	var log logBook
	w := newWatch(ctx, &wg, cfg, RoleGateway, listen, nil, nil, slog.New(slog.NewTextHandler(&log, nil)))
	w.add(config.Peer{Name: "plant", Kind: config.PeerAgent, Uplinks: []string{"cu"}}, nil)
	w.add(config.Peer{Name: "fra", Kind: config.PeerGateway, Paths: []config.Path{{Name: "cu-cu", Uplink: "cu"}}}, nil)
	if said := log.String(); said != "" {
		t.Errorf("the uplink's own line says it already:\n%s", said)
	}
	there = true
	w.reopen(u)
	if got, want := slices.Sorted(maps.Keys(opened)), []uint16{0, 4501, 4502}; !slices.Equal(got, want) {
		t.Errorf("ports %v were opened, want %v", got, want)
	}
}

// TestReopenedReflector: an uplink whose interface came between its own socket and the reflector's gets the latter once more,
// which the one that is there does not hinder.
func TestReopenedReflector(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	u := config.NodeUplink{Name: "cu", Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(testport.Take(t)))}
	var log logBook
	w := newWatch(ctx, &wg, &config.NodeConfig{Uplinks: []config.NodeUplink{u}}, RoleGateway, listenProbe, nil, nil, log.logger())
	before := w.reflect["cu"]
	w.reopen(u)
	if after := w.reflect["cu"]; before == nil || after == nil || after == before {
		t.Errorf("socket %v, then %v", before, after)
	}
	if said := log.String(); said != "" {
		t.Errorf("a socket that can be had is missed:\n%s", said)
	}
}

// TestAbsentSocket: what stands for a missing uplink loses what is sent and ends its reader when another takes its place.
func TestAbsentSocket(t *testing.T) {
	s := newAbsentSocket(config.NodeUplink{})
	read := make(chan error, 1)
	go func() { _, err := s.ReadBatch(make([]bond.Message, 1)); read <- err }()
	if n, err := s.WriteBatch(make([]bond.Message, 1)); n != 0 || err == nil {
		t.Errorf("%d sent, %v", n, err)
	}
	must(t, s.Close(), s.Close())
	if <-read == nil {
		t.Error("something was read")
	}
}

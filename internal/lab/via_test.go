package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestMPTCPPlan(t *testing.T) {
	for _, tc := range []struct {
		name  string
		opt   Options
		rules int // routes by source address
	}{
		{"no agent", Options{Scenario: "typical", Via: ViaMPTCPBBR, NoAgent: true}, 3},
		{"agent", Options{Scenario: "typical", Via: ViaMPTCPBBR}, 5},
		{"two carriers", Options{Scenario: "typical", Via: ViaMPTCPBBR, NoAgent: true, Carriers: []string{"cu", "ct"}}, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := normalised(t, tc.opt)
			p := makePlan(o)
			var clients []netip.Addr
			for _, a := range p.lans[0].a.addrs {
				if a.Addr().Is4() {
					clients = append(clients, a.Addr())
				}
			}
			if len(clients) != len(o.Carriers) || clients[0] != clientAddr.Addr() {
				t.Errorf("client's addresses %v, want one for each of %v", clients, o.Carriers)
			}
			rules := 0
			there, back := make(map[netip.Addr]netip.Addr), make(map[netip.Addr]netip.Addr)
			for _, r := range p.routes {
				if r.from.IsValid() {
					rules++
				}
				switch {
				case r.machine == machineSha && r.from.IsValid():
					there[r.from] = r.via
				case r.machine == machineFra && r.dst.IsSingleIP():
					back[r.dst.Addr()] = r.via
				}
			}
			if rules != tc.rules {
				t.Errorf("%d routes by source address, want %d", rules, tc.rules)
			}
			used := make(map[netip.Addr]bool)
			for _, c := range clients {
				// Both ways over the same carrier: fra's address on it there, sha's back.
				if !there[c].IsValid() || there[c].Prev() != back[c] || used[back[c]] {
					t.Errorf("%v crosses over %v and comes back over %v", c, there[c], back[c])
				}
				used[back[c]] = true
			}
			// Connections begin on the shortest carrier.
			want := slices.Index(carriers, byDelay(o)[0])
			if there[clientAddr.Addr()] != carrierAddr(want, 2).Addr() {
				t.Errorf("the first subflow goes over %v, want %s", there[clientAddr.Addr()], carriers[want])
			}
		})
	}
}

func TestWayNames(t *testing.T) {
	if _, err := wayNamed("pigeon"); err == nil || !strings.Contains(err.Error(), ViaWireGuard) {
		t.Errorf("an unknown way: %v, want the names there are", err)
	}
	seen := make(map[string]bool)
	for _, w := range ways {
		if seen[w.name] || w.title == "" || w.congestion == "" {
			t.Errorf("%+v: named twice, or without title or congestion control", w)
		}
		seen[w.name] = true
		if w.forwards == slices.Contains(routedNames(), w.name) {
			t.Errorf("%s is routed and forwards one port", w.name)
		}
	}
}

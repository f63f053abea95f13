package node

import (
	"net/netip"
	"testing"
)

// TestHasAddress: any interface's address counts, loopback's too.
func TestHasAddress(t *testing.T) {
	for a, want := range map[string]bool{"127.0.0.1": true, "192.0.2.77": false, "2001:db8::77": false} {
		if got := hasAddress(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}

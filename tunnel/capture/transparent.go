package capture

import (
	"log/slog"
	"net/netip"
	"sync"

	"github.com/landbridge/landbridge/bpf"
)

// Transparent captures TCP that enters through LAN interfaces for any address
// in the captured prefixes. The host's own addresses and excluded prefixes are
// left alone, and so is everything that is not TCP. Before that its rules say
// what may pass at all, and which flows go out of a carrier's NIC directly.
//
// Set the fields, then Start, which acts in the network namespace of the
// calling thread; after that the fields must not change. Methods may be called
// concurrently. Needs CAP_NET_ADMIN and CAP_BPF, and CAP_SYS_ADMIN where the
// goroutines of the process live in several network namespaces.
type Transparent struct {
	// Interfaces are the LAN NICs. All must be there at Start; later they may
	// come and go.
	Interfaces []string
	// Prefixes are the destinations to capture, Exclude those inside them not
	// to; the longest prefix wins.
	Prefixes, Exclude []netip.Prefix
	// Policy is the rules; the zero value allows everything.
	Policy bpf.Policy
	// Paths is the live path table that direct flows pick from; nil means that
	// they find no path. It must outlive the capture.
	Paths *bpf.Paths
	// Settings are what else is done to packets and flows that are not tunnelled.
	Settings bpf.Settings
	// ListenPort is that of the listeners on loopback which the kernel hands
	// connections to; 0 lets the kernel pick one.
	ListenPort uint16
	// Mark, Table and RulePriority are those of the policy route that delivers
	// captured packets; 0 means DefaultMark and so on.
	Mark         uint32
	Table        int
	RulePriority int
	// MaxFlows bounds concurrent flows; 0 means DefaultMaxFlows.
	MaxFlows int
	// Attach is how to attach to the interfaces; the zero value is right.
	Attach bpf.Method
	// Log gets what an operator should know; nil means silence.
	Log *slog.Logger

	mu    sync.Mutex
	state *transparentState
}

// Return brings packets for connections made by [DialTransparent], which come
// back addressed to the client, to those connections. It sits on the interfaces
// that face the origins. Everything else passes.
//
// Fields, namespace, capabilities and concurrency are as for [Transparent].
type Return struct {
	// Interfaces are the NICs that face the origins.
	Interfaces []string
	// Prefixes are the clients' addresses; none means all.
	Prefixes []netip.Prefix
	// Mark, Table and RulePriority are those of the policy route; 0 means
	// DefaultReturnMark and so on.
	Mark         uint32
	Table        int
	RulePriority int
	// Attach is how to attach to the interfaces; the zero value is right.
	Attach bpf.Method
	// Log gets what an operator should know; nil means silence.
	Log *slog.Logger

	mu   sync.Mutex
	hook *hook
}

package bpf

import (
	"fmt"
	"net/netip"
	"time"
)

// Class is what a flow needs from its path. The values are those of enum class
// in structs.h.
type Class uint8

// The classes. A tenant or rule without one means Interactive and the tenant's.
const (
	NoClass Class = iota
	Realtime
	Interactive
	Bulk
	numClasses
)

// String returns the class's name.
func (c Class) String() string {
	switch c {
	case Realtime:
		return "realtime"
	case Interactive:
		return "interactive"
	case Bulk:
		return "bulk"
	}
	return "none"
}

// PathID numbers a path in the live path table, 1 to [MaxPaths]; 0 is none.
type PathID uint16

// MaxPaths bounds the live path table; [MaxGroups] the sets of candidates. Both
// are sizes of arrays in the kernel (maps.h).
const (
	MaxPaths      = 1023
	MaxGroups     = 256
	MaxCandidates = 8
)

// Group numbers a set of candidate paths, for instance those of one bond: 0 to
// MaxGroups - 1.
type Group uint16

// PathState is what user space thinks of a path. The values are those of enum
// path_state in structs.h.
type PathState uint8

// The states.
const (
	PathDown    PathState = iota // never picked
	PathSuspect                  // picked only where nothing else is alive
	PathUp
)

// String returns the state's name.
func (s PathState) String() string {
	switch s {
	case PathDown:
		return "down"
	case PathSuspect:
		return "suspect"
	case PathUp:
		return "up"
	}
	return fmt.Sprintf("state-%d", s)
}

// DefaultMaxAge is how long a sign of life counts: at 20 probes a second three
// have been lost by then.
const DefaultMaxAge = 200 * time.Millisecond

// Path is an entry of the live path table, as user space sets it.
type Path struct {
	// Ifindex is the carrier's NIC, for flows that are sent out directly.
	Ifindex int
	// NextHop is the router on that NIC; invalid means the one that the host's
	// routing table names for the destination on that NIC.
	NextHop netip.Addr
	// NextHop6 is that for IPv6, where it is another one. The routing table alone
	// does not do there: of routes on several NICs the kernel takes the router of
	// the best, whatever NIC it is asked for (seen on 6.18).
	NextHop6 netip.Addr
	State    PathState
	// Leave names classes whose flows have to leave the path although it is
	// alive, for instance realtime in a brownout. New flows go by the candidates
	// alone.
	Leave []Class
	// MaxAge is how old the last sign of life may be, an answer to a probe or,
	// where the NIC is watched, the peer's own probe; 0 means DefaultMaxAge,
	// negative means that the path is never probed and always alive.
	MaxAge time.Duration
	// Quiet is that for new flows while another candidate is heard within its own;
	// 0 means MaxAge. When all fall silent at once, it is not the paths.
	Quiet time.Duration
	// Due is how long after it left an answer to a probe may come: the path is
	// refused once the third unanswered one is older, also where the peer's own
	// probes come in. 0 means that nothing is made of unanswered probes.
	Due time.Duration
	// Routed leaves direct flows to the host's routing, marked with Mark, instead
	// of sending them out: for hosts that masquerade, since what the kernel
	// sends out directly does not pass netfilter. The caller's rules lead the
	// mark out of the carrier's NIC.
	Routed bool
	Mark   uint32
}

// Live is an entry of the live path table as the probes see it, in CLOCK_MONOTONIC
// (see [Monotonic]); 0 means never.
type Live struct {
	Reply   time.Duration // our last probe that was answered: when the answer came
	Sent    time.Duration // our last probe that went out
	Request time.Duration // the peer's last probe
	Missed  time.Duration // the third of our probes that have no answer, of those after the last that has
}

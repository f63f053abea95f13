package bpf

import "strconv"

// Verdict is what the classifier or the return program decided about one packet.
// Exactly one is counted for each packet. The values are those of enum verdict
// in structs.h.
type Verdict uint32

// The verdicts. Where nothing else is said the packet passes on, untouched but
// for the mark and DSCP of its class.
const (
	NotIP          Verdict = iota // neither IPv4 nor IPv6
	OtherHost                     // not addressed to this NIC
	VLAN                          // tagged: belongs to the VLAN device above
	Fragment                      // IP fragment
	Unparsed                      // headers truncated or not understood
	NotTCP                        // some other protocol
	NotCaptured                   // destination in no prefix
	Excluded                      // destination in an excluded or draining prefix
	NoSocket                      // return only: belongs to no connection here
	NoListener                    // no listener in this address family
	AssignFailed                  // the kernel refused to assign the socket
	CapturedNew                   // handed to the listener
	Captured                      // handed to an existing connection
	LeftAlone                     // the policy says this is none of ours
	Denied                        // dropped by a rule
	DeniedUnparsed                // dropped: not understood, and a deny rule may have meant it
	NoPath                        // direct, and no path is alive: dropped
	SentDirect                    // direct: sent out of the carrier's NIC
	Routed                        // direct: left to the host's routing, with the path's mark
	Unasked                       // SYN+ACK to nobody here
	numVerdicts
)

var verdictNames = [numVerdicts]string{
	"not-ip", "other-host", "vlan", "fragment", "unparsed", "not-tcp", "not-captured", "excluded",
	"no-socket", "no-listener", "assign-failed", "captured-new", "captured",
	"left-alone", "denied", "denied-unparsed", "no-path", "sent-direct", "routed", "unasked",
}

// String returns the verdict's name, for status output and metrics.
func (v Verdict) String() string {
	if v < numVerdicts {
		return verdictNames[v]
	}
	return "verdict-" + strconv.FormatUint(uint64(v), 10)
}

// Verdicts is the number of packets by [Verdict].
type Verdicts [numVerdicts]uint64

// Total returns the number of packets seen.
func (c Verdicts) Total() uint64 {
	var n uint64
	for _, v := range c {
		n += v
	}
	return n
}

// Action is what a program does with TCP for the destinations in a prefix. The
// values are those of enum action in structs.h.
type Action uint32

// The actions.
const (
	Capture Action = iota + 1 // hand over
	Pass                      // leave alone
	Drain                     // hand over what belongs to a connection that exists
)

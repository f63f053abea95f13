package admin

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// FlowQuery names flows: by one of their ends, or by both. The zero value names none.
type FlowQuery struct {
	Protocol uint8          // of IP; 0: any
	A        netip.AddrPort // one end
	B        netip.AddrPort // the other one; invalid: any
}

// ErrFlowQuery is wrapped by the errors of ParseFlow, ErrNoFlow by those of a node that has no such flow.
var (
	ErrFlowQuery = errors.New("not a flow")
	ErrNoFlow    = errors.New("no such flow")
)

// MaxExplained bounds the flows of one explanation: more than that nobody reads.
const MaxExplained = 16

var protocolNumbers = map[string]uint8{"icmp": 1, "tcp": 6, "udp": 17, "icmp6": 58, "sctp": 132}

// ProtocolName is an IP protocol's name, or its number.
func ProtocolName(p uint8) string {
	for name, n := range protocolNumbers {
		if n == p {
			return name
		}
	}
	return strconv.Itoa(int(p))
}

// ParseFlow reads "ADDR:PORT", or "[PROTO] ADDR:PORT ADDR:PORT" with "->", commas or spaces between: a 5-tuple. Protocols
// without ports take addresses alone. The error wraps ErrFlowQuery.
func ParseFlow(text string) (FlowQuery, error) {
	var q FlowQuery
	bad := func(format string, args ...any) (FlowQuery, error) {
		return FlowQuery{}, fmt.Errorf("%w: %q: %s, want for example 10.10.0.7:51234 or tcp 10.10.0.7:51234 10.20.0.9:443", ErrFlowQuery, text, fmt.Sprintf(format, args...))
	}
	if len(text) > 256 {
		return FlowQuery{}, fmt.Errorf("%w: %d bytes, at most 256", ErrFlowQuery, len(text))
	}
	fields := strings.FieldsFunc(strings.ReplaceAll(text, "->", " "), func(r rune) bool { return r == ' ' || r == ',' || r == '\t' })
	if len(fields) > 0 {
		name := strings.ToLower(fields[0])
		n, known := protocolNumbers[name]
		if !known {
			if v, err := strconv.ParseUint(name, 10, 8); err == nil && v > 0 {
				n, known = uint8(v), true
			}
		}
		if known {
			q.Protocol, fields = n, fields[1:]
		}
	}
	if len(fields) < 1 || len(fields) > 2 {
		return bad("%d ends", len(fields))
	}
	for i, to := range []*netip.AddrPort{&q.A, &q.B}[:len(fields)] {
		end, err := parseEnd(fields[i])
		if err != nil {
			return bad("%q is no address with a port", fields[i])
		}
		*to = end
	}
	if q.B.IsValid() && q.A.Addr().Is4() != q.B.Addr().Is4() {
		return bad("addresses of two families")
	}
	return q, nil
}

func parseEnd(s string) (netip.AddrPort, error) {
	if end, err := netip.ParseAddrPort(s); err == nil {
		return netip.AddrPortFrom(end.Addr().Unmap().WithZone(""), end.Port()), nil
	}
	a, err := netip.ParseAddr(s)
	return netip.AddrPortFrom(a.Unmap().WithZone(""), 0), err
}

// String is what ParseFlow reads.
func (q FlowQuery) String() string {
	var parts []string
	if q.Protocol != 0 {
		parts = append(parts, ProtocolName(q.Protocol))
	}
	for _, end := range []netip.AddrPort{q.A, q.B} {
		if end.IsValid() {
			parts = append(parts, endText(end))
		}
	}
	return strings.Join(parts, " ")
}

func endText(end netip.AddrPort) string {
	if end.Port() == 0 {
		return end.Addr().String()
	}
	return end.String()
}

// Matches reports whether a flow is one of those that are asked for. Either end may come first; an end with port 0 stands
// for every port of its address.
func (q FlowQuery) Matches(protocol uint8, src, dst netip.AddrPort) bool {
	if q.Protocol != 0 && q.Protocol != protocol || !q.A.IsValid() {
		return false
	}
	same := func(want, have netip.AddrPort) bool {
		return !want.IsValid() || want.Addr() == have.Addr().Unmap() && (want.Port() == 0 || want.Port() == have.Port())
	}
	return same(q.A, src) && same(q.B, dst) || same(q.A, dst) && same(q.B, src)
}

// What becomes of a flow.
const (
	FlowTunnelled = "tunnelled" // captured and carried by the bond, over all paths its class may use
	FlowDirect    = "direct"    // sent out of the picked carrier's NIC by the kernel
	FlowDenied    = "denied"
	FlowUntouched = "untouched" // none of ours, or not understood: left to the host
)

// Explanation answers GET /explain?flow=FLOW. There is always one flow at least: one that nobody has seen is refused with
// status 404, which Client.Explain turns into ErrNoFlow.
type Explanation struct {
	Node  string          `json:"node"`
	Taken time.Time       `json:"taken"`
	Flows []ExplainedFlow `json:"flows"`
	More  int             `json:"more,omitempty"` // flows that match too and are left out
}

// ExplainedFlow says where one flow goes and why.
type ExplainedFlow struct {
	Protocol string `json:"protocol"`
	Src      string `json:"src"` // as its packets come in from the customer
	Dst      string `json:"dst"`
	Fate     string `json:"fate"`   // tunnelled, direct, denied or untouched
	Source   string `json:"source"` // who knows: tunnel, classifier, or rules for a flow that was not seen and would go so
	Tenant   string `json:"tenant,omitempty"`
	Site     string `json:"site,omitempty"`
	Class    string `json:"class,omitempty"`
	// Rule is the rule that decided as the fleet document has it; nothing for the tenant's default.
	Rule       string `json:"rule,omitempty"`
	RuleNumber int    `json:"rule_number,omitempty"` // from 1, within the tenant's; 0 for none
	Peer       string `json:"peer,omitempty"`
	// Path is where the flow is: of a direct flow the only one, of a tunnelled one the first of its class, since its
	// packets may be spread over several.
	Path    string    `json:"path,omitempty"`
	Since   time.Time `json:"since,omitzero"` // on Path
	Moves   int       `json:"moves"`          // away from a path that failed or browned out
	Lane    int       `json:"lane,omitempty"` // of a tunnelled flow
	Opened  time.Time `json:"opened,omitzero"`
	Last    time.Time `json:"last,omitzero"` // its last packet, where that is known
	Packets uint64    `json:"packets,omitempty"`
	// BytesOut went from Src to Dst, BytesIn came back; a direct flow's are counted at this node only.
	BytesOut uint64 `json:"bytes_out"`
	BytesIn  uint64 `json:"bytes_in,omitempty"`
	// Elephant: it left interactive for bulk after many bytes. Stale: the rules have changed since its last packet.
	Elephant bool `json:"elephant,omitempty"`
	Stale    bool `json:"stale,omitempty"`
	// Choice is what its class decides now, with candidates, scores, since when and why: the flow may still be on an older
	// one.
	Choice *ClassChoice `json:"choice,omitempty"`
	Note   string       `json:"note,omitempty"` // what else there is to say
}

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// Flow is an entry of the flow table: what the classifier decided about a flow,
// and what it has carried. Times are of [Monotonic].
type Flow struct {
	FlowKey
	Tenant   uint32 // 0: a stranger
	Rule     uint32 // 0: none, the tenant's default
	Action   RuleAction
	Class    Class
	Group    Group
	Path     PathID        // 0: none; may be dead since the flow's last packet
	Since    time.Duration // on this path
	Moves    int           // away from a path that failed
	Elephant bool          // has left Interactive for Bulk
	Captured bool          // TCP that goes to the local listener
	Packets  uint64
	Bytes    uint64
	First    time.Duration
	Last     time.Duration
	Stale    bool // the policy has changed since its last packet
	Answer   bool // it answers a flow that came in from elsewhere
}

// FlowKey names a flow as its packets come in from the customer.
type FlowKey struct {
	Protocol uint8
	Src, Dst netip.AddrPort // ports 0 where the protocol has none
}

// The values of enum answer in structs.h.
const (
	answerUnknown = iota
	answerSeen
	answerOpened
	answerNot
)

func (k FlowKey) kernel() (v classifierFlowKey) {
	v.Family, v.Saddr = addrWords(k.Src.Addr())
	_, v.Daddr = addrWords(k.Dst.Addr())
	v.Sport, v.Dport, v.Proto = swapped(k.Src.Port()), swapped(k.Dst.Port()), k.Protocol
	return v
}

// swapped is a port in network order as the program's integer, and back.
func swapped(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

// nativeEndian and putNativeEndian move addresses in and out of the programs'
// words.
func nativeEndian(b []byte) uint32       { return binary.NativeEndian.Uint32(b) }
func putNativeEndian(b []byte, w uint32) { binary.NativeEndian.PutUint32(b, w) }

func (c *Classifier) flow(k *classifierFlowKey, v *classifierFlow, generation uint32) Flow {
	return Flow{
		FlowKey: FlowKey{
			Protocol: k.Proto,
			Src:      netip.AddrPortFrom(wordsAddr(k.Family, k.Saddr), swapped(k.Sport)),
			Dst:      netip.AddrPortFrom(wordsAddr(k.Family, k.Daddr), swapped(k.Dport)),
		},
		Tenant: v.Tenant, Rule: v.Rule, Action: RuleAction(v.Action), Class: Class(v.Class), Group: Group(v.Group),
		Path: PathID(v.Path), Since: time.Duration(v.Since), Moves: int(v.Moves), Elephant: v.Elephant != 0,
		Captured: Action(v.Capture) == Capture || Action(v.Capture) == Drain,
		Packets:  v.Packets, Bytes: v.Bytes, First: time.Duration(v.First), Last: time.Duration(v.Last),
		Stale: v.Generation != generation, Answer: v.Answer == answerSeen || v.Answer == answerOpened,
	}
}

// ErrNoFlow is returned by Flow for what is not in the table.
var ErrNoFlow = errors.New("not in the flow table")

// Flow returns one flow, or [ErrNoFlow]. It does not count as use.
func (c *Classifier) Flow(k FlowKey) (Flow, error) {
	if k.Src.Addr().Unmap().Is4() != k.Dst.Addr().Unmap().Is4() {
		return Flow{}, fmt.Errorf("flow %v to %v: addresses of two families", k.Src, k.Dst)
	}
	var v classifierFlow
	key := k.kernel()
	err := c.flows.Lookup(&key, &v)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Flow{}, fmt.Errorf("flow %v to %v, protocol %d: %w", k.Src, k.Dst, k.Protocol, ErrNoFlow)
	}
	if err != nil {
		return Flow{}, explain("read flow table", err)
	}
	return c.flow(&key, &v, c.Generation()), nil
}

// ReadFlows calls yield for each flow in the table, in no order, until it returns
// false. Flows that come or go meanwhile may be missed.
func (c *Classifier) ReadFlows(yield func(Flow) bool) error {
	const batch = 1024
	keys, values := make([]classifierFlowKey, batch), make([]classifierFlow, batch)
	var cursor ebpf.MapBatchCursor
	generation := c.Generation()
	for {
		n, err := c.flows.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain("read flow table", err)
		}
		for i := range n {
			if !yield(c.flow(&keys[i], &values[i], generation)) {
				return nil
			}
		}
		if err != nil {
			return nil
		}
	}
}

// Generation changes with everything that has flows judged again.
func (c *Classifier) Generation() uint32 {
	c.policyMu.Lock()
	defer c.policyMu.Unlock()
	return c.tables.now
}

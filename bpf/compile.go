package bpf

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
)

// The compiled policy. One packet costs a lookup of its source (tenant), one of
// its destination in the tenant's rule set (node), a binary search among the
// node's intervals of protocol and port, and a walk along the interval's
// outcomes by DSCP: bounded work whatever the rules.
//
// The longest destination prefix alone decides which node that is, so each node
// holds, in order, all the rules whose prefix covers its own: their prefixes
// are the only ones that can cover the packet. First match stays first match.
type compiled struct {
	tenants  map[netip.Prefix]compiledTenant
	nodes    map[setPrefix]compiledNode
	stranger compiledTenant
	denies   bool
	inbound  bool

	intervals []compiledInterval
	outcomes  []compiledOutcome
}

type setPrefix struct {
	set    uint32
	prefix netip.Prefix
}

type compiledTenant struct {
	id, set  uint32
	group    Group
	fallback RuleAction
	class    Class
	inbound  bool
}

type compiledNode struct {
	first  uint32
	count  uint16
	denies uint8
}

type compiledInterval struct{ from, outcome uint32 }

type compiledOutcome struct {
	dscp   uint64
	rule   uint32
	group  Group
	action RuleAction
	class  Class
}

// Bits of compiledNode.denies, DENIES_* in structs.h.
const (
	deniesTCP = 1 << iota
	deniesUDP
	deniesOther
)

// axisEnd is behind the last point of the axis: protocol<<16 | port.
const axisEnd = 1 << 24

const allDSCP = math.MaxUint64

type compiler struct {
	*compiled
	rules  []Rule
	chains map[string]uint32       // outcomes that are there already, by content
	lists  map[string]compiledNode // interval lists likewise
	nodeOf map[string]compiledNode // by the numbers of the rules: most tenants share them
	spans  [][]span                // of each rule
	masks  []uint64                // DSCP of each rule
	sets   map[string]uint32       // by the numbers of the rules
}

// span is a part of the axis, the end not included.
type span struct{ from, to uint32 }

// compile checks and translates a policy.
func compile(p *Policy) (*compiled, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	c := &compiler{
		compiled: &compiled{tenants: make(map[netip.Prefix]compiledTenant), nodes: make(map[setPrefix]compiledNode)},
		rules:    p.Rules,
		chains:   make(map[string]uint32), lists: make(map[string]compiledNode),
		nodeOf: make(map[string]compiledNode), sets: make(map[string]uint32),
	}
	var common []int
	own := make(map[uint32][]int)
	for i, r := range p.Rules {
		c.spans = append(c.spans, r.spans())
		c.masks = append(c.masks, r.mask())
		if r.Action == Deny {
			c.denies = true
		}
		if r.Tenant == 0 {
			common = append(common, i)
		} else {
			own[r.Tenant] = append(own[r.Tenant], i)
		}
	}
	strangers := p.Strangers
	if strangers == Default {
		strangers = Allow
		if len(p.Tenants) > 0 {
			strangers = Leave
		}
	}
	set, err := c.set(common)
	if err != nil {
		return nil, err
	}
	c.stranger = compiledTenant{set: set, fallback: strangers, class: Interactive}
	c.denies = c.denies || strangers == Deny
	for _, t := range p.Tenants {
		list := common
		if extra := own[t.ID]; extra != nil {
			list = slices.Concat(common, extra)
			slices.Sort(list)
		}
		if set, err = c.set(list); err != nil {
			return nil, fmt.Errorf("tenant %d: %w", t.ID, err)
		}
		ct := compiledTenant{id: t.ID, set: set, group: t.Group, fallback: t.Default, class: t.Class, inbound: t.Inbound}
		if ct.fallback == Default {
			ct.fallback = Allow
		}
		if ct.class == NoClass {
			ct.class = Interactive
		}
		c.denies = c.denies || ct.fallback == Deny
		c.inbound = c.inbound || ct.inbound
		for _, prefix := range t.Prefixes {
			c.tenants[prefix] = ct
		}
	}
	if len(c.tenants) > MaxPolicyNodes {
		return nil, fmt.Errorf("%d prefixes of tenants: at most %d", len(c.tenants), MaxPolicyNodes)
	}
	return c.compiled, nil
}

// set returns the number of the rule set with these rules, in order.
func (c *compiler) set(rules []int) (uint32, error) {
	key := numbersKey(rules)
	if n, ok := c.sets[key]; ok {
		return n, nil
	}
	n := uint32(len(c.sets))
	c.sets[key] = n
	byPrefix := make(map[netip.Prefix][]int)
	for _, i := range rules {
		if p := c.rules[i].Prefix; p.IsValid() {
			byPrefix[p] = append(byPrefix[p], i)
			continue
		}
		for _, p := range [...]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
			byPrefix[p] = append(byPrefix[p], i)
		}
	}
	if len(c.nodes)+len(byPrefix) > MaxPolicyNodes {
		return 0, fmt.Errorf("rules with more than %d destinations, counted for each tenant that has rules of its own", MaxPolicyNodes)
	}
	for p := range byPrefix {
		var covering []int
		for bits := p.Bits(); bits >= 0; bits-- {
			covering = append(covering, byPrefix[netip.PrefixFrom(p.Addr(), bits).Masked()]...)
		}
		slices.Sort(covering)
		node, err := c.node(covering)
		if err != nil {
			return 0, fmt.Errorf("destination %v: %w", p, err)
		}
		c.nodes[setPrefix{n, p}] = node
	}
	return n, nil
}

func (c *compiler) node(rules []int) (compiledNode, error) {
	key := numbersKey(rules)
	if n, ok := c.nodeOf[key]; ok {
		return n, nil
	}
	list, denies, err := c.cut(rules)
	if err != nil {
		return compiledNode{}, err
	}
	b := make([]byte, 0, 8*len(list))
	for _, iv := range list {
		b = binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(b, iv.from), iv.outcome)
	}
	n, ok := c.lists[string(b)]
	if !ok {
		n = compiledNode{first: uint32(len(c.intervals)), count: uint16(len(list)), denies: denies}
		c.intervals = append(c.intervals, list...)
		c.lists[string(b)] = n
	}
	c.nodeOf[key] = n
	return n, nil
}

// cut divides the axis into intervals in each of which the same rules match, and
// returns them with their chains of outcomes.
func (c *compiler) cut(rules []int) (list []compiledInterval, denies uint8, err error) {
	begin, end := make(map[uint32][]int), make(map[uint32][]int)
	points := []uint32{0}
	for _, i := range rules {
		for _, s := range c.spans[i] {
			begin[s.from], end[s.to] = append(begin[s.from], i), append(end[s.to], i)
			points = append(points, s.from)
			if s.to < axisEnd {
				points = append(points, s.to)
			}
		}
	}
	slices.Sort(points)
	points = slices.Compact(points)
	var active []int // rules that match here, in order
	for k, at := range points {
		for _, i := range end[at] {
			n, _ := slices.BinarySearch(active, i)
			active = slices.Delete(active, n, n+1)
		}
		for _, i := range begin[at] {
			n, _ := slices.BinarySearch(active, i)
			active = slices.Insert(active, n, i)
		}
		var chain []compiledOutcome
		var covered uint64
		for _, i := range active {
			if c.masks[i]&^covered == 0 {
				continue
			}
			r := &c.rules[i]
			chain = append(chain, compiledOutcome{c.masks[i], r.ID, r.Group, r.Action, r.Class})
			if covered |= c.masks[i]; covered == allDSCP {
				break
			}
		}
		if n := len(chain); n == 0 || covered != allDSCP {
			chain = append(chain, compiledOutcome{dscp: allDSCP})
		} else {
			chain[n-1].dscp = allDSCP
		}
		if len(chain) > maxChain {
			return nil, 0, fmt.Errorf("%d rules differ in nothing but DSCP: at most %d", len(chain)-1, maxChain-1)
		}
		if slices.ContainsFunc(chain, func(o compiledOutcome) bool { return o.action == Deny }) {
			end := uint32(axisEnd)
			if k+1 < len(points) {
				end = points[k+1]
			}
			denies |= deniesBits(span{at, end})
		}
		outcome := c.chain(chain)
		if n := len(list); n == 0 || list[n-1].outcome != outcome {
			list = append(list, compiledInterval{at, outcome})
		}
	}
	if len(list) > MaxNodeSplits {
		return nil, 0, fmt.Errorf("the rules cut protocols and ports into %d ranges: at most %d", len(list), MaxNodeSplits)
	}
	return list, denies, nil
}

// deniesBits says which kinds of protocol a span touches.
func deniesBits(s span) (bits uint8) {
	first, last := s.from>>16, (s.to-1)>>16
	for _, k := range [...]struct {
		protocol uint32
		bit      uint8
	}{{portProtocolTCP, deniesTCP}, {portProtocolUDP, deniesUDP}} {
		if first <= k.protocol && k.protocol <= last {
			bits |= k.bit
		}
	}
	if first != last || first != portProtocolTCP && first != portProtocolUDP {
		bits |= deniesOther
	}
	return bits
}

func (c *compiler) chain(chain []compiledOutcome) uint32 {
	b := make([]byte, 0, 16*len(chain))
	for _, o := range chain {
		b = binary.NativeEndian.AppendUint64(b, o.dscp)
		b = binary.NativeEndian.AppendUint32(b, o.rule)
		b = append(b, byte(o.group), byte(o.group>>8), byte(o.action), byte(o.class))
	}
	n, ok := c.chains[string(b)]
	if !ok {
		n = uint32(len(c.outcomes))
		c.outcomes = append(c.outcomes, chain...)
		c.chains[string(b)] = n
	}
	return n
}

func (r *Rule) spans() []span {
	low, high := uint32(r.Ports.From), uint32(r.Ports.To)
	if r.Ports == (PortRange{}) {
		if r.Protocol == 0 {
			return []span{{0, axisEnd}}
		}
		high = math.MaxUint16
	} else if high == 0 {
		high = low
	}
	protocols := []uint8{r.Protocol}
	if r.Protocol == 0 {
		protocols = []uint8{portProtocolTCP, portProtocolUDP, portProtocolSCT}
	}
	var all []span
	for _, p := range protocols {
		all = append(all, span{uint32(p)<<16 | low, (uint32(p)<<16 | high) + 1})
	}
	return all
}

func (r *Rule) mask() uint64 {
	if len(r.DSCP) == 0 {
		return allDSCP
	}
	var m uint64
	for _, d := range r.DSCP {
		m |= 1 << d
	}
	return m
}

func numbersKey(n []int) string {
	b := make([]byte, 0, 4*len(n))
	for _, i := range n {
		b = binary.NativeEndian.AppendUint32(b, uint32(i))
	}
	return string(b)
}

package bpf

import (
	"fmt"
	"net/netip"
)

// RuleAction is what a rule does with a flow. The values are those of enum
// rule_action in structs.h.
type RuleAction uint8

// The actions of rules.
const (
	Default RuleAction = iota // as the tenant's default
	Allow                     // tunnelled, in its class
	Deny                      // dropped
	Direct                    // out of the picked carrier's NIC, not tunnelled
	Leave                     // none of ours: passes untouched
	numRuleActions
)

// String returns the action's name.
func (a RuleAction) String() string {
	switch a {
	case Default:
		return "default"
	case Allow:
		return "allow"
	case Deny:
		return "deny"
	case Direct:
		return "direct"
	case Leave:
		return "leave"
	}
	return fmt.Sprintf("action-%d", a)
}

// Policy is who may do what. Rules are asked in their order, the first that
// matches decides; where none does, the tenant's Default.
type Policy struct {
	Tenants []Tenant
	Rules   []Rule
	// Strangers is what happens to flows from sources in no tenant's prefix that
	// no rule matches. Default means Allow where there are no tenants, and Leave
	// where there are.
	Strangers RuleAction
}

// Tenant is a customer, known by source address; the longest prefix wins.
type Tenant struct {
	ID       uint32 // 1 to MaxTenantID
	Prefixes []netip.Prefix
	Default  RuleAction // Default means Allow
	Class    Class      // of flows whose rule names none; NoClass means Interactive
	Group    Group      // of candidate paths, where no rule matches
	// Inbound are sources elsewhere: what their rules send directly to here is
	// answered directly. From a NIC that faces the customer they are strangers.
	Inbound bool
}

// Rule matches by destination and transport. Zero fields match everything.
type Rule struct {
	ID     uint32 // what explain and the flow table show; not 0
	Tenant uint32 // 0: every tenant, and strangers too
	// Prefix is that of the destination; invalid means any, IPv4 and IPv6.
	Prefix netip.Prefix
	// Protocol is that of IP. Ports without it match TCP, UDP and SCTP.
	Protocol uint8
	Ports    PortRange
	// DSCP are the code points, 0 to 63; empty means any.
	DSCP []uint8

	Action RuleAction
	Class  Class // NoClass means the tenant's
	Group  Group // of candidate paths; 0 means the tenant's
}

// PortRange is a range of destination ports, ends included; the zero value is
// every port, and a zero To means From alone.
type PortRange struct{ From, To uint16 }

// Limits of a policy. The first bounds the mark, which has 16 bits for it; the
// others the work for one packet, or the memory.
const (
	MaxTenantID     = 1<<16 - 1
	MaxRules        = 1 << 17 // beyond it compiling takes seconds
	MaxPolicyNodes  = 1 << 20 // entries of each trie, about 64 bytes
	MaxNodeSplits   = 1<<16 - 1
	maxChain        = 16 // MAX_CHAIN in policy.h
	portProtocolTCP = 6
	portProtocolUDP = 17
	portProtocolSCT = 132
)

func (p *Policy) check() error {
	if len(p.Rules) > MaxRules {
		return fmt.Errorf("%d rules: at most %d", len(p.Rules), MaxRules)
	}
	if p.Strangers >= numRuleActions {
		return fmt.Errorf("strangers: action %d: must be below %d", p.Strangers, numRuleActions)
	}
	tenants := make(map[uint32]bool, len(p.Tenants))
	owner := make(map[netip.Prefix]uint32)
	for _, t := range p.Tenants {
		if t.ID == 0 || t.ID > MaxTenantID {
			return fmt.Errorf("tenant %d: must be 1 to %d", t.ID, MaxTenantID)
		}
		if tenants[t.ID] {
			return fmt.Errorf("tenant %d: given twice", t.ID)
		}
		tenants[t.ID] = true
		if t.Default >= numRuleActions || t.Class >= numClasses || t.Group >= MaxGroups {
			return fmt.Errorf("tenant %d: action %d, class %d, group %d: must be below %d, %d, %d",
				t.ID, t.Default, t.Class, t.Group, numRuleActions, numClasses, MaxGroups)
		}
		for _, prefix := range t.Prefixes {
			if err := checkPrefix(prefix); err != nil {
				return fmt.Errorf("tenant %d: %w", t.ID, err)
			}
			if other, ok := owner[prefix]; ok && other != t.ID {
				return fmt.Errorf("tenant %d: %v is that of tenant %d", t.ID, prefix, other)
			}
			owner[prefix] = t.ID
		}
	}
	for _, r := range p.Rules {
		if err := r.check(tenants); err != nil {
			return fmt.Errorf("rule %d: %w", r.ID, err)
		}
	}
	return nil
}

func (r *Rule) check(tenants map[uint32]bool) error {
	if r.ID == 0 {
		return fmt.Errorf("its number must not be 0")
	}
	if r.Tenant != 0 && !tenants[r.Tenant] {
		return fmt.Errorf("tenant %d: there is none", r.Tenant)
	}
	if r.Prefix.IsValid() {
		if err := checkPrefix(r.Prefix); err != nil {
			return err
		}
	}
	if r.Action >= numRuleActions || r.Class >= numClasses || r.Group >= MaxGroups {
		return fmt.Errorf("action %d, class %d, group %d: must be below %d, %d, %d",
			r.Action, r.Class, r.Group, numRuleActions, numClasses, MaxGroups)
	}
	if r.Ports.To != 0 && r.Ports.To < r.Ports.From {
		return fmt.Errorf("ports %d-%d: the second must not be less", r.Ports.From, r.Ports.To)
	}
	if r.Ports != (PortRange{}) && r.Protocol != 0 && !hasPorts(r.Protocol) {
		return fmt.Errorf("protocol %d has no ports", r.Protocol)
	}
	for _, d := range r.DSCP {
		if d > 63 {
			return fmt.Errorf("DSCP %d: must be 0 to 63", d)
		}
	}
	return nil
}

func hasPorts(protocol uint8) bool {
	return protocol == portProtocolTCP || protocol == portProtocolUDP || protocol == portProtocolSCT
}

func checkPrefix(p netip.Prefix) error {
	if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
		return fmt.Errorf("%v: must be a valid prefix with no bits set beyond its length", p)
	}
	return nil
}

// Settings are what the classifier does to packets and flows beside the rules.
// The zero value leaves them as they are.
type Settings struct {
	// ElephantBytes is what a flow may carry before it leaves Interactive for
	// Bulk; 0 means that it stays.
	ElephantBytes uint64
	// MarkVerdicts writes class, path and tenant to the mark of packets that pass
	// on (see [Mark]), replacing what was there.
	MarkVerdicts bool
	// DSCP is what packets of a class are marked with; classes that are not named
	// keep what they have.
	DSCP map[Class]uint8
}

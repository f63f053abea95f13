package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sync/errgroup"
)

// policyTables are the maps of the compiled policy. There are two slots, the
// program uses the one that the generation's lowest bit names.
type policyTables struct {
	slots               map[string]slot
	intervals, outcomes *ebpf.Map
	generation          *ebpf.Variable
	policies            *ebpf.Variable

	now  uint32 // generation in use
	both [2]classifierPolicy
}

// slot is an array of two tries.
type slot struct {
	array *ebpf.Map
	trie  *ebpf.MapSpec
}

func (t *policyTables) take(spec *ebpf.CollectionSpec, coll *ebpf.Collection) {
	t.slots = make(map[string]slot)
	for _, name := range []string{classifierMapTenants4, classifierMapTenants6, classifierMapRules4, classifierMapRules6} {
		t.slots[name] = slot{coll.DetachMap(name), spec.Maps[name].InnerMap}
	}
	t.intervals, t.outcomes = coll.DetachMap(classifierMapIntervals), coll.DetachMap(classifierMapOutcomes)
	t.generation, t.policies = coll.Variables[classifierVarGeneration], coll.Variables[classifierVarPolicies]
}

func (t *policyTables) close() error {
	errs := []error{t.intervals.Close(), t.outcomes.Close()}
	for _, s := range t.slots {
		errs = append(errs, s.array.Close())
	}
	return errors.Join(errs...)
}

// SetPolicy replaces tenants and rules. A packet is judged by the old policy or
// by the new one as a whole, never by none and never by a mixture; flows that
// exist are judged again with their next packet and keep their path where the
// new policy lets them. After an error the old policy is in force.
func (c *Classifier) SetPolicy(p Policy) error {
	compiled, err := compile(&p)
	if err != nil {
		return fmt.Errorf("set policy: %w", err)
	}
	c.policyMu.Lock()
	defer c.policyMu.Unlock()
	return explain("set policy", c.tables.write(compiled))
}

func (t *policyTables) write(p *compiled) error {
	if len(p.intervals) > MaxIntervals || len(p.outcomes) > MaxOutcomes {
		return fmt.Errorf("the rules make %d ranges of ports and %d outcomes: at most %d and %d",
			len(p.intervals), len(p.outcomes), MaxIntervals, MaxOutcomes)
	}
	next := t.now + 1
	side := next & 1

	// Nobody reads this half: the last change ended with a wait for those who
	// still did.
	base := side * MaxIntervals
	intervals := make([]classifierInterval, len(p.intervals))
	for i, iv := range p.intervals {
		intervals[i] = classifierInterval{From: iv.from, Outcome: side*MaxOutcomes + iv.outcome}
	}
	outcomes := make([]classifierOutcome, len(p.outcomes))
	for i, o := range p.outcomes {
		outcomes[i] = classifierOutcome{Dscp: o.dscp, Rule: o.rule, Group: uint16(o.group), Action: uint8(o.action), Class: uint8(o.class)}
	}
	if err := errors.Join(fill(t.intervals, base, intervals), fill(t.outcomes, side*MaxOutcomes, outcomes)); err != nil {
		return err
	}
	tries := make(map[string]*ebpf.Map)
	defer func() {
		for _, m := range tries {
			m.Close() // the slot keeps it
		}
	}()
	for name, s := range t.slots {
		spec := s.trie.Copy()
		spec.MaxEntries = uint32(max(1, p.entries(name)))
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return err
		}
		tries[name] = m
	}
	for prefix, tenant := range p.tenants {
		v := tenant.kernel()
		var err error
		if a := prefix.Addr(); a.Is4() {
			err = tries[classifierMapTenants4].Put(classifierPrefix4{Bits: uint32(prefix.Bits()), Addr: a.As4()}, v)
		} else {
			err = tries[classifierMapTenants6].Put(classifierPrefix6{Bits: uint32(prefix.Bits()), Addr: a.As16()}, v)
		}
		if err != nil {
			return fmt.Errorf("tenant %d, prefix %v: %w", tenant.id, prefix, err)
		}
	}
	for key, node := range p.nodes {
		v := classifierNode{First: base + node.first, Count: node.count, Denies: node.denies}
		bits := 32 + uint32(key.prefix.Bits())
		var err error
		if a := key.prefix.Addr(); a.Is4() {
			err = tries[classifierMapRules4].Put(classifierSetPrefix4{Bits: bits, Set: key.set, Addr: a.As4()}, v)
		} else {
			err = tries[classifierMapRules6].Put(classifierSetPrefix6{Bits: bits, Set: key.set, Addr: a.As16()}, v)
		}
		if err != nil {
			return fmt.Errorf("destination %v: %w", key.prefix, err)
		}
	}
	// Each change of a slot waits until no program runs that began before it.
	var swap errgroup.Group
	for name, s := range t.slots {
		swap.Go(func() error { return s.array.Put(side, tries[name]) })
	}
	if err := swap.Wait(); err != nil {
		return err
	}
	t.both[side] = classifierPolicy{Stranger: p.stranger.kernel()}
	if p.denies {
		t.both[side].Denies = 1
	}
	if p.inbound {
		t.both[side].Inbound = 1
	}
	if err := t.policies.Set(t.both); err != nil {
		return err
	}
	if err := t.generation.Set(next); err != nil {
		return err
	}
	t.now = next
	// One more such wait, and nobody sees the old generation: the next change may
	// write over it.
	return t.slots[classifierMapRules4].array.Put(side, tries[classifierMapRules4])
}

// refresh has every flow judged again by the policy in force: two generations on
// is the same side.
func (t *policyTables) refresh() error {
	if err := t.generation.Set(t.now + 2); err != nil {
		return err
	}
	t.now += 2
	return nil
}

// entries is the number of entries of a trie.
func (p *compiled) entries(name string) (n int) {
	is4 := name == classifierMapTenants4 || name == classifierMapRules4
	if name == classifierMapTenants4 || name == classifierMapTenants6 {
		for prefix := range p.tenants {
			if prefix.Addr().Is4() == is4 {
				n++
			}
		}
		return n
	}
	for key := range p.nodes {
		if key.prefix.Addr().Is4() == is4 {
			n++
		}
	}
	return n
}

func (t compiledTenant) kernel() classifierTenant {
	v := classifierTenant{Id: t.id, Set: t.set, Group: uint16(t.group), Fallback: uint8(t.fallback), Class: uint8(t.class)}
	if t.inbound {
		v.Inbound = 1
	}
	return v
}

// fill writes values into an array map from base on.
func fill[T any](m *ebpf.Map, base uint32, values []T) error {
	if len(values) == 0 {
		return nil
	}
	keys := make([]uint32, len(values))
	for i := range keys {
		keys[i] = base + uint32(i)
	}
	_, err := m.BatchUpdate(keys, values, nil)
	return err
}

// Mark is what the mark says of a packet that passed on, where the classifier
// writes it.
type Mark struct {
	Tenant uint32
	Path   PathID
	Class  Class
}

// ParseMark takes a mark apart.
func ParseMark(m uint32) Mark {
	return Mark{Tenant: m >> 16, Path: PathID(m >> 4 & 0xfff), Class: Class(m & 15)}
}

// Value is the mark as the packet carries it.
func (m Mark) Value() uint32 { return m.Tenant<<16 | uint32(m.Path)&0xfff<<4 | uint32(m.Class)&15 }

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
)

// MaxPrefixes bounds the entries of each trie when Config does not: about 64
// bytes of kernel memory each, and far more sites than a gateway has.
const MaxPrefixes = 16384

// Config is what a program is loaded with.
type Config struct {
	// Mark is what captured packets carry; Mask says which bits of the packet's
	// mark it replaces. Mask 0 means all 32.
	Mark, Mask uint32
	// MaxPrefixes bounds the IPv4 and the IPv6 prefixes; 0 means the constant
	// MaxPrefixes.
	MaxPrefixes int

	rehearsal uint32 // 1: all but the assignment, which fails in a test run
}

// Program is a loaded program with the destinations it takes packets for. All
// methods may be called concurrently. The zero value is of no use; see
// [LoadClassifier], [LoadReturn].
type Program struct {
	ether, ip            *ebpf.Program
	prefixes4, prefixes6 *ebpf.Map
	verdicts             *ebpf.Map
	name                 string
	priority             uint16 // with method Clsact
	maxPrefixes          int

	mu       sync.Mutex
	prefixes map[netip.Prefix]Action
	closed   bool
}

// LoadReturn loads the program for NICs that face the origin: packets for a
// prefix with action Capture go to the connection they belong to, if there is
// one. It needs no listeners.
func LoadReturn(cfg Config) (*Program, error) {
	const op = "load program return"
	spec, err := loadReturns()
	if err != nil {
		return nil, explain(op, err)
	}
	if err := cfg.apply(op, spec); err != nil {
		return nil, err
	}
	coll, err := newCollection(spec, nil)
	if err != nil {
		return nil, explain(op, err)
	}
	defer coll.Close()
	return newProgram("return", priorityReturn, cfg, coll), nil
}

// apply checks the configuration and writes it into the specification.
func (cfg *Config) apply(op string, spec *ebpf.CollectionSpec) error {
	if cfg.Mask == 0 {
		cfg.Mask = ^uint32(0)
	}
	if cfg.Mark == 0 || cfg.Mark&^cfg.Mask != 0 {
		return fmt.Errorf("%s: mark %#x must be non-zero and inside mask %#x", op, cfg.Mark, cfg.Mask)
	}
	if cfg.MaxPrefixes == 0 {
		cfg.MaxPrefixes = MaxPrefixes
	}
	if cfg.MaxPrefixes < 1 || cfg.MaxPrefixes > 1<<20 {
		return fmt.Errorf("%s: max prefixes %d: must be 1 to %d", op, cfg.MaxPrefixes, 1<<20)
	}
	// While one set replaces another, both are in the tries.
	spec.Maps[classifierMapPrefixes4].MaxEntries = 2 * uint32(cfg.MaxPrefixes)
	spec.Maps[classifierMapPrefixes6].MaxEntries = 2 * uint32(cfg.MaxPrefixes)
	return explain(op, errors.Join(
		spec.Variables[classifierVarCaptureMark].Set(cfg.Mark),
		spec.Variables[classifierVarCaptureMask].Set(cfg.Mask),
		spec.Variables[classifierVarRehearsal].Set(cfg.rehearsal),
	))
}

// newCollection loads spec with the maps that programs share.
func newCollection(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map) (*ebpf.Collection, error) {
	// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK. Where raising it is
	// not allowed, loading says so itself.
	_ = rlimit.RemoveMemlock()
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
}

// newProgram takes what it needs out of the collection. name is that of the C
// functions without _ether and _ip.
func newProgram(name string, priority uint16, cfg Config, coll *ebpf.Collection) *Program {
	return &Program{
		name: name, priority: priority, maxPrefixes: cfg.MaxPrefixes, prefixes: make(map[netip.Prefix]Action),
		ether: coll.DetachProgram(name + "_ether"), ip: coll.DetachProgram(name + "_ip"),
		prefixes4: coll.DetachMap(classifierMapPrefixes4), prefixes6: coll.DetachMap(classifierMapPrefixes6),
		verdicts: coll.DetachMap(classifierMapVerdicts),
	}
}

// SetPrefixes makes the tries hold exactly these prefixes; the longest that
// matches wins. Entries change one by one, in an order in which nothing is
// captured for a moment that neither the old nor the new set captures. After an
// error the tries hold a mixture, and SetPrefixes may be called again.
func (p *Program) SetPrefixes(set map[netip.Prefix]Action) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.check(set); err != nil {
		return fmt.Errorf("set prefixes: %w", err)
	}
	// First what holds back, then what captures; then the other way round for
	// what goes.
	for _, captures := range []bool{false, true} {
		for prefix, action := range set {
			if (action == Capture) != captures || p.prefixes[prefix] == action {
				continue
			}
			if err := p.put(prefix, action); err != nil {
				return explain(fmt.Sprintf("set prefix %v", prefix), err)
			}
			p.prefixes[prefix] = action
		}
	}
	for _, captures := range []bool{true, false} {
		for prefix, action := range p.prefixes {
			if _, ok := set[prefix]; ok || (action == Capture) != captures {
				continue
			}
			if err := p.remove(prefix); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return explain(fmt.Sprintf("remove prefix %v", prefix), err)
			}
			delete(p.prefixes, prefix)
		}
	}
	return nil
}

func (p *Program) check(set map[netip.Prefix]Action) error {
	var v4 int
	for prefix, action := range set {
		if !prefix.IsValid() || prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return fmt.Errorf("%v: must be a valid prefix with no bits set beyond its length", prefix)
		}
		if action < Capture || action > Drain {
			return fmt.Errorf("%v: action %d: must be %d to %d", prefix, action, Capture, Drain)
		}
		if prefix.Addr().Is4() {
			v4++
		}
	}
	if v6 := len(set) - v4; max(v4, v6) > p.maxPrefixes {
		return fmt.Errorf("%d IPv4 and %d IPv6 prefixes: at most %d of each", v4, v6, p.maxPrefixes)
	}
	return nil
}

func (p *Program) put(prefix netip.Prefix, a Action) error {
	if prefix.Addr().Is4() {
		return p.prefixes4.Put(classifierPrefix4{Bits: uint32(prefix.Bits()), Addr: prefix.Addr().As4()}, uint32(a))
	}
	return p.prefixes6.Put(classifierPrefix6{Bits: uint32(prefix.Bits()), Addr: prefix.Addr().As16()}, uint32(a))
}

func (p *Program) remove(prefix netip.Prefix) error {
	if prefix.Addr().Is4() {
		return p.prefixes4.Delete(classifierPrefix4{Bits: uint32(prefix.Bits()), Addr: prefix.Addr().As4()})
	}
	return p.prefixes6.Delete(classifierPrefix6{Bits: uint32(prefix.Bits()), Addr: prefix.Addr().As16()})
}

// Verdicts returns how many packets got which verdict since the program was
// loaded, over all its NICs.
func (p *Program) Verdicts() (Verdicts, error) {
	var sum Verdicts
	err := explain("read verdict counters", sumCounters(p.verdicts, sum[:]))
	return sum, err
}

// Close releases the program and its maps. Attachments have to be closed
// before; an attached program works on without it.
func (p *Program) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	return errors.Join(p.ether.Close(), p.ip.Close(), p.prefixes4.Close(), p.prefixes6.Close(), p.verdicts.Close())
}

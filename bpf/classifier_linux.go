package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
)

// Sizes of the classifier's tables where the configuration says nothing.
const (
	// MaxFlows is the size of the flow table, about 200 bytes of kernel memory
	// for each. The kernel takes the next power of two as the number of hash
	// buckets: just above one, half of them stay empty and chains are short.
	MaxFlows = 1<<17 + 1<<12
	// MaxIntervals and MaxOutcomes bound one generation of the compiled rules:
	// 8 and 16 bytes each, and there is room for two generations.
	MaxIntervals = 1 << 18
	MaxOutcomes  = 1 << 17
)

// ClassifierConfig is what the classifier is loaded with.
type ClassifierConfig struct {
	Config
	// Paths is the live path table to pick from; nil means an empty one.
	Paths *Paths
	// MaxFlows bounds the flow table; 0 means the constant MaxFlows. When it is
	// full, the flow that was silent longest is forgotten: its next packet is
	// looked up again and may get another path.
	MaxFlows int
	// Settings are the first; SetSettings changes them.
	Settings Settings

	spread uint32 // for the benchmark: packets are taken for those of this many flows, in turn
}

func (s Settings) compile() (v classifierClassifierSettings, err error) {
	v.Elephant = s.ElephantBytes
	if s.MarkVerdicts {
		v.Mark = 1
	}
	for class, d := range s.DSCP {
		if class == NoClass || class >= numClasses || d > 63 {
			return v, fmt.Errorf("class %v, DSCP %d: must be %v to %v and 0 to 63", class, d, Realtime, Bulk)
		}
		v.Dscp[class] = d + 1
	}
	return v, nil
}

// Classifier is the program for NICs that face the customer. See [Program] for
// SetPrefixes, Verdicts, Attach and Close.
type Classifier struct {
	*Program
	paths    *Paths
	ownPaths bool

	noteEther, noteIP           *ebpf.Program // at egress
	listeners, flows, fragments *ebpf.Map
	inbound                     *ebpf.Map // what came in, see answer.h
	settings                    *ebpf.Variable

	policyMu sync.Mutex // one policy after the other
	tables   policyTables
}

// LoadClassifier loads the classifier. It captures nothing until it has
// listeners, prefixes and an attachment; until it has a policy, everything is
// allowed. The error names what is missing and, as an [*Error], has a hint.
func LoadClassifier(cfg ClassifierConfig) (_ *Classifier, err error) {
	const op = "load program classifier"
	if cfg.MaxFlows == 0 {
		cfg.MaxFlows = MaxFlows
	}
	if cfg.MaxFlows < 1 || cfg.MaxFlows > 1<<24 {
		return nil, fmt.Errorf("%s: max flows %d: must be 1 to %d", op, cfg.MaxFlows, 1<<24)
	}
	spec, err := loadClassifier()
	if err != nil {
		return nil, explain(op, err)
	}
	if err := cfg.apply(op, spec); err != nil {
		return nil, err
	}
	if err := spec.Variables[classifierVarSpread].Set(cfg.spread); err != nil {
		return nil, explain(op, err)
	}
	spec.Maps[classifierMapFlows].MaxEntries = uint32(cfg.MaxFlows)
	spec.Maps[classifierMapIntervals].MaxEntries = 2 * MaxIntervals
	spec.Maps[classifierMapOutcomes].MaxEntries = 2 * MaxOutcomes

	c := &Classifier{paths: cfg.Paths}
	if c.paths == nil {
		if c.paths, err = NewPaths(); err != nil {
			return nil, err
		}
		c.ownPaths = true
	}
	coll, err := newCollection(spec, c.paths.shared(spec))
	if err != nil {
		if c.ownPaths {
			err = errors.Join(err, c.paths.Close())
		}
		return nil, explain(op, err)
	}
	defer coll.Close()
	c.Program = newProgram("classify", priorityClassify, cfg.Config, coll)
	c.noteEther, c.noteIP = coll.DetachProgram("note_ether"), coll.DetachProgram("note_ip")
	c.listeners, c.flows, c.fragments = coll.DetachMap(classifierMapListeners), coll.DetachMap(classifierMapFlows), coll.DetachMap(classifierMapFragments)
	c.inbound, c.settings = coll.DetachMap(classifierMapInbound), coll.Variables[classifierVarClassifierSettings]
	c.tables.take(spec, coll)
	if err := errors.Join(c.SetSettings(cfg.Settings), c.SetPolicy(Policy{})); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", op, err), c.Close())
	}
	return c, nil
}

// SetSettings replaces the settings, for flows that exist too: an elephant stays
// one.
func (c *Classifier) SetSettings(s Settings) error {
	v, err := s.compile()
	if err != nil {
		return fmt.Errorf("set classifier: %w", err)
	}
	return explain("set classifier", c.settings.Set(v))
}

// SetListeners hands the transparent listening sockets to the program: TCP
// sockets, not MPTCP, which a sockmap does not take. Either may be nil; TCP of
// that family then passes. A socket leaves the map by itself when it closes.
func (c *Classifier) SetListeners(v4, v6 syscall.Conn) error {
	for key, l := range []syscall.Conn{v4, v6} {
		var err error
		if l == nil {
			if err = c.listeners.Delete(uint32(key)); errors.Is(err, ebpf.ErrKeyNotExist) || errors.Is(err, syscall.EINVAL) {
				err = nil // an empty slot of a sockmap is EINVAL
			}
		} else {
			err = c.setListener(uint32(key), l)
		}
		if err != nil {
			return explain(fmt.Sprintf("put listener %d into the socket map", key), err)
		}
	}
	return nil
}

func (c *Classifier) setListener(key uint32, l syscall.Conn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var putErr error
	if err := raw.Control(func(fd uintptr) { putErr = c.listeners.Put(key, uint64(fd)) }); err != nil {
		return err
	}
	return putErr
}

// SetPrefixes is that of [Program]; flows that exist are judged by the new
// prefixes when it returns.
func (c *Classifier) SetPrefixes(set map[netip.Prefix]Action) error {
	err := c.Program.SetPrefixes(set)
	c.policyMu.Lock()
	defer c.policyMu.Unlock()
	return errors.Join(err, explain("set prefixes", c.tables.refresh()))
}

// Close releases the program and its maps, the live path table only if it is its
// own. Attachments have to be closed before; an attached program works on
// without it.
func (c *Classifier) Close() error {
	c.policyMu.Lock()
	defer c.policyMu.Unlock()
	err := errors.Join(c.Program.Close(), c.noteEther.Close(), c.noteIP.Close(), c.listeners.Close(), c.flows.Close(), c.fragments.Close(), c.inbound.Close(), c.tables.close())
	if c.ownPaths {
		err = errors.Join(err, c.paths.Close())
	}
	return err
}

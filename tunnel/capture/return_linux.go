package capture

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/landbridge/landbridge/bpf"
)

var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// Start attaches to the interfaces. Errors are as for [Transparent.Start].
func (r *Return) Start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook != nil {
		return errors.New("start return capture: already started")
	}
	prefixes := r.Prefixes
	if len(prefixes) == 0 {
		prefixes = everywhere
	}
	set, err := actions(prefixes, nil, nil, nil)
	if err != nil {
		return fmt.Errorf("start return capture: %w", err)
	}
	r.hook, err = startHook(hookConfig{
		load:       func(c bpf.Config) (program, error) { return bpf.LoadReturn(c) },
		interfaces: r.Interfaces, prefixes: set, method: r.Attach,
		log:   logger(r.Log).With("source", "return"),
		route: policyRoute{mark: or(r.Mark, DefaultReturnMark), table: or(r.Table, DefaultReturnTable), priority: or(r.RulePriority, DefaultRulePriority)},
	})
	if err != nil {
		return fmt.Errorf("start return capture: %w", err)
	}
	return nil
}

// SetPrefixes replaces the clients' addresses; none means all. Connections from
// addresses that are not among them any more get no replies.
func (r *Return) SetPrefixes(prefixes []netip.Prefix) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook == nil {
		return fmt.Errorf("set prefixes: %w", errNotStarted)
	}
	if len(prefixes) == 0 {
		prefixes = everywhere
	}
	set, err := actions(prefixes, nil, nil, nil)
	if err != nil {
		return fmt.Errorf("set prefixes: %w", err)
	}
	return r.hook.nics.setPrefixes(set)
}

// Verdicts returns what the program in the kernel did with the packets it saw.
func (r *Return) Verdicts() (bpf.Verdicts, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook == nil {
		return bpf.Verdicts{}, fmt.Errorf("read verdicts: %w", errNotStarted)
	}
	return r.hook.prog.Verdicts()
}

// Attached returns the interfaces that replies are taken from at the moment.
func (r *Return) Attached() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook == nil {
		return nil
	}
	return r.hook.nics.interfaces()
}

// Close leaves the interfaces and the routing as they were. Connections made by
// DialTransparent hear nothing from their peers any more. It may be called any
// number of times.
func (r *Return) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hook == nil {
		return nil
	}
	err := r.hook.close()
	r.hook = nil
	return err
}

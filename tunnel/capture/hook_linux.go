package capture

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/landbridge/landbridge/bpf"
)

// hook is a program in the kernel with everything it needs: interfaces, tries
// and the policy route.
type hook struct {
	ns    *namespace
	prog  program
	route policyRoute
	nics  nics
}

// program is a *bpf.Classifier or a *bpf.Program.
type program interface {
	SetPrefixes(map[netip.Prefix]bpf.Action) error
	Attach(ifindex int, m bpf.Method) (*bpf.Attachment, error)
	Verdicts() (bpf.Verdicts, error)
	Close() error
}

type hookConfig struct {
	// load may hand listeners to the program: no packet arrives before it
	// returns.
	load       func(bpf.Config) (program, error)
	interfaces []string
	prefixes   map[netip.Prefix]bpf.Action
	route      policyRoute
	method     bpf.Method
	log        *slog.Logger
}

// startHook acts in the namespace of the calling thread. Whatever fails, nothing
// is left behind.
func startHook(cfg hookConfig) (_ *hook, err error) {
	h := &hook{route: cfg.route}
	if h.ns, err = currentNamespace(); err != nil {
		return nil, err
	}
	undo := []func() error{h.ns.close}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()
	if h.prog, err = cfg.load(bpf.Config{Mark: cfg.route.mark}); err != nil {
		return nil, err
	}
	undo = append(undo, h.prog.Close)
	var without6 error
	err = h.ns.do(func() (err error) { without6, err = h.route.install(); return err })
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() error { return h.ns.do(h.route.remove) })
	if without6 != nil {
		cfg.log.Warn("no IPv6 capture", "err", without6)
	}
	h.nics = nics{ns: h.ns, prog: h.prog, log: cfg.log, method: cfg.method, names: cfg.interfaces, wanted: cfg.prefixes}
	if err = h.ns.do(h.nics.start); err != nil {
		return nil, err
	}
	return h, nil
}

// close detaches and removes everything.
func (h *hook) close() error {
	return errors.Join(h.ns.do(func() error {
		return errors.Join(h.nics.stop(), h.route.remove())
	}), h.prog.Close(), h.ns.close())
}

package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/landbridge/landbridge/bpf"
	"golang.org/x/sys/unix"
)

var errNotStarted = errors.New("not started")

type transparentState struct {
	*hook
	classifier *bpf.Classifier
	srv        *server
	listen     [2]netip.AddrPort // our own, to recognise who connects to them directly
	set        map[netip.Prefix]bpf.Action
}

// Start begins to capture and runs the handler for each flow. Close must be
// called, also after ctx, from which the handlers' contexts descend, has ended.
// The error names the interface, capability or kernel feature that is missing;
// errors.As to an interface{ Hint() string } finds what to do about it.
func (t *Transparent) Start(ctx context.Context, h Handler) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != nil {
		return errors.New("start transparent capture: already started")
	}
	srv, err := newServer(ctx, KindTransparent, t.Log, t.MaxFlows, h)
	if err != nil {
		return err
	}
	s := &transparentState{srv: srv}
	srv.greet = s.greet
	if s.set, err = actions(t.Prefixes, t.Exclude, nil, nil); err != nil {
		return fmt.Errorf("start transparent capture: %w", err)
	}
	var listeners []net.Listener
	s.hook, err = startHook(hookConfig{
		load: func(c bpf.Config) (program, error) {
			p, err := bpf.LoadClassifier(bpf.ClassifierConfig{Config: c, Paths: t.Paths, Settings: t.Settings})
			if err != nil {
				return nil, err
			}
			if err = p.SetPolicy(t.Policy); err == nil {
				listeners, err = s.open(ctx, t.ListenPort, p)
			}
			if err != nil {
				return nil, errors.Join(err, p.Close())
			}
			s.classifier = p
			return p, nil
		},
		interfaces: t.Interfaces, prefixes: s.set, method: t.Attach, log: srv.log,
		route: policyRoute{mark: or(t.Mark, DefaultMark), table: or(t.Table, DefaultTable), priority: or(t.RulePriority, DefaultRulePriority)},
	})
	if err != nil {
		for _, l := range listeners {
			_ = l.Close()
		}
		_ = srv.close()
		return fmt.Errorf("start transparent capture: %w", err)
	}
	for _, l := range listeners {
		srv.serve(l)
	}
	t.state = s
	return nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// open makes the listeners and hands them to the program. They sit on loopback:
// the kernel hands them captured connections whatever their own address, and
// nobody outside reaches them otherwise.
func (s *transparentState) open(ctx context.Context, port uint16, p *bpf.Classifier) (ls []net.Listener, err error) {
	var conns [2]syscall.Conn
	for i, v := range []struct {
		network, host string
		transparent   func(fd int) error
	}{
		{"tcp4", "127.0.0.1", func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1) }},
		{"tcp6", "::1", func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1) }},
	} {
		// Go listens with MPTCP where it can; such a socket does not go into a
		// sockmap.
		lc := net.ListenConfig{Control: control(v.transparent)}
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(ctx, v.network, net.JoinHostPort(v.host, strconv.Itoa(int(port))))
		if err != nil {
			if i == 1 && errors.Is(err, unix.EAFNOSUPPORT) {
				s.srv.log.Warn("no IPv6 capture", "err", err)
				continue
			}
			return ls, explainTransparent(fmt.Sprintf("listen on %s port %d", v.network, port), err)
		}
		ls = append(ls, l)
		tl := l.(*net.TCPListener)
		if err := setBacklog(tl); err != nil {
			return ls, fmt.Errorf("set backlog: %w", err)
		}
		conns[i], s.listen[i] = tl, addrPort(l.Addr())
	}
	return ls, p.SetListeners(conns[0], conns[1])
}

// control adapts a socket option for net.ListenConfig and net.Dialer.
func control(set func(fd int) error) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var optErr error
		if err := c.Control(func(fd uintptr) { optErr = set(int(fd)) }); err != nil {
			return err
		}
		return optErr
	}
}

// setBacklog listens again: that only changes the backlog.
func setBacklog(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return control(func(fd int) error { return unix.Listen(fd, AcceptBacklog) })("", "", raw)
}

func explainTransparent(op string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return &bpf.Error{Op: op, Err: fmt.Errorf("missing capability: %w", err),
			Advice: "transparent sockets need CAP_NET_ADMIN or CAP_NET_RAW: run as root or grant them in the service unit"}
	}
	return fmt.Errorf("%s: %w", op, err)
}

func (s *transparentState) greet(_ context.Context, c *tcpConn) (Flow, error) {
	f := Flow{Src: addrPort(c.RemoteAddr()), Dst: addrPort(c.LocalAddr()), Conn: c, Kind: KindTransparent}
	// The flow was put into the table by its first packet; where it is full of
	// others by now, nothing is known.
	if k, err := s.classifier.Flow(bpf.FlowKey{Protocol: unix.IPPROTO_TCP, Src: f.Src, Dst: f.Dst}); err == nil {
		f.Class = k.Class
	}
	// Somebody on this host has found the listener: carrying that on would end
	// in a loop.
	if slices.Contains(s.listen[:], f.Dst) {
		_ = c.Reset()
		return Flow{}, fmt.Errorf("connected to the capture listener %v itself", f.Dst)
	}
	return f, nil
}

// SetPrefixes replaces the captured and excluded prefixes. Connections that were
// captured stay so, also when their destination is not captured any more.
func (t *Transparent) SetPrefixes(captured, excluded []netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return fmt.Errorf("set prefixes: %w", errNotStarted)
	}
	set, err := actions(captured, excluded, t.state.set, t.state.srv.inUse)
	if err != nil {
		return fmt.Errorf("set prefixes: %w", err)
	}
	if err := t.state.nics.setPrefixes(set); err != nil {
		return err
	}
	t.state.set = set
	return nil
}

// SetPolicy replaces the rules. A packet is judged by the old ones or by the new
// ones as a whole; after an error the old ones are in force.
func (t *Transparent) SetPolicy(p bpf.Policy) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return fmt.Errorf("set policy: %w", errNotStarted)
	}
	return t.state.classifier.SetPolicy(p)
}

// SetSettings replaces the settings, for flows that exist too.
func (t *Transparent) SetSettings(s bpf.Settings) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return fmt.Errorf("set settings: %w", errNotStarted)
	}
	return t.state.classifier.SetSettings(s)
}

// ReadFlows calls yield for each flow that the classifier knows, in no order,
// until it returns false.
func (t *Transparent) ReadFlows(yield func(bpf.Flow) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return fmt.Errorf("read flows: %w", errNotStarted)
	}
	return t.state.classifier.ReadFlows(yield)
}

// Verdicts returns what the program in the kernel did with the packets it saw.
func (t *Transparent) Verdicts() (bpf.Verdicts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return bpf.Verdicts{}, fmt.Errorf("read verdicts: %w", errNotStarted)
	}
	return t.state.prog.Verdicts()
}

// Flows returns the number of flows being carried.
func (t *Transparent) Flows() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return 0
	}
	return t.state.srv.flows()
}

// Attached returns the interfaces that are captured on at the moment.
func (t *Transparent) Attached() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return nil
	}
	return t.state.nics.interfaces()
}

// Close resets all flows, waits for their handlers, and leaves the interfaces
// and the routing as they were. It may be called any number of times.
func (t *Transparent) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == nil {
		return nil
	}
	// Flows first, so that their clients see the reset: without the program
	// their next packets would go to the origin.
	err := errors.Join(t.state.srv.close(), t.state.hook.close())
	t.state = nil
	return err
}

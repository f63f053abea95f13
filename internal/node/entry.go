package node

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/capture"
)

// entries are the places where flows enter this node, and the one where the exit's replies come back.
type entries struct {
	transparent *capture.Transparent
	returns     *capture.Return
	socks       *capture.Socks5
	connect     *capture.HTTPConnect
}

// open starts what the configuration asks for.
func (n *Node) open(ctx context.Context) (_ *entries, err error) {
	e := &entries{}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	n.mu.Lock()
	captured, own := n.capturedLocked()
	n.mu.Unlock()
	if len(n.cfg.LAN) > 0 && !n.opts.NoCapture {
		// First, so that it sees packets first: rules are for who opens a connection, not for the answers.
		if n.cfg.PreserveSource {
			e.returns = &capture.Return{Interfaces: n.cfg.LAN, Log: n.log}
			if err := e.returns.Start(); err != nil {
				return nil, explainCapture(err)
			}
		}
		r, err := compileRules(n.cfg, n.kernel.group)
		if err != nil {
			return nil, err
		}
		n.rules = r
		e.transparent = &capture.Transparent{
			Interfaces: n.cfg.LAN, Prefixes: captured, Exclude: own, Log: n.log,
			Policy: r.policy, Paths: n.kernel.table, Settings: classifierSettings(n.cfg),
		}
		if err := e.transparent.Start(ctx, n.captured); err != nil {
			return nil, explainCapture(err)
		}
	}
	if n.opts.SOCKS5 != "" {
		e.socks = &capture.Socks5{Addr: n.opts.SOCKS5, Log: n.log}
		if err := e.socks.Start(ctx, n.proxied); err != nil {
			return nil, hint.With(err, "%s", proxyHint(err, "socks5", n.opts.SOCKS5))
		}
	}
	if n.opts.HTTPConnect != "" {
		e.connect = &capture.HTTPConnect{Addr: n.opts.HTTPConnect, Log: n.log}
		if err := e.connect.Start(ctx, n.proxied); err != nil {
			return nil, hint.With(err, "%s", proxyHint(err, "http_connect", n.opts.HTTPConnect))
		}
	}
	return e, nil
}

// classifierSettings are what a configuration asks for beside its rules.
func classifierSettings(cfg *config.NodeConfig) bpf.Settings {
	s := bpf.Settings{ElephantBytes: uint64(cfg.Policy.ElephantBytes), MarkVerdicts: cfg.Marks.Verdicts, DSCP: map[bpf.Class]uint8{}}
	for class, d := range cfg.Marks.DSCP {
		s.DSCP[kernelClass(class)] = d
	}
	return s
}

// explainCapture knows how the kernel fails for users with CAP_BPF and without CAP_PERFMON (seen on 6.18): its verifier
// stumbles over its own guards against speculation and gives EFAULT, which does not look like a missing capability.
func explainCapture(err error) error {
	if errors.Is(err, unix.EFAULT) {
		err = cli.Capability(hint.With(err, "the kernel's verifier fails like this without CAP_PERFMON: grant it in the service unit, or run as root"))
	}
	return err
}

// setPrefixes does nothing before the entries are open and after they are closed.
func (e *entries) setPrefixes(captured, own []netip.Prefix) error {
	if e == nil || e.transparent == nil {
		return nil
	}
	return e.transparent.SetPrefixes(captured, own)
}

func (e *entries) close() error {
	var errs []error
	if e.transparent != nil {
		errs = append(errs, e.transparent.Close())
	}
	if e.returns != nil {
		errs = append(errs, e.returns.Close())
	}
	if e.socks != nil {
		errs = append(errs, e.socks.Close())
	}
	if e.connect != nil {
		errs = append(errs, e.connect.Close())
	}
	return errors.Join(errs...)
}

// captured carries a flow taken off a LAN interface. Its errors are in the log.
func (n *Node) captured(ctx context.Context, f capture.Flow) {
	t := tunnel.Flow{Src: f.Src, Dst: f.Dst, Conn: f.Conn}
	if f.Class != bpf.NoClass {
		class := tunnel.Class(f.Class - bpf.Realtime)
		t.Class = &class
	}
	_ = n.Handle(ctx, t)
}

// proxied carries a flow of an explicit proxy. Its client may be this host itself, whose address belongs to no site:
// the flow then counts as coming from this host's address in the site.
func (n *Node) proxied(ctx context.Context, f capture.Flow) {
	sources := n.config().Sources
	if _, ok := tenantOf(sources, f.Src.Addr().Unmap()); !ok {
		for _, s := range sources {
			if a, ok := ownAddress(s.Prefixes); ok {
				f.Src = netip.AddrPortFrom(a, f.Src.Port())
				break
			}
		}
	}
	n.captured(ctx, f)
}

// ownAddress finds an address of this host inside the prefixes, or else the first one of them.
func ownAddress(prefixes []netip.Prefix) (netip.Addr, bool) {
	addrs, _ := net.InterfaceAddrs()
	for _, p := range prefixes {
		for _, a := range addrs {
			if ipn, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(ipn.IP); ok && p.Contains(ip.Unmap()) {
					return ip.Unmap(), true
				}
			}
		}
	}
	if len(prefixes) == 0 {
		return netip.Addr{}, false
	}
	return prefixes[0].Masked().Addr().Next(), true
}

// dial connects to a flow's destination at the exit.
func (n *Node) dial(ctx context.Context, src, dst netip.AddrPort) (net.Conn, error) {
	if n.config().PreserveSource {
		return capture.DialTransparent(ctx, netip.AddrPortFrom(src.Addr(), 0), dst)
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", dst.String())
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/identity"
	"github.com/landbridge/landbridge/internal/node"
	"github.com/landbridge/landbridge/tunnel"
	"github.com/landbridge/landbridge/tunnel/bond"
)

// memoryTunnel is two gateways of this process joined over the border in memory. Client and origin are this process
// too; they reach their gateway over a loopback connection, as over a LAN.
type memoryTunnel struct {
	*memoryBorder
	sha, fra *node.Node
	port     atomic.Uint32 // the client's last
	cold     string
}

// openMemoryTunnel starts the tunnel and waits until it is warm.
func openMemoryTunnel(ctx context.Context, o Options) (stage, error) {
	m, err := startMemoryTunnel(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := m.waitWarm(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// startMemoryTunnel starts both gateways from a fleet document.
func startMemoryTunnel(ctx context.Context, o Options) (_ *memoryTunnel, err error) {
	o.NoAgent = true
	border, err := newMemoryBorder(o)
	if err != nil {
		return nil, err
	}
	m := &memoryTunnel{memoryBorder: border}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	private, public := make(map[string]identity.PrivateKey), make(keys)
	for _, name := range []string{machineSha, machineFra} {
		k, err := identity.Generate()
		if err != nil {
			return nil, fmt.Errorf("key of %s: %w", name, err)
		}
		private[name], public[name] = k, k.Public()
	}
	fleet, err := config.Parse([]byte(fleetDocument(o, public)))
	if err != nil {
		return nil, err
	}
	for name, at := range map[string]**node.Node{machineSha: &m.sha, machineFra: &m.fra} {
		cfg, err := fleet.Node(name)
		if err != nil {
			return nil, err
		}
		if *at, err = node.Start(ctx, cfg, node.Options{
			Role: node.RoleGateway, Key: private[name], Log: slog.New(slog.DiscardHandler), NoCapture: true,
			Listen: m.listen, Dial: m.dialOrigin,
		}); err != nil {
			return nil, fmt.Errorf("gateway %s: %w", name, err)
		}
	}
	return m, nil
}

// listen opens an uplink on the border in memory.
func (m *memoryTunnel) listen(u config.NodeUplink) (bond.Uplink, error) {
	c, err := m.network.Listen(u.Address)
	if err != nil {
		return bond.Uplink{}, fmt.Errorf("uplink %s: %w", u.Name, err)
	}
	return bond.Uplink{Name: u.Name, Socket: bond.NewPacketSocket(c, u.Address), Rate: int64(u.Rate)}, nil
}

// dialOrigin is the exit's dialer: the destination's port names a listener of the origin.
func (m *memoryTunnel) dialOrigin(ctx context.Context, _, dst netip.AddrPort) (net.Conn, error) {
	near, far, err := connPair(ctx)
	if err != nil {
		return nil, err
	}
	go m.deliver(int(dst.Port()), far)
	return near, nil
}

// Dial implements Network: the client's connection enters the tunnel at gateway sha.
func (m *memoryTunnel) Dial(ctx context.Context, port int) (net.Conn, error) {
	client, captured, err := connPair(ctx)
	if err != nil {
		return nil, err
	}
	src := netip.AddrPortFrom(clientAddr.Addr(), uint16(1024+m.port.Add(1)%60000))
	flow := tunnel.Flow{Src: src, Dst: netip.AddrPortFrom(originAddr.Addr(), uint16(port)), Conn: tunnel.WrapConn(captured)}
	go func() {
		// The flow outlives the dial, so it has a context of its own; its failure is what the client then sees.
		if m.sha.Handle(context.WithoutCancel(ctx), flow) != nil {
			captured.Close()
		}
	}()
	return client, nil
}

// connPair is a connection over loopback, both ends: unlike a pipe in memory it has buffers and half-close.
func connPair(ctx context.Context) (a, b net.Conn, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	var d net.Dialer
	d.SetMultipathTCP(false)
	if a, err = d.DialContext(ctx, "tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	for {
		if b, err = l.Accept(); err != nil {
			a.Close()
			return nil, nil, err
		}
		if b.RemoteAddr().String() == a.LocalAddr().String() {
			return a, b, nil
		}
		b.Close() // somebody else on this machine tried the port
	}
}

// waitWarm waits as the lab in namespaces does.
func (m *memoryTunnel) waitWarm(ctx context.Context) error {
	for end := time.Now().Add(demoWarmTimeout); ; {
		m.cold = ""
		for _, n := range []*node.Node{m.sha, m.fra} {
			if cold := coldness(n.Status()); cold != "" {
				m.cold = cold
			}
		}
		if m.cold == "" || time.Now().After(end) {
			return nil
		}
		if err := sleep(ctx, warmPoll); err != nil {
			return err
		}
	}
}

// Cold implements stage.
func (m *memoryTunnel) Cold() string { return m.cold }

// Close implements stage.
func (m *memoryTunnel) Close() error {
	var errs []error
	for _, n := range []*node.Node{m.sha, m.fra} {
		if n != nil {
			errs = append(errs, n.Close())
		}
	}
	return errors.Join(errs...)
}

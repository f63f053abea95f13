package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// DialTransparent connects to dst from src, which need not be an address of this
// host: the destination sees the client. Port 0 in src lets the kernel choose
// one. The replies find their way back only with a [Return] on the interface
// they arrive at, and with routing that sends them here.
//
// It acts in the network namespace of the calling thread and needs
// CAP_NET_ADMIN or CAP_NET_RAW.
func DialTransparent(ctx context.Context, src, dst netip.AddrPort) (Conn, error) {
	src = netip.AddrPortFrom(src.Addr().Unmap(), src.Port())
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if !src.Addr().IsValid() || !dst.Addr().IsValid() || src.Addr().Is4() != dst.Addr().Is4() {
		return nil, fmt.Errorf("dial %v from %v: both must be addresses of one family", dst, src)
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(src), Control: control(func(fd int) error {
		opts := [][3]int{
			// Another connection may use the same source port, as it may for
			// the client itself.
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1},
		}
		if src.Addr().Is4() {
			opts = append(opts, [3]int{unix.SOL_IP, unix.IP_TRANSPARENT, 1})
		} else {
			opts = append(opts, [3]int{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1})
		}
		if src.Port() == 0 {
			// Choose the port at connect, when the destination is known: ports
			// then need to be unique only per destination. (A socket option of
			// SOL_IP, for IPv6 too.)
			opts = append(opts, [3]int{unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1})
		}
		for _, o := range opts {
			if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
				return err
			}
		}
		return nil
	})}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		return nil, explainTransparent(fmt.Sprintf("dial %v from %v", dst, src), err)
	}
	return &tcpConn{c.(*net.TCPConn)}, nil
}

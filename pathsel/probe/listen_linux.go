package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Now is CLOCK_MONOTONIC, which bpf_ktime_get_ns reads too.
func Now() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return time.Duration(ts.Nano())
}

type udpConn struct {
	*net.UDPConn
	oob []byte // of the one reader
}

// Listen opens an uplink's probe socket on the address, bound to the named interface ("" binds to none). Probes leave
// with TTL 255 (RFC 8762, section 4.1).
func Listen(local netip.AddrPort, device string) (Conn, error) {
	v6 := local.Addr().Is6() && !local.Addr().Is4In6()
	network := "udp4"
	if v6 {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = options(int(fd), v6, device) })
		return errors.Join(err, cerr)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, local.String())
	if err != nil {
		return nil, fmt.Errorf("open probe socket %s on %q: %w", local, device, err)
	}
	return &udpConn{pc.(*net.UDPConn), make([]byte, unix.CmsgSpace(4))}, nil
}

func options(fd int, v6 bool, device string) error {
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("bind to interface %q: %w", device, err)
		}
	}
	if v6 {
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1))
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 255),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTTL, 1))
}

func (c *udpConn) ReadProbe(b []byte) (n int, ttl uint8, from netip.AddrPort, err error) {
	n, oobn, _, from, err := c.ReadMsgUDPAddrPort(b, c.oob)
	if err != nil {
		return 0, 0, netip.AddrPort{}, err
	}
	// One control message of one int: IP_TTL or IPV6_HOPLIMIT.
	if oobn >= unix.CmsgLen(4) {
		ttl = uint8(binary.NativeEndian.Uint32(c.oob[unix.CmsgLen(0):]))
	}
	return n, ttl, from, nil
}

//go:build !linux

package probe

import (
	"fmt"
	"net"
	"net/netip"
	"time"
)

var started = time.Now()

// Now is a monotonic clock.
func Now() time.Duration { return time.Since(started) }

// Listen opens an uplink's probe socket; binding to an interface and TTLs need Linux.
func Listen(local netip.AddrPort, device string) (Conn, error) {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, fmt.Errorf("open probe socket %s on %q: %w", local, device, err)
	}
	return FromPacketConn(c), nil
}

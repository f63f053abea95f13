package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// OpenCall implements CallNetwork: a UDP socket on the client and one on the origin.
func (k kernelNetwork) OpenCall(port int) (client, origin net.Conn, err error) {
	at := [2]netip.AddrPort{netip.AddrPortFrom(clientAddr.Addr(), uint16(port)), originAt(port)}
	var conns [2]net.Conn
	for i, machine := range []string{machineClient, machineOrigin} {
		err := wan.InNamespace(k.opt.namespace(machine), func() (err error) {
			conns[i], err = dialUDP(at[i], at[1-i])
			return err
		})
		if err != nil {
			if i > 0 {
				conns[0].Close()
			}
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

// udpConn is a UDP socket with the kernel's times of arrival: those of a busy machine's scheduler are not the network's.
type udpConn struct {
	*net.UDPConn
	oob [64]byte // one reader
}

func dialUDP(local, remote netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(local), Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := d.DialContext(context.Background(), "udp", remote.String())
	if err != nil {
		return nil, err
	}
	return &udpConn{UDPConn: c.(*net.UDPConn)}, nil
}

// ReadStamped implements stampedConn.
func (u *udpConn) ReadStamped(b []byte) (int, time.Time, error) {
	n, oobn, _, _, err := u.ReadMsgUDPAddrPort(b, u.oob[:])
	if err != nil {
		return 0, time.Time{}, err
	}
	at, err := arrivalOf(u.oob[:oobn])
	return n, at, err
}

// arrivalOf reads the time of arrival among a message's control data (socket(7), SO_TIMESTAMPNS).
func arrivalOf(oob []byte) (time.Time, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}, fmt.Errorf("control data: %w", err)
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix()), nil
		}
	}
	return time.Time{}, errors.New("a datagram without its time of arrival")
}

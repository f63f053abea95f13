package bond

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// socketBuffer is asked of the kernel: 50 ms at 600 Mbit/s, so that a late goroutine loses nothing.
	socketBuffer = 4 << 20
	batchSize    = 64
)

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// udpSocket reads and writes batches with recvmmsg and sendmmsg, without allocating.
type udpSocket struct {
	conn  *net.UDPConn
	raw   syscall.RawConn
	v6    bool
	local netip.AddrPort

	rx, tx batch
}

type batch struct {
	hdrs  [batchSize]mmsghdr
	iovs  [batchSize]unix.Iovec
	names [batchSize]unix.RawSockaddrInet6 // large enough for v4 too
	count int
	n     int
	errno syscall.Errno
	call  func(fd uintptr) bool
}

// ListenUDP opens an uplink's socket on the address, bound to the named interface ("" binds to none), never fragmenting.
func ListenUDP(local netip.AddrPort, device string) (Socket, error) {
	network := "udp4"
	if local.Addr().Is6() && !local.Addr().Is4In6() {
		network = "udp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) { err = socketOptions(int(fd), network, device) })
		return errors.Join(err, cerr)
	}}
	pc, err := lc.ListenPacket(context.Background(), network, local.String())
	if err != nil {
		return nil, fmt.Errorf("open uplink socket %s on %q: %w", local, device, err)
	}
	conn := pc.(*net.UDPConn)
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open uplink socket %s: %w", local, err)
	}
	s := &udpSocket{conn: conn, raw: raw, v6: network == "udp6", local: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
	s.rx.init(unix.SYS_RECVMMSG)
	s.tx.init(unix.SYS_SENDMMSG)
	return s, nil
}

func socketOptions(fd int, network, device string) error {
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return fmt.Errorf("bind to interface %q: %w", device, err)
		}
	}
	for _, o := range [...]struct{ force, plain int }{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, socketBuffer) != nil {
			// Without CAP_NET_ADMIN the kernel's limit holds; doctor tells of it.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.plain, socketBuffer)
		}
	}
	if network == "udp6" {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func (b *batch) init(trap uintptr) {
	for i := range b.hdrs {
		b.hdrs[i].hdr.Iov = &b.iovs[i]
		b.hdrs[i].hdr.SetIovlen(1)
		b.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&b.names[i]))
	}
	b.call = func(fd uintptr) bool {
		n, _, errno := syscall.Syscall6(trap, fd, uintptr(unsafe.Pointer(&b.hdrs[0])), uintptr(b.count), unix.MSG_DONTWAIT, 0, 0)
		b.n, b.errno = int(n), errno
		return errno != unix.EAGAIN && errno != unix.EINTR
	}
}

func (s *udpSocket) LocalAddr() netip.AddrPort { return s.local }

func (s *udpSocket) Close() error { return s.conn.Close() }

func (s *udpSocket) ReadBatch(ms []Message) (int, error) {
	b := &s.rx
	b.count = min(len(ms), batchSize)
	for i := range b.count {
		b.iovs[i].Base = &ms[i].Buf[0]
		b.iovs[i].SetLen(len(ms[i].Buf))
		b.hdrs[i].hdr.Namelen = unix.SizeofSockaddrInet6
	}
	for {
		if err := s.raw.Read(b.call); err != nil {
			return 0, err
		}
		if b.errno == 0 {
			break
		}
		// An ICMP error of an earlier send (no such port there yet) says nothing of this read.
		if b.errno != unix.ECONNREFUSED && b.errno != unix.EHOSTUNREACH && b.errno != unix.ENETUNREACH && b.errno != unix.EMSGSIZE {
			return 0, os.NewSyscallError("recvmmsg", b.errno)
		}
	}
	for i := range b.n {
		ms[i].N = int(b.hdrs[i].n)
		name := &b.names[i]
		if name.Family == unix.AF_INET {
			v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
			ms[i].Addr = netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), ntohs(v4.Port))
		} else {
			ms[i].Addr = netip.AddrPortFrom(netip.AddrFrom16(name.Addr), ntohs(name.Port))
		}
	}
	return b.n, nil
}

func (s *udpSocket) WriteBatch(ms []Message) (int, error) {
	sent := 0
	for sent < len(ms) {
		b := &s.tx
		b.count = min(len(ms)-sent, batchSize)
		for i := range b.count {
			m := &ms[sent+i]
			b.iovs[i].Base = &m.Buf[0]
			b.iovs[i].SetLen(len(m.Buf))
			b.hdrs[i].hdr.Namelen = putSockaddr(&b.names[i], m.Addr, s.v6)
		}
		if err := s.raw.Write(b.call); err != nil {
			return sent, err
		}
		switch b.errno {
		case 0:
			sent += b.n
		case unix.ENOBUFS, unix.ECONNREFUSED:
			sent++ // as good as lost on the way
		default:
			return sent, os.NewSyscallError("sendmmsg", b.errno)
		}
	}
	return sent, nil
}

func putSockaddr(n *unix.RawSockaddrInet6, a netip.AddrPort, v6 bool) uint32 {
	if v6 {
		*n = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: ntohs(a.Port()), Addr: a.Addr().As16()}
		return unix.SizeofSockaddrInet6
	}
	v4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(n))
	*v4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: ntohs(a.Port()), Addr: a.Addr().Unmap().As4()}
	return unix.SizeofSockaddrInet4
}

// ntohs swaps a port between host and network order; it is its own inverse.
func ntohs(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

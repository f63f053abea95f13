package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// viaKernel is the kernel's own TCP over routes.
type viaKernel struct {
	direct
	tidy
}

func (viaKernel) check(o Options) error { return checkCongestion(o.way().congestion) }

func (viaKernel) start(context.Context, *Lab, bool) error { return nil }

// checkCongestion tries a congestion control on a socket, which also loads its module where it is one.
func checkCongestion(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
		return fmt.Errorf("TCP congestion control %s: %w (%w)", name, ErrMissing, err)
	}
	return nil
}

// viaMPTCP is the kernel's MPTCP from end to end: the client has an address for each carrier, and opens a subflow from
// each to the origin.
type viaMPTCP struct{ viaKernel }

const mptcpEnabled = "/proc/sys/net/mptcp/enabled"

func (v viaMPTCP) check(o Options) error {
	b, err := os.ReadFile(mptcpEnabled)
	if err != nil {
		return fmt.Errorf("MPTCP: %w", ErrMissing)
	}
	if strings.TrimSpace(string(b)) == "0" {
		return fmt.Errorf("MPTCP: %w: switched off in %s", ErrMissing, mptcpEnabled)
	}
	return v.viaKernel.check(o)
}

func (viaMPTCP) start(_ context.Context, lab *Lab, _ bool) error {
	o := lab.state.Options
	extra := len(o.Carriers) - 1
	for _, m := range []string{machineClient, machineOrigin} {
		err := wan.InNamespace(o.namespace(m), func() error {
			if err := os.WriteFile(mptcpEnabled, []byte("1"), 0); err != nil {
				return err
			}
			if err := mptcpLimit(extra); err != nil || m != machineClient {
				return err
			}
			link, err := netlink.LinkByName("lan0")
			if err != nil {
				return err
			}
			for i := 1; i <= extra; i++ {
				if err := mptcpSubflow(uint8(i), extraClient(i), link.Attrs().Index); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("MPTCP on %s: %w", m, err)
		}
	}
	return nil
}

// The kernel's generic netlink interface to its path manager (include/uapi/linux/mptcp_pm.h), which "ip mptcp" speaks.
const (
	mptcpFamily    = "mptcp_pm"
	mptcpVersion   = 1
	mptcpAddAddr   = 1 // commands
	mptcpSetLimits = 5

	mptcpAttrAddr     = 1 // attributes of both
	mptcpAttrSubflows = 3

	mptcpAddrFamily  = 1 // attributes of an address
	mptcpAddrID      = 2
	mptcpAddr4       = 3
	mptcpAddrFlags   = 6
	mptcpAddrDevice  = 7
	mptcpFlagSubflow = 1 << 1 // open a subflow from here
)

// mptcpLimit lets connections have that many subflows besides their first; it runs inside the namespace.
func mptcpLimit(subflows int) error {
	return mptcpCommand(mptcpSetLimits, nl.NewRtAttr(mptcpAttrSubflows, nl.Uint32Attr(uint32(subflows))))
}

// mptcpSubflow makes connections open a subflow from an address; it runs inside the namespace.
func mptcpSubflow(id uint8, addr netip.Addr, device int) error {
	a := nl.NewRtAttr(mptcpAttrAddr|unix.NLA_F_NESTED, nil)
	a.AddRtAttr(mptcpAddrFamily, nl.Uint16Attr(unix.AF_INET))
	a.AddRtAttr(mptcpAddrID, nl.Uint8Attr(id))
	a.AddRtAttr(mptcpAddr4, net.IP(addr.AsSlice()).To4())
	a.AddRtAttr(mptcpAddrFlags, nl.Uint32Attr(mptcpFlagSubflow))
	a.AddRtAttr(mptcpAddrDevice, nl.Uint32Attr(uint32(device)))
	if err := mptcpCommand(mptcpAddAddr, a); err != nil {
		return fmt.Errorf("subflow from %v: %w", addr, err)
	}
	return nil
}

func mptcpCommand(command uint8, attr *nl.RtAttr) error {
	family, err := netlink.GenlFamilyGet(mptcpFamily)
	if err != nil {
		return fmt.Errorf("netlink family %s: %w", mptcpFamily, err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: mptcpVersion})
	req.AddData(attr)
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}

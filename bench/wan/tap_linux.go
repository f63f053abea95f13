package wan

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	tapMTU = 1500
	// tapQueue is the device's own queue in frames. The emulator empties it a few
	// thousand times a second; this much bridges a scheduling pause at 500 Mbit/s.
	tapQueue = 4096
	// tapBuffer holds a frame of tapMTU with a VLAN tag to spare. A frame that
	// fills it is a jumbo frame and dropped.
	tapBuffer = 1600
)

// tap is one TAP device. It goes away when fd is closed.
type tap struct {
	fd    int
	index int
	// namespace is the device's, "" for the caller's.
	namespace string
	nl        *netlink.Handle // in the device's namespace
}

// openTAP creates and configures the device of an end.
func openTAP(end End) (*tap, error) {
	t := &tap{fd: -1, namespace: end.Namespace}
	err := InNamespace(end.Namespace, func() error { return t.open(end) })
	if err != nil {
		t.close()
		return nil, fmt.Errorf("create TAP %q in namespace %q: %w", end.Interface, end.Namespace, err)
	}
	return t, nil
}

func (t *tap) open(end End) (err error) {
	// Non-blocking, not only for the loop: the kernel runs native XDP programs
	// and its cheap way of building packets only on such writes.
	if t.fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(end.Interface)
	if err != nil {
		return fmt.Errorf("interface name %q: %w", end.Interface, err)
	}
	// One queue, no header, no offloads: every frame comes as it would on a
	// wire, segmented and with its checksums. EXCL: never take over a device.
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(t.fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if t.nl, err = netlink.NewHandleAt(here, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	link, err := t.nl.LinkByName(end.Interface)
	if err != nil {
		return err
	}
	t.index = link.Attrs().Index
	if err := t.quieten(end); err != nil {
		return err
	}
	if end.MAC != nil {
		if err := t.nl.LinkSetHardwareAddr(link, end.MAC); err != nil {
			return fmt.Errorf("set MAC %v: %w", end.MAC, err)
		}
	}
	if err := t.nl.LinkSetMTU(link, tapMTU); err != nil {
		return fmt.Errorf("set MTU %d: %w", tapMTU, err)
	}
	if err := t.nl.LinkSetTxQLen(link, tapQueue); err != nil {
		return fmt.Errorf("set queue %d: %w", tapQueue, err)
	}
	for _, p := range end.Addresses {
		addr := &netlink.Addr{IPNet: &net.IPNet{
			IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
		}}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := t.nl.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add address %v: %w", p, err)
		}
	}
	if err := t.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	return nil
}

// quieten keeps IPv6 from talking on its own: no router solicitations, no
// duplicate address detection (an address would be unusable for a second), and
// no IPv6 at all where there is no such address.
func (t *tap) quieten(end End) error {
	v6 := false
	for _, p := range end.Addresses {
		v6 = v6 || p.Addr().Is6()
	}
	dir := "/proc/sys/net/ipv6/conf/" + end.Interface + "/"
	if _, err := os.Stat(dir); err != nil {
		return nil // a kernel without IPv6
	}
	set := map[string]string{"router_solicitations": "0", "accept_ra": "0", "accept_dad": "0", "dad_transmits": "0"}
	if !v6 {
		set = map[string]string{"disable_ipv6": "1"}
	}
	for name, value := range set {
		if err := os.WriteFile(dir+name, []byte(value), 0); err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
	}
	return nil
}

// dropped is how many frames the kernel could not queue for us.
func (t *tap) dropped() uint64 {
	link, err := t.nl.LinkByIndex(t.index)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}

func (t *tap) close() {
	if t.nl != nil {
		t.nl.Close()
		t.nl = nil
	}
	if t.fd >= 0 {
		unix.Close(t.fd)
		t.fd = -1
	}
}

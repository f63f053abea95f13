package doctor

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bpf"
)

func kernelRelease() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func openTUN() error {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return f.Close()
}

// attachTCX puts a program that decides nothing (TCX_NEXT) on the loopback interface and takes it away again.
func attachTCX() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:         ebpf.SchedCLS,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		License:      "Apache-2.0",
	})
	if err != nil {
		return err
	}
	defer prog.Close()
	const loopback = 1 // the index of lo in every network namespace
	l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: prog, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	return l.Close()
}

// loadClassifier loads the program for LAN NICs, with small tables, and unloads it.
func loadClassifier() error {
	c, err := bpf.LoadClassifier(bpf.ClassifierConfig{Config: bpf.Config{Mark: 1, MaxPrefixes: 1}, MaxFlows: 16})
	if err != nil {
		return err
	}
	return c.Close()
}

// loadCarrier loads the programs for carriers' NICs, with small tables, and unloads them.
func loadCarrier() error {
	c, err := bpf.LoadCarrier(bpf.CarrierConfig{MaxOutgoing: 16})
	if err != nil {
		return err
	}
	return c.Close()
}

// roomForXDP tells whether a NIC could take an XDP program. It tries none: some drivers take the link down for that.
func roomForXDP(nic string) error {
	l, err := netlink.LinkByName(nic)
	if err != nil {
		return nil // the check of the NIC says so
	}
	a := l.Attrs()
	if a.EncapType != "ether" {
		return fmt.Errorf("link type %q takes no XDP, which needs Ethernet", a.EncapType)
	}
	if a.Xdp != nil && a.Xdp.Attached {
		return fmt.Errorf("XDP program %d is there already, of a running node or of another", a.Xdp.ProgId)
	}
	return nil
}

func clockSynced() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, err
	}
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, nil
}

// The simple getters of ethtool (linux/ethtool.h): a command and one word of answer.
const (
	ethtoolGTXCSUM = 0x16
	ethtoolGTSO    = 0x1e
	ethtoolGGSO    = 0x23
	ethtoolGFLAGS  = 0x25
	ethtoolGGRO    = 0x2b
	ethFlagLRO     = 1 << 15
)

func ethtoolOffloads(nic string) (map[string]bool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	out := make(map[string]bool)
	var lastErr error
	for _, q := range []struct {
		name string
		cmd  uint32
		mask uint32
	}{
		{"gro", ethtoolGGRO, ^uint32(0)}, {"gso", ethtoolGGSO, ^uint32(0)}, {"tso", ethtoolGTSO, ^uint32(0)},
		{"tx-checksum", ethtoolGTXCSUM, ^uint32(0)}, {"lro", ethtoolGFLAGS, ethFlagLRO},
	} {
		v, err := ethtoolValue(fd, nic, q.cmd)
		if err != nil {
			lastErr = err
			continue
		}
		out[q.name] = v&q.mask != 0
	}
	if len(out) == 0 {
		return nil, lastErr
	}
	return out, nil
}

func ethtoolValue(fd int, nic string, cmd uint32) (uint32, error) {
	if len(nic) >= unix.IFNAMSIZ {
		return 0, errors.New("interface name too long")
	}
	value := struct{ cmd, data uint32 }{cmd: cmd}
	req := struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:], nic)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return 0, errno
	}
	return value.data, nil
}

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
	bpffeatures "github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
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

// features are in the order of the kernels that brought them.
var features = []feature{
	{"bpf_check_mtu (5.12)", haveTC(asm.FnCheckMtu), lostClassifier},
	{"bpf_redirect_neigh (5.10)", haveTC(asm.FnRedirectNeigh), lostClassifier},
	{"bpf_skc_lookup_tcp (5.2)", haveTC(asm.FnSkcLookupTcp), lostClassifier},
	{"XDP (4.8)", func() error { return bpffeatures.HaveProgramType(ebpf.XDP) }, lostReflector},
	{"bpf_csum_diff in XDP (4.16)", func() error { return bpffeatures.HaveProgramHelper(ebpf.XDP, asm.FnCsumDiff) }, lostReflector},
	{"ring buffers (5.8)", func() error { return bpffeatures.HaveMapType(ebpf.RingBuf) }, lostReflector},
	{"XDP (4.8)", func() error { return bpffeatures.HaveProgramType(ebpf.XDP) }, lostGuard},
	{"LRU hash tables (4.10)", func() error { return bpffeatures.HaveMapType(ebpf.LRUHash) }, lostGuard},
}

func haveTC(fn asm.BuiltinFunc) func() error {
	return func() error { return bpffeatures.HaveProgramHelper(ebpf.SchedCLS, fn) }
}

func haveSkAssign() error { return bpffeatures.HaveProgramHelper(ebpf.SchedCLS, asm.FnSkAssign) }

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

package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where the filters of the clsact method sit: each has a priority of its own,
// the lowest sees a packet first. The numbers are only there to be recognised: a
// later start finds and replaces what a killed process left.
const (
	filterHandle     = 1
	priorityReturn   = 0x4c41 // before the classifier: its packets are not for the rules
	priorityClassify = 0x4c42
	priorityGuard    = 0x4c42 // from here on at egress, where the order does not matter
	priorityProbe    = 0x4c43
	priorityNote     = 0x4c44
)

// clsacts are the qdiscs that this process has added: several programs share
// one, and the last to go takes it away. An entry whose NIC went away stays; at
// worst an empty qdisc of another NIC with its index goes.
var clsacts = struct {
	sync.Mutex
	ours map[clsact]bool
}{ours: make(map[clsact]bool)}

type clsact struct {
	dev, ino uint64 // of the network namespace
	index    int
}

// clsactOf names the qdisc of a NIC in the calling thread's namespace.
func clsactOf(index int) (clsact, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return clsact{}, fmt.Errorf("find network namespace: %w", err)
	}
	return clsact{uint64(st.Dev), st.Ino, index}, nil
}

func attachClsact(nic netlink.Link, prog *ebpf.Program, h hook) (*Attachment, error) {
	index := nic.Attrs().Index
	name, err := clsactOf(index)
	if err != nil {
		return nil, err
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	clsacts.Lock()
	defer clsacts.Unlock()
	if err := netlink.QdiscAdd(qdisc); err == nil {
		clsacts.ours[name] = true
	} else if !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("add clsact qdisc: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: h.parent,
			Handle: filterHandle, Priority: h.priority, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: "landbridge_" + h.name, DirectAction: true,
	}
	// Called with clsacts locked.
	removeQdisc := func() error {
		if !clsacts.ours[name] {
			return nil
		}
		// Others may have added filters since.
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			if left, err := netlink.FilterList(nic, parent); err != nil || len(left) > 0 {
				return nil
			}
		}
		delete(clsacts.ours, name)
		return netlink.QdiscDel(qdisc)
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("add tc filter: %w", err), removeQdisc())
	}
	return &Attachment{method: Clsact, close: func() error {
		clsacts.Lock()
		defer clsacts.Unlock()
		err := netlink.FilterDel(filter)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil // went with its NIC or its qdisc
		}
		return errors.Join(err, removeQdisc())
	}}, nil
}

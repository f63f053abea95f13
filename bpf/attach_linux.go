package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where the filter of the clsact method sits. The number is only there to be
// recognised: a later start finds and replaces what a killed process left.
const (
	filterPriority = 0x4c42
	filterHandle   = 1
)

// Attachment is a program on a NIC. Close may be called from any goroutine, any
// number of times; with method Clsact it acts in the network namespace of the
// calling thread.
type Attachment struct {
	method Method
	close  func() error
	once   sync.Once
	err    error
}

// Method returns how the program is attached: TCX or Clsact.
func (a *Attachment) Method() Method { return a.method }

// Close detaches the program. A NIC that is gone is no error.
func (a *Attachment) Close() error {
	a.once.Do(func() { a.err = a.close() })
	return a.err
}

// Attach puts the program on the ingress of the NIC with this index, in the
// network namespace of the calling thread.
func (p *Program) Attach(ifindex int, m Method) (*Attachment, error) {
	op := fmt.Sprintf("attach %s to interface %d", p.name, ifindex)
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, explain(op, err)
	}
	op = fmt.Sprintf("attach %s to interface %s", p.name, nic.Attrs().Name)
	prog := p.ether
	switch t := nic.Attrs().EncapType; t {
	case "ether", "loopback":
	case "none", "rawip", "ipip", "tunnel6", "sit", "gre", "ppp":
		prog = p.ip // no link-layer header in front of IP
	default:
		return nil, &Error{Op: op, Err: fmt.Errorf("link type %q: must be Ethernet or plain IP: %w", t, errors.ErrUnsupported)}
	}
	a, err := attachTC(nic, prog, m, ingress(p.name))
	return a, explain(op, err)
}

// hook is where at tc a program sits.
type hook struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32
	handle uint32 // of the filter: what shares a parent has another one
}

func ingress(name string) hook {
	return hook{name, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS, filterHandle}
}

func egress(name string, n uint32) hook {
	return hook{name, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS, filterHandle + n}
}

func attachTC(nic netlink.Link, prog *ebpf.Program, m Method, h hook) (*Attachment, error) {
	if m != Clsact {
		l, err := link.AttachTCX(link.TCXOptions{Interface: nic.Attrs().Index, Program: prog, Attach: h.tcx})
		if err == nil {
			return &Attachment{method: TCX, close: l.Close}, nil
		}
		if m == TCX || !errors.Is(err, ebpf.ErrNotSupported) {
			return nil, err
		}
	}
	return attachClsact(nic, prog, h)
}

func attachClsact(nic netlink.Link, prog *ebpf.Program, h hook) (*Attachment, error) {
	index := nic.Attrs().Index
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	created := true
	if err := netlink.QdiscAdd(qdisc); errors.Is(err, os.ErrExist) {
		created = false
	} else if err != nil {
		return nil, fmt.Errorf("add clsact qdisc: %w", err)
	}
	filter := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: h.parent,
			Handle: h.handle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: prog.FD(), Name: "landbridge_" + h.name, DirectAction: true,
	}
	removeQdisc := func() error {
		if !created {
			return nil
		}
		// Others may have added filters since.
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			if left, err := netlink.FilterList(nic, parent); err != nil || len(left) > 0 {
				return nil
			}
		}
		return netlink.QdiscDel(qdisc)
	}
	if err := netlink.FilterReplace(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("add tc filter: %w", err), removeQdisc())
	}
	return &Attachment{method: Clsact, close: func() error {
		err := netlink.FilterDel(filter)
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil // went with its NIC or its qdisc
		}
		return errors.Join(err, removeQdisc())
	}}, nil
}

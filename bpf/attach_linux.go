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

// Where the filters of the clsact method sit: each has a priority of its own,
// the lowest sees a packet first. The numbers are only there to be recognised: a
// later start finds and replaces what a killed process left.
const (
	filterHandle     = 1
	priorityFirst    = 0x4c41 // the return program: answers are not for the rules
	priorityClassify = 0x4c42
	priorityGuard    = 0x4c42 // from here on at egress, where the order is all the same
	priorityProbe    = 0x4c43
	priorityNote     = 0x4c44
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
	return p.attach(ifindex, m, ingress(p.name, p.priority), p.ether, p.ip)
}

// attach puts the one of two programs on a NIC that its link type is for.
func (p *Program) attach(ifindex int, m Method, h hook, ether, ip *ebpf.Program) (*Attachment, error) {
	op := fmt.Sprintf("attach %s to interface %d", h.name, ifindex)
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, explain(op, err)
	}
	op = fmt.Sprintf("attach %s to interface %s", h.name, nic.Attrs().Name)
	prog := ether
	switch t := nic.Attrs().EncapType; t {
	case "ether", "loopback":
	case "none", "rawip", "ipip", "tunnel6", "sit", "gre", "ppp":
		prog = ip // no link-layer header in front of IP
	default:
		return nil, &Error{Op: op, Err: fmt.Errorf("link type %q: must be Ethernet or plain IP: %w", t, errors.ErrUnsupported)}
	}
	a, err := attachTC(nic, prog, m, h)
	return a, explain(op, err)
}

// Attach puts the classifier on a NIC, as that of [Program], and at its egress
// what tells answers from flows that begin here.
func (c *Classifier) Attach(ifindex int, m Method) (*Attachment, error) {
	// What goes out is noted before its answers are judged.
	out, err := c.attach(ifindex, m, egress("note", priorityNote), c.noteEther, c.noteIP)
	if err != nil {
		return nil, err
	}
	in, err := c.Program.Attach(ifindex, m)
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return &Attachment{method: in.method, close: func() error { return errors.Join(in.Close(), out.Close()) }}, nil
}

// hook is where at tc a program sits.
type hook struct {
	name   string
	tcx    ebpf.AttachType
	parent uint32
	// priority is that of the filter: what shares a parent has another one.
	priority uint16
}

func ingress(name string, priority uint16) hook {
	return hook{name, ebpf.AttachTCXIngress, netlink.HANDLE_MIN_INGRESS, priority}
}

func egress(name string, priority uint16) hook {
	return hook{name, ebpf.AttachTCXEgress, netlink.HANDLE_MIN_EGRESS, priority}
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
			Handle: filterHandle, Priority: h.priority, Protocol: unix.ETH_P_ALL,
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

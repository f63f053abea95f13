package bpf

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
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

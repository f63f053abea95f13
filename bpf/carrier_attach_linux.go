package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// XDPMode is where on a NIC the programs run.
type XDPMode uint8

// The modes.
const (
	XDPAuto    XDPMode = iota // XDPDriver, or XDPGeneric where the driver cannot
	XDPDriver                 // in the driver, before the kernel has a packet
	XDPGeneric                // behind it: works everywhere, later and dearer
)

// String returns the mode's name.
func (m XDPMode) String() string {
	switch m {
	case XDPDriver:
		return "driver"
	case XDPGeneric:
		return "generic"
	}
	return "auto"
}

// CarrierAttachment is reflector and guard on a NIC. Close is as that of
// [Attachment].
type CarrierAttachment struct {
	mode   XDPMode
	xdp    link.Link
	egress []*Attachment
}

// Mode returns where the programs run: XDPDriver or XDPGeneric.
func (a *CarrierAttachment) Mode() XDPMode { return a.mode }

// Close detaches.
func (a *CarrierAttachment) Close() error {
	var errs []error
	if a.xdp != nil {
		errs = append(errs, a.xdp.Close())
		a.xdp = nil
	}
	for _, e := range a.egress {
		errs = append(errs, e.Close())
	}
	return errors.Join(errs...)
}

// Attach puts reflector and guard on the NIC with this index, in the network
// namespace of the calling thread: XDP for what comes in, tc for what goes out.
// It needs a NIC with Ethernet headers and no other XDP program.
func (c *Carrier) Attach(ifindex int, mode XDPMode, m Method) (_ *CarrierAttachment, err error) {
	op := fmt.Sprintf("attach carrier programs to interface %d", ifindex)
	nic, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return nil, explain(op, err)
	}
	op = fmt.Sprintf("attach carrier programs to interface %s", nic.Attrs().Name)
	if t := nic.Attrs().EncapType; t != "ether" {
		return nil, &Error{Op: op, Err: fmt.Errorf("link type %q: must be Ethernet: %w", t, errors.ErrUnsupported),
			Advice: "probes are reflected in user space there, and nothing guards the NIC"}
	}
	a := &CarrierAttachment{}
	defer func() {
		if err != nil {
			err = explain(op, errors.Join(err, a.Close()))
		}
	}()
	// What goes out is noted before what comes in is judged.
	for _, p := range []struct {
		prog *ebpf.Program
		at   hook
	}{{c.guardEgress, egress("guard_egress", priorityGuard)}, {c.probeEgress, egress("probe_egress", priorityProbe)}} {
		e, err := attachTC(nic, p.prog, m, p.at)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.at.name, err)
		}
		a.egress = append(a.egress, e)
	}
	if mode != XDPGeneric {
		a.xdp, err = link.AttachXDP(link.XDPOptions{Program: c.reflector, Interface: ifindex, Flags: link.XDPDriverMode})
		if err == nil {
			a.mode = XDPDriver
			return a, nil
		}
		if mode == XDPDriver {
			return nil, err
		}
	}
	a.xdp, err = link.AttachXDP(link.XDPOptions{Program: c.reflector, Interface: ifindex, Flags: link.XDPGenericMode})
	a.mode = XDPGeneric
	return a, err
}

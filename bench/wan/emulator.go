package wan

import (
	"errors"
	"net"
	"net/netip"
)

// ErrUnsupported is returned by the emulator where there are no TAP devices.
var ErrUnsupported = errors.New("TAP links need Linux")

// ErrNamespace is wrapped by errors about a network namespace's name or state.
var ErrNamespace = errors.New("network namespace")

// End is one end of an emulated link: a TAP device to be created.
type End struct {
	Namespace string           `json:"namespace"` // under /run/netns; "" = the caller's
	Interface string           `json:"interface"`
	MAC       net.HardwareAddr `json:"mac,omitempty"` // nil = the kernel's choice
	Addresses []netip.Prefix   `json:"addresses,omitempty"`
}

// LinkConfig is one emulated link between two namespaces.
type LinkConfig struct {
	Name string     `json:"name"`
	A    End        `json:"a"`
	B    End        `json:"b"`
	AtoB Impairment `json:"a_to_b"`
	BtoA Impairment `json:"b_to_a"`
}

// WayStats are the counters of one direction of an emulated link.
type WayStats struct {
	Counters
	// DeviceDrops are frames that the kernel dropped because the emulator read
	// the device too late: not part of the model. Not 0 = the machine is
	// overloaded and the run measures that.
	DeviceDrops uint64 `json:"device_drops"`
	// WriteErrors are frames that the far device refused: it is down or gone.
	WriteErrors uint64 `json:"write_errors"`
}

// LinkStats are the counters of an emulated link.
type LinkStats struct {
	Name string   `json:"name"`
	AtoB WayStats `json:"a_to_b"`
	BtoA WayStats `json:"b_to_a"`
}

// outsideModel reports whether a frame is neighbour discovery or other traffic
// of the segment itself: ARP and whatever else is not IP, multicast (MLD,
// router solicitation), ICMPv6 neighbour discovery. On a real carrier link these
// end at the local router and never cross the WAN. Lost ones would make the
// kernel declare the peer unreachable for seconds, which no carrier does, so
// they take the delay and nothing else.
func outsideModel(frame []byte) bool {
	if len(frame) < ethernetHeader || frame[0]&1 != 0 {
		return true
	}
	switch uint16(frame[12])<<8 | uint16(frame[13]) {
	case 0x0800:
		return false
	case 0x86dd:
		const nextHeader, icmpType = ethernetHeader + 6, ethernetHeader + 40
		return len(frame) > icmpType && frame[nextHeader] == 58 && frame[icmpType] >= 133 && frame[icmpType] <= 137
	}
	return true
}

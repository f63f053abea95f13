package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/landbridge/landbridge/internal/hint"
)

// ErrLocal marks a configuration that is valid but not for this machine.
var ErrLocal = errors.New("configuration does not fit this machine")

// Interface is a network interface of this machine.
type Interface struct {
	Name  string
	Up    bool
	Addrs []netip.Prefix // addresses with the length of their networks
}

// SystemInterfaces lists the interfaces of the current network namespace.
func SystemInterfaces() ([]Interface, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Interface
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away between the two calls
		}
		ifc := Interface{Name: i.Name, Up: i.Flags&net.FlagUp != 0}
		for _, a := range addrs {
			ipn, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(ipn.IP)
			if !ok {
				continue
			}
			ones, bits := ipn.Mask.Size()
			if ip = ip.Unmap(); bits == 128 && ip.Is4() {
				ones -= 96
			}
			ifc.Addrs = append(ifc.Addrs, netip.PrefixFrom(ip, ones))
		}
		out = append(out, ifc)
	}
	return out, nil
}

// CheckLocal reports, for the start of a node, which of its interfaces and addresses this machine does not have. All
// findings are joined; each satisfies errors.Is(err, ErrLocal) and carries a hint. A link that is down is not an
// error: it may come up, and until then its paths are down.
func CheckLocal(n *NodeConfig, local []Interface) error {
	var errs []error
	find := func(name string) *Interface {
		for i := range local {
			if local[i].Name == name {
				return &local[i]
			}
		}
		return nil
	}
	missing := func(what, name string) {
		var names []string
		for _, i := range local {
			names = append(names, i.Name)
		}
		errs = append(errs, hint.With(fmt.Errorf("%w: %s: there is no interface %s", ErrLocal, what, name), "this machine has %s", join(names)))
	}
	for _, u := range n.Uplinks {
		ifc := find(u.Interface)
		if ifc == nil {
			missing("uplink "+u.Name, u.Interface)
			continue
		}
		a := u.Address.Addr()
		if !a.IsValid() || slices.ContainsFunc(ifc.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			continue
		}
		advice := ""
		for _, i := range local {
			for _, p := range i.Addrs {
				if p.Addr() == a {
					advice = fmt.Sprintf("%s is on interface %s", a, i.Name)
				}
			}
		}
		if advice == "" && len(ifc.Addrs) == 0 {
			advice = fmt.Sprintf("%s has no address", ifc.Name)
		} else if advice == "" {
			var have []string
			for _, p := range ifc.Addrs {
				have = append(have, p.Addr().String())
			}
			advice = fmt.Sprintf("%s has %s", ifc.Name, join(have))
		}
		errs = append(errs, hint.With(fmt.Errorf("%w: uplink %s: %s is no address of interface %s", ErrLocal, u.Name, a, u.Interface), "%s", advice))
	}
	for _, name := range n.LAN {
		if find(name) == nil {
			missing("lan", name)
		}
	}
	return errors.Join(errs...)
}

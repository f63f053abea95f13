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

// CheckLocal compares a node's interfaces and addresses with this machine's. err is what its start fails for; late are
// uplinks whose interface is not there, or has no address yet, and LAN interfaces that are not there, beside others that can
// be used: the node starts without them and takes them when they are. All findings are joined; each satisfies
// errors.Is(err, ErrLocal) and carries a hint. A link that is down is no finding: until it is up its paths are down.
func CheckLocal(n *NodeConfig, local []Interface) (late, err error) {
	var waits, errs []error
	find := func(name string) *Interface {
		for i := range local {
			if local[i].Name == name {
				return &local[i]
			}
		}
		return nil
	}
	missing := func(what, name string) error {
		var names []string
		for _, i := range local {
			names = append(names, i.Name)
		}
		return hint.With(fmt.Errorf("%w: %s: there is no interface %s", ErrLocal, what, name), "this machine has %s", join(names))
	}
	for _, u := range n.Uplinks {
		ifc := find(u.Interface)
		if ifc == nil {
			waits = append(waits, missing("uplink "+u.Name, u.Interface))
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
		var have []string
		for _, p := range ifc.Addrs {
			if !p.Addr().IsLinkLocalUnicast() { // a link has those by itself
				have = append(have, p.Addr().String())
			}
		}
		found := &errs
		if advice == "" && have == nil {
			advice, found = fmt.Sprintf("%s has no address", ifc.Name), &waits
		} else if advice == "" {
			advice = fmt.Sprintf("%s has %s", ifc.Name, join(have))
		}
		*found = append(*found, hint.With(fmt.Errorf("%w: uplink %s: %s is no address of interface %s", ErrLocal, u.Name, a, u.Interface), "%s", advice))
	}
	if len(waits) == len(n.Uplinks) { // nothing to begin with
		waits, errs = nil, append(waits, errs...)
	}
	var lans []error
	for _, name := range n.LAN {
		if find(name) == nil {
			lans = append(lans, missing("lan", name))
		}
	}
	if len(lans) < len(n.LAN) {
		waits = append(waits, lans...)
	} else {
		errs = append(errs, lans...)
	}
	return errors.Join(waits...), errors.Join(errs...)
}

package config

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/landbridge/landbridge/internal/identity"
)

const (
	// maxName keeps names usable as metric labels, file names and DNS labels.
	maxName = 63
	// maxInterface is IFNAMSIZ less the terminating zero.
	maxInterface = 15
)

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

// checkName holds names to what is safe in paths, labels and terminals. In particular '/' joins tenant and site.
func (p *problems) checkName(where position, what, s string) bool {
	switch {
	case s == "":
		p.add(where, "", "%s: empty name", what)
	case len(s) > maxName:
		p.add(where, "", "%s: name of %d characters, the limit is %d", shorten(what), len(s), maxName)
	case strings.Trim(s, nameChars) != "" || strings.ContainsAny(s[:1], "_-."):
		p.add(where, "use letters, digits, '_', '-' and '.', beginning with a letter or digit", "%s: %q is no valid name", shorten(what), s)
	default:
		return true
	}
	return false
}

func shorten(s string) string {
	if len(s) > 2*maxName {
		return s[:2*maxName] + "..."
	}
	return s
}

func (p *problems) name(n ast.Node, what string) (string, bool) {
	s, ok := p.text(n, what)
	if !ok || !p.checkName(at(n), what, s) {
		return "", false
	}
	return s, true
}

func (p *problems) interfaceName(n ast.Node, what string) string {
	s, ok := p.text(n, what+": interface")
	if !ok {
		return ""
	}
	// The kernel's own rule (dev_valid_name), and no control characters on our terminal.
	bad := len(s) > maxInterface || s == "." || s == ".."
	for _, c := range s {
		bad = bad || c <= ' ' || c >= 0x7f || c == '/' || c == ':'
	}
	if bad {
		p.add(at(n), "", "%s: %q is no valid interface name (1 to %d characters without blanks, '/' and ':')", what, s, maxInterface)
		return ""
	}
	return s
}

func (p *problems) interfaces(n ast.Node, what string) (out []string) {
	seen := make(map[string]bool)
	p.sequence(n, what, MaxLAN, func(n ast.Node) {
		s := p.interfaceName(n, what)
		if s != "" && seen[s] {
			p.add(at(n), "", "%s: %q is listed twice", what, s)
		} else if s != "" {
			seen[s] = true
			out = append(out, s)
		}
	})
	return out
}

func (p *problems) publicKey(n ast.Node, what string) identity.PublicKey {
	s, ok := p.text(n, what+": public_key")
	if !ok {
		return identity.PublicKey{}
	}
	k, err := identity.ParsePublicKey(s)
	if err != nil {
		p.add(at(n), "landbridge keygen prints it", "%s: %v", what, err)
	}
	return k
}

func (p *problems) rate(n ast.Node, what string) Rate {
	s, ok := p.text(n, what+": rate")
	if !ok {
		return 0
	}
	r, err := ParseRate(s)
	if err != nil {
		p.add(at(n), "", "%s: %v", what, err)
	}
	return r
}

// address reads ip:port. Without fixed, a bare IP and port 0 are allowed and mean any port.
func (p *problems) address(n ast.Node, what string, fixed bool) netip.AddrPort {
	if _, list := n.(*ast.SequenceNode); list {
		p.add(at(n), `quote an IPv6 address: "[2001:db8::1]:4500"`, "%s: address: found a list, want ip:port", what)
		return netip.AddrPort{}
	}
	s, ok := p.text(n, what+": address")
	if !ok {
		return netip.AddrPort{}
	}
	ap, err := parseAddrPort(s, fixed)
	if err != nil {
		p.add(at(n), "", "%s: address %v", what, err)
	}
	return ap
}

func parseAddrPort(s string, fixed bool) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil || fixed {
			return netip.AddrPort{}, fmt.Errorf("%q: want ip:port, such as 192.0.2.1:4500", s)
		}
		ap = netip.AddrPortFrom(a, 0)
	}
	a := ap.Addr()
	switch {
	case fixed && ap.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("%q: port 0, want 1 to 65535", s)
	case a.Is4In6():
		return netip.AddrPort{}, fmt.Errorf("%q: write the IPv4 address as %s", s, a.Unmap())
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.AddrPort{}, fmt.Errorf("%q: want the address of one interface", s)
	case a.IsLinkLocalUnicast(), a.Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("%q: a link-local address reaches no other network", s)
	}
	return ap, nil
}

// listenAddress reads host:port of a local service; the host may be a name, an address or empty.
func (p *problems) listenAddress(n ast.Node, what string) string {
	s, ok := p.text(n, what)
	if !ok {
		return ""
	}
	host, port, found := cutLast(s, ":")
	num, err := strconv.ParseUint(port, 10, 16)
	if !found || err != nil || num == 0 {
		p.add(at(n), "", "%s: %q: want ip:port, such as 127.0.0.1:1080", what, s)
		return ""
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil {
		p.add(at(n), "", "%s: %q: want the IP address to listen on, such as 127.0.0.1:%s", what, s, port)
		return ""
	}
	return s
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (p *problems) prefixes(n ast.Node, what string) (out []netip.Prefix, pos []position) {
	p.sequence(n, what+": prefixes", MaxPrefixes, func(n ast.Node) {
		s, ok := p.text(n, what+": prefix")
		if !ok {
			return
		}
		pfx, hint, err := parsePrefix(s)
		if err != nil {
			p.add(at(n), hint, "%s: prefix %v", what, err)
			return
		}
		out, pos = append(out, pfx), append(pos, at(n))
	})
	return out, pos
}

func parsePrefix(s string) (pfx netip.Prefix, hint string, err error) {
	pfx, err = netip.ParsePrefix(s)
	if err != nil {
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			return pfx, fmt.Sprintf("for a single host write %s/%d", a, a.BitLen()), fmt.Errorf("%q has no length", s)
		}
		return pfx, "", fmt.Errorf("%q: want an IPv4 or IPv6 prefix, such as 10.10.0.0/24", s)
	}
	a := pfx.Addr()
	switch {
	case a.Is4In6():
		return pfx, "", fmt.Errorf("%q: write it as an IPv4 prefix", s)
	case pfx.Masked() != pfx:
		return pfx, fmt.Sprintf("write %s", pfx.Masked()), fmt.Errorf("%q has bits set beyond its length", s)
	case a.IsMulticast(), a.IsLoopback(), a.IsLinkLocalUnicast():
		return pfx, "", fmt.Errorf("%q cannot be routed", s)
	}
	return pfx, "", nil
}

package config

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// Marshal writes the document as Parse reads it, in one canonical form: all paths spelled out, comments gone.
func (f *Fleet) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "regions: %s\ngateways:\n", flow(f.Regions))
	for _, g := range f.Gateways {
		fmt.Fprintf(&b, "  %s:\n    region: %s\n    public_key: %s\n", quoteYAML(g.Name), quoteYAML(g.Region), quoteYAML(g.PublicKey.String()))
		writeUplinks(&b, "    ", "carriers", g.Carriers)
		writeUplinks(&b, "    ", "access", g.Access)
		if g.LAN != nil {
			fmt.Fprintf(&b, "    lan: %s\n", flow(g.LAN))
		}
		if g.PreserveSource {
			b.WriteString("    exit: {preserve_source: true}\n")
		}
		if g.Guard != nil {
			b.WriteString(marshalGuard(g.Guard, "    "))
		}
	}
	for i, br := range f.Borders {
		if i == 0 {
			b.WriteString("borders:\n")
		}
		var paths []string
		for _, pr := range br.Paths {
			paths = append(paths, pr[0]+"-"+pr[1])
		}
		fmt.Fprintf(&b, "  - between: %s\n    paths: %s\n", flow(br.Between[:]), flow(paths))
	}
	for i, t := range f.Tenants {
		if i == 0 {
			b.WriteString("tenants:\n")
		}
		fmt.Fprintf(&b, "  %s:\n    cross_border: %t\n", quoteYAML(t.Name), t.CrossBorder)
		for j, s := range t.Sites {
			if j == 0 {
				b.WriteString("    sites:\n")
			}
			fmt.Fprintf(&b, "      %s:\n        at: %s\n", quoteYAML(s.Name), quoteYAML(s.At))
			writePrefixes(&b, "        ", s.Prefixes)
			if !s.PublicKey.IsZero() {
				fmt.Fprintf(&b, "        public_key: %s\n", quoteYAML(s.PublicKey.String()))
			}
		}
		writeRules(&b, "    ", t.Rules)
	}
	writeRules(&b, "", f.Rules)
	b.WriteString(marshalClasses(&f.Policy) + marshalMarks(&f.Marks))
	if !f.Guard.isDefault() {
		b.WriteString(marshalGuard(&f.Guard, ""))
	}
	return b.Bytes()
}

// Marshal writes the file as ParseAgent reads it, in one canonical form.
func (a *Agent) Marshal() []byte {
	var b bytes.Buffer
	if a.Name != "" {
		fmt.Fprintf(&b, "node: %s\n", quoteYAML(a.Name))
	}
	fmt.Fprintf(&b, "tenant: %s\nsite: %s\nkey: %s\n", quoteYAML(a.Tenant), quoteYAML(a.Site), quoteYAML(a.Key))
	fmt.Fprintf(&b, "gateway:\n  name: %s\n  public_key: %s\n  addresses:\n", quoteYAML(a.Gateway.Name), quoteYAML(a.Gateway.PublicKey.String()))
	for _, ap := range a.Gateway.Addresses {
		fmt.Fprintf(&b, "    - %s\n", quoteYAML(ap.String()))
	}
	writeUplinks(&b, "", "uplinks", a.Uplinks)
	var paths []string
	for _, pr := range a.Paths {
		paths = append(paths, pr[0]+"-"+pr[1])
	}
	if paths != nil {
		fmt.Fprintf(&b, "paths: %s\n", flow(paths))
	}
	if a.LAN != nil {
		fmt.Fprintf(&b, "lan: %s\n", flow(a.LAN))
	}
	if a.Prefixes != nil {
		writePrefixes(&b, "", a.Prefixes)
	}
	if a.SOCKS5 != "" {
		fmt.Fprintf(&b, "socks5: %s\n", quoteYAML(a.SOCKS5))
	}
	if a.HTTPConnect != "" {
		fmt.Fprintf(&b, "http_connect: %s\n", quoteYAML(a.HTTPConnect))
	}
	if a.PreserveSource {
		b.WriteString("exit: {preserve_source: true}\n")
	}
	writeRules(&b, "", a.Rules)
	b.WriteString(marshalClasses(&a.Policy) + marshalMarks(&a.Marks))
	if !a.Guard.isDefault() {
		b.WriteString(marshalGuard(&a.Guard, ""))
	}
	return b.Bytes()
}

func writeUplinks(b *bytes.Buffer, indent, key string, us []*Uplink) {
	for i, u := range us {
		if i == 0 {
			fmt.Fprintf(b, "%s%s:\n", indent, key)
		}
		fmt.Fprintf(b, "%s  %s: {interface: %s", indent, quoteYAML(u.Name), quoteYAML(u.Interface))
		if u.Address.IsValid() {
			fmt.Fprintf(b, ", address: %s", quoteYAML(u.Address.String()))
		}
		if u.Rate != 0 {
			fmt.Fprintf(b, ", rate: %s", quoteYAML(u.Rate.String()))
		}
		if u.Direct != DirectRedirect {
			fmt.Fprintf(b, ", direct: %v", u.Direct)
		}
		b.WriteString("}\n")
	}
}

func writeRules(b *bytes.Buffer, indent string, rules []*Rule) {
	for i, r := range rules {
		if i == 0 {
			fmt.Fprintf(b, "%srules:\n", indent)
		}
		fmt.Fprintf(b, "%s  - %s\n", indent, r)
	}
}

func writePrefixes(b *bytes.Buffer, indent string, ps []netip.Prefix) {
	fmt.Fprintf(b, "%sprefixes:\n", indent)
	for _, p := range ps {
		fmt.Fprintf(b, "%s  - %s\n", indent, quoteYAML(p.String()))
	}
}

// flow writes a list on one line.
func flow(ss []string) string {
	q := make([]string, len(ss))
	for i, s := range ss {
		q[i] = quoteYAML(s)
	}
	return "[" + strings.Join(q, ", ") + "]"
}

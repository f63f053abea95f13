package lab

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/landbridge/landbridge/internal/identity"
)

// File names in a lab's state directory.
const (
	fleetFile  = "fleet.yaml"
	agentFile  = "agent.yaml"
	stateFile  = "lab.json"
	linksFile  = "links.json"
	keySuffix  = ".key"
	logSuffix  = ".log"
	sockSuffix = ".sock"
)

// keys are the public keys of a lab's nodes; the private ones are in files.
type keys map[string]identity.PublicKey

// writeDocuments makes keys, the fleet document and the agent's file in dir.
func writeDocuments(dir string, o Options) error {
	nodes := []string{machineSha, machineFra}
	if !o.NoAgent {
		nodes = append(nodes, machineAgent)
	}
	pub := make(keys)
	for _, n := range nodes {
		k, err := identity.Generate()
		if err != nil {
			return fmt.Errorf("key of %s: %w", n, err)
		}
		if err := k.Save(filepath.Join(dir, n+keySuffix)); err != nil {
			return fmt.Errorf("key of %s: %w", n, err)
		}
		pub[n] = k.Public()
	}
	files := map[string]string{fleetFile: fleetDocument(o, pub)}
	if !o.NoAgent {
		files[agentFile] = agentDocument(pub)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// fleetDocument is the document both gateways run from.
func fleetDocument(o Options, pub keys) string {
	var b strings.Builder
	b.WriteString("# made by \"landbridge lab\"\nregions: [cn, eu]\ngateways:\n")
	var paths []string
	for side, g := range []struct{ name, region string }{{machineSha, "cn"}, {machineFra, "eu"}} {
		fmt.Fprintf(&b, "  %s:\n    region: %s\n    public_key: %s\n    carriers:\n", g.name, g.region, pub[g.name])
		for i, c := range carriers {
			if slices.Contains(o.Carriers, c) {
				fmt.Fprintf(&b, "      %s: {interface: %s0, address: %s}\n", c, c, bondAddr(carrierAddr(i, side+1)))
				if side == 0 {
					paths = append(paths, c+"-"+c)
				}
			}
		}
		switch {
		case g.name == machineSha && !o.NoAgent:
			b.WriteString("    access:\n")
			for i, a := range accessLinks {
				fmt.Fprintf(&b, "      %s: {interface: %s, address: %s}\n", a, a, bondAddr(accessAddr(i, 1)))
			}
		default:
			b.WriteString("    lan: [lan0]\n")
		}
	}
	fmt.Fprintf(&b, "borders:\n  - between: [sha, fra]\n    paths: [%s]\n", strings.Join(paths, ", "))
	b.WriteString("tenants:\n  acme:\n    cross_border: true\n    sites:\n")
	clients, origins := prefixes(clientAddr, clientAddr6), prefixes(originAddr, originAddr6)
	if o.NoAgent {
		fmt.Fprintf(&b, "      hq: {at: sha, prefixes: [%s]}\n", clients)
	} else {
		fmt.Fprintf(&b, "      plant: {at: sha, prefixes: [%s], public_key: %s}\n", clients, pub[machineAgent])
	}
	fmt.Fprintf(&b, "      fra: {at: fra, prefixes: [%s]}\n", origins)
	b.WriteString("    rules:\n")
	if o.opposed {
		fmt.Fprintf(&b, "      - {name: quick, protocol: udp, ports: %d, class: interactive, action: direct}\n", quickPort)
	}
	fmt.Fprintf(&b, "      - {name: calls, protocol: udp, ports: %d-%d, class: realtime, action: direct}\n", callPort, lastCallPort)
	if o.opposed {
		const quick = "dwell: 1s, hysteresis: 0, margin: 0s"
		fmt.Fprintf(&b, "classes:\n  realtime: {loss_weight: 3, delay_weight: 0, %s}\n  interactive: {loss_weight: 0, %s}\n", quick, quick)
	}
	if o.Guard != "" {
		fmt.Fprintf(&b, "guard: {mode: %q}\n", o.Guard)
	}
	return b.String()
}

// agentDocument is the site agent's own file.
func agentDocument(pub keys) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# made by \"landbridge lab\"\ntenant: acme\nsite: plant\nkey: %s\ngateway:\n  name: sha\n  public_key: %s\n  addresses:\n",
		machineAgent+keySuffix, pub[machineSha])
	for i := range accessLinks {
		fmt.Fprintf(&b, "    - %s\n", bondAddr(accessAddr(i, 1)))
	}
	b.WriteString("uplinks:\n")
	for i, a := range accessLinks {
		fmt.Fprintf(&b, "  %s: {interface: %s, address: %s}\n", a, a, bondAddr(accessAddr(i, 2)))
	}
	fmt.Fprintf(&b, "lan: [lan0]\nprefixes: [%s]\n", prefixes(clientAddr, clientAddr6))
	return b.String()
}

func bondAddr(p netip.Prefix) netip.AddrPort { return netip.AddrPortFrom(p.Addr(), bondPort) }

func prefixes(ps ...netip.Prefix) string {
	var s []string
	for _, p := range ps {
		s = append(s, strconv.Quote(p.Masked().String())) // quoted: YAML readers differ about the colons of IPv6
	}
	return strings.Join(s, ", ")
}

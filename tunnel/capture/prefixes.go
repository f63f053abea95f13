package capture

import (
	"fmt"
	"net/netip"

	"github.com/landbridge/landbridge/bpf"
)

// actions says what to do with each prefix. Excluded prefixes drain rather than
// pass: a connection that was captured before the prefix was excluded goes on,
// and so does one to a prefix of old that is not captured any more, as long as
// inUse says that there are such connections.
func actions(captured, excluded []netip.Prefix, old map[netip.Prefix]bpf.Action, inUse func(netip.Prefix) bool) (map[netip.Prefix]bpf.Action, error) {
	set := make(map[netip.Prefix]bpf.Action, len(captured)+len(excluded))
	for _, p := range captured {
		q, err := cleanPrefix(p)
		if err != nil {
			return nil, fmt.Errorf("captured prefix: %w", err)
		}
		set[q] = bpf.Capture
	}
	for _, p := range excluded {
		q, err := cleanPrefix(p)
		if err != nil {
			return nil, fmt.Errorf("excluded prefix: %w", err)
		}
		set[q] = bpf.Drain
	}
	drain := make([]netip.Prefix, 0)
	for p := range old {
		if _, ok := set[p]; !ok && !coveredByCapture(p, set) && inUse(p) {
			drain = append(drain, p)
		}
	}
	for _, p := range drain {
		set[p] = bpf.Drain
	}
	return set, nil
}

// cleanPrefix refuses what would not mean what it says.
func cleanPrefix(p netip.Prefix) (netip.Prefix, error) {
	switch {
	case !p.IsValid():
		return p, fmt.Errorf("%v: not a valid prefix", p)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%v: write IPv4 prefixes as IPv4", p)
	case p != p.Masked():
		return p, fmt.Errorf("%v: bits set beyond the length, meant %v?", p, p.Masked())
	}
	return p, nil
}

// coveredByCapture says whether the longest prefix in set around p captures.
func coveredByCapture(p netip.Prefix, set map[netip.Prefix]bpf.Action) bool {
	for bits := p.Bits(); bits >= 0; bits-- {
		if a, ok := set[netip.PrefixFrom(p.Addr(), bits).Masked()]; ok {
			return a == bpf.Capture
		}
	}
	return false
}

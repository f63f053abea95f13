package node

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/landbridge/landbridge/internal/admin"
)

// TestProbesToMovingAgent: a gateway measures the paths to its agents and decides which they use, and goes on after an
// agent's address has moved.
func TestProbesToMovingAgent(t *testing.T) {
	m := newMachines(t)
	m.write("agent.yaml", strings.Replace(m.agent(), "address: 10.2.1.2, ", "", 1))
	m.gateway("sha")
	m.site()
	measured := func(from string) func() error {
		return func() error {
			c := admin.NewClient(m.file("sha.sock"))
			defer c.Close()
			st, err := c.Fetch(t.Context())
			if err != nil {
				return err
			}
			for _, p := range st.Peers {
				if p.Name == "acme/plant" && (len(p.Paths) != 1 || !strings.HasPrefix(p.Paths[0].Remote, from+":")) {
					return fmt.Errorf("%+v, want one path to %s", p.Paths, from)
				}
			}
			paths, err := c.Paths(t.Context())
			if err != nil {
				return err
			}
			for _, p := range paths.Peers {
				if p.Name != "acme/plant" || len(p.Paths) != 1 {
					continue
				}
				if e := p.Paths[0]; e.State != admin.PathUp || e.FreshMs > 500 || e.RTT.Median <= 0 || e.Out.Packets < 20 || e.Back.Packets < 20 {
					return fmt.Errorf("path %+v, want it up, measured and fresh", e)
				}
				for _, ch := range p.Classes {
					if ch.Path == "" {
						return fmt.Errorf("nothing decided: %+v", ch)
					}
				}
				return nil
			}
			return fmt.Errorf("no paths to acme/plant: %+v", paths.Peers)
		}
	}
	eventually(t, testTimeout, measured("10.2.1.2"))
	m.in("plant", func() error {
		nic, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		old, err := netlink.ParseAddr("10.2.1.2/24")
		if err != nil {
			return err
		}
		moved, err := netlink.ParseAddr("10.2.1.3/24")
		if err != nil {
			return err
		}
		return errors.Join(netlink.AddrDel(nic, old), netlink.AddrAdd(nic, moved))
	})
	eventually(t, testTimeout, measured("10.2.1.3"))
}

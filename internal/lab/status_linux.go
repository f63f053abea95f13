package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
)

// nodes are the tunnel's nodes in this lab.
func (lab *Lab) nodes() []string {
	if lab.state.Options.Via != ViaLandbridge {
		return nil
	}
	if lab.state.Options.NoAgent {
		return []string{machineSha, machineFra}
	}
	return []string{machineAgent, machineSha, machineFra}
}

func (lab *Lab) fetch(ctx context.Context, node string) (admin.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return admin.Fetch(ctx, lab.socket(node))
}

// waitWarm waits until every node says that its peers and paths are up and its lanes warm, and returns what was still
// missing when the time was up.
func (lab *Lab) waitWarm(ctx context.Context, limit time.Duration) (missing string, err error) {
	for end := time.Now().Add(limit); ; {
		missing = ""
		for _, node := range lab.nodes() {
			st, err := lab.fetch(ctx, node)
			if err != nil {
				missing = node + ": " + err.Error()
			} else if cold := coldness(st); cold != "" {
				missing = node + ": " + cold
			}
			if missing != "" {
				break
			}
		}
		if missing == "" {
			return "", nil
		}
		if dead := lab.alive(); dead != nil {
			return missing, dead
		}
		if time.Now().After(end) {
			return missing, nil
		}
		if err := sleep(ctx, warmPoll); err != nil {
			return missing, err
		}
	}
}

// waitQuiet waits until nothing but what keeps an idle tunnel alive is on the links, and returns what is to be said where
// that took too long.
func (lab *Lab) waitQuiet(ctx context.Context) (warning string, err error) {
	var c calm
	for begin := time.Now(); ; {
		links, err := lab.em.Stats()
		if err != nil {
			return "", errors.Join(err, lab.alive())
		}
		switch now := time.Since(begin); {
		case c.look(now, links):
			return "", nil
		case now > quietTimeout:
			return fmt.Sprintf("the links were not quiet for %v within %v", quietFor, quietTimeout), nil
		}
		if err := sleep(ctx, quietPoll); err != nil {
			return "", err
		}
	}
}

// pathRTTs is what gateway sha sees on each carrier; empty without a tunnel.
func (lab *Lab) pathRTTs(ctx context.Context) map[string]time.Duration {
	out := make(map[string]time.Duration)
	if lab.state.Options.Via != ViaLandbridge {
		return out
	}
	st, err := lab.fetch(ctx, machineSha)
	if err != nil {
		return out // the link's own round trip stands in its place
	}
	for _, p := range st.Peers {
		if p.Name != machineFra {
			continue
		}
		for _, path := range p.Paths {
			if carrier, _, ok := strings.Cut(path.Name, "-"); ok && path.RTTMs > 0 {
				out[carrier] = time.Duration(path.RTTMs * float64(time.Millisecond))
			}
		}
	}
	return out
}

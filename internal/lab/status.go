package lab

import (
	"fmt"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
	"github.com/landbridge/landbridge/internal/admin"
)

const (
	// warmTimeout bounds the wait for a tunnel that is ready for load: paths measured, lanes open to the bond's
	// bandwidth-delay product. What is not warm then is used cold, with a warning.
	warmTimeout = 30 * time.Second
	warmPoll    = 100 * time.Millisecond
	// demoWarmTimeout is the same for the demo, which has other things to show in its time.
	demoWarmTimeout = 12 * time.Second
	// fetchTimeout bounds one question to a node.
	fetchTimeout = 2 * time.Second
)

// The idle workload begins when the links have been quiet for quietFor, so that nothing of the start is in its window: what
// warmed the lanes is repaired then, and paths are probed at their idle pace. It waits no longer than quietTimeout.
const (
	quietFor     = 6 * time.Second
	quietMbit    = 1.0 // on any link, one way
	quietPoll    = 500 * time.Millisecond
	quietTimeout = time.Minute
)

// calm is how long the links have been quiet. The zero value has seen nothing.
type calm struct {
	since, at time.Duration
	before    []wan.LinkStats
}

// look takes a reading of the links and tells whether they have been quiet for long enough.
func (c *calm) look(now time.Duration, links []wan.LinkStats) bool {
	seconds := (now - c.at).Seconds()
	busy := c.before == nil
	for i := range c.before {
		was, is := &c.before[i], &links[i] // the emulator names them in one order
		for _, n := range []uint64{is.AtoB.SentBytes - was.AtoB.SentBytes, is.BtoA.SentBytes - was.BtoA.SentBytes} {
			busy = busy || float64(n)*8/1e6 > quietMbit*seconds
		}
	}
	c.before, c.at = links, now
	if busy {
		c.since = now
	}
	return now-c.since >= quietFor
}

// coldness says what a node still waits for, or nothing.
func coldness(st admin.Status) string {
	if len(st.Peers) == 0 {
		return "no peers"
	}
	for _, p := range st.Peers {
		if p.State != "up" {
			return fmt.Sprintf("peer %s is %s", p.Name, p.State)
		}
		for _, path := range p.Paths {
			if path.State != admin.PathUp {
				return fmt.Sprintf("path %s to %s is %s", path.Name, p.Name, path.State)
			}
		}
		bulk := 0
		for _, l := range p.Lanes {
			if l.State == "opening" || l.State == "warming" {
				return fmt.Sprintf("%s lane %d to %s is %s", l.Class, l.ID, p.Name, l.State)
			}
			if l.Class == "bulk" && l.State == "ready" {
				bulk++
			}
		}
		if bulk == 0 {
			return "no bulk lanes to " + p.Name
		}
	}
	return ""
}

package lab

import (
	"fmt"
	"time"

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

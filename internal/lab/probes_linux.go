package lab

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

const (
	// nicPort is where XDP answers, userPort where a socket does.
	nicPort, userPort = 4501, 4502
	// probeDrain is how long the last replies may be under way.
	probeDrain = 500 * time.Millisecond
	// probeSession names the probes of a path: this and the path's number.
	probeSession = 100
	// burnLimit bounds the busy loops' processor time, should nobody end them.
	burnLimit = 150 * time.Second
)

// probes measures both probers on three links of 1, 3 and 10 % loss while busy loops keep every processor busy, against
// the emulator's record.
func probes(ctx context.Context, o Options, window time.Duration) (out []ProbeFigures, err error) {
	o.Scenario, o.NoAgent, o.bare = "clean", true, true
	lab, err := start(ctx, o, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.down()) }()
	links := probeLinks(lab.links)
	for _, l := range links {
		if err := lab.em.Change(l.Name, l.Impairment); err != nil {
			return nil, err
		}
	}
	nic, err := lab.newProber(ProberNIC, nicPort)
	if err != nil {
		return nil, err
	}
	defer nic.close()
	user, err := lab.newProber(ProberUser, userPort)
	if err != nil {
		return nil, err
	}
	defer user.close()
	probers := []*prober{nic, user}
	for i := range runtime.NumCPU() {
		burn := fmt.Sprintf("ulimit -t %d; while :; do :; done", int(burnLimit.Seconds()))
		if _, err := lab.start(fmt.Sprintf("burn%d", i), "", false, "/bin/sh", "-c", burn); err != nil {
			return nil, err
		}
	}
	for _, l := range links {
		// Probes to the two ports, and the replies, which quote their numbers.
		err := lab.em.Record(wan.RecordConfig{Link: l.Name, Low: nicPort, High: userPort, Number: [2]int{0, 24}, Max: 1 << 16})
		if err != nil {
			return nil, err
		}
	}
	for _, p := range probers {
		p.run(ctx)
	}
	if err := sleep(ctx, window); err != nil {
		return nil, err
	}
	for _, p := range probers {
		p.end()
	}
	if err := sleep(ctx, probeDrain); err != nil { // of what they left on the links
		return nil, err
	}
	passed, err := lab.em.StopRecords()
	if err != nil {
		return nil, err
	}
	for i, l := range links {
		for _, p := range probers {
			f := ProbeFigures{Link: l.Name, Prober: p.name, ModelLoss: l.Impairment.Loss}
			m := &p.paths[i]
			truth := trueProbes(passed[l.Name], p.port)
			for n := range truth {
				if n >= m.decided { // the estimate does not know of it
					delete(truth, n)
				}
			}
			f.judge(truth, m.rtts)
			f.Loss = m.loss
			out = append(out, f)
		}
	}
	return out, lab.alive()
}

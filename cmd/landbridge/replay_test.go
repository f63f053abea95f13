package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/landbridge/landbridge/pathsel"
	"github.com/landbridge/landbridge/pathsel/stamp"
)

// decisions writes the decision log of two paths over a minute to the named file: a has the shorter way, is 80 ms slower
// from 20 s on, and b is silent from 40 s on. With --break it spoils the second record of the file instead, and with --cut
// it copies the first file named to the second, without the end; with --damage, with two damaged lines.
func decisions() {
	file := os.Args[len(os.Args)-1]
	if os.Args[1] == "--break" {
		data, err := os.ReadFile(file)
		check(err)
		lines := strings.SplitAfter(string(data), "\n")
		lines[1] = strings.ReplaceAll(lines[1], `"ok":true`, `"ok":false`)
		check(os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644))
		return
	}
	if os.Args[1] == "--cut" {
		data, err := os.ReadFile(os.Args[2])
		check(err)
		check(os.WriteFile(file, data[:len(data)-100], 0o644))
		return
	}
	if os.Args[1] == "--damage" {
		data, err := os.ReadFile(os.Args[2])
		check(err)
		lines := strings.SplitAfter(string(data), "\n")
		lines[2] = lines[2][:len(lines[2])/2] + "\n"
		lines[4] = strings.Repeat("x", pathsel.MaxRecord+1) + "\n"
		check(os.WriteFile(file, []byte(strings.Join(lines, "")), 0o644))
		return
	}
	const ms = time.Millisecond
	table, log, policy := pathsel.NewTable(0), pathsel.NewLog(1<<20), pathsel.DefaultPolicy()
	check(table.Add(0, 0, "a"))
	check(table.Add(0, 1, "b"))
	var d pathsel.Decision
	for now := time.Duration(0); now < time.Minute; now += 50 * ms {
		for id := range uint8(2) {
			rtt := time.Duration(160+20*int(id)) * ms
			if id == 0 && now >= 20*time.Second {
				rtt += 80 * ms
			}
			table.ProbeSent(now, id)
			if id == 1 && now >= 40*time.Second || now < rtt {
				continue
			}
			back := 80*ms + time.Duration(10*int(id))*ms
			table.Probe(&stamp.Event{Kind: stamp.EventReply, Path: id, At: now, Sent: now - rtt/(50*ms)*50*ms, RTT: rtt, Out: rtt - back, Back: back})
			table.Probe(&stamp.Event{Kind: stamp.EventFate, Path: id, At: now, Answered: 1})
		}
		table.Advance(now)
		states, before := table.States(now, nil), d.Clone()
		if changed := d.Update(now, states, &policy); log.Worth(now, "fra", changed) {
			_, err := log.Append(time.Unix(1_700_000_000, 0).Add(now), "fra", states, &policy, before, &d)
			check(err)
		}
	}
	var buf bytes.Buffer
	_, err := log.WriteTo(&buf)
	check(err)
	check(os.WriteFile(file, buf.Bytes(), 0o644))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/landbridge/landbridge/internal/admin"
)

// TestFollowRestart: all events of a node's next life are shown, though it has had as many as the one before.
func TestFollowRestart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "n.sock")
	var out strings.Builder
	r := eventReader{out: &out, last: make(map[string]uint64), life: make(map[string]int64)}
	live := func(events ...string) {
		t.Helper()
		var log admin.EventLog
		for _, text := range events {
			log.Add(admin.Event{Kind: admin.EventNode, Text: text})
		}
		srv, err := admin.Start(socket, admin.Source{Events: &log, Status: func() admin.Status { return admin.Status{Node: "n"} }})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.read(t.Context(), []string{socket}); err != nil {
				t.Fatal(err)
			}
		}
		if err := srv.Close(); err != nil {
			t.Fatal(err)
		}
	}
	live("one", "two")
	live("three", "four", "five")
	live("six")
	live()
	live("seven")
	if got := strings.Fields(out.String()); strings.Count(out.String(), "\n") != 7 {
		t.Errorf("%q, want seven events", got)
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landbridge/landbridge/internal/admin"
)

// TestStatusBesideADeadNode: the socket of a node that crashed does not hide those that run.
func TestStatusBesideADeadNode(t *testing.T) {
	dir, err := os.MkdirTemp("", "lb") // the names of Unix sockets are short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	dead, alive := filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")
	s, err := admin.Start(alive, admin.Source{Status: func() admin.Status { return admin.Status{Node: "sha", Role: "gateway"} }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out strings.Builder
	err = showNodes(t.Context(), &out, []string{dead, alive}, false)
	if err == nil || !strings.Contains(err.Error(), "a.sock") {
		t.Errorf("error %v, want one about a.sock", err)
	}
	if !strings.HasPrefix(out.String(), "gateway sha") {
		t.Errorf("printed %q, want the node that runs", out.String())
	}
}

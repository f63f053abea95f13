package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"landbridge": main,
		"fake-node":  fakeNode,
		"decisions":  decisions,
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			// The names of Unix sockets are short, and the scripts' directories are not.
			dir, err := os.MkdirTemp("", "lb")
			if err != nil {
				return err
			}
			e.Defer(func() { os.RemoveAll(dir) })
			e.Setenv("RUN", dir)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector holds each program for a second at its end
			for _, name := range []string{"fleet.yaml", "rules.yaml", "agent.yaml"} {
				data, err := os.ReadFile(filepath.Join("../../internal/config/testdata", name))
				if err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":    cmdCode,
			"chmod":   cmdChmod,
			"replace": cmdReplace,
			"waitfor": cmdWaitFor,
			"watch":   cmdWatch,
		},
	})
}

// cmdCode runs a command and wants its exit code: code N program args...
func cmdCode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N program args...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := err.(interface{ ExitCode() int }); ok {
		got = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

func cmdChmod(ts *testscript.TestScript, _ bool, args []string) {
	var mode os.FileMode
	if _, err := fmt.Sscanf(args[0], "%o", &mode); err != nil {
		ts.Fatalf("mode %q: %v", args[0], err)
	}
	ts.Check(os.Chmod(ts.MkAbs(args[1]), mode))
}

// cmdReplace changes one place of a file: replace OLD NEW FILE
func cmdReplace(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[2])
	parts := splitOnce(text, args[0])
	if parts == nil {
		ts.Fatalf("%q is not once in %s", args[0], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(parts[0]+args[1]+parts[1]), 0o644))
}

// cmdWaitFor waits until a file is there.
func cmdWaitFor(ts *testscript.TestScript, _ bool, args []string) {
	for range 3000 {
		// Its name is there before it listens.
		if c, err := net.Dial("unix", ts.MkAbs(args[0])); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("nobody listens at %s", args[0])
}

// cmdWatch runs paths --watch into a file, lets the path it shows brown out after some pictures, and ends when it has shown
// the move: watch SOCKET FILE
func cmdWatch(ts *testscript.TestScript, _ bool, args []string) {
	out, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	defer out.Close()
	path, err := exec.LookPath("landbridge")
	ts.Check(err)
	cmd := exec.Command(path, "paths", "--watch", "--interval", "100ms", "--socket", args[0])
	cmd.Stdout, cmd.Env = out, append(os.Environ(), "LC_ALL="+ts.Getenv("LC_ALL"))
	ts.Check(cmd.Start())
	const pictures = 12
	moved, end := false, time.Now().Add(time.Minute)
	for !moved && time.Now().Before(end) {
		b, err := os.ReadFile(out.Name())
		ts.Check(err)
		if strings.Count(string(b), "gateway sha") >= pictures {
			ts.Check(os.WriteFile(brownout(args[0]), nil, 0o644))
			moved = strings.Contains(string(b), "realtime: left")
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Check(cmd.Process.Signal(os.Interrupt))
	if err := cmd.Wait(); err != nil || !moved {
		ts.Fatalf("an interrupt ends the watch with %v; it has shown the move: %v", err, moved)
	}
}

func splitOnce(text, sep string) []string {
	if before, after, ok := strings.Cut(text, sep); ok && !strings.Contains(after, sep) {
		return []string{before, after}
	}
	return nil
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain lets the test binary be the emulator process, as bin/landbridge is.
func TestMain(m *testing.M) {
	if len(os.Args) == 7 && os.Args[1] == "lab" && os.Args[2] == "emulate" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := Emulate(ctx, os.Args[4], os.Args[6]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LANDBRIDGE_REQUIRE_ROOT") == "1" {
		t.Fatal("LANDBRIDGE_REQUIRE_ROOT=1, but not root")
	}
	t.Skip("needs root: makes network namespaces and TAP devices")
}

// testName is a lab's name no other process uses.
func testName() string { return fmt.Sprintf("t%d", os.Getpid()%1_000_000) }

// leftovers lists what a lab should have removed.
func leftovers(name string) (left []string) {
	for _, pattern := range []string{"/run/netns/" + name + "-*", stateDir(name)} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range links {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), stateDir(name)+"/") {
			left = append(left, path+": "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return left
}

func openFiles(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

func TestDirectRun(t *testing.T) {
	requireRoot(t)
	name := testName()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	// The first use of the poller and of random numbers opens files that stay.
	if _, err := RunBulk(ctx, &loopback{}, BulkOptions{Window: time.Second, Bytes: 1}); err != nil {
		t.Fatal(err)
	}
	before := openFiles(t)
	res, trace, err := Run(ctx, RunOptions{
		Options:  Options{Name: name, Scenario: "clean", Via: ViaTCPCubic, Seed: testSeed(t)},
		Workload: WorkloadBulk, Window: 20 * time.Second, Bytes: 2_000_000, Trace: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if why := res.Failed(); why != "" {
		t.Errorf("run failed: %s", why)
	}
	if res.PayloadBytes != 2_000_000 {
		t.Errorf("%d bytes arrived, want 2000000", res.PayloadBytes)
	}
	// 2 MB and its acknowledgements, over cm alone: 80 ms each way plus the access link.
	p, only := res.Paths["cm"], len(res.Paths)
	if only != 1 || p.SentBytes < 2_000_000 || res.WireOverhead < 1.04 || res.WireOverhead > 1.6 {
		t.Errorf("paths %+v, wire overhead %v: want all of it over cm, at 1.04 to 1.2 of the payload, or what TCP repeats on a loaded machine", res.Paths, res.WireOverhead)
	}
	if res.BestPathRTT != 164 || res.FirstByteMS < 2*164 || res.FirstByteMS > 2*164+5000 { // a loaded machine's part
		t.Errorf("best path %v ms, first byte after %v ms: want 164, and two round trips of it", res.BestPathRTT, res.FirstByteMS)
	}
	if len(trace.Seconds) == 0 || len(trace.payload("cm").Link.Mbit) != len(trace.Seconds) {
		t.Errorf("trace has no samples, or lists of different lengths: %+v", trace)
	}
	if left := leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d open files before, %d after", before, after)
	}
}

func TestDownAfterACrash(t *testing.T) {
	requireRoot(t)
	for _, tc := range []struct {
		name  string
		crash func(t *testing.T, lab *Lab)
	}{
		{"the state is there", func(*testing.T, *Lab) {}},
		{"the state is lost", func(t *testing.T, lab *Lab) {
			if err := os.Remove(filepath.Join(lab.dir, stateFile)); err != nil {
				t.Fatal(err)
			}
		}},
		{"another project's program, and the state is lost", func(t *testing.T, lab *Lab) {
			// A program that ignores its arguments, under the name of one that runs in the namespaces.
			sleep, err := os.ReadFile("/bin/sleep")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), wireGuardPrograms[0])
			if err := os.WriteFile(path, sleep, 0o755); err != nil {
				t.Fatal(err)
			}
			p, err := startProcess(lab.dir, "other", lab.state.Options.namespace(machineFra), true, path, "60")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if p.alive() {
					p.stop()
					t.Error("it still ran")
				}
			})
			if err := os.Remove(filepath.Join(lab.dir, stateFile)); err != nil {
				t.Fatal(err)
			}
		}},
		{"half of it is gone", func(t *testing.T, lab *Lab) {
			lab.state.Processes[0].stop()
			if err := os.Remove(lab.socket(emulatorProcess)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := testName()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			o := Options{Name: name, Scenario: "clean", Via: ViaTCPCubic}
			lab, err := start(ctx, o, true)
			if err != nil {
				t.Fatal(err)
			}
			lab.em.Close()
			if _, err := start(ctx, o, true); err == nil || !strings.Contains(err.Error(), "up already") {
				t.Errorf("a second lab of that name: %v", err)
			}
			tc.crash(t, lab)
			if found, err := Down(name); err != nil || !found {
				t.Errorf("Down: %v, %v", found, err)
			}
			if left := leftovers(name); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if found, err := Down(name); err != nil || found {
				t.Errorf("a second Down: %v, %v", found, err)
			}
		})
	}
}

func TestStartFailsCleanly(t *testing.T) {
	requireRoot(t)
	name := testName()
	o := Options{Name: name, Scenario: "clean", Programs: t.TempDir()}
	for _, p := range []string{gatewayProgram, agentProgram} {
		if err := os.WriteFile(filepath.Join(o.Programs, p), []byte("#!/bin/sh\necho no such carrier >&2\nexit 3\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := Run(t.Context(), RunOptions{Options: o, Workload: WorkloadBulk, Window: time.Second}, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "no such carrier") {
		t.Errorf("error %v, want one with the program's exit status and the end of its log", err)
	}
	if left := leftovers(name); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestListenWaits: a port whose listener was closed a moment ago may still be held by a child that is being forked.
func TestListenWaits(t *testing.T) {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 7, byte(os.Getpid() >> 8), byte(os.Getpid())}), workloadPort)
	held, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { held.Close() })
	l, err := listenTCP("", at, "reno", false)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// TestFailureSaysHow: also of a program that has ended a moment ago, and is a zombie yet.
func TestFailureSaysHow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &process{Name: "gateway", done: make(chan struct{})}
		time.AfterFunc(time.Millisecond, func() {
			p.err = errors.New("exit status 3")
			close(p.done)
		})
		if err := p.failure(); !strings.Contains(err.Error(), "gateway ended: exit status 3") {
			t.Error(err)
		}
	})
}

func TestEmulatorSocket(t *testing.T) {
	requireRoot(t)
	name := testName()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	lab, err := start(ctx, Options{Name: name, Scenario: "clean", Via: ViaTCPCubic, NoAgent: true}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lab.down(); err != nil {
			t.Error(err)
		}
	}()
	if err := lab.em.Darken("nowhere", true); err == nil {
		t.Error("an unknown link was darkened")
	}
	if err := lab.em.Darken("cm", true); err != nil {
		t.Fatal(err)
	}
	nw := kernelNetwork{lab.state.Options}
	short, stop := context.WithTimeout(ctx, 600*time.Millisecond) // more than three round trips
	defer stop()
	if err := askOrigin(short, nw); err == nil {
		t.Error("something came over a dark carrier")
	}
	stats, err := lab.em.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if len(stats) != 1 || stats[0].Name != "cm" || stats[0].AtoB.Outage == 0 {
		t.Errorf("counters after darkness: %+v", stats)
	}
	if err := lab.em.Darken("cm", false); err != nil {
		t.Fatal(err)
	}
	if err := lab.waitReady(ctx, nw); err != nil {
		t.Error(err)
	}
}

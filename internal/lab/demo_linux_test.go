package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/landbridge/landbridge/internal/admin"
)

// tree is a small source tree in a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPackTree(t *testing.T) {
	files := map[string]string{"go.mod": "module std", "a/z.go": "package z", "a/b/c.go": strings.Repeat("package c\n", 5000)}
	var packs [2][]*archive
	for i := range packs {
		src := tree(t, files)
		// Another machine, another time.
		if err := os.Chtimes(filepath.Join(src, "go.mod"), time.Unix(int64(i)*1e6, 0), time.Unix(int64(i)*1e6, 0)); err != nil {
			t.Fatal(err)
		}
		plain, packed, err := packTree(context.Background(), src, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		packs[i] = []*archive{plain, packed}
	}
	for k, name := range []string{"go-src.tar", "go-src.tar.gz"} {
		if packs[0][k].Payload != packs[1][k].Payload || packs[0][k].Name != name {
			t.Errorf("%s: %+v and %+v of the same tree", name, packs[0][k].Payload, packs[1][k].Payload)
		}
	}
	// The gzip, twice over, unpacks to the tar, twice over.
	twice := &repeated{path: packs[0][1].path, times: 2}
	defer twice.Close()
	gz, err := gzip.NewReader(twice)
	if err != nil {
		t.Fatal(err)
	}
	unpacked, err := io.ReadAll(gz)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := os.ReadFile(packs[0][0].path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(unpacked, append(bytes.Clone(plain), plain...)) {
		t.Error("the gzip twice over is not the tar twice over")
	}
	got := make(map[string]string)
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.TrimPrefix(h.Name, "go/src/")] = string(b)
	}
	if len(got) != len(files) || got["a/b/c.go"] != files["a/b/c.go"] {
		t.Errorf("the tar holds %d files, want %d", len(got), len(files))
	}
}

// demoOver is a demo that prints to w, on a scenario's links.
func demoOver(t *testing.T, w io.Writer, scenario string) *demo {
	t.Helper()
	links, err := scenarioLinks(scenario)
	if err != nil {
		t.Fatal(err)
	}
	return &demo{opt: DemoOptions{Scenario: scenario, Seed: testSeed(t)}, out: w, links: links, report: &Report{}, begin: time.Now()}
}

func TestDemoLegsOverMemory(t *testing.T) { synctest.Test(t, testDemoLegsOverMemory) }

func testDemoLegsOverMemory(t *testing.T) {
	src := tree(t, map[string]string{"x": string(incompressible(400_000))})
	plain, _, err := packTree(context.Background(), src, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	d := demoOver(t, &out, "clean")
	d.open = openMemoryStage
	err = d.onStage(context.Background(), ViaTCPCubic, []string{"cm"}, func(st stage) error {
		for _, l := range []leg{
			{title: "whole", via: ViaDirect, archive: plain, times: 1, carriers: []string{"cm"}, cutOff: 20 * time.Second},
			{title: "cut off", via: ViaDirect, archive: plain, times: 20, carriers: []string{"cm"}, cutOff: time.Second},
			{title: "dark", via: ViaDirect, archive: plain, times: 12, carriers: []string{"cm"}, cutOff: 2500 * time.Millisecond, dark: "cm"},
		} {
			if _, err := d.move(context.Background(), st, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	whole, cut, dark := d.report.Legs[0], d.report.Legs[1], d.report.Legs[2]
	for _, l := range d.report.Legs {
		if !l.SHA256OK || l.Error != "" || l.Bytes == 0 || l.WireOverhead < 1 || l.Shares["cm"] != 1 {
			t.Errorf("%+v", l)
		}
	}
	if !whole.Complete || whole.WouldTake != 0 || cut.Complete || cut.WouldTake <= 1 {
		t.Errorf("whole %+v, cut off %+v", whole, cut)
	}
	// Dark from 30 % on until the end of the time; then the watcher lights the carrier and marks the interval.
	if dark.Complete || len(dark.Trace.Marks) != 1 || dark.StallMSMax < 300 {
		t.Errorf("dark: %+v", dark)
	}
	stats := d.report.Legs[2].Trace
	if len(stats.Seconds) == 0 || len(stats.payload("cm").Link.Mbit) != len(stats.Seconds) || stats.check() != nil {
		t.Errorf("trace: %+v", stats)
	}
}

func incompressible(n int) []byte {
	b := make([]byte, n)
	NewStream(1, 1).Read(b)
	return b
}

func TestFetchNoticesFaults(t *testing.T) {
	src := tree(t, map[string]string{"x": string(incompressible(300_000))})
	plain, _, err := packTree(context.Background(), src, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want, err := plain.sum(1, plain.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if want != plain.SHA256 {
		t.Fatalf("sum of all is %s, want %s", want, plain.SHA256)
	}
	got := fetch(context.Background(), &loopback{}, plain, 1, newRecorder(time.Minute), time.Minute)
	if got.err != nil || got.bytes != plain.Bytes || got.sum != want {
		t.Errorf("whole: %+v", got)
	}
	shorter := *plain
	shorter.path = filepath.Join(t.TempDir(), "gone")
	if got := fetch(context.Background(), &loopback{}, &shorter, 1, newRecorder(time.Minute), time.Minute); got.err == nil {
		t.Errorf("missing file: %+v", got)
	}
	refused := fetch(context.Background(), refusing{&loopback{}}, plain, 1, newRecorder(time.Minute), time.Minute)
	if refused.err == nil {
		t.Errorf("refused dial: %+v", refused)
	}
}

// checkStatus holds the status of a gateway that has just sent a megabyte against what traces need of it.
func checkStatus(t *testing.T, st admin.Status) {
	t.Helper()
	nodes := map[string]admin.Status{machineFra: st}
	sent, ids := 0.0, make(map[int]bool)
	for _, name := range carriers {
		p, _, ok := pathOf(nodes, machineFra, machineSha, name)
		if !ok || p.State != admin.PathUp || p.Controller == "" || p.PacingMbit <= 0 || p.CapacityMbit <= 0 || p.RTTMs < 150 || p.RecvPackets == 0 {
			t.Errorf("path over %s: %+v", name, p)
		}
		if p.RepairSent+p.Retransmits > p.SentPackets || p.LossTx < 0 || p.LossTx > 1 || p.LossRx < 0 || p.LossRx > 1 {
			t.Errorf("path over %s: %+v", name, p)
		}
		sent += float64(p.SentBytes)
	}
	if sent < 1e6 {
		t.Errorf("%.0f bytes sent over all paths", sent)
	}
	for _, l := range lanesOf(nodes, machineFra, machineSha) {
		if ids[l.ID] || l.WindowPackets == 0 {
			t.Errorf("lane %+v: its number is another's, or its window is unknown", l)
		}
		ids[l.ID] = true
	}
	if len(ids) < 2 {
		t.Errorf("%d lanes", len(ids))
	}
}

// allUp tells whether all carriers of a gateway are up.
func allUp(st admin.Status) bool {
	for _, name := range carriers {
		if p, _, ok := pathOf(map[string]admin.Status{machineFra: st}, machineFra, machineSha, name); !ok || p.State != admin.PathUp {
			return false
		}
	}
	return true
}

func TestMemoryTunnel(t *testing.T) {
	st, err := startMemoryTunnel(t.Context(), normalised(t, Options{Scenario: "clean", Seed: testSeed(t)}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	res, err := RunBulk(t.Context(), st, BulkOptions{Seed: testSeed(t), Window: time.Minute, Bytes: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	if !res.SumOK || len(res.Errors) > 0 || res.Bytes != 1_000_000 {
		t.Errorf("%+v", res)
	}
	// A busy machine stops this process for longer than a path may be silent.
	status := st.fra.Status()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && !allUp(status); status = st.fra.Status() {
		time.Sleep(50 * time.Millisecond)
	}
	checkStatus(t, status)
	stats, err := st.Stats()
	if err != nil {
		t.Fatal(err)
	}
	sent := uint64(0)
	for _, l := range stats {
		sent += l.BtoA.SentBytes
	}
	if len(stats) != len(carriers) || sent < 1_000_000 {
		t.Errorf("the payload did not cross the border: %+v", stats)
	}
	if err := st.Darken("nowhere", true); err == nil {
		t.Error("an unknown carrier was darkened")
	}
	if _, err := st.Dial(t.Context(), 9); err != nil {
		t.Errorf("dial: %v", err) // accepted at once; the refusal comes as an end of the flow
	}
}

package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestComparePlan(t *testing.T) {
	for _, tc := range []struct {
		name string
		opt  CompareOptions
		want []string // nil: an error
	}{
		{
			"some", CompareOptions{Bulk: time.Second, Objects: time.Second, Scenarios: []string{"clean"}, Vias: []string{ViaLandbridge, ViaMPTCPBBR, ViaKCPTun}, Carrier: "cu"},
			[]string{"landbridge ct+cu+cm", "landbridge cu", "mptcp-bbr ct+cu+cm", "kcptun cu"},
		},
		{"unknown way", CompareOptions{Bulk: time.Second, Objects: time.Second, Vias: []string{"pigeon"}}, nil},
		{"unknown scenario", CompareOptions{Bulk: time.Second, Objects: time.Second, Scenarios: []string{"sunny"}}, nil},
		{"unknown carrier", CompareOptions{Bulk: time.Second, Objects: time.Second, Carrier: "xx"}, nil},
		{"no time", CompareOptions{}, nil},
	} {
		rows, err := tc.opt.plan()
		var got []string
		for _, r := range rows {
			got = append(got, r.Via+" "+strings.Join(r.Carriers, "+"))
		}
		if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) || err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
	all := CompareOptions{Bulk: time.Second, Objects: time.Second}
	rows, err := all.plan()
	if want := 5 * (len(ways) + 1); err != nil || len(rows) != want {
		t.Errorf("the whole table has %d rows, want %d (%v)", len(rows), want, err)
	}
}

func TestComparisonSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, missingFile), []byte("sing-box\tgo install: no such module\n\nnonsense\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	missing := readMissing(dir)
	rows := []ComparisonRow{
		{Scenario: "clean", Via: ViaHysteria, Title: "Hysteria 2", Carriers: []string{"ct"}},
		{Scenario: "clean", Via: ViaKCPTun, Title: "kcptun", Carriers: []string{"ct"}},
		{Scenario: "clean", Via: ViaTCPBBR, Title: "TCP BBR", Carriers: []string{"ct"}},
		{
			Scenario: "clean", Via: ViaTCPCubic, Title: "TCP CUBIC", Carriers: []string{"ct"},
			Bulk:    &Result{GoodputMbit: 41.23, OfLimit: 0.87, SecondHalfMbit: 45.6, LimitMbit: 48, WireOverhead: 1.06, Errors: []string{"flow 0: ended\nearly | late"}},
			Objects: &Result{ObjectFigures: &ObjectFigures{P50: 182, P90: 190, P99: 380}},
		},
	}
	rows[0].fail(fmt.Errorf("sing-box: %w", ErrMissing), missing)
	rows[1].fail(fmt.Errorf("kcptun-client: %w", ErrMissing), missing)
	rows[2].fail(errors.New("nothing came through"), missing)
	c := &Comparison{Rows: rows, Bulk: 10}
	if err := c.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	md, err := os.ReadFile(filepath.Join(dir, compareMarkdown))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| clean | Hysteria 2 | ct | | | | |  |  | missing: sing-box: not on this machine (go install: no such module) |",
		"| clean | kcptun | ct | | | | |  |  | missing: kcptun-client: not on this machine |",
		"| clean | TCP BBR | ct | | | | |  |  | nothing came through |",
		"| clean | TCP CUBIC | ct | 41.2 | 0.87 | 0.95 | 1.06 | 0 | 182/190/380 | flow 0: ended early / late |",
	} {
		if !bytes.Contains(md, []byte(want+"\n")) {
			t.Errorf("the table lacks %q:\n%s", want, md)
		}
	}
	var table []string
	for line := range strings.Lines(string(md)) {
		if strings.HasPrefix(line, "|") {
			table = append(table, line)
		}
	}
	for _, line := range table {
		if strings.Count(line, "|") != strings.Count(table[0], "|") {
			t.Errorf("a row of another width: %q", line)
		}
	}
	var back Comparison
	b, err := os.ReadFile(filepath.Join(dir, compareJSON))
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || len(back.Rows) != len(rows) || back.Rows[3].Bulk.GoodputMbit != 41.23 || back.Rows[0].Missing == "" {
		t.Errorf("%+v, %v", back, err)
	}
}

package admin

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/landbridge/landbridge/internal/hint"
)

func sample() Status {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return Status{
		Node: "sha", Role: "gateway", Version: "v0.1.0", PID: 42, Started: start, Taken: start.Add(90 * time.Minute),
		Peers: []Peer{
			{
				Name: "fra", Kind: "gateway", State: PathUp, Session: "5f", Since: start.Add(time.Hour), RTTMs: 231, CapacityMbit: 141.2, Overhead: 0.052, Repaired: 17,
				Paths: []Path{
					{Name: "ct-ct", State: PathUp, RTTMs: 181.2, LossTx: 0.021, LossFloor: 0.02, Controller: "Cruise", PacingMbit: 47.5, ExtraDelayMs: 4.5, LossRx: 0.018, RateTxMbit: 44.5, RateRxMbit: 1.1, CapacityMbit: 47, Share: 0.34, QueueMs: 3.2, SentPackets: 1000, LostPackets: 21},
					{Name: "cm-cm", State: PathDown, Note: "interface cm0 is gone"},
				},
				Lanes: []Lane{{1, "bulk", "ready", 231, 9000, 2, 3}, {2, "bulk", "ready", 231, 8000, 0, 2}, {3, "bulk", "warming", 231, 100, 0, 0}, {4, "realtime", "ready", 231, 500, 0, 0}},
			},
			{Name: "acme/plant", Kind: "agent", State: "connecting"},
		},
		Flows: Flows{Active: 5, Total: 120, Failed: 1, Refused: 2, BytesIn: 3 << 30, BytesOut: 999, Buffered: 12 << 20, Budget: 256 << 20},
		Drops: map[string]uint64{"unauthenticated": 7, "replayed": 1, "queue full": 0},
	}
}

func TestWriteText(t *testing.T) {
	var b strings.Builder
	if err := sample().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `gateway sha, landbridge v0.1.0, pid 42, up 1h30m

gateway fra: up for 30m0s, rtt 231 ms, 141.2 Mbit/s available, overhead 5.2%
  lanes: 2 bulk (window 8000 to 9000), 1 bulk warming (window 100), 1 realtime (window 500)
   path  state  rtt ms  queue ms  loss out  floor  loss in  Mbit/s out  Mbit/s in  capacity  share  controller
  ct-ct     up   181.2       3.2      2.1%   2.0%     1.8%        44.5        1.1      47.0  34.0%      Cruise
  cm-cm   down       -         -         -      -        -           -          -         -      -           - interface cm0 is gone

agent acme/plant: connecting
  no paths

flows: 5 open, 120 in all, 1 failed, 2 refused; 3.0 GiB in, 999 B out; buffered 12.0 MiB of 256 MiB
dropped: replayed 1, unauthenticated 7
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestWriteTextKeepsTheTerminal(t *testing.T) {
	s := sample()
	s.Peers[0].Paths[1].Note = "bad\x1b[2J\n"
	var b strings.Builder
	if err := s.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "\x1b") || !strings.Contains(b.String(), "bad?[2J?") {
		t.Errorf("%q", b.String())
	}
}

func TestServeAndFetch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "sha.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, path, Source{Status: sample}) }()
	var got Status
	var err error
	for range 2000 {
		if got, err = Fetch(ctx, path); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got, cmp.Transformer("paths", func(p []Path) []Path { return append([]Path{}, p...) })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v, want mode 0600", st.Mode(), err)
	}
	if _, err := Start(path, Source{Status: sample}); !errors.Is(err, ErrRunning) || hint.Of(err) == "" {
		t.Errorf("second server: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("end: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket stays behind: %v", err)
	}
	if _, err := Fetch(context.Background(), path); !errors.Is(err, fs.ErrNotExist) || hint.Of(err) == "" {
		t.Errorf("fetch from nobody: %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false) // as after a crash
	ln.Close()
	s, err := Start(path, Source{Status: sample})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(context.Background(), path); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file.sock")
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a file":       file,
		"a long path":  filepath.Join(dir, strings.Repeat("x", maxSocketPath)),
		"under a file": filepath.Join(file, "x.sock"),
	} {
		if s, err := Start(path, Source{Status: sample}); err == nil {
			s.Close()
			t.Errorf("%s: accepted", name)
		}
	}
	if b, _ := os.ReadFile(file); string(b) != "keep" {
		t.Error("the file was touched")
	}
}

func get(t *testing.T, h http.Handler, url string) (int, string) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := http.Get(srv.URL + url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	code, body := get(t, Handler(Source{Status: sample}), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{
		`landbridge_node_info{node="sha",role="gateway",version="v0.1.0"} 1`,
		`landbridge_path_state{path="cm-cm",peer="fra",state="down"} 1`,
		`landbridge_path_state{path="ct-ct",peer="fra",state="down"} 0`,
		`landbridge_path_rtt_seconds{path="ct-ct",peer="fra"} 0.1812`,
		`landbridge_path_loss_ratio{direction="tx",path="ct-ct",peer="fra"} 0.021`,
		`landbridge_path_packets_total{kind="lost",path="ct-ct",peer="fra"} 21`,
		`landbridge_path_loss_floor_ratio{path="ct-ct",peer="fra"} 0.02`,
		`landbridge_path_pacing_bits_per_second{path="ct-ct",peer="fra"} 4.75e+07`,
		`landbridge_path_extra_delay_seconds{path="ct-ct",peer="fra"} 0.0045`,
		`landbridge_peer_repaired_packets{peer="fra"} 17`,
		`landbridge_path_capacity_bits_per_second{path="ct-ct",peer="fra"} 4.7e+07`,
		`landbridge_lanes{class="bulk",peer="fra",state="ready"} 2`,
		`landbridge_peer_up{peer="acme/plant"} 0`,
		`landbridge_flows_active 5`,
		`landbridge_flows_total{event="refused"} 2`,
		`landbridge_drops_total{reason="unauthenticated"} 7`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no line %s", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

func TestOddValuesDoNotSilenceTheNode(t *testing.T) {
	odd := func() Status {
		s := sample()
		s.Peers[0].Paths[0].LossTx = math.NaN()
		s.Peers[0].CapacityMbit = math.Inf(1)
		s.Peers[0].Paths[1].Name = s.Peers[0].Paths[0].Name // two paths of one name
		s.Drops["\xff"] = 1
		return s
	}
	if code, body := get(t, Handler(Source{Status: odd}), "/status"); code != http.StatusOK || !strings.Contains(body, `"loss_tx":0,`) {
		t.Errorf("status %d: %s", code, body)
	}
	if code, body := get(t, Handler(Source{Status: odd}), "/metrics"); code != http.StatusOK || !strings.Contains(body, "landbridge_flows_active 5") {
		t.Errorf("metrics %d: %s", code, body)
	}
	if s := odd(); !math.IsNaN(s.Peers[0].Paths[0].LossTx) || s.finite().Peers[0].Paths[0].LossTx != 0 || !math.IsNaN(s.Peers[0].Paths[0].LossTx) {
		t.Error("finite changed its receiver's paths")
	}
	if code, _ := get(t, Handler(Source{Status: odd}), "/"); code != http.StatusNotFound {
		t.Errorf("/ answers %d", code)
	}
}

func TestConcurrentReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	shared := sample() // all readers get the same slices
	s, err := Start(path, Source{Status: func() Status { return shared }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	one := NewClient(path)
	defer one.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				if _, err := Fetch(context.Background(), path); err != nil {
					t.Error(err)
				}
				if st, err := one.Fetch(context.Background()); err != nil || st.Node != shared.Node {
					t.Errorf("%v, %v", st.Node, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestUnits(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 150 << 10: "150 KiB", 5 << 40: "5.0 TiB", math.MaxUint64: "16.0 EiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{-1: "0s", 61 * time.Second: "1m1s", 25 * time.Hour: "25h00m", 72 * time.Hour: "3 days"} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %s, want %s", d, got, want)
		}
	}
}

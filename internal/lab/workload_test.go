package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// testSeed is fixed unless TEST_SEED says otherwise.
func testSeed(t testing.TB) uint64 {
	seed := uint64(20260301)
	if s := os.Getenv("TEST_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("TEST_SEED: %v", err)
		}
		seed = v
	}
	t.Logf("TEST_SEED=%d", seed)
	return seed
}

// loopback is a Network on 127.0.0.1, for what does not depend on time.
type loopback struct {
	mu   sync.Mutex
	addr string
}

func (l *loopback) Dial(ctx context.Context, _ int) (net.Conn, error) {
	l.mu.Lock()
	addr := l.addr
	l.mu.Unlock()
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (l *loopback) Listen(int) (net.Listener, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		l.mu.Lock()
		l.addr = ln.Addr().String()
		l.mu.Unlock()
	}
	return ln, err
}

// faultyConn changes what is read: flips one byte, ends, or stalls, at an offset.
type faultyConn struct {
	net.Conn
	at    int64
	fault func(p []byte) (int, error)
	seen  int64
	done  bool
}

func (c *faultyConn) Read(p []byte) (int, error) {
	if c.done {
		return c.Conn.Read(p)
	}
	if left := c.at - c.seen; int64(len(p)) > left && left > 0 {
		p = p[:left]
	} else if left == 0 {
		c.done = true
		n, err := c.fault(p[:1])
		if n == 0 && err == nil {
			n, err = c.Conn.Read(p)
			if n > 0 {
				p[0] ^= 1
			}
		}
		return n, err
	}
	n, err := c.Conn.Read(p)
	c.seen += int64(n)
	return n, err
}

func TestStreamIsTheSameHoweverItIsRead(t *testing.T) {
	seed := testSeed(t)
	const n = 300_001
	whole := make([]byte, n)
	NewStream(seed, 7).Read(whole)
	var parts bytes.Buffer
	s := NewStream(seed, 7)
	for size := 1; parts.Len() < n; size = size*3%4099 + 1 {
		p := make([]byte, min(size, n-parts.Len()))
		s.Read(p)
		parts.Write(p)
	}
	if !bytes.Equal(whole, parts.Bytes()) {
		t.Fatal("stream depends on the sizes of the reads")
	}
	if got, want := StreamSum(seed, 7, n), sha256.Sum256(whole); got != want {
		t.Errorf("StreamSum = %x, want %x", got, want)
	}
	other := make([]byte, 64)
	NewStream(seed, 8).Read(other)
	if bytes.Equal(other, whole[:64]) {
		t.Error("streams of different ids are equal")
	}
}

func BenchmarkStream(b *testing.B) {
	p := make([]byte, 128<<10)
	s := NewStream(1, 1)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		s.Read(p)
	}
}

func TestBulk(t *testing.T) {
	seed := testSeed(t)
	for _, tc := range []struct {
		name string
		opt  BulkOptions
	}{
		{"download for a time", BulkOptions{Window: 300 * time.Millisecond}},
		{"upload for a time", BulkOptions{Window: 300 * time.Millisecond, Upload: true}},
		{"three flows", BulkOptions{Window: 300 * time.Millisecond, Flows: 3}},
		{"download of a length", BulkOptions{Window: 10 * time.Second, Bytes: 3<<20 + 17}},
		{"upload of a length by two flows", BulkOptions{Window: 10 * time.Second, Bytes: 1<<20 + 1, Upload: true, Flows: 2}},
	} {
		run := func(t *testing.T) {
			opt := tc.opt
			opt.Seed = seed
			ends := 0
			opt.OnEnd = func() { ends++ }
			var seen func() int64
			opt.Watch = func(f func() int64) { seen = f }
			res, err := RunBulk(t.Context(), &pipes{}, opt)
			if err != nil {
				t.Fatal(err)
			}
			if !res.SumOK || len(res.Errors) > 0 {
				t.Errorf("SumOK %v, errors %q", res.SumOK, res.Errors)
			}
			if ends != 1 || seen() != res.Bytes {
				t.Errorf("OnEnd called %d times, Watch saw %d of %d bytes", ends, seen(), res.Bytes)
			}
			if want := opt.Bytes * int64(max(opt.Flows, 1)); opt.Bytes > 0 && res.Bytes != want {
				t.Errorf("%d bytes, want %d", res.Bytes, want)
			}
			if opt.Bytes == 0 && res.Elapsed != opt.Window {
				t.Errorf("elapsed %v, want the window %v", res.Elapsed, opt.Window)
			}
			if res.Bytes == 0 || res.StallMax < 0 || res.StallMax > opt.Window || res.FirstByte <= 0 {
				t.Errorf("implausible result: %+v", res)
			}
			// Each piece takes a millisecond.
			if least := int64(opt.Window/time.Millisecond) * pipePiece * 9 / 10; opt.Bytes == 0 && res.Bytes < least || res.StallMax > 10*time.Millisecond {
				t.Errorf("%d bytes, want %d at least; longest stall %v", res.Bytes, least, res.StallMax)
			}
		}
		t.Run(tc.name, func(t *testing.T) { synctest.Test(t, run) })
	}
}

func TestBulkNoticesFaults(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault func(p []byte) (int, error)
		check func(BulkResult) bool
	}{
		{
			"a flipped byte", func([]byte) (int, error) { return 0, nil },
			func(r BulkResult) bool { return !r.SumOK },
		},
		{
			"an early end", func([]byte) (int, error) { return 0, io.EOF },
			func(r BulkResult) bool {
				return len(r.Errors) == 1 && strings.Contains(r.Errors[0], "after 5000 bytes: EOF")
			},
		},
		{
			"a stall", func([]byte) (int, error) { time.Sleep(400 * time.Millisecond); return 0, os.ErrDeadlineExceeded },
			func(r BulkResult) bool {
				return r.SumOK && r.StallMax >= 400*time.Millisecond && r.StallMax < 410*time.Millisecond
			},
		},
	} {
		run := func(t *testing.T) {
			nw := &pipes{tamper: func(c net.Conn) net.Conn { return &faultyConn{Conn: c, at: 5000, fault: tc.fault} }}
			res, err := RunBulk(t.Context(), nw, BulkOptions{Seed: testSeed(t), Window: 700 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if !tc.check(res) {
				t.Errorf("not noticed: %+v", res)
			}
		}
		t.Run(tc.name, func(t *testing.T) { synctest.Test(t, run) })
	}
}

func TestDeadFlowStallsToTheEnd(t *testing.T) {
	rec := newRecorder(10 * time.Second)
	t0 := time.Now()
	rec.add(1, 100, t0)
	rec.add(2, 100, t0.Add(time.Second))
	for i := range 100 {
		rec.add(1, 100, t0.Add(time.Duration(i)*100*time.Millisecond))
	}
	if got := rec.stallMax(t0.Add(time.Hour)); got != 9*time.Second {
		t.Errorf("stall %v, want 9s: flow 2 went quiet at 1 s of 10", got)
	}
	if rec.inSecond1 != 1100 || rec.inHalf2 != 5000 {
		t.Errorf("%d bytes in the first second and %d in the second half, want 1100 and 5000", rec.inSecond1, rec.inHalf2)
	}
}

func TestCycleStalls(t *testing.T) {
	t0 := time.Now()
	at := func(ms int) time.Time { return t0.Add(time.Duration(ms) * time.Millisecond) }
	rec := newRecorder(3500 * time.Millisecond)
	rec.cycle = time.Second
	if got := rec.cycleStalls(t0); got != nil {
		t.Errorf("stalls before the first byte: %v", got)
	}
	for ms := 0; ms <= 1800; ms += 100 { // flow 1 pauses from 1.8 s to 2.1 s, across a cycle's end
		rec.add(1, 10, at(ms))
	}
	for ms := 2100; ms < 3600; ms += 100 {
		rec.add(1, 10, at(ms))
	}
	rec.add(2, 10, at(2200))
	rec.add(2, 10, at(2650)) // and dies: that is the last cycle's, which is not a whole one, and the third's
	want := []time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 850 * time.Millisecond}
	if got := rec.cycleStalls(t0.Add(time.Hour)); !slices.Equal(got, want) {
		t.Errorf("stalls %v, want %v", got, want)
	}
	if got := rec.flowBytes(4); !slices.Equal(got, []int64{0, 340, 20, 0}) {
		t.Errorf("bytes by flow %v", got)
	}
}

func TestJain(t *testing.T) {
	for _, tc := range []struct {
		shares []int64
		want   float64
	}{
		{nil, 0},
		{[]int64{0, 0}, 0},
		{[]int64{7, 7, 7}, 1},
		{[]int64{9, 0, 0}, 1.0 / 3},
		{[]int64{1, 3}, 0.8},
	} {
		if got := Jain(tc.shares); math.Abs(got-tc.want) > 1e-12 {
			t.Errorf("Jain(%v) = %v, want %v", tc.shares, got, tc.want)
		}
	}
}

func TestCompetitorShare(t *testing.T) {
	stats := func(ct, cu uint64) []wan.LinkStats {
		var s [2]wan.LinkStats
		s[0].Name, s[1].Name = "cu", "ct"
		s[0].BtoA.DeliveredBytes, s[1].BtoA.DeliveredBytes, s[1].AtoB.DeliveredBytes = cu, ct, 2*ct
		return s[:]
	}
	for _, tc := range []struct {
		name    string
		payload int64
		upload  bool
		want    float64
	}{
		{"a quarter", 1448 * 250, false, 0.25},
		{"an upload", 1448 * 250, true, 0.125},
		{"nothing", 0, false, 0},
		{"more than there was", 1448 * 5000, false, 1},
	} {
		c := CompetitorResult{Carrier: "ct"}
		c.setBytes(tc.payload, stats(1514*100, 5), stats(1514*1100, 1_000_000), tc.upload)
		if c.Share != tc.want || c.WorkloadShare != 1-tc.want {
			t.Errorf("%s: %+v, want %v", tc.name, c, tc.want)
		}
	}
}

func TestBesidesOptions(t *testing.T) {
	for _, tc := range []struct {
		name string
		set  func(*RunOptions)
		ok   bool
	}{
		{"none", func(*RunOptions) {}, true},
		{"competitor", func(o *RunOptions) { o.Competitor, o.CompetitorCarrier = ViaTCPBBR, "cu" }, true},
		{"calls through agents", func(o *RunOptions) { o.Workload = WorkloadCalls }, false},
		{"calls", func(o *RunOptions) { o.Workload, o.NoAgent = WorkloadCalls, true }, true},
		{"calls over plain routes", func(o *RunOptions) { o.Workload, o.Via = WorkloadCalls, ViaTCPBBR }, true},
		{"calls through a port", func(o *RunOptions) { o.Workload, o.Via, o.NoAgent = WorkloadCalls, ViaKCPTun, true }, false},
		{"calls one way", func(o *RunOptions) { o.Workload, o.NoAgent, o.Upload = WorkloadCalls, true, true }, false},
		{"competitor nowhere", func(o *RunOptions) { o.Competitor = ViaTCPBBR }, false},
		{"carrier without competitor", func(o *RunOptions) { o.CompetitorCarrier = "cu" }, false},
		{"competitor of another kind", func(o *RunOptions) { o.Competitor, o.CompetitorCarrier = ViaKCPTun, "cu" }, false},
		{"competitor on an unused carrier", func(o *RunOptions) {
			o.Carriers, o.Competitor, o.CompetitorCarrier = []string{"ct"}, ViaTCPCubic, "cu"
		}, false},
		{"junk", func(o *RunOptions) { o.Junk, o.JunkCarrier = 1000, "cu" }, true},
		{"junk on an unused carrier", func(o *RunOptions) { o.Carriers, o.Junk, o.JunkCarrier = []string{"ct"}, 1000, "cu" }, false},
		{"less than no junk", func(o *RunOptions) { o.Junk = -1 }, false},
		{"a carrier for no junk", func(o *RunOptions) { o.JunkCarrier = "cu" }, false},
		{"step", func(o *RunOptions) { o.Steps = []RateStep{{"cm", 1e6, time.Second}} }, true},
		{"step on an unused carrier", func(o *RunOptions) {
			o.Carriers, o.Steps = []string{"ct"}, []RateStep{{"cm", 1e6, time.Second}}
		}, false},
		{"step after the end", func(o *RunOptions) { o.Steps = []RateStep{{"cm", 1e6, 20 * time.Second}} }, false},
		{"too many steps", func(o *RunOptions) { o.Steps = slices.Repeat([]RateStep{{"cm", 1e6, time.Second}}, maxSteps+1) }, false},
	} {
		o := RunOptions{Workload: WorkloadBulk, Window: 10 * time.Second}
		tc.set(&o)
		if err := o.check(); (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrOptions) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestBulkStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(100*time.Millisecond, cancel)
	begin := time.Now()
	if _, err := RunBulk(ctx, &loopback{}, BulkOptions{Window: time.Minute}); err == nil {
		t.Error("no error")
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestBulkOfRefusedDial(t *testing.T) {
	res, err := RunBulk(context.Background(), refusing{&loopback{}}, BulkOptions{Window: time.Second, Flows: 2, Upload: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Errors) != 2 || res.SumOK {
		t.Errorf("%+v, want two errors", res)
	}
}

type refusing struct{ *loopback }

func (refusing) Dial(context.Context, int) (net.Conn, error) { return nil, fmt.Errorf("refused") }

func TestObjects(t *testing.T) { synctest.Test(t, testObjects) }

func testObjects(t *testing.T) {
	res, err := RunObjects(t.Context(), &pipes{}, ObjectsOptions{Seed: testSeed(t), Window: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if !res.SumOK || len(res.Errors) > 0 {
		t.Errorf("SumOK %v, errors %q", res.SumOK, res.Errors)
	}
	if n := len(res.Fresh); n < 10 || len(res.Warm) < 2*n || len(res.Warm) > 2*n+2 {
		t.Errorf("%d warm and %d fresh objects, want two warm for each fresh and at least 10", len(res.Warm), n)
	}
	if want := int64(len(res.Warm)+len(res.Fresh)+objectWarmups) * ObjectSize; res.Bytes != want {
		t.Errorf("%d bytes, want %d", res.Bytes, want)
	}
}

func TestObjectsNoticeFaults(t *testing.T) {
	at := int64(objectWarmups*ObjectSize + 1000)
	for _, tc := range []struct {
		name  string
		fault func([]byte) (int, error)
		want  string
	}{
		{"a flipped byte", func([]byte) (int, error) { return 0, nil }, "differs"},
		{"an early end", func([]byte) (int, error) { return 0, io.EOF }, "1000 of 32768 bytes"},
	} {
		run := func(t *testing.T) {
			nw := &pipes{tamper: func(c net.Conn) net.Conn { return &faultyConn{Conn: c, at: at, fault: tc.fault} }}
			res, err := RunObjects(t.Context(), nw, ObjectsOptions{Seed: testSeed(t), Window: 500 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Errors) == 0 || !strings.Contains(res.Errors[0], tc.want) {
				t.Errorf("errors %q, want one with %q", res.Errors, tc.want)
			}
			if len(res.Warm) < 3 {
				t.Errorf("only %d objects: the run did not go on", len(res.Warm))
			}
		}
		t.Run(tc.name, func(t *testing.T) { synctest.Test(t, run) })
	}
}

func TestRequestRoundTrip(t *testing.T) {
	for _, r := range []request{
		{Op: opDownload, ID: 1, Seed: 2, Length: 0},
		{Op: opUpload, ID: 1 << 63, Seed: 1<<64 - 1, Length: 1 << 40},
		{Op: opObject, ID: 9, Seed: 8, Length: ObjectSize},
	} {
		b := r.append(nil)
		got, err := parseRequest(b)
		if err != nil || got != r {
			t.Errorf("%+v came back as %+v, %v", r, got, err)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, op := range []operation{opDownload, opUpload, opObject} {
		f.Add(request{Op: op, ID: 3, Seed: 4, Length: 5}.append(nil))
	}
	f.Add(request{Op: 9}.append(nil))
	f.Add(request{Op: opObject, Length: -1}.append(nil))
	f.Add([]byte("LBW1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if r.Op == opObject && r.Length > maxObject || r.Length < 0 {
			t.Fatalf("accepted %+v", r)
		}
		if again, err := parseRequest(r.append(nil)); err != nil || again != r {
			t.Fatalf("%+v does not survive its own encoding: %+v, %v", r, again, err)
		}
	})
}

func TestQuantile(t *testing.T) {
	var s []time.Duration
	for i := range 100 {
		s = append(s, time.Duration((i*37)%100+1)) // 1..100, shuffled
	}
	keep := slices.Clone(s)
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.9: 90, 0.99: 99, 1: 100} {
		if got := Quantile(s, q); got != want {
			t.Errorf("Quantile(%v) = %d, want %d", q, got, want)
		}
	}
	if !slices.Equal(s, keep) {
		t.Error("Quantile changed its argument")
	}
	if got := Quantile(nil, 0.5); got != 0 {
		t.Errorf("Quantile of nothing = %v", got)
	}
}

func TestWorkloadsLeaveNothingBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		if _, err := RunBulk(context.Background(), &loopback{}, BulkOptions{Window: 50 * time.Millisecond, Flows: 4}); err != nil {
			t.Fatal(err)
		}
	}
	res, err := RunBulk(context.Background(), &loopback{}, BulkOptions{Window: time.Minute, Flows: 2, Upload: true, Bytes: 1 << 20})
	if err != nil || !res.SumOK || res.Bytes != 2<<20 {
		t.Errorf("%+v, %v", res, err)
	}
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}

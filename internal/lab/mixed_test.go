package lab

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestMixed: objects are asked for beside a bulk flow, and both are checked.
func TestMixed(t *testing.T) { synctest.Test(t, testMixed) }

func testMixed(t *testing.T) {
	const size = 4 << 20
	var seen func() int64
	res, objects, err := RunMixed(t.Context(), &pipes{}, BulkOptions{
		Seed: testSeed(t), Window: 2*mixedSettle + 500*time.Millisecond, Bytes: size, Watch: func(f func() int64) { seen = f },
	})
	if err != nil {
		t.Fatal(err)
	}
	if !res.SumOK || res.Bytes != size || len(res.Errors) > 0 {
		t.Errorf("bulk: %+v, want %d bytes without an error", res, size)
	}
	if !objects.SumOK || len(objects.Errors) > 0 || len(objects.Fresh) < 10 || len(objects.Warm) < 2*len(objects.Fresh) {
		t.Errorf("objects: %d warm, %d fresh, sum ok %v, errors %q", len(objects.Warm), len(objects.Fresh), objects.SumOK, objects.Errors)
	}
	if objects.Elapsed < mixedSettle || objects.Elapsed > 2*mixedSettle { // the last one may meet a loaded machine
		t.Errorf("objects for %v, want what is left of the window after %v", objects.Elapsed, mixedSettle)
	}
	if got := seen(); got != size+objects.Bytes {
		t.Errorf("watched %d bytes, want %d of bulk and %d of objects", got, size, objects.Bytes)
	}
	r := &Result{Workload: WorkloadMixed, BestPathRTT: 164}
	r.setMixed(res, objects)
	if r.ObjectFigures == nil || r.Objects != len(objects.Warm) || r.PayloadBytes != size+objects.Bytes || !r.SHA256OK {
		t.Errorf("result %+v", r)
	}
	objects.SumOK = false
	if r.setMixed(res, objects); r.SHA256OK {
		t.Error("an object that differs leaves the result whole")
	}
}

// TestMixedCannotStart: objects that get no connection fail the run.
func TestMixedCannotStart(t *testing.T) { synctest.Test(t, testMixedCannotStart) }

func testMixedCannotStart(t *testing.T) {
	if _, _, err := RunMixed(t.Context(), &pipes{}, BulkOptions{Window: 2 * mixedSettle, Bytes: 1}); err == nil {
		t.Errorf("a window of %v is taken", 2*mixedSettle)
	}
	once := &onceNetwork{Network: &pipes{}}
	_, _, err := RunMixed(t.Context(), once, BulkOptions{Seed: testSeed(t), Window: 2*mixedSettle + time.Millisecond, Bytes: 1000})
	if !errors.Is(err, errOnce) {
		t.Errorf("error %v, want %v", err, errOnce)
	}
}

var errOnce = errors.New("dialled once already")

// onceNetwork lets one connection through.
type onceNetwork struct {
	Network
	dialled bool
}

func (n *onceNetwork) Dial(ctx context.Context, port int) (net.Conn, error) {
	if n.dialled {
		return nil, errOnce
	}
	n.dialled = true
	return n.Network.Dial(ctx, port)
}

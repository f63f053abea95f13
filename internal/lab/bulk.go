package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// BulkOptions describe a bulk run. The zero value is not useful: Window or Bytes must be set.
type BulkOptions struct {
	Seed   uint64
	Flows  int           // TCP connections at once; 0 means 1
	Upload bool          // client to origin instead of origin to client
	Window time.Duration // how long to measure, from the first byte on
	Bytes  int64         // stop a flow after so many bytes; 0: endless, the window ends it
	// Cycle is the period of the links' outages, if they have one: the longest stall in each is kept.
	Cycle time.Duration
	// OnEnd is called at the moment the measurement ends, while the flows are still open, so that counters taken
	// there match the payload.
	OnEnd func()
	// Watch is given a function that tells the payload received so far, before the first flow is opened.
	Watch func(received func() int64)
}

// BulkResult is what a bulk run measured at the receiver.
type BulkResult struct {
	Bytes       int64
	Elapsed     time.Duration   // the window, or less when Bytes ended the run
	FirstByte   time.Duration   // from the first dial to the first payload byte
	FirstSecond int64           // payload of the first second
	SecondHalf  int64           // payload of the window's second half; 0 when Bytes ended the run
	StallMax    time.Duration   // longest time a flow went without new payload
	Stalls      []time.Duration // the longest in each whole Cycle
	FlowBytes   []int64         // by flow
	SumOK       bool            // SHA-256 over all that arrived equals that of the sender's stream, in every flow
	Errors      []string        // flows that failed, one line each
}

// firstByteTimeout bounds the wait for a flow's first payload byte.
const firstByteTimeout = 20 * time.Second

// RunBulk moves incompressible bytes over nw and checks every one of them. A flow that fails is reported in the
// result's Errors; the error is for a run that could not start or was cancelled.
func RunBulk(ctx context.Context, nw Network, opt BulkOptions) (BulkResult, error) {
	if opt.Window <= 0 {
		return BulkResult{}, fmt.Errorf("bulk: window %v, want more than 0", opt.Window)
	}
	flows := max(opt.Flows, 1)
	rec := newRecorder(opt.Window)
	rec.cycle = opt.Cycle
	results := make(chan flowResult, flows)
	l, err := nw.Listen(workloadPort)
	if err != nil {
		return BulkResult{}, fmt.Errorf("bulk: %w", err)
	}
	srv := newServer(l, func(c net.Conn, req request) {
		results <- receive(ctx, c, rec, req)
	})
	defer srv.Close()
	if opt.Watch != nil {
		opt.Watch(rec.total)
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the wait: senders stop when the context does
	for i := range flows {
		req := request{Op: opDownload, ID: uint64(i), Seed: opt.Seed, Length: opt.Bytes}
		if opt.Upload {
			req.Op = opUpload
		}
		wg.Go(func() { bulkClient(ctx, nw, rec, req, results) })
	}

	var got []flowResult
	for range flows {
		got = append(got, <-results)
	}
	now := time.Now()
	if opt.OnEnd != nil {
		opt.OnEnd()
	}
	if err := context.Cause(ctx); err != nil {
		return BulkResult{}, fmt.Errorf("bulk: %w", err)
	}
	return bulkResult(rec, opt, got, begin, now), nil
}

func bulkResult(rec *recorder, opt BulkOptions, got []flowResult, begin, now time.Time) BulkResult {
	res := BulkResult{Bytes: rec.total(), SumOK: true, Elapsed: opt.Window}
	rec.mu.Lock()
	start, last := rec.start, rec.last
	res.FirstSecond, res.SecondHalf = rec.inSecond1, rec.inHalf2
	rec.mu.Unlock()
	if !start.IsZero() {
		res.FirstByte = start.Sub(begin)
	}
	if opt.Bytes > 0 {
		res.Elapsed, res.SecondHalf = last.Sub(start), 0
		now = last
	}
	res.StallMax, res.Stalls = rec.stallMax(now), rec.cycleStalls(now)
	res.FlowBytes = rec.flowBytes(max(opt.Flows, 1))
	for _, f := range got {
		if f.err != nil {
			res.Errors = append(res.Errors, f.err.Error())
		}
		want := StreamSum(opt.Seed, f.id, f.bytes)
		if f.sum == nil || f.bytes == 0 || !bytes.Equal(f.sum.Sum(nil), want[:]) {
			res.SumOK = false
		}
	}
	return res
}

// flowResult is what one receiver got.
type flowResult struct {
	id    uint64
	bytes int64
	sum   hash.Hash // nil when the flow never got that far
	err   error
}

// bulkClient runs the client's side of one flow. For a download it delivers the result; for an upload the origin's
// side does, unless the flow did not come about.
func bulkClient(ctx context.Context, nw Network, rec *recorder, req request, results chan<- flowResult) {
	fail := func(err error) { results <- flowResult{id: req.ID, err: fmt.Errorf("flow %d: %w", req.ID, err)} }
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	c, err := nw.Dial(dctx, workloadPort)
	cancel()
	if err != nil {
		fail(err)
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	if _, err := c.Write(req.append(nil)); err != nil {
		fail(fmt.Errorf("send the request: %w", err))
		return
	}
	if req.Op == opDownload {
		results <- receive(ctx, c, rec, req)
		return
	}
	if err := sendStream(c, req); err == nil {
		// All sent: stay until the origin has read it and closes.
		if cw, ok := c.(interface{ CloseWrite() error }); ok {
			cw.CloseWrite()
		}
		io.Copy(io.Discard, c)
	}
}

// pollInterval is how often a receiver without data looks whether the window has closed.
const pollInterval = 100 * time.Millisecond

// receive reads a flow until the window closes or its length is complete.
func receive(ctx context.Context, c net.Conn, rec *recorder, req request) flowResult {
	res := flowResult{id: req.ID, sum: sha256.New()}
	fail := func(err error) flowResult {
		res.err = fmt.Errorf("flow %d: %w", req.ID, err)
		return res
	}
	buf := make([]byte, 256<<10)
	begin := time.Now()
	for {
		now := time.Now()
		end := rec.end()
		switch {
		case ctx.Err() != nil:
			return fail(context.Cause(ctx))
		case end.IsZero() && now.Sub(begin) > firstByteTimeout:
			return fail(fmt.Errorf("no payload within %v", firstByteTimeout))
		case !end.IsZero() && !now.Before(end):
			if req.Length > 0 {
				return fail(fmt.Errorf("%d of %d bytes after %v", res.bytes, req.Length, rec.window))
			}
			if res.bytes == 0 {
				return fail(errors.New("no payload in the whole window"))
			}
			return res
		}
		deadline := now.Add(pollInterval)
		if !end.IsZero() && end.Before(deadline) {
			deadline = end
		}
		if err := c.SetReadDeadline(deadline); err != nil {
			return fail(err)
		}
		p := buf
		if left := req.Length - res.bytes; req.Length > 0 && left < int64(len(p)) {
			p = p[:left]
		}
		n, err := c.Read(p)
		if n > 0 {
			rec.add(req.ID, n, time.Now())
			res.sum.Write(p[:n])
			res.bytes += int64(n)
			if res.bytes == req.Length {
				return res
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fail(fmt.Errorf("after %d bytes: %w", res.bytes, err))
		}
	}
}

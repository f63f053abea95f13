package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// ObjectSize is the size of the objects workload's objects: 32 KiB.
const ObjectSize = 32 << 10

// ObjectsOptions describe an objects run.
type ObjectsOptions struct {
	Seed   uint64
	Window time.Duration // how long to keep asking
	// OnEnd is called at the moment the measurement ends.
	OnEnd func()
	// Watch is given a function that tells the payload received so far.
	Watch func(received func() int64)
}

// ObjectsResult is what an objects run measured at the client: the time from the request (for Fresh: from the dial) to
// the last byte of the object. A request that failed is in its list with the time it took to fail, and in Errors.
type ObjectsResult struct {
	Bytes       int64
	Elapsed     time.Duration
	Warm, Fresh []time.Duration
	SumOK       bool
	Errors      []string
}

const (
	objectTimeout = 30 * time.Second      // one object, dial included
	objectGapMax  = 30 * time.Millisecond // pause between objects: uniform from 0
	objectWarmups = 8                     // unmeasured objects first, so that the connection's window is open
	freshEvery    = 3                     // every third object comes on a connection of its own
	maxErrors     = 20                    // lines kept: one dead tunnel would otherwise fill the result
)

// RunObjects asks for one object after the other and checks each. Failed objects are reported in the result; the error
// is for a run that could not start or was cancelled.
func RunObjects(ctx context.Context, nw Network, opt ObjectsOptions) (ObjectsResult, error) {
	if opt.Window <= 0 {
		return ObjectsResult{}, fmt.Errorf("objects: window %v, want more than 0", opt.Window)
	}
	l, err := nw.Listen(workloadPort)
	if err != nil {
		return ObjectsResult{}, fmt.Errorf("objects: %w", err)
	}
	srv := newServer(l, nil)
	defer srv.Close()
	c := newObjectsClient(nw, opt.Seed, opt.Window)
	if opt.Watch != nil {
		opt.Watch(c.rec.total)
	}
	if err := c.run(ctx, opt.Window); err != nil {
		return ObjectsResult{}, err
	}
	if opt.OnEnd != nil {
		opt.OnEnd()
	}
	return c.res, nil
}

// objectsClient holds the warm connection; one goroutine.
type objectsClient struct {
	nw   Network
	seed uint64
	next uint64
	conn net.Conn // the warm connection; nil when there is none
	rec  *recorder
	res  ObjectsResult
	buf  [ObjectSize]byte
	want [ObjectSize]byte
}

func newObjectsClient(nw Network, seed uint64, window time.Duration) *objectsClient {
	return &objectsClient{nw: nw, seed: seed, rec: newRecorder(window), res: ObjectsResult{SumOK: true}}
}

// run warms a connection and asks for objects until the window is over. It fails where it cannot start.
func (c *objectsClient) run(ctx context.Context, window time.Duration) error {
	defer c.drop()
	for range objectWarmups {
		if _, err := c.warm(ctx); err != nil {
			return fmt.Errorf("objects: warm the connection: %w", err)
		}
	}
	rng := rand.New(rand.NewPCG(c.seed, 0x0b7ec75))
	begin := time.Now()
	for i := 0; time.Since(begin) < window; i++ {
		kind, list, get := "warm", &c.res.Warm, c.warm
		if i%freshEvery == freshEvery-1 {
			kind, list, get = "fresh", &c.res.Fresh, c.fresh
		}
		took, err := get(ctx)
		*list = append(*list, took)
		if err != nil && len(c.res.Errors) < maxErrors {
			c.res.Errors = append(c.res.Errors, fmt.Sprintf("%s object %d after %v: %v", kind, i, took.Round(time.Millisecond), err))
		}
		if err := sleep(ctx, time.Duration(rng.Int64N(int64(objectGapMax)))); err != nil {
			return fmt.Errorf("objects: %w", err)
		}
	}
	c.res.Elapsed, c.res.Bytes = time.Since(begin), c.rec.total()
	return nil
}

var errObjectDiffers = errors.New("object differs from what the origin sent")

// warm gets one object on the connection that stays, opening it when there is none; opening is not part of the time.
func (c *objectsClient) warm(ctx context.Context) (time.Duration, error) {
	if c.conn == nil {
		begin := time.Now()
		conn, err := c.dial(ctx)
		if err != nil {
			return time.Since(begin), err
		}
		c.conn = conn
	}
	begin := time.Now()
	err := c.get(ctx, c.conn)
	took := time.Since(begin)
	if err != nil {
		c.drop()
	}
	return took, err
}

// fresh gets one object on a connection of its own.
func (c *objectsClient) fresh(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	conn, err := c.dial(ctx)
	if err != nil {
		return time.Since(begin), err
	}
	err = c.get(ctx, conn)
	took := time.Since(begin)
	conn.Close()
	return took, err
}

func (c *objectsClient) dial(ctx context.Context) (net.Conn, error) {
	dctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return c.nw.Dial(dctx, workloadPort)
}

func (c *objectsClient) get(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(objectTimeout)); err != nil {
		return err
	}
	req := request{Op: opObject, ID: c.next, Seed: c.seed, Length: ObjectSize}
	c.next++
	if _, err := conn.Write(req.append(nil)); err != nil {
		return err
	}
	n, err := io.ReadFull(conn, c.buf[:])
	c.rec.add(0, n, time.Now())
	if err != nil {
		return fmt.Errorf("%d of %d bytes: %w", n, ObjectSize, err)
	}
	// Reading a Stream cannot fail. The comparison lies within the measured time: about 50 microseconds.
	_, _ = NewStream(c.seed, req.ID).Read(c.want[:])
	if !bytes.Equal(c.buf[:], c.want[:]) {
		c.res.SumOK = false
		return errObjectDiffers
	}
	return nil
}

func (c *objectsClient) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

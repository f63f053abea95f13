package lab

import (
	"context"
	"sync"
	"time"

	"github.com/landbridge/landbridge/internal/admin"
)

// traceFetchTimeout bounds the questions of one step, so that a gateway that is slow to answer delays no other figure.
const traceFetchTimeout = 80 * time.Millisecond

// startTracer begins a trace of the border. Its function stops it and returns what it has.
func (lab *Lab) startTracer(ctx context.Context, upload bool, received func() int64) (stop func() *Trace) {
	clients := make(map[string]*admin.Client)
	for _, node := range lab.nodes() {
		if node == machineSha || node == machineFra {
			clients[node] = admin.NewClient(lab.socket(node))
		}
	}
	var nodes func() map[string]admin.Status
	if len(clients) > 0 {
		nodes = func() map[string]admin.Status { return askAll(ctx, clients) }
	}
	t := newTracer(time.Now(), lab.links, upload, received, lab.em.Stats, nodes)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.run(ctx)
	}()
	return func() *Trace {
		cancel()
		<-ended
		for _, c := range clients {
			c.Close()
		}
		return t.done()
	}
}

// askAll asks all nodes at once; one that does not answer in time is not in the result.
func askAll(ctx context.Context, clients map[string]*admin.Client) map[string]admin.Status {
	ctx, cancel := context.WithTimeout(ctx, traceFetchTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := make(map[string]admin.Status, len(clients))
	for node, c := range clients {
		wg.Go(func() {
			if st, err := c.Fetch(ctx); err == nil {
				mu.Lock()
				defer mu.Unlock()
				out[node] = st
			}
		})
	}
	wg.Wait()
	return out
}

package lab

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// mixedSettle is how long the bulk flows of a mixed run go before the objects begin: they are to meet a full bond.
const mixedSettle = 2 * time.Second

// RunMixed moves bulk bytes as RunBulk does and, from mixedSettle after their first on, asks for objects beside them as
// RunObjects does. A flow or an object that fails is reported in its result.
func RunMixed(ctx context.Context, nw Network, opt BulkOptions) (BulkResult, ObjectsResult, error) {
	if opt.Window <= 2*mixedSettle {
		return BulkResult{}, ObjectsResult{}, fmt.Errorf("mixed: window %v, want more than %v", opt.Window, 2*mixedSettle)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()                                          // before the wait
	objects := newObjectsClient(nw, opt.Seed+1, opt.Window) // another stream than the bulk flows'
	var objectsErr error
	watch, onEnd := opt.Watch, opt.OnEnd
	opt.Watch = func(bulk func() int64) {
		if watch != nil {
			watch(func() int64 { return bulk() + objects.rec.total() })
		}
		wg.Go(func() {
			for bulk() == 0 {
				if objectsErr = sleep(ctx, 10*time.Millisecond); objectsErr != nil {
					return
				}
			}
			begin := time.Now()
			if objectsErr = sleep(ctx, mixedSettle); objectsErr == nil {
				objectsErr = objects.run(ctx, opt.Window-time.Since(begin))
			}
		})
	}
	opt.OnEnd = func() {
		if onEnd != nil {
			onEnd()
		}
		wg.Wait() // for the last object, while the origin still serves
	}
	b, err := RunBulk(ctx, nw, opt)
	if err == nil {
		err = objectsErr
	}
	return b, objects.res, err
}

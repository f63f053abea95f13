package lab

import (
	"context"
	"time"
)

// waitWarm waits until the tunnel is ready for load.
func (lab *Lab) waitWarm(ctx context.Context) error { return nil }

// pathRTTs is what the tunnel sees on each carrier.
func (lab *Lab) pathRTTs() map[string]time.Duration { return nil }

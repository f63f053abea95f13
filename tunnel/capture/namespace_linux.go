package capture

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
)

// namespace is a network namespace in which to run code. Goroutines wander
// between threads, so each call is moved there.
type namespace struct {
	handle netns.NsHandle
}

// currentNamespace is that of the calling thread.
func currentNamespace() (*namespace, error) {
	h, err := netns.Get()
	if err != nil {
		return nil, fmt.Errorf("open current network namespace: %w", err)
	}
	return &namespace{h}, nil
}

// do runs f in a goroutine of its own, on a thread that is in the namespace, and
// waits for it.
func (n *namespace) do(f func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.enter(f) }()
	return <-result
}

// enter runs f on this goroutine. A thread that cannot be put back into the
// namespace it came from stays locked and ends with the goroutine, so the
// caller's goroutine should end too.
func (n *namespace) enter(f func() error) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		return fmt.Errorf("open current network namespace: %w", err)
	}
	defer before.Close()
	// Entering needs CAP_SYS_ADMIN, which the usual case, where we are there
	// already, should not.
	if before.Equal(n.handle) {
		defer runtime.UnlockOSThread()
		return f()
	}
	if err := netns.Set(n.handle); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() {
		if netns.Set(before) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return f()
}

func (n *namespace) close() error { return n.handle.Close() }

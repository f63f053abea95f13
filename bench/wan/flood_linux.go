package wan

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// floodTick is how often a flood sends what is due.
const floodTick = time.Millisecond

// Flood is junk that is being sent. Stop it once.
type Flood struct {
	stop  chan struct{}
	once  sync.Once
	done  chan struct{}
	stats FloodStats // valid once done is closed
}

// Flood sends junk to the NIC at an end of a link until it is stopped, as fast
// as it was asked for or as this machine can: the time of the receiving stack is
// the flood's too. It does not touch the link's model or counters.
func (e *Emulator) Flood(c FloodConfig) (*Flood, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	end, fd := 0, -1
	if c.AtB {
		end = 1
	}
	var j *junk
	var failed error
	err := e.change(c.Link, func(l *tapLink, _ time.Duration) {
		t := l.taps[end]
		link, err := t.nl.LinkByIndex(t.index)
		if err != nil {
			failed = err
			return
		}
		j = newJunk(&c, link.Attrs().HardwareAddr)
		// A descriptor of its own, so that Close takes nothing from under it.
		if fd, failed = unix.FcntlInt(uintptr(t.fd), unix.F_DUPFD_CLOEXEC, 0); failed != nil {
			fd = -1
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, fmt.Errorf("flood: %w", err)
	}
	f := &Flood{stop: make(chan struct{}), done: make(chan struct{})}
	go f.run(fd, j, c.PPS, e.done)
	return f, nil
}

func (f *Flood) run(fd int, j *junk, pps int, closed <-chan struct{}) {
	defer close(f.done)
	defer unix.Close(fd)
	// A thread of its own, which the loop's priority goes before.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := time.Now()
	for {
		f.stats.Duration = time.Since(begin)
		select {
		case <-f.stop:
			return
		case <-closed:
			return
		default:
		}
		due := int64(f.stats.Duration.Seconds() * float64(pps))
		// What could not be sent in time is not sent later: at most two ticks' worth at once.
		n := min(due-int64(f.stats.Sent+f.stats.Refused), 2*int64(floodTick.Seconds()*float64(pps))+1)
		for range n {
			if _, err := unix.Write(fd, j.next()); err != nil {
				f.stats.Refused++
			} else {
				f.stats.Sent++
			}
		}
		pause := unix.NsecToTimespec(int64(floodTick))
		unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &pause, nil)
	}
}

// Stop ends the flood and says what it did.
func (f *Flood) Stop() FloodStats {
	f.once.Do(func() { close(f.stop) })
	<-f.done
	return f.stats
}

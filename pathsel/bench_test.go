package pathsel

import (
	"fmt"
	"testing"
	"time"

	"github.com/landbridge/landbridge/pathsel/stamp"
)

// settledTable has so many paths with a minute of probes and traffic.
func settledTable(tb testing.TB, paths int) (*Table, time.Duration) {
	table := NewTable(0)
	for i := range paths {
		if err := table.Add(0, uint8(i), fmt.Sprint("path", i)); err != nil {
			tb.Fatal(err)
		}
	}
	now := time.Duration(0)
	for range 1200 {
		now += 50 * ms
		for i := range paths {
			step(table, now, uint8(i))
		}
		table.Advance(now)
	}
	return table, now
}

func step(table *Table, now time.Duration, id uint8) {
	rtt := time.Duration(80+10*int(id))*ms + time.Duration(now/ms*7919%997)*time.Microsecond
	table.ProbeSent(now-rtt, id)
	table.Probe(&stamp.Event{Kind: stamp.EventReply, Path: id, At: now, Sent: now - rtt, RTT: rtt, Out: rtt / 2, Back: rtt / 2})
	table.Probe(&stamp.Event{Kind: stamp.EventFate, Path: id, At: now, Answered: 1})
	table.Traffic(now, id, Out, Counts{Packets: 100, Lost: 1, Bursts: 1})
}

func TestAllocations(t *testing.T) {
	table, now := settledTable(t, 3)
	p := DefaultPolicy()
	states := make([]PathState, 0, MaxPaths)
	var d Decision
	d.Update(now, table.States(now, states), &p)
	if n := testing.AllocsPerRun(300, func() {
		now += 50 * ms
		for i := range uint8(3) {
			step(table, now, i)
		}
		table.Advance(now)
		states = table.States(now, states[:0])
		d.Update(now, states, &p)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if !d.Classes[Realtime].OK {
		t.Error("nothing decided")
	}
}

func BenchmarkSelect(b *testing.B) {
	for _, paths := range []int{3, 16, 64} {
		b.Run(fmt.Sprintf("paths=%d", paths), func(b *testing.B) {
			table, now := settledTable(b, paths)
			p := DefaultPolicy()
			states := table.States(now, nil)
			var d Decision
			d.Update(now, states, &p)
			b.ReportAllocs()
			for b.Loop() {
				now += 20 * ms
				d.Update(now, states, &p)
			}
		})
	}
}

func BenchmarkEstimate(b *testing.B) {
	b.Run("event=probe", func(b *testing.B) {
		table, now := settledTable(b, 3)
		b.ReportAllocs()
		for b.Loop() {
			now += 50 * ms
			step(table, now, 1)
		}
	})
	b.Run("event=advance", func(b *testing.B) {
		table, now := settledTable(b, 3)
		b.ReportAllocs()
		for b.Loop() {
			now += ms
			table.Advance(now)
		}
	})
	b.Run("event=snapshot", func(b *testing.B) {
		table, now := settledTable(b, 3)
		states := make([]PathState, 0, 3)
		b.ReportAllocs()
		for b.Loop() {
			states = table.States(now, states[:0])
		}
	})
}

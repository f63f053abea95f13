package lab

import (
	"testing"
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// TestCalm: quiet is when no link carried more than a little in either direction for a while without a break.
func TestCalm(t *testing.T) {
	const idle, filler = 10_000, 400_000 // bytes in half a second
	for _, tt := range []struct {
		name string
		busy func(i int, link *wan.LinkStats) // adds to a reading every quietPoll
		want time.Duration                    // 0: never
	}{
		{"idle from the start", func(int, *wan.LinkStats) {}, quietFor},
		{"filler for two seconds", func(i int, l *wan.LinkStats) {
			if i <= 4 {
				l.AtoB.SentBytes += filler
			}
		}, 2*time.Second + quietFor},
		{"filler on the other link and way, between pauses", func(i int, l *wan.LinkStats) {
			if l.Name == "cu" && (i <= 2 || i == 10) {
				l.BtoA.SentBytes += filler
			}
		}, 5*time.Second + quietFor},
		{"filler always", func(i int, l *wan.LinkStats) { l.BtoA.SentBytes += filler }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var c calm
			links := []wan.LinkStats{{Name: "ct"}, {Name: "cu"}}
			var got time.Duration
			for i := range 60 {
				now := time.Duration(i) * quietPoll
				if i > 0 {
					links = append([]wan.LinkStats(nil), links...)
					for k := range links {
						links[k].AtoB.SentBytes += idle
						links[k].BtoA.SentBytes += idle
						tt.busy(i, &links[k])
					}
				}
				if c.look(now, links) {
					got = now
					break
				}
			}
			if got != tt.want {
				t.Errorf("quiet after %v, want %v", got, tt.want)
			}
		})
	}
}

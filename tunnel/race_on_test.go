//go:build race

package tunnel

// raceOn shrinks what is only size: the race detector costs ten times the work.
const raceOn = true

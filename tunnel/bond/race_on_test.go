//go:build race

package bond

// raceOn shrinks what is only size: the race detector costs ten times the work.
const raceOn = true

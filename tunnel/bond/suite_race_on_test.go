//go:build race

package bond

const raceEnabled = true

//go:build !race

package bond

const raceOn = false

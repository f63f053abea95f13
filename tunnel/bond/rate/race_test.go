//go:build race

package rate

// The race detector slows the simulations eightfold, and there is nothing
// concurrent in them: one seed each is enough to say so.
func init() { maxSeeds = 1 }

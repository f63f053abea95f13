package lab

import (
	"math"
	"slices"
	"time"
)

// Quantile returns the q-quantile (0..1) of the samples by the nearest-rank rule, which never invents a value that was
// not measured; 0 when there are none. It sorts a copy.
func Quantile(samples []time.Duration, q float64) time.Duration {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	rank := int(math.Ceil(q*float64(len(s)))) - 1
	return s[min(max(rank, 0), len(s)-1)]
}

// millis is a duration in milliseconds rounded to 0.1, as the result object shows it.
func millis(d time.Duration) float64 { return round(float64(d)/float64(time.Millisecond), 1) }

// mbit is a rate in Mbit/s of so many bytes in such a time, rounded to 0.01.
func mbit(bytes int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return round(float64(bytes)*8/1e6/d.Seconds(), 2)
}

func round(v float64, digits int) float64 {
	p := math.Pow(10, float64(digits))
	return math.Round(v*p) / p
}

// Jain is the fairness index of the shares, from 1/n (one has everything) to 1 (all have the same); 0 when nobody has
// anything (Jain, Chiu and Hawe, DEC-TR-301, 1984).
func Jain(shares []int64) float64 {
	sum, squares := 0.0, 0.0
	for _, x := range shares {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if squares == 0 {
		return 0
	}
	return sum * sum / (float64(len(shares)) * squares)
}

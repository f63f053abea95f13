package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Rate is a rate in bits per second. Zero means "no cap".
type Rate int64

const (
	// minRate is less than one full packet a second: a typing mistake, not a line.
	minRate = 8_000
	// maxRate is beyond any NIC; it keeps rate arithmetic in 64 bits.
	maxRate = 1_000_000_000_000
)

var rateUnits = []struct {
	name string
	bits float64
}{{"Gbit", 1e9}, {"Mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

// ParseRate reads "50Mbit", "1.5Gbit", "800kbit" or "9600bit": decimal multiples, as carriers sell them.
func ParseRate(s string) (Rate, error) {
	for _, u := range rateUnits {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		if num == "" || strings.Trim(num, "0123456789.") != "" {
			break
		}
		v, err := strconv.ParseFloat(num, 64)
		if err != nil {
			break
		}
		if bits := v * u.bits; bits < minRate || bits > maxRate {
			return 0, fmt.Errorf("rate %q is outside %s to %s", s, Rate(minRate), Rate(maxRate))
		}
		return Rate(v * u.bits), nil
	}
	return 0, fmt.Errorf("rate %q: want a number and bit, kbit, Mbit or Gbit, such as 50Mbit", s)
}

// String writes the rate as ParseRate reads it, in the largest unit that loses nothing.
func (r Rate) String() string {
	for _, u := range rateUnits {
		if unit := int64(u.bits); r != 0 && int64(r)%unit == 0 {
			return strconv.FormatInt(int64(r)/unit, 10) + u.name
		}
	}
	return "0bit"
}

// least returns the smaller cap, where zero is none.
func least(a, b Rate) Rate {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

package wan

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxText bounds the text of an impairment: no sane one is longer.
const maxText = 4096

// ParseImpairment reads the text form of an impairment, words separated by
// spaces, each at most once (outage may repeat), in any order:
//
//	50mbit                    rate (bit, kbit, mbit, gbit), or "unlimited"
//	queue 100ms               queue-packets 1000
//	delay 90ms                jitter 2ms
//	loss 1%                   (also 0.01)
//	ge 0.002/0.2/0.3          chance of entering, leaving, surviving the bad state
//	reorder 1% 5ms            share held back, and for how long
//	duplicate 0.1%            corrupt 0.1%
//	mtu 1400                  policer 40mbit [burst 64000]
//	outage 3s [every 10s] [from 5s]
//
// The empty text is the zero Impairment. Errors wrap ErrImpairment.
func ParseImpairment(text string) (Impairment, error) {
	var imp Impairment
	if len(text) > maxText {
		return imp, fmt.Errorf("%w: text of %d bytes, at most %d", ErrImpairment, len(text), maxText)
	}
	p := parser{words: strings.Fields(text)}
	seen := make(map[string]bool)
	for len(p.words) > 0 && p.err == nil {
		key := p.word()
		id := key
		if key == "unlimited" || key[0] >= '0' && key[0] <= '9' {
			id = "rate"
		}
		if seen[id] && id != "outage" {
			return Impairment{}, fmt.Errorf("%w: second %s in %q", ErrImpairment, id, text)
		}
		seen[id] = true
		switch id {
		case "rate":
			if key != "unlimited" {
				imp.Rate = p.rate(key)
			}
		case "queue":
			imp.Queue = p.duration()
		case "queue-packets":
			imp.QueuePackets = p.number()
		case "delay":
			imp.Delay = p.duration()
		case "jitter":
			imp.Jitter = p.duration()
		case "loss":
			imp.Loss = p.chance(p.word())
		case "ge":
			w := p.word()
			parts := strings.Split(w, "/")
			if len(parts) != 3 {
				p.bad("ge", w, "want p/r/h")
				break
			}
			imp.GE = GE{P: p.chance(parts[0]), R: p.chance(parts[1]), H: p.chance(parts[2])}
		case "reorder":
			imp.Reorder = Reorder{Probability: p.chance(p.word()), Extra: p.duration()}
		case "duplicate":
			imp.Duplicate = p.chance(p.word())
		case "corrupt":
			imp.Corrupt = p.chance(p.word())
		case "mtu":
			imp.MTU = p.number()
		case "policer":
			imp.Policer.Rate = p.rate(p.word())
			if p.take("burst") {
				imp.Policer.Burst = p.number()
			}
		case "outage":
			o := Outage{Duration: p.duration()}
			if p.take("every") {
				o.Every = p.duration()
			}
			if p.take("from") {
				o.Start = p.duration()
			}
			imp.Outages = append(imp.Outages, o)
		default:
			p.bad("word", key, "unknown")
		}
	}
	if p.err == nil {
		p.err = imp.Validate()
	}
	if p.err != nil {
		return Impairment{}, fmt.Errorf("impairment %q: %w", text, p.err)
	}
	return imp, nil
}

// parser walks words and keeps the first error.
type parser struct {
	words []string
	err   error
}

func (p *parser) bad(what, value, why string) {
	if p.err == nil {
		p.err = fmt.Errorf("%w: %s %q: %s", ErrImpairment, what, value, why)
	}
}

func (p *parser) word() string {
	if len(p.words) == 0 {
		p.bad("word", "", "value missing at the end")
		return ""
	}
	w := p.words[0]
	p.words = p.words[1:]
	return w
}

func (p *parser) take(word string) bool {
	if len(p.words) > 0 && p.words[0] == word {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *parser) duration() time.Duration {
	w := p.word()
	d, err := time.ParseDuration(w)
	if err != nil {
		p.bad("duration", w, "want a number and unit such as 90ms")
	}
	return d
}

func (p *parser) number() int {
	w := p.word()
	n, err := strconv.ParseInt(w, 10, 32)
	if err != nil {
		p.bad("number", w, "want a whole number")
	}
	return int(n)
}

func (p *parser) chance(w string) float64 {
	digits, percent := strings.CutSuffix(w, "%")
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		p.bad("chance", w, "want 1% or 0.01")
	}
	if percent {
		f /= 100
	}
	return f
}

var rateUnits = []struct {
	suffix string
	bits   int64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

func (p *parser) rate(w string) int64 {
	for _, u := range rateUnits {
		digits, ok := strings.CutSuffix(strings.ToLower(w), u.suffix)
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n >= 0 && n <= maxRate/u.bits {
			return n * u.bits
		}
		f, err := strconv.ParseFloat(digits, 64)
		f *= float64(u.bits)
		if err != nil || !(f >= 0 && f <= maxRate) || f != float64(int64(f)) {
			p.bad("rate", w, "want whole bits, 0..100gbit")
			return 0
		}
		return int64(f)
	}
	p.bad("rate", w, "want a number and bit, kbit, mbit or gbit")
	return 0
}

// String is the text form; ParseImpairment reads it back to the same value. The
// zero value is "unlimited".
func (i Impairment) String() string {
	b := formatRate(i.Rate)
	add := func(on bool, format string, args ...any) {
		if on {
			b += " " + fmt.Sprintf(format, args...)
		}
	}
	add(i.Queue != 0, "queue %v", i.Queue)
	add(i.QueuePackets != 0, "queue-packets %d", i.QueuePackets)
	add(i.Delay != 0, "delay %v", i.Delay)
	add(i.Jitter != 0, "jitter %v", i.Jitter)
	add(i.Loss != 0, "loss %s", formatChance(i.Loss))
	add(i.GE != GE{}, "ge %v/%v/%v", i.GE.P, i.GE.R, i.GE.H)
	add(i.Reorder != Reorder{}, "reorder %s %v", formatChance(i.Reorder.Probability), i.Reorder.Extra)
	add(i.Duplicate != 0, "duplicate %s", formatChance(i.Duplicate))
	add(i.Corrupt != 0, "corrupt %s", formatChance(i.Corrupt))
	add(i.MTU != 0, "mtu %d", i.MTU)
	if i.Policer.Rate != 0 {
		add(true, "policer %s", formatRate(i.Policer.Rate))
		add(i.Policer.Burst != 0, "burst %d", i.Policer.Burst)
	}
	for _, o := range i.Outages {
		add(true, "outage %v", o.Duration)
		add(o.Every != 0, "every %v", o.Every)
		add(o.Start != 0, "from %v", o.Start)
	}
	return b
}

// MarshalText is String, for JSON and flags.
func (i Impairment) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText is ParseImpairment.
func (i *Impairment) UnmarshalText(b []byte) error {
	imp, err := ParseImpairment(string(b))
	if err != nil {
		return err
	}
	*i = imp
	return nil
}

func formatRate(bits int64) string {
	if bits == 0 {
		return "unlimited"
	}
	for _, u := range rateUnits {
		if bits%u.bits == 0 {
			return strconv.FormatInt(bits/u.bits, 10) + u.suffix
		}
	}
	return strconv.FormatInt(bits, 10) + "bit" // a negative one, which Validate refuses
}

// formatChance prefers percent, where it reads back to the same number.
func formatChance(p float64) string {
	percent := strconv.FormatFloat(p*100, 'g', -1, 64)
	if back, err := strconv.ParseFloat(percent, 64); err == nil && back/100 == p {
		return percent + "%"
	}
	return strconv.FormatFloat(p, 'g', -1, 64)
}

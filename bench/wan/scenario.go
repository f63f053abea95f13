package wan

import (
	"fmt"
	"strings"
)

// Carrier is one border link of a scenario, the same in both directions.
type Carrier struct {
	Name       string     `json:"name"`
	Impairment Impairment `json:"impairment"`
}

// Scenario is a named state of the border.
type Scenario struct {
	Name     string    `json:"name"`
	Carriers []Carrier `json:"carriers"` // ct, cu, cm
}

// Impairments returns the carriers' impairments, in order.
func (s Scenario) Impairments() []Impairment {
	imps := make([]Impairment, len(s.Carriers))
	for i, c := range s.Carriers {
		imps[i] = c.Impairment
	}
	return imps
}

// Limit is Limit of the scenario's carriers, in bits a second.
func (s Scenario) Limit() float64 { return Limit(s.Impairments()...) }

// scenarioTable is the table of the benchmarks. The outage starts at 3 s, so that a
// run of 10 s sees the whole of one. In policed the line of ct is faster than what
// is let through: nothing queues, the excess is lost.
var scenarioTable = []struct{ name, ct, cu, cm string }{
	{
		"clean",
		"50mbit queue 100ms delay 90ms",
		"50mbit queue 100ms delay 110ms",
		"50mbit queue 100ms delay 80ms",
	},
	{
		"typical",
		"50mbit queue 100ms delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3",
		"50mbit queue 100ms delay 110ms jitter 2ms loss 0.5%",
		"50mbit queue 100ms delay 80ms jitter 5ms loss 2% ge 0.003/0.15/0.3",
	},
	{
		"heavy",
		"50mbit queue 60ms delay 90ms jitter 5ms loss 5% ge 0.005/0.1/0.2",
		"50mbit queue 60ms delay 110ms jitter 5ms loss 3%",
		"50mbit queue 60ms delay 80ms jitter 10ms loss 10%",
	},
	{
		"skewed",
		"100mbit queue 100ms delay 60ms loss 0.1%",
		"20mbit queue 100ms delay 150ms loss 1%",
		"5mbit queue 100ms delay 250ms loss 3%",
	},
	{
		"outage",
		"50mbit queue 100ms delay 90ms jitter 2ms loss 1% ge 0.002/0.2/0.3 outage 3s every 10s from 3s",
		"50mbit queue 100ms delay 110ms jitter 2ms loss 0.5%",
		"50mbit queue 100ms delay 80ms jitter 5ms loss 2% ge 0.003/0.15/0.3",
	},
	{
		"policed",
		"100mbit queue 100ms delay 90ms policer 50mbit",
		"50mbit queue 100ms delay 110ms",
		"50mbit queue 100ms delay 80ms",
	},
}

// Scenarios returns all scenarios in order of hardship. The caller owns them.
func Scenarios() []Scenario {
	all := make([]Scenario, len(scenarioTable))
	for i, row := range scenarioTable {
		all[i] = Scenario{Name: row.name, Carriers: []Carrier{
			{"ct", mustParse(row.ct)}, {"cu", mustParse(row.cu)}, {"cm", mustParse(row.cm)},
		}}
	}
	return all
}

// ScenarioNamed returns one scenario; the error lists the names there are.
func ScenarioNamed(name string) (Scenario, error) {
	all := Scenarios()
	names := make([]string, len(all))
	for i, s := range all {
		if s.Name == name {
			return s, nil
		}
		names[i] = s.Name
	}
	return Scenario{}, fmt.Errorf("unknown scenario %q, want one of %s", name, strings.Join(names, ", "))
}

// Limit is what loss-free TCP could carry in what the loss leaves, in bits of
// payload a second: the sum over the links of capacity x (1 - mean loss) x 1448/1514
// (payload and Ethernet bytes of a full segment with time stamps).
func Limit(links ...Impairment) float64 {
	sum := 0.0
	for _, l := range links {
		sum += float64(l.Capacity()) * (1 - l.MeanLoss())
	}
	return sum * 1448 / fullFrame
}

func mustParse(s string) Impairment {
	imp, err := ParseImpairment(s)
	if err != nil {
		panic(err)
	}
	return imp
}

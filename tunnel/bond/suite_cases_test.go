package bond

import (
	"time"

	"github.com/landbridge/landbridge/bench/wan"
)

// simLinks are the carriers of a scenario, or some of them (ct 0, cu 1, cm 2).
func simLinks(scenario string, carriers ...int) []worldLink {
	sc, err := wan.ScenarioNamed(scenario)
	if err != nil {
		panic(err)
	}
	imps := sc.Impairments()
	if carriers == nil {
		return bothWays(imps...)
	}
	var some []wan.Impairment
	for _, c := range carriers {
		some = append(some, imps[c])
	}
	return bothWays(some...)
}

// simEach alters links: down the direction that carries the data (b to a), up the other.
func simEach(links []worldLink, down, up func(*wan.Impairment)) []worldLink {
	for i := range links {
		if down != nil {
			down(&links[i].bToA)
		}
		if up != nil {
			up(&links[i].aToB)
		}
	}
	return links
}

// simCases are the scenarios. The bounds come from 3 to 16 seeds each: the worst that was measured, with a margin of
// about a tenth for goodput and of a half or more for stalls, so that they tell of defects and not of luck.
func simCases() []simCase {
	const (
		s  = time.Second
		ms = time.Millisecond
	)
	loss := func(p float64) func(*wan.Impairment) { return func(i *wan.Impairment) { i.Loss = p } }
	both := func(f func(*wan.Impairment)) []worldLink { return simEach(simLinks("clean"), f, f) }
	return []simCase{
		{name: "clean", links: simLinks("clean"), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.93, stall: 50 * ms, overhead: 1.16, quicLost: 20}},
		{name: "typical", links: simLinks("typical"), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 60}},
		{name: "heavy", links: simLinks("heavy"), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.55, stall: 1500 * ms, overhead: 1.8, quicLost: 120}},
		{name: "skewed", links: simLinks("skewed"), warm: 12 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.78, stall: 800 * ms, overhead: 1.25, quicLost: 40}},
		{name: "ct-typical", links: simLinks("typical", 0), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 60}},
		{name: "ct-heavy", links: simLinks("heavy", 0), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.6, stall: 1500 * ms, overhead: 1.75, quicLost: 150}},
		{name: "outage", links: simLinks("outage"), warm: 8 * s, run: 10 * s,
			want: simBounds{ofLimit: 0.6, stall: 1200 * ms, overhead: 1.5, quicLost: 120}},
		{name: "delay-up", links: simLinks("typical"), warm: 8 * s, run: 5 * s, script: simDelay(1, 40*ms),
			want: simBounds{ofLimit: 0.7, stall: 1200 * ms, overhead: 1.45, quicLost: 80}},
		{name: "delay-down", links: simLinks("typical"), warm: 8 * s, run: 5 * s, script: simDelay(1, -40*ms),
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 80}},
		{name: "loss-down", links: simEach(simLinks("clean"), loss(0.05), nil), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.75, stall: 1300 * ms, overhead: 1.4, quicLost: 80}},
		{name: "loss-up", links: simEach(simLinks("clean"), nil, loss(0.05)), warm: 8 * s, run: 5 * s,
			want: simBounds{ofLimit: 0.92, stall: 100 * ms, overhead: 1.2, quicLost: 20}},
		{name: "reorder", links: both(func(i *wan.Impairment) { i.Reorder = wan.Reorder{Probability: 0.05, Extra: 15 * ms} }), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.7, stall: 500 * ms, overhead: 1.35, quicLost: 40}},
		{name: "duplicate", links: both(func(i *wan.Impairment) { i.Duplicate = 0.05 }), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.93, stall: 50 * ms, overhead: 1.17, quicLost: 20}},
		{name: "corrupt", links: both(func(i *wan.Impairment) { i.Corrupt = 0.01 }), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.75, stall: s, overhead: 1.3, quicLost: 40}},
		{name: "flapping", links: simLinks("typical"), warm: 8 * s, run: 8 * s, script: simFlap,
			want: simBounds{ofLimit: 0.6, stall: 1500 * ms, overhead: 1.45, quicLost: 250}},
		{name: "path-added", links: simLinks("typical"), later: 1, warm: 8 * s, run: 6 * s, race: true, script: func(r *simRun) {
			if r.at(s) {
				r.did(r.w.join(300 * ms))
			}
		}, want: simBounds{ofLimit: 0.6, stall: 1500 * ms, overhead: 1.5, quicLost: 120}},
		{name: "path-removed", links: simLinks("typical"), warm: 8 * s, run: 6 * s, race: true, script: func(r *simRun) {
			if r.at(2 * s) {
				r.did(r.w.leave(0, 300*ms))
			}
		}, want: simBounds{ofLimit: 0.6, stall: 1500 * ms, overhead: 1.5, quicLost: 120}},
		{name: "clocks", links: simLinks("typical"), warm: 8 * s, run: 6 * s, a: skew{driftPPM: -50}, b: skew{ahead: time.Hour, driftPPM: 50},
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 60}},
		{name: "clock-wrap", links: simLinks("typical"), warm: 8 * s, run: 4 * s, b: skew{ahead: wrapAhead},
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 60}},
		{name: "mtu-one", links: simMTU(1400, 0), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.955, stall: 50 * ms, overhead: 1.13, quicLost: 20}},
		{name: "mtu-all", links: simMTU(1400, 0, 1, 2), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.955, stall: 50 * ms, overhead: 1.13, quicLost: 20}},
		// Even the packets of 1280 bytes that the suite's connections send do not fit these.
		{name: "mtu-tunnel", links: simMTU(1320, 0, 1, 2), warm: 8 * s, run: 4 * s,
			want: simBounds{ofLimit: 0.955, stall: 50 * ms, overhead: 1.13, quicLost: 20}},
		{name: "mtu-shrinks", links: simLinks("clean"), warm: 8 * s, run: 6 * s, script: simShrink(1400),
			want: simBounds{ofLimit: 0.94, stall: 100 * ms, overhead: 1.14, quicLost: 20}},
		// The lane that is there can use two of three paths: the tunnel would open another one.
		{name: "mtu-hole", links: simLinks("clean"), warm: 8 * s, run: 6 * s, script: simShrink(1320),
			want: simBounds{ofLimit: 0.67, stall: 150 * ms, overhead: 1.2, quicLost: 20}},
		{name: "fifty-flows", links: simLinks("typical"), warm: 8 * s, run: 6 * s, flows: 50,
			want: simBounds{ofLimit: 0.75, stall: 1200 * ms, overhead: 1.35, quicLost: 60, jain: 0.95}},
	}
}

// wrapAhead lets a clock's 32 bits of microseconds run over 6 s after the start.
const wrapAhead = (1<<32)*time.Microsecond - 7*time.Second

// simDelay lets the delay of a link step one second into the measurement, in both directions.
func simDelay(link int, by time.Duration) func(*simRun) {
	return func(r *simRun) {
		if r.at(time.Second) {
			for _, d := range []wan.Direction{wan.AtoB, wan.BtoA} {
				r.change(link, d, func(imp *wan.Impairment) { imp.Delay += by })
			}
		}
	}
}

// simMTU is clean with some links that carry smaller packets.
func simMTU(mtu int, links ...int) []worldLink {
	ls := simLinks("clean")
	for _, i := range links {
		ls[i].aToB.MTU, ls[i].bToA.MTU = mtu, mtu
	}
	return ls
}

// simShrink lets a link carry smaller packets one second into the measurement.
func simShrink(mtu int) func(*simRun) {
	return func(r *simRun) {
		if r.at(time.Second) {
			for _, d := range []wan.Direction{wan.AtoB, wan.BtoA} {
				r.change(0, d, func(imp *wan.Impairment) { imp.MTU = mtu })
			}
		}
	}
}

// simFlap switches the first link off and on, every two seconds.
func simFlap(r *simRun) {
	for i := 0; r.at(time.Duration(2*i) * time.Second); i++ {
		r.w.links[0].Darken(i%2 == 0)
	}
}

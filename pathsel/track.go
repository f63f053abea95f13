package pathsel

import (
	"math"
	"time"
)

// Times of the state machine.
const (
	// downAfter is the silence after which a path is down.
	downAfter = time.Second
	// brief is how long a suspicion may last to be forgotten at the first reply.
	brief = 500 * time.Millisecond
	// silenceMargin is for the reply's way through this machine.
	silenceMargin = 10 * time.Millisecond
	// silenceMax bounds the wait for the replies that a lossy path is allowed to lose: 3 probes in all.
	silenceMax = 110 * time.Millisecond
	// surely is the silence that makes a suspect, beyond a round trip: by then the probes that were sent in answer to it
	// are overdue too. askBriefly is for how long they are sent; longer, and a lossy path would be probed that fast always.
	surely     = 90 * time.Millisecond
	surelyRTT  = 300 * time.Millisecond
	askBriefly = 30 * time.Millisecond
	// A path that nobody uses is asked more thinly: every askInterval for askThinly, and for askShare of the time at most, of
	// which askBudget can be saved up. That is eight probes a second more, whatever the path loses. It takes surelyUnused to be
	// a suspect: new flows stay away at the first late replies anyway.
	askInterval  = 10 * time.Millisecond
	askThinly    = 50 * time.Millisecond
	askShare     = 12
	askBudget    = 400 * time.Millisecond
	surelyUnused = 240 * time.Millisecond
	// suspicionRate is how often the losses a path is known for may make it a suspect, per probe.
	suspicionRate = 0.002
	// firstRTT is assumed until there is one.
	firstRTT = 300 * time.Millisecond

	// Back from down after cleanReplies and a dwell that doubles with each failure, and is forgotten after dwellForget.
	cleanReplies = 10
	dwellMin     = time.Second
	dwellMax     = time.Minute
	dwellForget  = 10 * time.Minute

	// A brownout lasts at least brownoutMin, doubling likewise, and at most brownoutMax: then it is what the path is like.
	brownoutMin = 5 * time.Second
	brownoutMax = time.Minute

	// boostStep is how long a doubt asks for more probes: a round trip and some answers more. They go on while lossMore of
	// the test's sum remains. boostBudget is how much of the time it may: a third, at most 2 s at once, and only on paths
	// in use, of which there are one or two.
	boostStep   = 100 * time.Millisecond
	boostBudget = time.Second
	boostShare  = 5
	// boostRate is the traffic, in packets in about 1.5 s, that makes more probes useless.
	boostRate = 150
)

// What the bond does to a path by finding its rate.
const (
	// fillFirst is for how long a direction's figures are left out at first, while lanes are warmed, and fillBudget later;
	// fillShare is the share of the time it comes back by. A controller that drains time and again, or a queue that stays,
	// may be what pathsel is to find.
	fillFirst  = 30 * time.Second
	fillBudget = 6 * time.Second
	fillShare  = 10
	// ownQueue is the delay over the least that shows a queue.
	ownQueue = 20 * time.Millisecond
	// fillMargin is for the steps in which the bond is looked at, and for the end of the queue.
	fillMargin = 300 * time.Millisecond
	// fillQueue is the queue that probes may meet on the way out and back meanwhile.
	fillQueue = 200 * time.Millisecond
)

const maxUnanswered = 128 // probes whose sending times are kept: 4 s and more, or 0.3 s of a boosted path; the oldest matter

// track is one path in a Table.
type track struct {
	id       uint8
	name     string
	interval time.Duration // of its probes

	state        State
	overdue      bool
	asked        bool // more probes were sent in this silence, as far as they may
	since        time.Duration
	why          string
	heard        time.Duration
	spoke        bool // heard at all
	clean        int  // replies since the state began or the last silence
	cleanSince   time.Duration
	browned      bool // a suspicion came in a brownout
	brownedSince time.Duration
	dwell        time.Duration
	failed       time.Duration // when it last failed or browned out

	// sent are the probes after the last one answered, oldest first.
	sent  [maxUnanswered]time.Duration
	sentN int

	rtt       delayWindow
	dir       [2]direction  // by Way
	lastAdded time.Duration // to the delay windows
	tuned     int64         // second in which the loss tests were tuned and usualLoss was taken
	usualLoss float64       // of a probe and its reply

	used       bool
	boost      time.Duration // until when
	boostLeft  time.Duration
	boostSince time.Duration
	askUntil   time.Duration // more probes on a path that is not used
	askLeft    time.Duration

	rate, capacity int64
	capacityAt     time.Duration // when traffic showed it last
}

// Way is a direction of a path, seen from here.
type Way uint8

const (
	Out  Way = iota // to the peer
	Back            // from it
)

// direction is one direction of a track.
type direction struct {
	loss     lossWindow
	delay    delayWindow
	jitter   float64
	previous time.Duration
	lossTest lossTest
	rise     delayTest
	least    time.Duration // least delay, as of the last snapshot
	self     Self          // as Table.Self had it last
	selfSeen time.Duration // when that was
	selfLeft time.Duration // of the budget
	ownUntil time.Duration // until then delay and loss are the bond's own doing
}

// load notes what the bond does to the direction. What it sends meets the queue for a round trip more.
func (d *direction) load(now time.Duration, way Way, s Self, roundTrip time.Duration) {
	passed := min(now-d.selfSeen, time.Second) // after a pause nobody knows
	d.self, d.selfSeen = s, now
	queued := s.Loading && d.previous-d.least > ownQueue && (way == Back || s.Queue > ownQueue/2)
	switch {
	case !s.Filling && !queued:
		d.selfLeft = max(d.selfLeft, min(d.selfLeft+passed/fillShare, fillBudget))
	case d.selfLeft > passed:
		d.selfLeft -= passed
		d.ownUntil = now + roundTrip + fillMargin
	default:
		d.selfLeft = 0
	}
}

// own tells that what happens to the direction now is the bond's own doing.
func (d *direction) own(now time.Duration) bool { return now < d.ownUntil }

func (d *direction) traffic(now time.Duration, c Counts) {
	if d.own(now) {
		return
	}
	d.loss.traffic(now, c)
	d.lossTest.batch(c)
}

func (d *direction) probes(now time.Duration, lost, delivered int) {
	if d.own(now) {
		return
	}
	d.loss.probes(now, lost, delivered)
	d.lossTest.add(lost, delivered)
}

func (d *direction) sample(now time.Duration, delay time.Duration, long, first bool) {
	if !first {
		d.jitter += (math.Abs(float64(delay-d.previous)) - d.jitter) / 16
	}
	d.previous = delay
	s := d.loss.second(now)
	s.minDelay = min(s.minDelay, delay)
	if d.own(now) && !first {
		return
	}
	d.delay.addRecent(delay)
	if long {
		d.delay.add(delay)
		d.rise.add(delay)
	}
}

// probeSent notes a probe that left. Silence counts from probes that should have been answered, so that a sender that
// stood still accuses nobody.
func (t *track) probeSent(now time.Duration) {
	if t.sentN < maxUnanswered {
		t.sent[t.sentN] = now
		t.sentN++
	}
}

// answeredUntil forgets the probes sent up to then.
func (t *track) answeredUntil(sent time.Duration) {
	i := 0
	for i < t.sentN && t.sent[i] <= sent {
		i++
	}
	t.sentN = copy(t.sent[:], t.sent[i:t.sentN])
}

// reply takes a reply to the probe sent at that time.
func (t *track) reply(now, sent, rtt, out, back time.Duration) {
	first := !t.spoke
	t.heard, t.spoke = now, true
	if t.clean++; t.clean == 1 {
		t.cleanSince = now
	}
	t.answeredUntil(sent)
	long := first || now-t.lastAdded >= delaySpacing
	if long {
		t.lastAdded = now
	}
	if first || !t.own(now) {
		if long {
			t.rtt.add(rtt)
		}
		t.rtt.addRecent(rtt)
	}
	t.dir[Out].sample(now, out, long, first)
	t.dir[Back].sample(now, back, long, first)
}

func (t *track) fate(now time.Duration, outLost, backLost, answered int) {
	t.dir[Out].probes(now, outLost, backLost+answered)
	t.dir[Back].probes(now, backLost, answered)
}

// own tells that the bond itself makes a queue on the path, one way or the other.
func (t *track) own(now time.Duration) bool { return t.dir[Out].own(now) || t.dir[Back].own(now) }

// expected is the round trip within which 95 % of the replies come.
func (t *track) expected() time.Duration {
	if t.rtt.n == 0 {
		return firstRTT
	}
	return t.rtt.quantile(0.95)
}

// silence is by how much the oldest unanswered probe is overdue.
func (t *track) silence(now time.Duration) time.Duration {
	if t.sentN == 0 {
		return 0
	}
	due := t.sent[0] + t.expected()
	if t.own(now) {
		due += fillQueue
	}
	return max(now-due, 0)
}

// patience is the silence in which new flows stay away: one or two more probes without a reply than the path's usual loss
// explains, so 60 ms on a good path and 110 ms on a lossy one.
func (t *track) patience() time.Duration {
	probes := 2
	if t.usualLoss*t.usualLoss > suspicionRate {
		probes = 3
	}
	return min(time.Duration(probes-1)*t.interval+silenceMargin, max(silenceMax, t.interval+silenceMargin))
}

// certainty is the silence that makes a suspect: the probes sent in answer to it should have been answered.
func (t *track) certainty() time.Duration {
	more := surely
	if !t.used {
		more = surelyUnused
	}
	return max(t.patience(), min(t.expected(), surelyRTT)+more)
}

// share is the loss of a direction; a new path gets the benefit of the doubt.
func share(c Counts) float64 {
	if c.Packets == 0 {
		return 0
	}
	return float64(c.Lost) / float64(max(c.Packets, lossPrior))
}

func (t *track) set(now time.Duration, s State, why string) {
	if s != t.state {
		t.clean = 0
		t.since = now
	}
	t.state, t.why = s, why
}

// fail makes the next return slower, unless the bond itself may have made the failure.
func (t *track) fail(now time.Duration) {
	if now-t.failed > dwellForget {
		t.dwell = 0
	}
	if t.dwell == 0 || !t.own(now) {
		t.dwell = min(max(2*t.dwell, dwellMin), dwellMax)
	}
	t.failed = now
}

// advance moves the state on.
func (t *track) advance(now time.Duration) {
	if s := int64(now / time.Second); s != t.tuned {
		t.tuned = s
		delivered := 1.0
		for i := range t.dir {
			t.dir[i].tune(now)
			delivered *= 1 - share(t.dir[i].loss.counts(now, lossSeconds))
		}
		t.usualLoss = 1 - delivered
	}
	silence := t.silence(now)
	t.overdue = silence > t.patience()
	overdue := silence > t.certainty()
	if t.overdue {
		t.clean = 0
	}
	switch t.state {
	case StateUp:
		if why := t.worse(); overdue {
			t.browned = false
			t.set(now, StateSuspect, "replies overdue")
		} else if why != "" {
			t.fail(now)
			t.set(now, StateBrownout, why)
		}
	case StateBrownout:
		why := t.worse()
		switch age := now - t.since; {
		case overdue:
			t.browned, t.brownedSince = true, t.since
			t.set(now, StateSuspect, "replies overdue")
		case age > brownoutMax, age > t.brownoutHold() && t.recovered(now):
			t.calm(now)
			t.set(now, StateUp, "")
		case why != "":
			t.why = why
		}
	case StateSuspect:
		switch age := now - t.since; {
		case silence > downAfter:
			t.fail(now)
			t.set(now, StateDown, "no reply for a second")
		case t.overdue || t.clean == 0:
		case age > brief && t.clean < cleanReplies:
		case t.browned:
			t.set(now, StateBrownout, "browned out before replies were overdue")
			t.since = t.brownedSince
		default:
			t.set(now, StateUp, "") // worse says at once if it is a brownout
		}
	case StateDown:
		switch {
		case t.overdue || t.clean == 0:
		case t.failed == 0: // its first reply
			t.set(now, StateUp, "")
		case t.clean >= cleanReplies && now-t.cleanSince >= t.dwell:
			t.calm(now)
			t.set(now, StateUp, "")
		}
	}
	t.advanceBoost(now, silence)
}

// tune gives the loss test its hypotheses, unless it has an alarm: then they are what the path is compared with.
func (d *direction) tune(now time.Duration) {
	if !d.lossTest.alarm {
		d.lossTest.tune(d.loss.counts(now, lossSeconds))
	}
}

// risen is the rise of delay that is above part of the threshold, 0 for none.
func (d *direction) risen(part float64) bool {
	recent, ok := d.delay.recentMedian()
	return ok && float64(d.rise.rise(recent)) > part*float64(d.rise.threshold())
}

var worseReasons = [2][2]string{Out: {"more loss on the way out", "more delay on the way out"}, Back: {"more loss on the way back", "more delay on the way back"}}

// worse raises the alarms that are due and says which there are, "" for none.
func (t *track) worse() (why string) {
	for i := range t.dir {
		d := &t.dir[i]
		d.lossTest.alarm = d.lossTest.alarm || d.lossTest.sum >= lossAlarm
		switch {
		case d.lossTest.alarm:
			return worseReasons[i][0]
		case d.risen(1):
			return worseReasons[i][1]
		}
	}
	return ""
}

func (t *track) brownoutHold() time.Duration { return max(brownoutMin, min(5*t.dwell, brownoutMax)) }

// recovered compares the last five seconds with what the path was like before.
func (t *track) recovered(now time.Duration) bool {
	for i := range t.dir {
		d := &t.dir[i]
		c := d.loss.counts(now, int64(brownoutMin/time.Second))
		if d.lossTest.alarm && float64(c.Lost) > float64(c.Packets)*(d.lossTest.p0+d.lossTest.p1)/2 || d.risen(0.5) {
			return false
		}
	}
	return true
}

// calm starts the tests anew, with what the path is like now.
func (t *track) calm(now time.Duration) {
	for i := range t.dir {
		d := &t.dir[i]
		d.lossTest.alarm = false
		d.lossTest.reset()
		d.tune(now)
		if recent, ok := d.delay.recentMedian(); ok && d.rise.rise(recent) > 0 {
			d.rise.base = float64(recent)
		}
	}
}

// ask has more probes sent in answer to late replies, so that those to come tell a burst of losses from silence.
func (t *track) ask(now time.Duration) {
	switch {
	case t.used:
		t.boost = max(t.boost, now+askBriefly)
	case t.askLeft >= askThinly:
		t.askLeft -= askThinly
		t.askUntil = now + askThinly
	}
}

// advanceBoost asks for more probes while a loss test has doubts, within the budget.
func (t *track) advanceBoost(now, silence time.Duration) {
	passed := now - t.boostSince
	t.boostSince = now
	if now < t.boost {
		t.boostLeft = max(t.boostLeft-passed, 0)
	} else {
		t.boostLeft = min(t.boostLeft+passed/boostShare, boostBudget)
	}
	limit := lossDoubt
	if now < t.boost {
		limit = lossMore
	}
	doubt, sure := false, false
	for i := range t.dir {
		d := &t.dir[i]
		if d.loss.busy(now) < boostRate { // else traffic settles the question
			doubt = doubt || d.lossTest.sum >= limit
			sure = sure || d.lossTest.sum >= lossSure // one way or the other within a hundred probes
		}
	}
	// One reply that is late is no silence, on a path with jitter or loss.
	asking := silence > t.interval+silenceMargin
	t.askLeft = min(t.askLeft+passed/askShare, askBudget)
	if asking && !t.asked && t.state != StateDown {
		t.ask(now)
	}
	t.asked = asking
	switch boosting := now < t.boost; {
	case asking: // even where nobody minds more loss
	case !t.used || t.state != StateUp:
		t.boost = min(t.boost, now)
	case sure:
		t.boost = now + boostStep
	case t.boostLeft == 0:
		t.boost = min(t.boost, now)
	case doubt && (boosting || t.boostLeft >= boostStep):
		t.boost = now + min(boostStep, t.boostLeft)
	}
}

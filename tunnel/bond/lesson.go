package bond

import "time"

// A lesson makes the peer's QUIC connection tolerant of late packets before it matters. quic-go begins by counting three
// packets, or 9/8 of a round trip, as loss; each time such a loss turns out spurious it relaxes, in the end to two round
// trips and no count, and undoes the cut. A retransmission of ours comes late but inside two round trips, so each one
// would cost a cut until then, and cuts that overlap are not undone. So while the window is still small, the receiving
// side of a young bulk lane lets a few packets wait as long as a retransmission would take, one at a time.
type lesson struct {
	left int
	wait time.Duration // 0: not yet
	next stamp
	buf  *packetBuf // the packet that waits
	due  stamp
}

const (
	// lessons is one for each step of quic-go (9/8, 10/8, 12/8, 2) and one to spare, as a packet may be lost besides.
	lessons = 5
	// lessonSize is the least length of a packet that surely asks for an acknowledgement.
	lessonSize = 1000
	// lessonWait and lessonPause are in round trips: each step compares with up to 12/8, and the undo takes one more. What
	// is later than about a round trip QUIC does not take any more: it forgets the ranges whose acknowledgement was
	// acknowledged.
	lessonWait  = 0.85
	lessonPause = 1.3
)

// teach keeps the lesson in step with the connection's round trip. Called with mu held.
func (l *Lane) teach() {
	c := l.conn.Load()
	if c == nil || l.rx.lesson.left == 0 || !l.rx.equalised() {
		return
	}
	// A node that only receives has its estimate from the handshake, which may have lost packets, and the round trip has
	// become shorter since. With an estimate a third too long a lesson's cut was never undone, in one of six runs.
	rtt := c.ConnectionStats().SmoothedRTT
	if _, own := l.s.capacity(); own > 0 {
		rtt = min(rtt, own)
	}
	l.rx.lesson.wait = time.Duration(lessonWait * float64(rtt))
}

// take decides whether the packet, due at the given time, is to wait, and keeps it then.
func (t *lesson) take(now stamp, buf *packetBuf, due stamp) bool {
	if t.left == 0 || t.wait == 0 || buf.n < lessonSize || t.buf != nil || now < t.next {
		return false
	}
	t.left--
	t.buf, t.due = buf, due+us(t.wait)
	t.next = t.due + us(time.Duration(float64(t.wait)*lessonPause/lessonWait))
	return true
}

func (t *lesson) give() *packetBuf {
	buf := t.buf
	t.buf, t.due = nil, 0
	return buf
}

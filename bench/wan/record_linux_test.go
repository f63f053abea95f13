package wan

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestRecord: a recording knows of each frame when it came, was read and was
// written, in that order, and which were lost, and nothing of other ports.
func TestRecord(t *testing.T) {
	const count, delay = 400, 20 * time.Millisecond
	lossy := Impairment{Delay: delay, Loss: 0.1}
	e, a, b := tapPair(t, 3, lossy, Impairment{Delay: delay})
	cfg := RecordConfig{Link: "x", Low: 5000, High: 5000, Number: [2]int{4, 0}, Max: 2 * count}
	r, err := e.Record(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Record(cfg); err == nil {
		t.Error("a link is recorded twice")
	}
	before := e.Stats()[0].AtoB
	sent := make([]time.Duration, count)
	for i := range sent {
		msg := binary.BigEndian.AppendUint32([]byte("abcd"), uint32(i))
		sent[i] = monotonic()
		if _, err := a.WriteTo(msg, b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.WriteTo(msg[:7], b.LocalAddr()); err != nil { // has no number
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := b.WriteTo([]byte{0, 0, 0, 77}, a.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2*delay + 200*time.Millisecond)
	after := e.Stats()[0].AtoB
	passages, missed := r.Stop()
	if len(passages) != count+1 || missed != 0 {
		t.Fatalf("%d passages and %d missed, want %d", len(passages), missed, count+1)
	}
	lost := 0
	for _, p := range passages {
		if p.Direction == BtoA {
			if p.Number != 77 || p.Written == 0 || p.Entered == 0 {
				t.Errorf("the other way: %+v", p)
			}
			continue
		}
		if p.From != 5000 || p.To != 5000 || p.Number >= count {
			t.Fatalf("%+v", p)
		}
		// The kernel's time is of CLOCK_REALTIME, which may be slewed.
		const slack = time.Millisecond
		if p.Entered == 0 || p.Entered < sent[p.Number]-slack || p.Read < p.Entered {
			t.Errorf("sent at %v: %+v", sent[p.Number], p)
		}
		if p.Written == 0 {
			lost++
			continue
		}
		if p.Writing > p.Written || p.Written-p.Read < delay-passEvery {
			t.Errorf("%+v took %v, want %v", p, p.Written-p.Read, delay)
		}
	}
	// Datagrams without a number are lost alike.
	if all := int(after.Lost - before.Lost); lost == 0 || lost >= all || lost < count/20 {
		t.Errorf("%d lost on the record, the link lost %d with the others", lost, all)
	}
	cfg.Max = 3
	if r, err = e.Record(cfg); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(5) {
		if _, err := a.WriteTo(binary.BigEndian.AppendUint32([]byte("abcd"), i), b.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond)
	if passages, missed = r.Stop(); len(passages) != 3 || missed != 2 {
		t.Errorf("%d passages and %d missed, want 3 and 2", len(passages), missed)
	}
}

func TestRecordErrors(t *testing.T) {
	e, _, _ := tapPair(t, 1, Impairment{}, Impairment{})
	good := RecordConfig{Link: "x", Low: 1, High: 2, Max: 1}
	for name, change := range map[string]func(*RecordConfig){
		"link":       func(c *RecordConfig) { c.Link = "y" },
		"no ports":   func(c *RecordConfig) { c.Low = 0 },
		"order":      func(c *RecordConfig) { c.Low = 3 },
		"number":     func(c *RecordConfig) { c.Number[1] = -1 },
		"far number": func(c *RecordConfig) { c.Number[0] = maxPayload + 1 },
		"none":       func(c *RecordConfig) { c.Max = 0 },
		"too many":   func(c *RecordConfig) { c.Max = maxRecord + 1 },
	} {
		c := good
		change(&c)
		if r, err := e.Record(c); err == nil {
			r.Stop()
			t.Errorf("%s: no error", name)
		}
	}
	r, err := e.Record(good)
	if err != nil {
		t.Fatal(err)
	}
	r.Stop()
}

package pathsel

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// journey runs a scenario with every decision logged.
func journey(t testing.TB, log *Log) {
	s := newSim(t, 3, three...)
	s.quiet = true
	wall := time.Unix(1_700_000_000, 0).UTC()
	s.onDecide = func(now time.Duration, changed bool, states []PathState, before *Decision) {
		if log.Worth(now, "fra", changed) {
			if _, err := log.Append(wall.Add(now), "fra", states, &s.policy, before, &s.d); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.run(40 * time.Second)
	home := s.d.Classes[Realtime].Path
	s.set(int(home), 2, "50mbit delay 80ms loss 12%")
	s.run(60 * time.Second)
	s.set(int(s.d.Classes[Interactive].Path), 2, "50mbit delay 80ms loss 100%")
	s.run(80 * time.Second)
}

// TestReplay: a log replays to the same decisions, and to others under another policy; a record that was changed is found
// out.
func TestReplay(t *testing.T) {
	log := NewLog(1 << 20)
	journey(t, log)
	var buf bytes.Buffer
	if n, err := log.WriteTo(&buf); err != nil || n != int64(buf.Len()) {
		t.Fatal(n, err)
	}
	lazy := DefaultPolicy()
	for i := range lazy.Classes {
		lazy.Classes[i].LeaveBrownout = false
		lazy.Classes[i].Dwell = time.Hour
	}
	moves, differ := 0, 0
	var other *Decision
	sc := bufio.NewScanner(&buf)
	sc.Buffer(nil, MaxRecord)
	for sc.Scan() {
		r, err := ReadRecord(sc.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(); err != nil {
			t.Fatal(err)
		}
		other = r.Replay(&lazy, other)
		if a, b := r.After.Classes[Realtime], r.Before.Classes[Realtime]; b.OK && a.Path != b.Path {
			moves++
		}
		if other.Classes[Realtime].Path != r.After.Classes[Realtime].Path {
			differ++
		}
		if len(r.After.Classes[Bulk].Order) == 0 {
			continue // the first record: no path has answered yet
		}
		r.After.Classes[Bulk].Order[0].Score++
		if r.Verify() == nil {
			t.Fatal("a changed score is not found")
		}
		r.After.Classes[Bulk].Order[0].Score--
		for i := range r.States {
			r.States[i].RTT.Median += ms
		}
		if r.Verify() == nil {
			t.Fatal("a changed state is not found")
		}
	}
	if moves == 0 || differ == 0 {
		t.Errorf("%d moves, %d decisions differ under the other policy", moves, differ)
	}
	t.Logf("%d records, %d bytes, %d moves, %d differ", log.Len(), log.size, moves, differ)
}

func TestLogBound(t *testing.T) {
	log := NewLog(20_000)
	journey(t, log)
	if log.size > 20_000 || log.Dropped() == 0 || log.Len() == 0 {
		t.Errorf("%d records, %d bytes, %d dropped", log.Len(), log.size, log.Dropped())
	}
	var buf bytes.Buffer
	log.WriteTo(&buf)
	if buf.Len() != log.size || bytes.Count(buf.Bytes(), []byte("\n")) != log.Len() {
		t.Errorf("%d bytes written of %d", buf.Len(), log.size)
	}
	log.Forget("fra")
	if !log.Worth(0, "fra", false) {
		t.Error("an unknown peer's first decision is not worth logging")
	}
}

func TestReadRecordErrors(t *testing.T) {
	log := NewLog(1 << 20)
	journey(t, log)
	line := string(log.lines[len(log.lines)-1])
	for _, tt := range []struct{ name, old, new, want string }{
		{"no JSON", line, "hello", "invalid character"},
		{"empty", line, "", "EOF"},
		{"version", `{"v":4`, `{"v":3`, "of another version: 3, want 4"},
		{"unknown key", `{"v":4`, `{"x":1,"v":4`, `unknown field "x"`},
		{"flaps", `"flaps":`, `"flaps":-1`, "flaps outside 0 to 6"},
		{"policy", `"elephant_bytes":262144`, `"elephant_bytes":1`, "elephant 1 bytes"},
		{"state", `"state":"`, `"state":"x`, "path state"},
	} {
		changed := strings.Replace(line, tt.old, tt.new, 1)
		if changed == line {
			t.Fatalf("%s: nothing to change", tt.name)
		}
		if _, err := ReadRecord([]byte(changed)); !errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
	if _, err := ReadRecord(make([]byte, MaxRecord+1)); !errors.Is(err, ErrRecord) {
		t.Errorf("long line: %v", err)
	}
}

// FuzzReadRecord reads lines and replays what is accepted: no panic, and the same twice.
func FuzzReadRecord(f *testing.F) {
	log := NewLog(1 << 20)
	journey(f, log)
	f.Add(log.lines[0])
	f.Add(log.lines[len(log.lines)-1])
	f.Add([]byte(`{"v":4}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ReadRecord(line)
		if err != nil {
			return
		}
		a, b := r.Replay(nil, nil), r.Replay(nil, nil)
		for i := range a.Classes {
			if a.Classes[i].Path != b.Classes[i].Path || len(a.Classes[i].Order) != len(b.Classes[i].Order) {
				t.Fatal("two replays differ")
			}
			a.Classes[i].Reason(r.Now)
		}
		r.Verify()
	})
}

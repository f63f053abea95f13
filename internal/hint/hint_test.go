package hint

import (
	"errors"
	"fmt"
	"testing"
)

func TestHintSurvivesWrapping(t *testing.T) {
	base := errors.New("listen: port in use")
	err := fmt.Errorf("start: %w", With(base, "stop process %d", 7))
	if got, want := err.Error(), "start: listen: port in use"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	if got, want := Of(err), "stop process 7"; got != want {
		t.Errorf("hint %q, want %q", got, want)
	}
	if !errors.Is(err, base) {
		t.Error("the cause is lost")
	}
	if got := Of(With(err, "outer")); got != "outer" {
		t.Errorf("outermost hint = %q", got)
	}
	if With(nil, "x") != nil || Of(nil) != "" || Of(base) != "" {
		t.Error("an error without a hint got one")
	}
}

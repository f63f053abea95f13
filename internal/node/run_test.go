package node

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
)

type closer func() error

func (c closer) Close() error { return c() }

func TestCloseWithin(t *testing.T) {
	want := errors.New("why")
	if err := closeWithin(closer(func() error { return want }), time.Minute); err != want {
		t.Errorf("%v, want what Close says", err)
	}
	release := make(chan struct{})
	defer close(release)
	err := closeWithin(closer(func() error { <-release; return nil }), 10*time.Millisecond)
	if err == nil || err.Error() != "stop: not everything has ended within 10ms" {
		t.Errorf("a stop that hangs: %v", err)
	}
}

func TestExplainCapture(t *testing.T) {
	err := explainCapture(fmt.Errorf("load program: %w (hit verifier bug)", unix.EFAULT))
	if cli.Code(err) != cli.MissingCapability || !strings.Contains(hint.Of(err), "CAP_PERFMON") {
		t.Errorf("code %d, hint %q", cli.Code(err), hint.Of(err))
	}
	if err := explainCapture(io.EOF); err != io.EOF {
		t.Errorf("another error became %v", err)
	}
}

func TestFirstLine(t *testing.T) {
	for in, want := range map[string]string{
		"one":             "one",
		"one\ntwo":        "one (and 1 more; landbridge check shows all)",
		"one\ntwo\nthree": "one (and 2 more; landbridge check shows all)",
	} {
		if got := firstLine(errors.New(in)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/journal"
)

// TestDecisionFlags: no restart mends a wrong flag, and the hint names it; of a directory that cannot be written to, too.
func TestDecisionFlags(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, tt := range []struct {
		cfg  journal.Config
		code int
		hint string
	}{
		{journal.Config{Dir: t.TempDir(), Keep: 1}, cli.UsageError, "--decisions-keep"},
		{journal.Config{Dir: t.TempDir(), FileBytes: 1}, cli.UsageError, "--decisions-size"},
		{journal.Config{Dir: file}, cli.Failure, "--decisions off"},
	} {
		_, err := openDecisions("sha", tt.cfg, slog.Default())
		if err == nil || cli.Code(err) != tt.code || !strings.Contains(hint.Of(err), tt.hint) {
			t.Errorf("%+v: %v, code %d, hint %q", tt.cfg, err, cli.Code(err), hint.Of(err))
		}
	}
}

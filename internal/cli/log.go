package cli

import (
	"log/slog"
	"os"
)

// Logger is how the daemons log: text on stderr, which a service manager keeps.
func Logger(debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

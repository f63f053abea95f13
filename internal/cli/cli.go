// Package cli is how the three programs end: what they print on an error and which code they return.
//
// A main calls [Main] with its root command. Errors get their exit code from what they are ([Code]) or from [Usage] and
// [Capability]; their advice comes from package hint.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
	"github.com/landbridge/landbridge/internal/identity"
)

// Exit codes of all programs.
const (
	OK                = 0
	Failure           = 1 // at run time
	UsageError        = 2 // of the command line or of a configuration file
	MissingCapability = 3 // the machine or the user cannot do what was asked
)

// ExitCodes is the paragraph about exit codes for a command's help.
const ExitCodes = `Exit codes:
  0  success
  1  failure at run time
  2  error in the command line or in a configuration file
  3  a capability of the machine or of the user is missing`

type coded struct {
	err  error
	code int
}

func (c *coded) Error() string { return c.err.Error() }
func (c *coded) Unwrap() error { return c.err }

// Usage marks err as an error of the command line or a configuration file. Nil stays nil.
func Usage(err error) error { return withCode(err, UsageError) }

// Capability marks err as a missing capability. Nil stays nil.
func Capability(err error) error { return withCode(err, MissingCapability) }

func withCode(err error, code int) error {
	if err == nil {
		return nil
	}
	return &coded{err, code}
}

// ErrSilent makes a command fail with a code after it has said everything itself.
var ErrSilent = errors.New("failed")

// Code returns the exit code for an error: the mark of Usage or Capability if it has one, else by its cause.
func Code(err error) int {
	var c *coded
	switch {
	case err == nil:
		return OK
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, config.ErrInvalid), errors.Is(err, config.ErrLocal), errors.Is(err, config.ErrUnreadable),
		errors.Is(err, config.ErrUnknownNode),
		errors.Is(err, identity.ErrInvalidKey), errors.Is(err, identity.ErrPermissions), errors.Is(err, identity.ErrSelf):
		return UsageError
	case errors.Is(err, syscall.EPERM):
		return MissingCapability
	}
	return Failure
}

// Main runs a root command and returns the exit code. The command's context ends with SIGINT or SIGTERM; a second
// signal kills the process at once.
func Main(root *cobra.Command) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx, root)
}

func run(ctx context.Context, root *cobra.Command) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	// What fails before a command runs is a mistake on the command line.
	cobra.EnableTraverseRunHooks = true
	ran := false
	prev := root.PersistentPreRun
	root.PersistentPreRun = func(cmd *cobra.Command, args []string) {
		ran = true
		if prev != nil {
			prev(cmd, args)
		}
	}
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return OK
	}
	// Cobra checks these two after the hook, and their errors have no type.
	if !ran || strings.HasPrefix(err.Error(), "required flag(s)") || strings.HasPrefix(err.Error(), "if any flags in the group") {
		err = hint.With(Usage(err), "%s --help", cmd.CommandPath())
	}
	Report(root.ErrOrStderr(), root.Name(), err)
	return Code(err)
}

// Report prints an error as the programs do: "name: error: ..." and, where there is one, "hint: ...". Of joined errors
// each has lines of its own. ErrSilent prints nothing.
func Report(w io.Writer, name string, err error) { report(w, name, "error", err) }

// Warn prints what is no error as Report does, with "warning" in its place.
func Warn(w io.Writer, name string, err error) { report(w, name, "warning", err) }

func report(w io.Writer, name, kind string, err error) {
	if err == nil || errors.Is(err, ErrSilent) {
		return
	}
	for _, e := range flatten(err) {
		fmt.Fprintf(w, "%s: %s: %s\n", name, kind, strings.TrimSpace(e.Error()))
		if h := hint.Of(e); h != "" {
			fmt.Fprintf(w, "hint: %s\n", h)
		}
	}
}

// flatten takes joined errors apart. It looks through marks without text of their own, and not into errors that
// wrap several with %w inside a sentence.
func flatten(err error) []error {
	for inner := err; ; {
		if many, ok := inner.(interface{ Unwrap() []error }); ok {
			var out []error
			var texts []string
			for _, e := range many.Unwrap() {
				out = append(out, flatten(e)...)
				texts = append(texts, e.Error())
			}
			if len(out) > 1 && strings.Join(texts, "\n") == err.Error() {
				return out
			}
			return []error{err} // with the marks around it
		}
		next := errors.Unwrap(inner)
		if next == nil || next.Error() != err.Error() {
			return []error{err}
		}
		inner = next
	}
}

// version is set by the build: -ldflags "-X .../internal/cli.version=v1.2.3".
var version string

// Version returns the program's version: what the build set, else the module's or the revision it was built from.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	rev, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if rev == "" {
		return "unknown"
	}
	return rev + dirty
}

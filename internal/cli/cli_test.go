package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/config"
	"github.com/landbridge/landbridge/internal/hint"
)

func TestCode(t *testing.T) {
	_, invalid := config.Parse([]byte("x: 1"))
	_, missing := config.Load(filepath.Join(t.TempDir(), "none.yaml"))
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"no document", missing, UsageError},
		{"nil", nil, OK},
		{"any", errors.New("x"), Failure},
		{"usage", fmt.Errorf("a: %w", Usage(errors.New("x"))), UsageError},
		{"capability", Capability(errors.New("x")), MissingCapability},
		{"bad document", fmt.Errorf("a: %w", invalid), UsageError},
		{"wrong machine", config.ErrLocal, UsageError},
		{"not permitted", fmt.Errorf("attach: %w", syscall.EPERM), MissingCapability},
		{"a mark goes before the cause", Usage(syscall.EPERM), UsageError},
	} {
		if got := Code(tc.err); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
	if Usage(nil) != nil || Capability(nil) != nil {
		t.Error("a mark makes an error of nil")
	}
}

func TestReport(t *testing.T) {
	a := hint.With(errors.New("port in use"), "stop the other one")
	b := errors.New("no key")
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"silent", Capability(ErrSilent), ""},
		{"one", fmt.Errorf("start: %w", a), "p: error: start: port in use\nhint: stop the other one\n"},
		{"joined", errors.Join(a, b), "p: error: port in use\nhint: stop the other one\np: error: no key\n"},
		{"joined, marked", Usage(errors.Join(a, errors.Join(b, b))), "p: error: port in use\nhint: stop the other one\np: error: no key\np: error: no key\n"},
		{"joined with nothing", hint.With(errors.Join(b, nil), "make one"), "p: error: no key\nhint: make one\n"},
		{"several in a sentence", fmt.Errorf("both %w and %w", a, b), "p: error: both port in use and no key\nhint: stop the other one\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			Report(&out, "p", tc.err)
			if out.String() != tc.want {
				t.Errorf("got\n%swant\n%s", out.String(), tc.want)
			}
		})
	}
}

func TestRunTellsMistakesFromFailures(t *testing.T) {
	root := func(out *strings.Builder) *cobra.Command {
		r := &cobra.Command{Use: "p", RunE: func(*cobra.Command, []string) error { return nil }, Args: cobra.NoArgs}
		var hook bool
		fail := &cobra.Command{
			Use: "fail", Args: cobra.NoArgs,
			PersistentPreRun: func(*cobra.Command, []string) { hook = true }, // a hook of its own hides nothing
			RunE: func(*cobra.Command, []string) error {
				if !hook {
					return errors.New("own hook did not run")
				}
				return errors.New("broken")
			},
		}
		need := &cobra.Command{Use: "need", RunE: func(*cobra.Command, []string) error { return nil }}
		need.Flags().String("a", "", "")
		need.Flags().String("b", "", "")
		need.MarkFlagsMutuallyExclusive("a", "b")
		must := &cobra.Command{Use: "must", RunE: func(*cobra.Command, []string) error { return nil }}
		must.Flags().String("x", "", "")
		if err := must.MarkFlagRequired("x"); err != nil {
			t.Fatal(err)
		}
		r.AddCommand(fail, need, must)
		r.SetErr(out)
		return r
	}
	for _, tc := range []struct {
		args string
		code int
		text string
	}{
		{"", OK, ""},
		{"fail", Failure, "p: error: broken\n"},
		{"fail more", UsageError, "p: error: unknown command \"more\" for \"p fail\"\nhint: p fail --help\n"},
		{"other", UsageError, "p: error: unknown command \"other\" for \"p\"\nhint: p --help\n"},
		{"fail --nope", UsageError, "p: error: unknown flag: --nope\nhint: p fail --help\n"},
		{"must", UsageError, "p: error: required flag(s) \"x\" not set\nhint: p must --help\n"},
		{"need --a 1 --b 2", UsageError, "p: error: if any flags in the group [a b] are set none of the others can be; [a b] were all set\nhint: p need --help\n"},
	} {
		var out strings.Builder
		r := root(&out)
		r.SetArgs(strings.Fields(tc.args))
		if got := run(context.Background(), r); got != tc.code || out.String() != tc.text {
			t.Errorf("%q: code %d, want %d\ngot  %swant %s", tc.args, got, tc.code, out.String(), tc.text)
		}
	}
}

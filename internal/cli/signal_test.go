package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

const hangEnv = "LANDBRIDGE_TEST_HANG"

// TestMain makes the test binary a program whose clean stop hangs, where it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv(hangEnv) == "" {
		os.Exit(m.Run())
	}
	os.Exit(Main(&cobra.Command{Use: "hang", Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		fmt.Println("running")
		<-cmd.Context().Done()
		fmt.Println("stopping")
		time.Sleep(time.Minute)
		return nil
	}}))
}

// TestSecondSignal: the first signal asks for a clean stop, the second one does not wait for it.
func TestSecondSignal(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), hangEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dead := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer dead.Stop()
	lines := bufio.NewScanner(out)
	for _, want := range []string{"running", "stopping"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("printed %q, want %q", lines.Text(), want)
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	// The handler goes away just after the context ends.
	for again := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-again.C:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			continue
		case <-ended:
		}
		break
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); !ws.Signaled() || ws.Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want death by SIGTERM", cmd.ProcessState)
	}
}

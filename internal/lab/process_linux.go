package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/landbridge/landbridge/bench/wan"
)

// process is one of a lab's programs. PID and Start together name it for good: a process id alone may belong to
// somebody else by the time the lab is taken down.
type process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
	Log   string `json:"log"`

	done chan struct{} // closed when it has ended; nil if it is not our child
	err  error         // why it ended; valid once done is closed
}

const (
	stopGrace = 5 * time.Second       // from SIGTERM to SIGKILL
	pollEvery = 20 * time.Millisecond // looking whether a process that is not our child has ended
	logTail   = 5                     // lines of a log shown when its program fails
	clockTick = time.Second / 100     // USER_HZ, fixed on all Linux architectures Go runs on
)

// startProcess runs a program inside a namespace ("" for the caller's) with its output in a log file. A detached one
// survives this process; the others are killed with it, however it ends.
func startProcess(dir, name, namespace string, detached bool, path string, args ...string) (*process, error) {
	p := &process{Name: name, Log: filepath.Join(dir, name+logSuffix), done: make(chan struct{})}
	logFile, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer logFile.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // ^C at the terminal is for us alone: we end them in order
	if !detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := wan.InNamespace(namespace, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.PID = cmd.Process.Pid
	st, err := readStat(p.PID)
	go func() {
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.done)
	}()
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.Start = st.start
	return p, nil
}

// alive reports whether the process still runs (a zombie does not).
func (p *process) alive() bool {
	st, err := readStat(p.PID)
	return err == nil && st.start == p.Start && st.state != 'Z' && st.state != 'X'
}

// stop ends the process: politely, then not.
func (p *process) stop() {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if !p.alive() {
			break
		}
		syscall.Kill(p.PID, sig)
		for end := time.Now().Add(stopGrace); p.alive() && time.Now().Before(end); {
			time.Sleep(pollEvery)
		}
	}
	if p.done != nil {
		<-p.done
	}
}

// failure describes a program that should still run and does not, with the end of its log.
func (p *process) failure() error {
	why := "ended"
	if p.done != nil { // it may have ended just now: how is known a moment later
		select {
		case <-p.done:
			why = "ended: " + p.err.Error()
		case <-time.After(stopGrace):
		}
	}
	return fmt.Errorf("%s %s; the end of %s:\n%s", p.Name, why, p.Log, tail(p.Log, logTail))
}

// tail is the last n lines of a file.
func tail(path string, n int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	return "  " + string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n  ")))
}

// cpu is the user and system time the process has taken.
func (p *process) cpu() time.Duration {
	st, err := readStat(p.PID)
	if err != nil || st.start != p.Start {
		return 0
	}
	return st.cpu
}

// ownCPU is this process's user and system time.
func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// machineCPU is the time all processors have been busy, interrupts included (proc(5), /proc/stat).
func machineCPU() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	var busy time.Duration
	for _, i := range []int{1, 2, 3, 6, 7} {
		if i < len(f) {
			n, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				return 0
			}
			busy += time.Duration(n) * clockTick
		}
	}
	return busy
}

type procStat struct {
	state byte
	start uint64
	cpu   time.Duration
}

// readStat reads /proc/PID/stat (proc(5)).
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, err
	}
	// The name in parentheses may hold anything, parentheses and blanks too: fields count from the last one.
	i := bytes.LastIndexByte(b, ')')
	f := strings.Fields(string(b[i+1:]))
	const state, utime, stime, start = 0, 11, 12, 19 // minus the first two
	if i < 0 || len(f) <= start {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	var n [3]uint64
	for k, at := range []int{utime, stime, start} {
		if n[k], err = strconv.ParseUint(f[at], 10, 64); err != nil {
			return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
	}
	return procStat{state: f[state][0], start: n[2], cpu: time.Duration(n[0]+n[1]) * clockTick}, nil
}

// strays lists our processes and other tools' that belong to a lab without being in its state (the state may be lost): those in its
// namespaces and those whose arguments name its directory. People's shells in the namespaces are not ours.
func strays(o Options) (pids []int) {
	var spaces []os.FileInfo
	for _, m := range o.machines() {
		if fi, err := os.Stat("/run/netns/" + o.namespace(m)); err == nil {
			spaces = append(spaces, fi)
		}
	}
	self, _ := os.Executable()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		base := filepath.Base(exe)
		if err != nil || exe != self && !strings.HasPrefix(base, "landbridge") && !slices.Contains(otherTools, base) {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && bytes.Contains(cmdline, []byte(stateDir(o.Name)+"/")) {
			pids = append(pids, pid)
			continue
		}
		if ns, err := os.Stat("/proc/" + e.Name() + "/ns/net"); err == nil &&
			slices.ContainsFunc(spaces, func(fi os.FileInfo) bool { return os.SameFile(fi, ns) }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

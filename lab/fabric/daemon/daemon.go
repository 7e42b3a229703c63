// Package daemon starts processes inside network namespaces that outlive their starter, and finds and ends them later, from
// whatever process, without ever signalling a process identifier that the kernel has given to somebody else meanwhile.
package daemon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hostfabric/hostfabric/lab/netns"
	"golang.org/x/sys/unix"
)

// Spec is a process to start.
type Spec struct {
	Name string // of its record and log in Dir: NAME.pid, NAME.log
	Dir  string
	NS   netns.NS
	Path string
	Args []string
	Env  []string // added to the caller's environment
}

// Process is a running or ended process. PID and Started together name it for as long as the machine is up.
type Process struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // clock ticks from boot to its start: /proc/PID/stat, field 22
	Command string `json:"command"`
}

// Start runs the process in a session of its own, with stdout and stderr appended to its log, and records it in Dir.
func Start(s Spec) (Process, error) {
	log, err := os.OpenFile(filepath.Join(s.Dir, s.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Process{}, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	cmd := exec.Command(s.Path, s.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.Env = append(environ(), s.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := s.NS.Start(cmd); err != nil {
		return Process{}, fmt.Errorf("start %s in namespace %s: %w", s.Name, s.NS.Name, err)
	}
	p, err := read(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reaps it, should it end before its starter does; how it ended is in its log
	if err != nil {
		return Process{}, fmt.Errorf("start %s in namespace %s: it ended at once; see %s", s.Name, s.NS.Name, log.Name())
	}
	p.Command = s.Name
	record, err := json.Marshal(p)
	if err != nil {
		return p, fmt.Errorf("record %s: %w", s.Name, err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, s.Name+".pid"), record, 0o644); err != nil {
		return p, fmt.Errorf("record %s: %w", s.Name, err)
	}
	return p, nil
}

// environ is the caller's environment without what concerns only the caller.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return strings.HasPrefix(kv, "NOTIFY_SOCKET=") || strings.HasPrefix(kv, "LISTEN_")
	})
}

// Load reads the record that Start left. The process may have ended since.
func Load(dir, name string) (Process, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name+".pid"))
	if err != nil {
		return Process{}, fmt.Errorf("record of %s: %w", name, err)
	}
	var p Process
	if err := json.Unmarshal(raw, &p); err != nil {
		return Process{}, fmt.Errorf("record of %s in %s: %w", name, dir, err)
	}
	return p, nil
}

// Forget removes the record of a process, if there is one.
func Forget(dir, name string) error {
	if err := os.Remove(filepath.Join(dir, name+".pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record of %s: %w", name, err)
	}
	return nil
}

// Alive reports whether the process runs; one that has ended and only waits for its parent to notice does not.
func (p Process) Alive() bool {
	now, err := read(p.PID)
	return err == nil && now.Started == p.Started
}

// Signal sends sig to the process; one that has ended is no error.
func (p Process) Signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("signal %s (%d): %w", p.Command, p.PID, err)
	}
	defer unix.Close(fd)
	// The descriptor pins the identifier: once the start time matches, nobody else can take it.
	if !p.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s (%d): %w", p.Command, p.PID, err)
	}
	return nil
}

var errGone = errors.New("process has ended")

// read gives the process that has the identifier now.
func read(pid int) (Process, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}, errGone
	}
	return parseStat(pid, raw)
}

// parseStat reads proc_pid_stat(5). The command is in parentheses and may itself hold spaces and parentheses.
func parseStat(pid int, raw []byte) (Process, error) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return Process{}, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	fields := strings.Fields(string(raw[end+1:])) // the first is field 3, the state
	if len(fields) < 20 {
		return Process{}, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	// A leader that ended before its threads shows as a zombie too, for a moment also while a thread calls execve(2): the
	// process is gone when it has but this one thread.
	if state, threads := fields[0], fields[17]; state == "X" || state == "Z" && threads == "1" {
		return Process{}, errGone
	}
	started, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Process{}, fmt.Errorf("/proc/%d/stat: start time: %w", pid, err)
	}
	return Process{PID: pid, Started: started, Command: string(raw[open+1 : end])}, nil
}

// Tail returns the last lines of a log, for error messages; nothing if there is none.
func Tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Self is the calling process.
func Self() Process {
	p, err := read(os.Getpid())
	if err != nil {
		return Process{PID: os.Getpid()}
	}
	return p
}

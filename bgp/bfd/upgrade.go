package bfd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An upgrade executes the binary on disk in this process, with the sockets open and the sessions in a memfd. The new
// binary is tried before: it is run once beside this one and must read the state.
const (
	dirFDEnv = "HOSTFABRIC_BFD_DIR_FD"
	stateEnv = "HOSTFABRIC_BFD_STATE_FD"
	checkEnv = "HOSTFABRIC_BFD_CHECK" // set: read the state, say so and end

	checkTimeout = 10 * time.Second
	checkedWord  = "state understood by version "
	// upgradeFloor is the interval between our packets that peers are asked to agree to for the moment of an upgrade: the new
	// binary may take longer to start than a detection time of 30 ms.
	upgradeFloor = time.Second
	agreeTimeout = 2 * time.Second
	stateFormat  = 1
)

// upgrade returns an error, or not at all.
func (s *server) upgrade(ctx context.Context, conn net.Conn) error {
	if !s.upgrading.TryLock() {
		return errors.New("an upgrade is under way")
	}
	defer s.upgrading.Unlock()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("upgrade: find own binary: %w", err)
	}
	state, err := s.save(ctx)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	defer state.Close()
	version, err := s.try(ctx, exe, state)
	if err != nil {
		return fmt.Errorf("upgrade: %s is not fit, the old one goes on: %w", exe, err)
	}
	s.opts.Log.Info("upgrading", "from", s.opts.Version, "to", version, "binary", exe)
	if err := s.slowDown(ctx); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if err := writeLine(conn, reply{Version: version, PID: os.Getpid()}); err != nil {
		s.opts.Log.Debug("the caller of the upgrade is gone", "err", err)
	}
	err = s.replace(exe)
	return errors.Join(fmt.Errorf("upgrade: execute %s, the old one goes on: %w", exe, err), s.engine.do(ctx, func() {
		s.engine.floor = 0
		s.engine.setFloor()
	}))
}

// slowDown has the peers agree to a detection time that the start of a binary fits into. A peer that does not answer is not
// waited for long.
func (s *server) slowDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, agreeTimeout)
	defer cancel()
	if err := s.engine.do(ctx, func() {
		s.engine.floor = upgradeFloor
		s.engine.setFloor()
	}); err != nil {
		return err
	}
	s.await(ctx, func(one *session) bool { return one.settled() })
	return nil
}

// save writes the state as it is now into a memfd.
func (s *server) save(ctx context.Context) (*os.File, error) {
	var file *os.File
	var saveErr error
	if err := s.engine.do(ctx, func() { file, saveErr = s.saveNow(false) }); err != nil {
		return nil, err
	}
	return file, saveErr
}

// saveNow runs on the engine's thread. Descriptors that are to be inherited lose their close-on-exec flag.
func (s *server) saveNow(inherited bool) (*os.File, error) {
	state := s.engine.saved()
	_, state.Lock = s.dir.Descriptors()
	raw, err := s.lis.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	if err := raw.Control(func(fd uintptr) { state.Listener = int(fd) }); err != nil {
		return nil, fmt.Errorf("save: %w", err)
	}
	fd, err := unix.MemfdCreate("hostfabric-bfd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("save: memfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	err = json.NewEncoder(f).Encode(state)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil && inherited {
		dir, _ := s.dir.Descriptors()
		err = setInherited(true, append(state.descriptors(), fd, dir)...)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("save: %w", err)
	}
	return f, nil
}

func setInherited(inherited bool, fds ...int) error {
	flag := unix.FD_CLOEXEC
	if inherited {
		flag = 0
	}
	for _, fd := range fds {
		if fd < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag); err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// try runs the new binary with our arguments, and returns the version that could read the state.
func (s *server) try(ctx context.Context, exe string, state *os.File) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{state}
	cmd.Env = append(os.Environ(), stateEnv+"=3", checkEnv+"=1")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%w: %s", err, tail(errs.String()))
	}
	version, ok := strings.CutPrefix(strings.TrimSpace(out.String()), checkedWord)
	if !ok {
		return "", fmt.Errorf("it does not know the state: %q", tail(out.String()))
	}
	return version, nil
}

func tail(s string) string {
	const most = 300
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-most):]
}

// replace executes the binary from the engine's thread, whose priority it keeps, right after a packet of each session. It
// returns only if that failed.
func (s *server) replace(exe string) error {
	var failed error
	err := s.engine.do(context.Background(), func() {
		for _, one := range s.engine.sessions {
			one.urgent = true
			s.engine.transmit(one)
		}
		f, err := s.saveNow(true)
		if err != nil {
			failed = err
			return
		}
		dir, _ := s.dir.Descriptors()
		env := append(os.Environ(), stateEnv+"="+strconv.Itoa(int(f.Fd())), dirFDEnv+"="+strconv.Itoa(dir))
		failed = syscall.Exec(exe, os.Args, env)
		f.Close()
		_, lock := s.dir.Descriptors()
		failed = errors.Join(failed, setInherited(false, append(s.engine.saved().descriptors(), dir, lock)...))
	})
	return errors.Join(err, failed)
}

// inherit returns the state that the former image of this process has left, nil if there was none. A binary that is only tried
// says that it understands the state.
func inherit(opts ServerOptions) (state *savedState, checked bool, err error) {
	text, ok := os.LookupEnv(stateEnv)
	_, checked = os.LookupEnv(checkEnv)
	os.Unsetenv(stateEnv)
	os.Unsetenv(checkEnv)
	if !ok {
		return nil, false, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, checked, fmt.Errorf("%s=%q is not a descriptor", stateEnv, text)
	}
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	state = &savedState{}
	if err := json.NewDecoder(f).Decode(state); err != nil {
		return nil, checked, fmt.Errorf("read the state: %w", err)
	}
	if state.Format != stateFormat {
		return nil, checked, fmt.Errorf("state of format %d, not %d", state.Format, stateFormat)
	}
	if checked {
		_, err := fmt.Println(checkedWord + opts.Version)
		return nil, true, err
	}
	return state, false, setInherited(false, state.descriptors()...)
}

// savedState is what an upgrade carries over.
type savedState struct {
	Format    int
	Lock      int
	Listener  int
	Receivers [2]int
	AdminDown bool
	Strangers uint64
	Sessions  []savedSession
}

func (st *savedState) descriptors() []int {
	fds := []int{st.Lock, st.Listener, st.Receivers[0], st.Receivers[1]}
	for _, s := range st.Sessions {
		fds = append(fds, s.FD)
	}
	return fds
}

type savedSession struct {
	Want                     Session
	FD                       int
	Port                     uint16
	Ifindex                  int
	Since                    time.Time
	Ups, Downs, In, Out, Bad uint64
	LastDown                 string

	State, RemoteState       State
	Diag, RemoteDiag         Diagnostic
	Discr, RemoteDiscr       uint32
	DesiredTx, RequiredRx    time.Duration
	ActiveTx, ActiveRx       time.Duration
	RemoteMinRx, RemoteMinTx time.Duration
	RemoteMultiplier         uint8
	RemoteDemand, Polling    bool
	Awaiting                 bool // the detection runs
}

// saved leaves out the sessions that are going.
func (e *engine) saved() *savedState {
	st := &savedState{Format: stateFormat, Lock: -1, Listener: -1, Receivers: [2]int{-1, -1}, AdminDown: e.adminDown, Strangers: e.strangers}
	for i, r := range e.receivers {
		if r != nil {
			st.Receivers[i] = r.fd
		}
	}
	for _, s := range e.sessions {
		if s.removing {
			continue
		}
		st.Sessions = append(st.Sessions, savedSession{
			Want: s.want, FD: s.fd, Port: s.port, Ifindex: s.ifindex, Since: s.since.Round(0), Ups: s.ups, Downs: s.downs, In: s.in, Out: s.out, Bad: s.bad, LastDown: s.lastDown,
			State: s.state, RemoteState: s.remoteState, Diag: s.diag, RemoteDiag: s.remoteDiag, Discr: s.discr, RemoteDiscr: s.remoteDiscr,
			DesiredTx: s.desiredTx, RequiredRx: s.requiredRx, ActiveTx: s.activeTx, ActiveRx: s.activeRx,
			RemoteMinRx: s.remoteMinRx, RemoteMinTx: s.remoteMinTx, RemoteMultiplier: s.remoteMultiplier, RemoteDemand: s.remoteDemand,
			Polling: s.polling, Awaiting: !s.detectAt.IsZero(),
		})
	}
	return st
}

// restore makes the sessions anew. Each says so at once and gives its peer a whole detection time; a peer that has agreed to
// slower packets is told by a Poll Sequence that they are as before.
func (e *engine) restore(st *savedState, now time.Time) {
	e.now, e.adminDown, e.strangers = now, st.AdminDown, st.Strangers
	for i, fd := range st.Receivers {
		if fd >= 0 {
			e.receivers[i] = newReceiver(fd, i == 1)
		}
	}
	for _, v := range st.Sessions {
		m := &machine{
			minTx: v.Want.MinTx, minRx: v.Want.MinRx, multiplier: v.Want.Multiplier,
			state: v.State, remoteState: v.RemoteState, diag: v.Diag, remoteDiag: v.RemoteDiag, discr: v.Discr, remoteDiscr: v.RemoteDiscr,
			desiredTx: v.DesiredTx, requiredRx: v.RequiredRx, activeTx: v.ActiveTx, activeRx: v.ActiveRx,
			remoteMinRx: v.RemoteMinRx, remoteMinTx: v.RemoteMinTx, remoteMultiplier: v.RemoteMultiplier, remoteDemand: v.RemoteDemand,
			polling: v.Polling, urgent: true, nextTx: now, random: rand.Uint32,
		}
		if v.Awaiting {
			m.detectAt = now.Add(m.detectionTime())
		}
		m.adopt(now)
		s := &session{machine: m, want: v.Want, fd: v.FD, port: v.Port, ifindex: v.Ifindex, since: v.Since, ups: v.Ups, downs: v.Downs, in: v.In, out: v.Out, bad: v.Bad, lastDown: v.LastDown}
		e.adopt(s)
	}
}

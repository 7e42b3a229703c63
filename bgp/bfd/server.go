package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/bgp/internal/private"
)

// ServerOptions configure the BFD process.
type ServerOptions struct {
	Socket  string // private unix socket for the agent; its directory belongs to this process alone
	User    string // whom to become when started as root; "": hostfabric. One that does not exist: uid 65534
	Log     *slog.Logger
	Version string // told to the agent
	Ready   func() // called once the socket is served, and again after an upgrade; may be nil
}

const (
	maxConnections = 32
	farewell       = time.Second // for the AdminDown packets of an orderly end
)

// Serve keeps the sessions that the agent wants until ctx ends, and tells the peers AdminDown then. Started with
// privileges, it first gives up all but CAP_SYS_NICE, by which its thread runs when a packet is due, by executing the
// same binary with the same arguments anew. It needs the process for itself.
func Serve(ctx context.Context, opts ServerOptions) error {
	if opts.Socket == "" {
		return errors.New("bfd: no socket path given")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if err := serve(ctx, opts); err != nil {
		return fmt.Errorf("bfd: %w", err)
	}
	return nil
}

type server struct {
	opts   ServerOptions
	engine *engine
	hub    *hub
	dir    *private.SocketDir
	lis    *net.UnixListener
	slots  chan struct{} // one for each connection

	upgrading sync.Mutex // held while a new binary is being tried
}

func serve(ctx context.Context, opts ServerOptions) error {
	state, checked, err := inherit(opts)
	if err != nil || checked {
		return err
	}
	dir, err := private.Prepare(private.Options{
		Process: "bfd process", Socket: opts.Socket, User: opts.User, Capability: unix.CAP_SYS_NICE, DirFDEnv: dirFDEnv, Log: opts.Log,
	})
	if err != nil {
		return err
	}
	defer dir.Close()
	s := &server{opts: opts, hub: newHub(), dir: dir, slots: make(chan struct{}, maxConnections)}
	release, err := s.listen(state)
	if err != nil {
		return err
	}
	defer release()
	if s.engine, err = newEngine(s.hub); err != nil {
		return err
	}
	if state != nil {
		s.engine.restore(state, time.Now())
	}
	// The thread of the sessions finds a slot of the scheduler free whatever the connections do.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 4))
	return s.run(ctx, state != nil)
}

// listen serves the socket, or takes over the one that the former image of this process has served.
func (s *server) listen(state *savedState) (release func(), err error) {
	if state == nil {
		if release, err = s.dir.Claim(); err != nil {
			return nil, err
		}
		if s.lis, err = net.ListenUnix("unix", &net.UnixAddr{Name: s.dir.SocketPath(), Net: "unix"}); err != nil {
			release()
			return nil, fmt.Errorf("listen on %s: %w", s.opts.Socket, err)
		}
		s.lis.SetUnlinkOnClose(false) // the directory does that, while the lock is held
		return release, nil
	}
	f := os.NewFile(uintptr(state.Listener), s.opts.Socket)
	defer f.Close()
	lis, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the socket %s: %w", s.opts.Socket, err)
	}
	s.lis = lis.(*net.UnixListener)
	s.lis.SetUnlinkOnClose(false)
	return s.dir.Adopt(state.Lock), nil
}

// run has two lives: the connections end with ctx, the engine when the peers have been told.
func (s *server) run(ctx context.Context, upgraded bool) error {
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.engine.run(engineCtx)
	})
	g.Go(func() error {
		defer stopEngine()
		s.accept(ctx)
		s.sayFarewell()
		return nil
	})
	g.Go(func() error { s.report(ctx); return nil })
	s.opts.Log.Info("bfd ready", "socket", s.opts.Socket, "version", s.opts.Version, "scheduling", raisePriority(), "upgraded", upgraded)
	if s.opts.Ready != nil {
		s.opts.Ready()
	}
	return g.Wait()
}

// report logs the changes, so that the engine never waits for whoever reads the log.
func (s *server) report(ctx context.Context) {
	sub := s.hub.subscribe()
	defer s.hub.unsubscribe(sub)
	for {
		select {
		case <-ctx.Done():
			return
		case <-sub.wake:
		}
		changes, lost := s.hub.take(sub)
		if lost {
			s.opts.Log.Warn("too many changes to log all")
		}
		for _, st := range changes {
			log := s.opts.Log.With("peer", st.Peer, "interface", st.Interface, "state", st.State)
			switch {
			case st.Error != "":
				log.Warn("BFD session impaired", "err", st.Error)
			case st.State == Up:
				log.Info("BFD session up", "tx", st.TxInterval, "detection", st.DetectionTime)
			default:
				log.Info("BFD session", "remote_state", st.RemoteState, "last_down", st.LastDown)
			}
		}
	}
}

// sayFarewell tells the peers that the end is planned, and lets the packets go.
func (s *server) sayFarewell() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	s.opts.Log.Info("ending: all sessions go to AdminDown")
	if err := s.engine.do(ctx, func() { s.engine.setAdminDown(true) }); err != nil {
		return
	}
	s.await(ctx, func(one *session) bool { return one.quiet() })
}

// await waits until something is true of all sessions, or ctx ends.
func (s *server) await(ctx context.Context, of func(*session) bool) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		all := true
		err := s.engine.do(ctx, func() {
			for _, one := range s.engine.sessions {
				all = all && of(one)
			}
		})
		if err != nil || all {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

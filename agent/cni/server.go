// Package cni is the agent's CNI front-end: it answers what the shim (cmd/hostfabric-cni) relays, turns CNI's JSON
// into calls of the agent and the outcome back into CNI's results and errors. It keeps no state but the spool of DELs
// that nobody answered.
package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/agent/keylock"
	"github.com/hostfabric/hostfabric/agent/resolver"
)

// Endpoints is what the front-end needs of the agent.
type Endpoints interface {
	// Attach is idempotent by key and all or nothing.
	Attach(context.Context, agent.AttachRequest) (agent.Endpoint, error)
	// Detach is idempotent; found tells whether there was anything to detach.
	Detach(context.Context, agent.Key) (found bool, err error)
	// Check fails with agent.ErrNotFound, or with what differs from what Attach left.
	Check(context.Context, agent.CheckRequest) (agent.Endpoint, error)
	// Collect detaches the owner's attachments that are not in valid, as many as it can.
	Collect(ctx context.Context, owner string, valid []agent.Key) (detached []agent.Key, err error)
	// Ready says why an Attach cannot be served now. An error with a method LimitedConnectivity() bool that returns
	// true says that existing containers suffer, too.
	Ready(context.Context) error
}

// Options of Serve.
type Options struct {
	Endpoints Endpoints
	Resolver  func() resolver.Resolver // of the containers whose networks name none; nil: there is none
	Spool     string                   // default relay.DefaultSpool; must be the network configs' own
	Log       *slog.Logger             // default discards
	Drain     time.Duration            // how often to look for spooled DELs; default 2 s
}

const (
	defaultDrain = 2 * time.Second
	firstDrain   = 10 * time.Second // what the first look for spooled DELs may hold up the first request
	readTimeout  = 10 * time.Second // of a request, which the shim writes at once
	writeTimeout = 5 * time.Second
)

type server struct {
	endpoints Endpoints
	resolver  func() resolver.Resolver
	spool     relay.Spool
	locks     keylock.Locks[agent.Key]
	log       *slog.Logger
	handlers  sync.WaitGroup
}

// Serve does the spooled DELs and then answers requests until ctx ends; it closes l. A request that the end
// interrupts gets no answer, which the shim takes as it takes a dead agent: an ADD is sent again to the next agent, a
// DEL is spooled for it.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	defer l.Close()
	if o.Spool == "" {
		o.Spool = relay.DefaultSpool
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Resolver == nil {
		o.Resolver = func() resolver.Resolver { return resolver.Resolver{} }
	}
	if o.Drain <= 0 {
		o.Drain = defaultDrain
	}
	if err := os.MkdirAll(o.Spool, 0o700); err != nil {
		return fmt.Errorf("cni: create the spool: %w", err)
	}
	s := &server{endpoints: o.Endpoints, resolver: o.Resolver, spool: relay.Spool(o.Spool), log: o.Log}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()

	d := drainer{s: s}
	first, done := context.WithTimeout(ctx, firstDrain)
	d.pass(first)
	done()
	s.handlers.Go(func() { d.run(ctx, o.Drain) })
	err := s.accept(ctx, l)
	cancel()
	s.handlers.Wait()
	return err
}

func (s *server) accept(ctx context.Context, l net.Listener) error {
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			s.handlers.Go(func() { s.serve(ctx, c) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED):
			s.log.Warn("cni: accept failed, going on", "err", err)
			if !pause(ctx, 50*time.Millisecond) {
				return nil
			}
		default:
			return fmt.Errorf("cni: accept: %w", err)
		}
	}
}

// serve answers the one request of a connection.
func (s *server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	req, err := readRequest(ctx, c)
	if ctx.Err() != nil {
		return
	}
	if refused := verifyPeer(c); refused != nil {
		s.log.Warn("cni: request refused", "err", refused)
		s.reply(c, relay.LatestVersion, nil, &relay.Error{Code: relay.CodeIO, Msg: "agent serves root only", Details: refused.Error()})
		return
	}
	if err != nil {
		s.log.Warn("cni: bad request", "err", err)
		s.reply(c, relay.LatestVersion, nil, &relay.Error{Code: relay.CodeDecode, Msg: "agent cannot read the request", Details: err.Error()})
		return
	}
	work, cancel := context.WithTimeout(ctx, budget(req.Patience))
	defer cancel()
	if req.Command == relay.Add {
		// Nobody is left to tell of an interface whose runtime gave up. A DEL is better done than told.
		s.handlers.Go(func() { cancelOnHangup(c, cancel) }) // ends with c
	}
	start := time.Now()
	version, out, err := s.handle(work, &req)
	s.report(&req, time.Since(start), err)
	if err != nil && ctx.Err() != nil {
		return
	}
	s.reply(c, version, out, err)
}

// readRequest gives up when ctx ends, even in the middle.
func readRequest(ctx context.Context, c net.Conn) (relay.Request, error) {
	if err := c.SetReadDeadline(time.Now().Add(readTimeout)); err != nil {
		return relay.Request{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // fails only if c is closed
	defer stop()
	req, err := relay.ReadRequest(c)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	return req, err
}

// budget leaves the shim a moment to hear our own error before its patience ends.
func budget(patience time.Duration) time.Duration {
	patience = min(patience, relay.MaxTimeout)
	return patience - min(patience/10, 200*time.Millisecond)
}

func cancelOnHangup(c net.Conn, cancel context.CancelFunc) {
	var b [1]byte
	_, _ = c.Read(b[:]) // the shim sends nothing more: this returns when it is gone or we are done
	cancel()
}

func (s *server) report(req *relay.Request, took time.Duration, err error) {
	log := s.log.With("command", req.Command, "container", req.ContainerID, "interface", req.IfName, "took", took)
	if err != nil {
		log.Warn("cni: request failed", "err", err)
		return
	}
	log.Debug("cni: request served")
}

func (s *server) reply(c net.Conn, version string, out []byte, err error) {
	resp := relay.Response{Stdout: out}
	if err != nil {
		resp = relay.Response{Failed: true, Stdout: asError(err).JSON(version)}
	}
	frame, err := resp.Encode()
	if err == nil {
		err = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
	if err == nil {
		_, err = c.Write(frame)
	}
	if err != nil {
		s.log.Warn("cni: answer not delivered", "err", err)
	}
}

// verifyPeer lets in root and the agent's own user; the socket's mode says the same.
func verifyPeer(c net.Conn) error {
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%s is no unix socket", c.LocalAddr())
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return err
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("peer credentials: %w", credErr)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("process %d of user %d is not root", cred.Pid, cred.Uid)
	}
	return nil
}

// pause waits; false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

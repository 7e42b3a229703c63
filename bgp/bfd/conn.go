package bfd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// accept serves connections until ctx ends, and waits for them.
func (s *server) accept(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { s.lis.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := s.lis.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil { // out of descriptors, at worst: those who wait go on waiting
			s.opts.Log.Warn("accept", "err", err)
			wait(ctx, 100*time.Millisecond)
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			s.opts.Log.Warn("connection refused: too many", "most", maxConnections)
			conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-s.slots }()
			s.converse(ctx, conn)
		})
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// converse answers the requests of one connection. What cannot be read ends it, and nothing else.
func (s *server) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	lines := newLines(conn)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
			return
		}
		var req request
		if err := readLine(lines, &req); err != nil {
			if ctx.Err() == nil && !errors.Is(err, errClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				_ = writeLine(conn, reply{Error: err.Error()}) // if it can be told at all
			}
			return
		}
		if req.Watch {
			s.watch(ctx, conn)
			return
		}
		if err := writeLine(conn, s.handle(ctx, conn, req)); err != nil {
			return
		}
	}
}

func (s *server) handle(ctx context.Context, conn net.Conn, req request) reply {
	answer := reply{Version: s.opts.Version, PID: os.Getpid()}
	var err error
	switch {
	case req.Set != nil:
		err = s.set(ctx, *req.Set)
	case req.AdminDown != nil:
		s.opts.Log.Info("all sessions", "admin_down", req.AdminDown.Down, "reason", req.AdminDown.Reason)
		err = s.engine.do(ctx, func() { s.engine.setAdminDown(req.AdminDown.Down) })
	case req.Status:
		var all []Status
		err = s.engine.do(ctx, func() { all = s.engine.statuses() })
		answer.Sessions = &all
	case req.Upgrade:
		err = s.upgrade(ctx, conn)
	default:
		err = errors.New("this version knows no such request")
	}
	if err != nil {
		return reply{Error: err.Error()}
	}
	return answer
}

func (s *server) set(ctx context.Context, want []Session) error {
	want, err := normalizeAll(want)
	if err != nil {
		return err
	}
	return s.engine.do(ctx, func() { s.engine.set(want) })
}

// watch sends all sessions and then their changes until the other side hangs up or does not keep up.
func (s *server) watch(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer conn.Close() // ends the reader
	wg.Go(func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, bufio.NewReader(conn)) // for its end only
	})
	var sub *subscription
	defer func() {
		if sub != nil {
			s.hub.unsubscribe(sub)
		}
	}()
	for snapshot := true; ; {
		if snapshot {
			var all []Status
			err := s.engine.do(ctx, func() { // on the engine's thread no change falls between the two
				all = s.engine.statuses()
				if sub == nil {
					sub = s.hub.subscribe()
				}
				s.hub.take(sub)
			})
			if err != nil || writeLine(conn, reply{Version: s.opts.Version, PID: os.Getpid(), Sessions: &all}) != nil {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-sub.wake:
		}
		var changes []Status
		changes, snapshot = s.hub.take(sub)
		for i := range changes {
			if snapshot {
				break
			}
			if writeLine(conn, reply{Change: &changes[i]}) != nil {
				return
			}
		}
	}
}

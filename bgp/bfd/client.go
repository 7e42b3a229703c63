package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// ClientOptions configure the agent's side.
type ClientOptions struct {
	Socket  string
	Log     *slog.Logger
	Changed func(Status) // a session's state, its history or its error has changed; from one goroutine, never with a lock held; may be nil
}

const (
	minReconnect = 50 * time.Millisecond
	maxReconnect = time.Second
	callTimeout  = 10 * time.Second
)

// ErrNotConnected is returned by calls that need the BFD process while it cannot be reached.
var ErrNotConnected = errors.New("the bfd process cannot be reached")

// Client tells the BFD process what sessions are wanted, follows them, and connects again whenever it must.
type Client struct {
	opts  ClientOptions
	apply sync.Mutex // held while a call that changes something is made, so that the last one recorded is the last one made

	mu        sync.Mutex // guards the rest
	want      *[]Session
	down      *bool
	known     map[key]Status
	version   string
	pid       int
	connected bool
	following net.Conn // nil while there is none
}

// NewClient returns a client that does nothing before Run.
func NewClient(opts ClientOptions) *Client {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{opts: opts, known: map[key]Status{}}
}

// Run stays connected until ctx ends. The sessions go on then.
func (c *Client) Run(ctx context.Context) error {
	backoff := minReconnect
	for ctx.Err() == nil {
		began := time.Now()
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxReconnect {
			backoff = minReconnect
		}
		c.opts.Log.Log(ctx, level(backoff), "bfd process not connected", "socket", c.opts.Socket, "err", err, "retry_in", backoff)
		wait(ctx, backoff)
		backoff = min(2*backoff, maxReconnect)
	}
	return nil
}

// level keeps what goes on for long from filling the log.
func level(backoff time.Duration) slog.Level {
	if backoff == minReconnect {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// follow connects, says what is wanted, and passes on what changes until the connection ends.
func (c *Client) follow(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.opts.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer c.setConnected(reply{}, false)
	c.mu.Lock()
	c.following = conn
	c.mu.Unlock()
	if err := writeLine(conn, request{Watch: true}); err != nil {
		return err
	}
	lines := newLines(conn)
	for first := true; ; first = false {
		var r reply
		if err := readLine(lines, &r); err != nil {
			return err
		}
		switch {
		case r.Error != "":
			return errors.New(r.Error)
		case r.Sessions != nil:
			c.setConnected(r, true)
			c.snapshot(*r.Sessions)
		case r.Change != nil:
			c.learn(*r.Change)
		}
		if first {
			c.opts.Log.Info("bfd process connected", "version", r.Version, "pid", r.PID)
			if err := c.reapply(ctx); err != nil {
				return err
			}
		}
	}
}

func (c *Client) setConnected(r reply, connected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version, c.pid, c.connected = r.Version, r.PID, connected
	if !connected {
		c.following = nil
	}
}

// snapshot replaces all that is known.
func (c *Client) snapshot(all []Status) {
	c.mu.Lock()
	before := c.known
	c.known = make(map[key]Status, len(all))
	for _, st := range all {
		c.known[st.key()] = st
	}
	c.mu.Unlock()
	for _, st := range all {
		if old, ok := before[st.key()]; !ok || differs(old, st) {
			c.tell(st)
		}
	}
}

func (c *Client) learn(st Status) {
	c.mu.Lock()
	c.known[st.key()] = st
	c.mu.Unlock()
	c.tell(st)
}

func (c *Client) tell(st Status) {
	if c.opts.Changed != nil {
		c.opts.Changed(st)
	}
}

// differs compares what Changed tells of.
func differs(a, b Status) bool {
	return a.State != b.State || a.Ups != b.Ups || a.Downs != b.Downs || a.Error != b.Error || a.LocalDiscriminator != b.LocalDiscriminator
}

// Set makes the sessions in the BFD process what is given, now or as soon as it is connected, and again whenever it has been
// started anew. An error means that the set is invalid, or refused, and nothing has changed.
func (c *Client) Set(ctx context.Context, want []Session) error {
	want, err := normalizeAll(want)
	if err != nil {
		return fmt.Errorf("bfd: %w", err)
	}
	c.apply.Lock()
	defer c.apply.Unlock()
	c.mu.Lock()
	c.want = &want
	c.mu.Unlock()
	return c.tolerate(c.applySet(ctx, want))
}

// AdminDown closes all sessions, with their peers told that it is on purpose, or opens them again; like Set it is kept up.
// Sessions that are added meanwhile are closed too.
func (c *Client) AdminDown(ctx context.Context, down bool) error {
	c.apply.Lock()
	defer c.apply.Unlock()
	c.mu.Lock()
	c.down = &down
	c.mu.Unlock()
	_, err := c.call(ctx, request{AdminDown: &adminRequest{Down: down, Reason: "told by the agent"}})
	return c.tolerate(err)
}

// tolerate leaves to the next connection what this one could not carry. The one that follows the sessions may have come through
// it: it begins anew, for what is wanted is told where it begins.
func (c *Client) tolerate(err error) error {
	if !errors.Is(err, ErrNotConnected) {
		return err
	}
	c.opts.Log.Debug("put off until the bfd process is connected", "err", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.following != nil {
		c.following.Close()
	}
	return nil
}

func (c *Client) reapply(ctx context.Context) error {
	c.apply.Lock()
	defer c.apply.Unlock()
	c.mu.Lock()
	want, down := c.want, c.down
	c.mu.Unlock()
	if down != nil {
		if _, err := c.call(ctx, request{AdminDown: &adminRequest{Down: *down, Reason: "told by the agent"}}); err != nil {
			return err
		}
	}
	if want == nil {
		return nil
	}
	return c.applySet(ctx, *want)
}

func (c *Client) applySet(ctx context.Context, want []Session) error {
	if _, err := c.call(ctx, request{Set: &want}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.known {
		if !slices.ContainsFunc(want, func(s Session) bool { return s.key() == k }) {
			delete(c.known, k)
		}
	}
	return nil
}

// Refresh returns the sessions with their counters as they are now; what Status returns is as of their last change.
func (c *Client) Refresh(ctx context.Context) ([]Status, error) {
	r, err := c.call(ctx, request{Status: true})
	if err != nil {
		return nil, err
	}
	if r.Sessions == nil {
		return nil, errors.New("bfd: status without sessions")
	}
	return *r.Sessions, nil
}

// Status returns the sessions as of their last change, in the order of their peers. While the process is not connected, they
// are as last heard.
func (c *Client) Status() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]Status, 0, len(c.known))
	for _, st := range c.known {
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b Status) int { return a.Peer.Compare(b.Peer) })
	return all
}

// Connected tells which process is connected, if one is.
func (c *Client) Connected() (version string, pid int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version, c.pid, c.connected
}

// Upgrade has the process execute the binary on disk without a session going down, and returns when that has happened. An
// error means that the old one goes on.
func (c *Client) Upgrade(ctx context.Context) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeLine(conn, request{Upgrade: true}); err != nil {
		return fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	lines := newLines(conn)
	for accepted := false; ; accepted = true {
		var r reply
		switch err := readLine(lines, &r); {
		case ctx.Err() != nil:
			return ctx.Err()
		case accepted && err != nil: // the old binary is gone, and its end of the connection with it
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", ErrNotConnected, err)
		case r.Error != "":
			return fmt.Errorf("bfd: %s", r.Error)
		}
	}
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.opts.Socket)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	return conn, nil
}

// call makes one request on a connection of its own.
func (c *Client) call(ctx context.Context, req request) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeLine(conn, req); err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	var r reply
	if err := readLine(newLines(conn), &r); err != nil {
		return reply{}, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	if r.Error != "" {
		return reply{}, fmt.Errorf("bfd: %s", r.Error)
	}
	return r, nil
}

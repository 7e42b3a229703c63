package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/hostfabric/hostfabric/bgp/internal/blame"
)

// ErrDisconnected says that the speaker process is not there. What was asked for is recorded and applied when it is.
var ErrDisconnected = errors.New("speaker not connected")

// Options configure a Speaker.
type Options struct {
	Socket string // path of the speaker's private unix socket
	Log    *slog.Logger
	Events Events
	// WarmRestart says, for a fresh speaker found before this Speaker configured any, whether our routes may still be
	// in the peers' tables. nil: no. A speaker that replaces one we configured is always a warm restart.
	WarmRestart func() bool
	// BlameFile keeps which peers' messages crashed the speaker, so that one held down stays so over a restart of the
	// agent. "": it is forgotten then.
	BlameFile string
	// InitialDeadline bounds the wait for the peers' End-of-RIB before stale routes are withdrawn; 0: 10 s.
	InitialDeadline time.Duration
}

// Speaker is the client of a speaker process.
type Speaker struct {
	opts Options
	log  *slog.Logger
	wake chan struct{} // of size 1: the desired state changed

	mu      sync.Mutex // guards what follows
	want    desired
	waiters []waiter
	status  Status
	client  api.GobgpApiClient // nil while not connected
	silent  error              // the last query had no answer in time
	silence time.Time          // when that was
	blame   blame.Record       // who is held down

	guard *guard
	edit  sync.Mutex // held while peers of the speaker are added and deleted

	// Owned by Run.
	view       *view
	refusals   *refusals           // shared, has its own lock
	configured bool                // a speaker was configured by us: the next fresh one is a warm restart
	given      []netip.Addr        // the peers of the last speaker
	up         map[netip.Addr]bool // the sessions that the consumer takes for up
	// originated is what the consumer takes for announced, sorted; nil before a speaker was found.
	originated []netip.Prefix
}

// desired is the state the speaker is to be brought to.
type desired struct {
	gen    uint64
	config *Config // nil: not known yet, leave the speaker alone
	set    []Announcement
	// announced: set is known. Until then a running speaker goes on announcing what it does.
	announced bool
}

// waiter waits until a generation of the desired state was applied or refused.
type waiter struct {
	gen  uint64
	done chan error
}

// New returns a Speaker that does nothing before Run.
func New(opts Options) *Speaker {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.InitialDeadline == 0 {
		opts.InitialDeadline = DefaultInitialDeadline
	}
	s := &Speaker{
		opts: opts, log: opts.Log, wake: make(chan struct{}, 1), view: newView(opts.Log), guard: newGuard(), refusals: newRefusals(), up: map[netip.Addr]bool{},
		status: Status{Since: time.Now(), Err: ErrDisconnected},
	}
	s.loadBlame()
	s.status.Crashes = s.blame.Crashes
	return s
}

// Reconnection starts quickly, for a speaker that is being restarted, and then slows down.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// Run keeps the speaker process at the desired state until ctx ends. It does not stop BGP then.
func (s *Speaker) Run(ctx context.Context) error {
	defer s.disconnected(ErrDisconnected)
	backoff := minBackoff
	for ctx.Err() == nil {
		connected, err := s.session(ctx)
		if errors.Is(err, errReopen) {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		if connected {
			backoff = minBackoff
			s.log.Warn("speaker lost, reconnecting", "socket", s.opts.Socket, "error", err)
		}
		s.disconnected(err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(backoff*2, maxBackoff)
	}
	return nil
}

// Configure sets the desired configuration. It returns once the speaker has it or refused it; without a connection it
// only records the wish and returns nil. An invalid config is refused and changes nothing.
func (s *Speaker) Configure(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return fmt.Errorf("bgp configuration: %w", err)
	}
	c.Peers = slices.Clone(c.Peers)
	return s.set(ctx, func(d *desired) { d.config = &c })
}

// Announce sets the whole set of announced prefixes, like Configure. No session is touched by it. Before the first call
// a speaker found running keeps its announcements; one that replaces a speaker waits for it with connecting to the
// peers, for InitialDeadline at most, because they would drop what we do not announce anew.
func (s *Speaker) Announce(ctx context.Context, set []Announcement) error {
	list, err := normalize(set)
	if err != nil {
		return fmt.Errorf("bgp announcements: %w", err)
	}
	return s.set(ctx, func(d *desired) { d.set, d.announced = list, true })
}

func (s *Speaker) set(ctx context.Context, change func(*desired)) error {
	s.mu.Lock()
	change(&s.want)
	s.want.gen++
	if s.client == nil {
		s.mu.Unlock()
		return nil
	}
	w := waiter{gen: s.want.gen, done: make(chan error, 1)}
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	s.poke()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (s *Speaker) desired() desired {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want
}

// applied tells the waiters of a generation how it went.
func (s *Speaker) applied(gen uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Err, s.silent = err, nil
	s.waiters = slices.DeleteFunc(s.waiters, func(w waiter) bool {
		if w.gen <= gen {
			w.done <- err
			return true
		}
		return false
	})
}

func (s *Speaker) connected(client api.GobgpApiClient, version string, pid int) {
	s.mu.Lock()
	s.client, s.silent = client, nil
	if !s.status.Connected {
		s.status.Since = time.Now()
	}
	s.status.Connected, s.status.Version, s.status.PID, s.status.Err = true, version, pid, nil
	st := s.status
	s.mu.Unlock()
	s.tellStatus(st)
}

func (s *Speaker) disconnected(err error) {
	s.mu.Lock()
	was := s.status.Connected
	s.client, s.silent = nil, nil
	if was {
		s.status.Since = time.Now()
	}
	s.status.Connected, s.status.Synced, s.status.Version, s.status.PID, s.status.Err = false, false, "", 0, err
	for _, w := range s.waiters {
		w.done <- fmt.Errorf("%w: the change is recorded and follows when it is back", ErrDisconnected)
	}
	s.waiters = nil
	st := s.status
	s.mu.Unlock()
	if was {
		s.tellStatus(st)
	}
}

func (s *Speaker) setSynced(v bool) {
	s.mu.Lock()
	changed := s.status.Synced != v
	s.status.Synced = v
	st := s.status
	s.mu.Unlock()
	if changed {
		s.tellStatus(st)
	}
}

func (s *Speaker) tellStatus(st Status) {
	if s.opts.Events.Status != nil {
		s.opts.Events.Status(st)
	}
}

// Status returns the state of the connection.
func (s *Speaker) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if s.silent != nil {
		st.Err = s.silent
	}
	return st
}

// current returns the client of the live connection and the desired configuration.
func (s *Speaker) current() (conn, *Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return conn{}, nil, ErrDisconnected
	}
	return conn{s.client}, s.want.config, nil
}

// queryTimeout bounds a question of somebody who looks: an answer that late is none.
const queryTimeout = 2 * time.Second

// query runs ask within queryTimeout. A speaker that has just been silent is not asked again at once, so that several
// questions in a row cost the asker one wait.
func (s *Speaker) query(ctx context.Context, ask func(context.Context) error) error {
	s.mu.Lock()
	silent := s.silent
	recent := time.Since(s.silence) < queryTimeout
	s.mu.Unlock()
	if silent != nil && recent {
		return silent
	}
	limited, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := ask(limited)
	if ctx.Err() != nil {
		return err // the asker's own end says nothing of the speaker
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = nil
	if err != nil && limited.Err() != nil {
		err = fmt.Errorf("the speaker process does not answer within %s, is it stopped or overloaded?: %w", queryTimeout, err)
		s.silent, s.silence = err, time.Now()
	}
	return err
}

// Peers returns the state of the neighbors, sorted by address; one the speaker was not given yet is Idle. With many learned
// routes it is not cheap for the speaker: the counts of advertised prefixes are computed. It takes 2 s at most.
func (s *Speaker) Peers(ctx context.Context) ([]PeerStatus, error) {
	c, cfg, err := s.current()
	if err != nil {
		return nil, err
	}
	var out []PeerStatus
	err = s.query(ctx, func(ctx context.Context) (err error) {
		if out, err = c.peerStatus(ctx, cfg, true); err == nil {
			s.view.tallies.fill(out)
			s.guard.fill(out)
			s.view.tallies.recount(ctx, c, out)
			s.refusals.fill(out)
			s.markHeld(out)
		}
		return err
	})
	return out, err
}

// Announced asks which of the prefixes to announce the speaker originates, sorted; before the first Announce, all that it does
// originate, for which it walks its whole table. It takes 2 s at most.
func (s *Speaker) Announced(ctx context.Context) ([]netip.Prefix, error) {
	c, _, err := s.current()
	if err != nil {
		return nil, err
	}
	var only []netip.Prefix
	if d := s.desired(); d.announced {
		only = make([]netip.Prefix, len(d.set))
		for i, a := range d.set {
			only[i] = a.Prefix
		}
	}
	var have map[netip.Prefix]Announcement
	err = s.query(ctx, func(ctx context.Context) (err error) {
		have, err = c.localPaths(ctx, only)
		return err
	})
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Keys(have), netip.Prefix.Compare), nil
}

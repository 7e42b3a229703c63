package bgp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	// flushInterval is the least time between deliveries of learned routes; the first after a quiet time is immediate.
	flushInterval = 20 * time.Millisecond
	// resyncInterval is how often the speaker is compared with the desired state without a reason.
	resyncInterval = 30 * time.Second
	// What the speaker refused is tried again after retryMin, then more and more slowly.
	retryMin = time.Second
	retryMax = resyncInterval
	// admitInterval is how often peers still missing after a warm restart are looked at.
	admitInterval = 200 * time.Millisecond
)

// errReopen asks Run for a new connection at once: BGP has to be restarted, which needs the event stream closed.
var errReopen = errors.New("reopen")

// session is one connection to a speaker process.
type session struct {
	*Speaker
	rec      *reconciler
	eor      eorTracker
	begun    time.Time
	warmEnd  time.Time // peers have dropped our old routes by then
	events   chan *api.WatchEventResponse
	lost     chan error
	flushed  time.Time
	failures int
	looked   bool                                      // watchOver has looked
	watchers sync.WaitGroup                            // goroutines that end with the session
	states   map[netip.Addr]api.PeerState_SessionState // of the sessions, by address without zone
	stale    map[netip.Addr]time.Time                  // until when routers that restart may return, see endStale

	flush, retry, deadline, admit, rest, release *time.Timer
}

// session connects, brings the speaker to the desired state and follows it until the connection or ctx ends.
func (s *Speaker) session(parent context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	cc, err := grpc.NewClient("passthrough:///unix", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dialer(s.opts.Socket)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32))) // the first event holds the whole table
	if err != nil {
		return false, fmt.Errorf("speaker at %s: %w", s.opts.Socket, err)
	}
	defer cc.Close()
	ss := &session{
		Speaker: s, states: map[netip.Addr]api.PeerState_SessionState{}, stale: map[netip.Addr]time.Time{}, begun: time.Now(), events: make(chan *api.WatchEventResponse, 64), lost: make(chan error, 1),
		rec:   &reconciler{conn: conn{api.NewGobgpApiClient(cc)}, log: s.log, admitted: map[netip.Addr]time.Time{}, stations: map[netip.AddrPort]Station{}, edit: &s.edit, given: map[netip.Addr]bool{}},
		flush: stopped(), retry: stopped(), deadline: stopped(), admit: stopped(), rest: stopped(), release: stopped(),
	}
	defer ss.stopTimers()
	defer ss.watchers.Wait()
	defer cancel()
	g, version, pid, err := ss.rec.conn.global(ctx)
	if err != nil {
		return false, err
	}
	fresh := g.GetAsn() == 0
	s.noteCrashes(pid, s.given)
	s.given = nil
	defer func() {
		if fresh || len(ss.rec.given) > 0 { // else one that ran before may not have been looked at
			s.given = slices.AppendSeq([]netip.Addr{}, maps.Keys(ss.rec.given))
		}
	}()
	// With one already configured, peers can be missing because an earlier agent ended in the middle of a warm restart.
	// To a peer that is really new the difference does not matter.
	ss.rec.fresh, ss.rec.warm = fresh, !fresh || s.configured || s.opts.WarmRestart != nil && s.opts.WarmRestart()
	s.log.Info("speaker found", "pid", pid, "version", version, "fresh", fresh, "warm_restart", fresh && ss.rec.warm)
	s.connected(ss.rec.api, version, pid)
	var dumps sync.WaitGroup
	dumps.Go(func() { s.dumps(ctx, ss.rec.conn) })
	defer dumps.Wait()
	defer cancel()
	return true, ss.run(ctx)
}

func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (s *session) stopTimers() {
	for _, t := range []*time.Timer{s.flush, s.retry, s.deadline, s.admit, s.rest, s.release} {
		t.Stop()
	}
}

// run waits for a configuration, opens the event stream between the paths and the peers, so that no event is missed,
// and then reacts.
func (s *session) run(ctx context.Context) error {
	opened := false
	for {
		err := s.apply(ctx, &opened)
		if errors.Is(err, errReopen) || isLost(err) {
			return err
		}
		if err := s.wait(ctx); err != nil {
			return err
		}
	}
}

// apply brings the speaker to the desired state once, and arms the timer of the next time.
func (s *session) apply(ctx context.Context, opened *bool) error {
	d := s.desired()
	if d.config == nil {
		s.applied(d.gen, nil)
		return nil
	}
	if left := s.opts.InitialDeadline - time.Since(s.begun); s.rec.fresh && s.rec.warm && !d.announced && left > 0 {
		s.retry.Reset(left)
		s.applied(d.gen, nil)
		return nil
	}
	err := s.steps(ctx, d, opened)
	if errors.Is(err, errReopen) || ctx.Err() != nil || isLost(err) {
		return err
	}
	if err != nil {
		s.log.Error("speaker not at the desired state, trying again", "error", err)
		s.retry.Reset(min(retryMin<<min(s.failures, 8), retryMax))
		s.failures++
	} else {
		s.configured = true
		s.failures = 0
		s.retry.Reset(resyncInterval)
	}
	s.applied(d.gen, err)
	return err
}

func (s *session) steps(ctx context.Context, d desired, opened *bool) error {
	c := *d.config
	if *opened {
		g, _, _, err := s.rec.conn.global(ctx)
		if err != nil {
			return err
		}
		if !sameGlobal(g, globalOf(c)) {
			return errReopen
		}
	} else if err := s.rec.global(ctx, c); err != nil {
		return err
	}
	if err := s.rec.routes(ctx, c, d); err != nil {
		return err
	}
	s.tellAnnounced(d)
	s.view.configure(c)
	admissible := s.admissible(c)
	s.eor.setPeers(s.expected(c))
	if *opened {
		s.schedule() // next hops may be judged otherwise now
	} else {
		if err := s.open(ctx, c); err != nil {
			return err
		}
		*opened = true
	}
	if err := s.rec.neighbors(ctx, admissible); err != nil {
		return err
	}
	if err := s.rec.setStations(ctx, c.Stations); err != nil {
		return err
	}
	if err := s.watchOver(ctx); err != nil {
		return err
	}
	s.checkSynced()
	return nil
}

// open starts the event stream. What the speaker already knows comes first.
func (s *session) open(ctx context.Context, c Config) error {
	filter := func(t api.WatchEventRequest_Table_Filter_Type) *api.WatchEventRequest_Table_Filter {
		return &api.WatchEventRequest_Table_Filter{Type: t, Init: true}
	}
	// BatchSize 0: a batch could split the ECMP set of a prefix.
	stream, err := s.rec.api.WatchEvent(ctx, &api.WatchEventRequest{
		Peer: &api.WatchEventRequest_Peer{},
		Table: &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{
			filter(api.WatchEventRequest_Table_Filter_BEST), filter(api.WatchEventRequest_Table_Filter_EOR),
		}},
	})
	if err != nil {
		return fmt.Errorf("watch the speaker: %w", err)
	}
	s.view.restart()
	s.setSynced(false)
	s.deadline.Reset(s.opts.InitialDeadline)
	if c.GracefulRestart.Disabled || c.GracefulRestart.HelperOnly {
		s.rec.warm = false
	}
	if s.rec.warm {
		s.warmEnd = time.Now().Add(c.GracefulRestart.restartTime())
		s.admit.Reset(admitInterval)
	}
	s.watchers.Go(func() { s.refusedWatch().run(ctx) })
	go func() {
		for {
			ev, err := stream.Recv()
			if err != nil {
				s.lost <- err
				return
			}
			select {
			case s.events <- ev:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// wait handles events until the desired state is to be applied again.
func (s *session) wait(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.lost:
			return fmt.Errorf("speaker's event stream ended: %w", err)
		case ev := <-s.events:
			if err := s.handle(ctx, ev); err != nil {
				return err
			}
			if err := s.drain(ctx); err != nil {
				return err
			}
		case <-s.flush.C:
			s.deliver()
		case <-s.deadline.C:
			if !s.view.synced {
				s.log.Warn("not all peers sent their End-of-RIB in time: going on with the routes known", "waited", s.opts.InitialDeadline)
				s.finish()
			}
		case <-s.admit.C:
			if err := s.admitPeers(ctx); err != nil {
				return err
			}
		case <-s.rest.C:
			return nil
		case <-s.wake:
			return nil
		case <-s.retry.C:
			return nil
		case <-s.release.C:
			s.log.Info("a hold-down is over: the peer is tried again")
			return nil
		}
	}
}

// drain takes what has arrived already, so that it is delivered together.
func (s *session) drain(ctx context.Context) error {
	defer s.schedule()
	for range cap(s.events) {
		select {
		case ev := <-s.events:
			if err := s.handle(ctx, ev); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// schedule delivers now after a quiet time, else when flushInterval has passed since the last time.
func (s *session) schedule() {
	if len(s.view.dirty) == 0 {
		return
	}
	if left := flushInterval - time.Since(s.flushed); left > 0 {
		s.flush.Reset(left)
		return
	}
	s.deliver()
}

func (s *session) deliver() {
	s.flush.Stop()
	s.flushed = time.Now()
	up, down := s.view.flush()
	if len(up)+len(down) > 0 && s.opts.Events.Routes != nil {
		s.opts.Events.Routes(up, down)
	}
}

func (s *session) handle(ctx context.Context, ev *api.WatchEventResponse) error {
	if t := ev.GetTable(); t != nil {
		return s.table(ctx, t.GetPaths())
	}
	p := ev.GetPeer()
	a, ok := peerAddr(p.GetPeer())
	if !ok { // the end of the initial list
		return s.tellLost(ctx)
	}
	state, initial := p.GetPeer().GetState().GetSessionState(), p.GetType() == api.WatchEventResponse_PeerEvent_INIT
	before := s.states[a.WithZone("")]
	s.states[a.WithZone("")] = state
	if state == api.PeerState_IDLE && before >= api.PeerState_OPENSENT {
		if err := s.hasten(ctx, a, before == api.PeerState_ESTABLISHED); err != nil {
			return err
		}
	}
	return s.peer(ctx, a, before == api.PeerState_ESTABLISHED, state == api.PeerState_ESTABLISHED, initial)
}

// table takes routes, or an End-of-RIB, which comes as one path without a prefix.
func (s *session) table(ctx context.Context, paths []*api.Path) error {
	if len(paths) == 1 && paths[0].GetNlri() == nil {
		a, err := netip.ParseAddr(paths[0].GetNeighborIp())
		if f := familyOf(paths[0].GetFamily()); err == nil && f != 0 {
			s.eor.marker(a, f)
			s.checkSynced()
		}
		return s.admitPeers(ctx)
	}
	s.view.apply(paths)
	return nil
}

func (s *session) checkSynced() {
	if !s.view.synced && s.eor.complete() {
		s.finish()
	}
}

// finish delivers the complete set and withdraws what only a previous speaker knew.
func (s *session) finish() {
	s.deadline.Stop()
	s.view.finish()
	s.deliver()
	s.setSynced(true)
	s.log.Info("routes of the fabric complete", "routes", len(s.view.current))
	if s.opts.Events.Synced != nil {
		s.opts.Events.Synced()
	}
}

// admitPeers goes on with a warm restart. After the restart time the peers have dropped our old routes in any case.
func (s *session) admitPeers(ctx context.Context) error {
	s.admit.Stop()
	d := s.desired()
	if !s.rec.warm || d.config == nil {
		return nil
	}
	if time.Now().After(s.warmEnd) {
		s.rec.warm = false
		s.poke() // peers not yet added are added now
		return nil
	}
	s.edit.Lock()
	err := s.rec.admit(ctx, s.admissible(*d.config))
	s.edit.Unlock()
	s.admit.Reset(admitInterval)
	if err != nil && !isLost(err) && ctx.Err() == nil {
		s.log.Warn("warm restart: trying again", "error", err)
		err = nil
	}
	return err
}

// isLost tells the end of the connection from a refusal by the speaker.
func isLost(err error) bool {
	var st interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &st) {
		return false
	}
	c := st.GRPCStatus().Code()
	return c == codes.Unavailable || c == codes.Canceled || c == codes.DeadlineExceeded
}

package scenes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/probe"
)

// Scene is something that happens.
type Scene struct {
	Name string
	// Play does it, and returns when the fabric has dealt with it.
	Play func(context.Context, *Stage) error
	// Restore undoes it when the measuring has ended. May be nil.
	Restore func(context.Context, *Stage) error
	// Outage is the longest that a flow may be without packets. 0: not one packet may be lost.
	Outage time.Duration
	// WithoutBFD takes the place of Outage on a stage without BFD, where that is different.
	WithoutBFD time.Duration
	// Present: the routers' kernels must have the victim's block all the time.
	Present bool
	// Sessions: none of the victim's may be reset.
	Sessions bool
}

// Report is what was felt of a scene.
type Report struct {
	Scene, Router string
	Sent, Lost    uint64 // packets of all flows
	// Outage is that of the flow with the longest; LongestGap the longest time between arrivals of one flow, which on a busy
	// machine holds waits for a processor.
	Outage, LongestGap time.Duration
	Polls, Absent      int           // looks at the routers' kernels for the victim's block
	SlowestPoll        time.Duration // between two looks at the same router
	Before, After      []Session     // of the victim
	Took               time.Duration // Play
}

func (r Report) String() string {
	var ages strings.Builder
	for i, s := range r.After {
		var before time.Duration
		if i < len(r.Before) {
			before = r.Before[i].Age
		}
		state := "down"
		if s.Established {
			state = s.Age.Round(time.Second).String()
		}
		fmt.Fprintf(&ages, " %s %s -> %s", s.Peer, before.Round(time.Second), state)
	}
	return fmt.Sprintf("%s, %s: %d of %d packets lost, outage %s, longest silence %s; block absent in %d of %d polls (slowest %s); sessions%s; took %s",
		r.Scene, r.Router, r.Lost, r.Sent, r.Outage.Round(time.Millisecond), r.LongestGap.Round(time.Millisecond), r.Absent, r.Polls,
		r.SlowestPoll.Round(time.Millisecond), ages.String(), r.Took.Round(time.Millisecond))
}

// Judge says in what a report is not what the scene allows.
func (sc Scene) Judge(r Report, bfd bool) error {
	bound := sc.Outage
	if !bfd && sc.WithoutBFD != 0 {
		bound = sc.WithoutBFD
	}
	var errs []error
	if r.Sent == 0 || r.Polls == 0 {
		errs = append(errs, errors.New("nothing was measured"))
	}
	if bound == 0 && r.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d of %d packets lost", r.Lost, r.Sent))
	}
	if r.Outage > bound {
		errs = append(errs, fmt.Errorf("an outage of %s, allowed are %s", r.Outage, bound))
	}
	if sc.Present && r.Absent > 0 {
		errs = append(errs, fmt.Errorf("the victim's block was absent from a router's kernel in %d of %d polls", r.Absent, r.Polls))
	}
	if sc.Sessions {
		errs = append(errs, r.reset())
	}
	return errors.Join(errs...)
}

// reset says which sessions are not what they were.
func (r Report) reset() error {
	if len(r.Before) == 0 {
		return errors.New("no sessions before")
	}
	for _, before := range r.Before {
		if !slices.ContainsFunc(r.After, func(s Session) bool { return s.Peer == before.Peer && s.Established && s.Age >= before.Age }) {
			return fmt.Errorf("the session with %s was reset", before.Peer)
		}
	}
	return nil
}

const (
	flows = 8   // each way, so that with fair dice both routers carry some
	rate  = 125 // packets a second of each: 1,000 each way
)

// Play plays a scene under traffic, restores the stage and reports.
func (s *Stage) Play(ctx context.Context, sc Scene) (Report, error) {
	r := Report{Scene: sc.Name, Router: string(s.Lab.Plan.Tor)}
	err := s.play(ctx, sc, &r)
	if sc.Restore != nil {
		err = errors.Join(err, sc.Restore(context.WithoutCancel(ctx), s))
	}
	if err == nil {
		err = s.AwaitReady(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("%s: %w", sc.Name, err)
	}
	return r, nil
}

func (s *Stage) play(ctx context.Context, sc Scene, r *Report) (err error) {
	if r.Before, err = s.sessions(ctx); err != nil {
		return err
	}
	if err := s.startStreams(ctx); err != nil {
		return err
	}
	polled := s.poll(ctx)
	began := time.Now()
	err = sc.Play(ctx, s)
	r.Took = time.Since(began)
	pollErr := polled(r)
	for _, st := range s.streams.Stop() {
		r.Sent, r.Lost = r.Sent+st.Sent, r.Lost+st.Lost
		r.Outage, r.LongestGap = max(r.Outage, st.Outage), max(r.LongestGap, st.LongestGap)
	}
	if err := errors.Join(err, pollErr); err != nil {
		return err
	}
	// A speaker that has just lost 100,000 routes is slow to answer.
	return s.Await(ctx, "the victim tells of its sessions", func() bool {
		r.After, err = s.sessions(ctx)
		return err == nil
	})
}

// startStreams starts the traffic, again and again until the router that may fail carries some of it to both hosts.
func (s *Stage) startStreams(ctx context.Context) error {
	const attempts, warm = 5, 20 // packets to each host, of a share of about 100 in this time
	for range attempts {
		before, err := s.carried()
		if err != nil {
			return err
		}
		if s.streams, err = probe.StartStream(ctx, s.flows, probe.StreamOptions{Rate: rate}); err != nil {
			return err
		}
		quiet := time.After(400 * time.Millisecond)
		tick := time.NewTicker(20 * time.Millisecond)
		for enough, over := false, false; !enough && !over; {
			select {
			case <-quiet:
				over = true
			case <-tick.C:
			}
			after, err := s.carried()
			if err != nil {
				tick.Stop()
				s.streams.Stop()
				return err
			}
			enough = s.streams.Flowing(100 * time.Millisecond)
			for host := range after {
				enough = enough && after[host]-before[host] >= warm
			}
			if enough {
				tick.Stop()
				return nil
			}
		}
		tick.Stop()
		s.streams.Stop()
	}
	return fmt.Errorf("router %s carries nothing between the containers", s.Router.Name)
}

// carried counts the packets that the router has sent to each host.
func (s *Stage) carried() (map[string]uint64, error) {
	sent := map[string]uint64{}
	err := s.Router.NS.Do(func() error {
		for _, l := range s.Router.Links {
			link, err := netlink.LinkByName(l.Name)
			if err != nil {
				return fmt.Errorf("%s of router %s: %w", l.Name, s.Router.Name, err)
			}
			if l.Peer != s.Lab.Plan.Spine.Name {
				sent[l.Peer] = link.Attrs().Statistics.TxPackets
			}
		}
		return nil
	})
	return sent, err
}

// pollInterval is how often each router's kernel is asked for the victim's block.
const pollInterval = 10 * time.Millisecond

// poll begins asking, and returns a function that ends it and notes what was seen.
func (s *Stage) poll(ctx context.Context) func(*Report) error {
	ctx, cancel := context.WithCancel(ctx)
	seen := make([]Report, len(s.Lab.Plan.Racks[0].ToRs))
	var g errgroup.Group
	for i, router := range s.Lab.Plan.Racks[0].ToRs {
		g.Go(func() error { return router.NS.Do(func() error { return s.pollRouter(ctx, router, &seen[i]) }) })
	}
	return func(r *Report) error {
		cancel()
		err := g.Wait()
		for _, one := range seen {
			r.Polls, r.Absent, r.SlowestPoll = r.Polls+one.Polls, r.Absent+one.Absent, max(r.SlowestPoll, one.SlowestPoll)
		}
		return err
	}
}

// pollRouter asks the kernel of the thread's namespace which route a packet to the block would take (fib_match), which costs
// the same however many routes there are.
func (s *Stage) pollRouter(ctx context.Context, router fabric.Router, seen *Report) error {
	block := s.Victim.Blocks[0]
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	last := time.Now()
	for {
		routes, err := netlink.RouteGetWithOptions(block.Addr().Next().AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
		seen.Polls++
		if err != nil || len(routes) != 1 || routes[0].Dst == nil || routes[0].Dst.String() != block.String() {
			seen.Absent++
		}
		seen.SlowestPoll = max(seen.SlowestPoll, time.Since(last))
		last = time.Now()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

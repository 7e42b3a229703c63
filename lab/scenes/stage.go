// Package scenes plays what happens to a fabric in production, under traffic, and measures what the traffic and the routers
// felt of it: agents and speakers that die or are upgraded, cables, routers.
package scenes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/supervisor"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/probe"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// Options say what to set a stage with.
type Options struct {
	fabric.Shape        // Racks, Hosts and Containers are the stage's own
	Agent        string // the hostfabric binary
	Upgrade      string // the same with another version, for the scene that upgrades; may be empty
	Lab          string // the hostfabric-lab binary
	Timeout      time.Duration
	Progress     func(fabric.Progress)
}

// Stage is a rack of two hosts with two routers and a spine, and a container on each host to send traffic between.
type Stage struct {
	Lab    *fabric.Lab
	Hosts  *workload.Hosts
	Victim fabric.Host   // the host whose agent, speaker and cable fail
	Router fabric.Router // the ToR that fails

	opts Options
	dir  string // of the agent's binary
	// installed is which of the two binaries of the options is there.
	installed string
	flows     []probe.Pair
	streams   *probe.Streams // while a scene is played
}

// Set builds a stage and waits until everything is reachable over both routers. The caller closes it.
func Set(ctx context.Context, o Options) (*Stage, error) {
	o.Racks, o.Hosts, o.Containers = 1, 2, 2
	s := &Stage{opts: o}
	var err error
	if s.dir, err = os.MkdirTemp("", "hostfabric-scenes-"); err != nil {
		return nil, fmt.Errorf("set the stage: %w", err)
	}
	if err := s.set(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("set the stage: %w", err), s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Stage) set(ctx context.Context) error {
	if err := os.Chmod(s.dir, 0o755); err != nil { // the unprivileged processes start their successors from there
		return err
	}
	if err := s.install(s.opts.Agent); err != nil {
		return err
	}
	lab, err := fabric.Up(ctx, fabric.Options{Shape: s.opts.Shape, Agent: s.agent(), Binary: s.opts.Lab, Timeout: s.opts.Timeout}, s.opts.Progress)
	if err != nil {
		return err
	}
	s.Lab, s.Victim, s.Router = lab, lab.Plan.AllHosts()[0], lab.Plan.Racks[0].ToRs[0]
	if s.Hosts, err = workload.Dial(lab); err != nil {
		return err
	}
	if err := s.AwaitReady(ctx); err != nil {
		return err
	}
	containers, err := s.Hosts.AttachAll(ctx, nil)
	if err != nil {
		return err
	}
	a, b := containers[0].Endpoints[0], containers[len(containers)-1].Endpoints[0]
	for range flows {
		s.flows = append(s.flows, probe.Pair{From: a, To: b}, probe.Pair{From: b, To: a})
	}
	return nil
}

// Close removes the stage.
func (s *Stage) Close(ctx context.Context) error {
	var errs []error
	if s.Hosts != nil {
		errs = append(errs, s.Hosts.Close())
	}
	if s.Lab != nil {
		errs = append(errs, fabric.Down(ctx, s.Lab.Plan.Shape))
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// agent is where the hosts have the binary.
func (s *Stage) agent() string { return filepath.Join(s.dir, "hostfabric") }

// install puts a binary where the hosts have theirs, at once, as a package manager does.
func (s *Stage) install(binary string) error {
	from, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(s.agent()+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Close()); err != nil {
		return err
	}
	s.installed = binary
	return os.Rename(to.Name(), s.agent())
}

// patience is how long anything may take that a scene waits for.
const patience = 40 * time.Second

// AwaitReady waits until the whole fabric is as it was when the stage was set.
func (s *Stage) AwaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(patience, s.opts.Timeout), errors.New("too slow"))
	defer cancel()
	if err := s.Lab.WaitReady(ctx); err != nil {
		return err
	}
	if err := s.Hosts.AwaitRoutes(ctx, nil); err != nil {
		return err
	}
	return s.Await(ctx, "both agents are ready", func() bool {
		return !slices.ContainsFunc(s.Lab.Plan.AllHosts(), func(h fabric.Host) bool { return !s.ready(ctx, h) })
	})
}

// AwaitFeed waits until every host's kernel has what the spine announces besides the default route, over all its ToRs.
func (s *Stage) AwaitFeed(ctx context.Context) error {
	for _, h := range s.Lab.Plan.AllHosts() {
		client, err := s.Hosts.Client(h.Name)
		if err != nil {
			return err
		}
		err = s.Await(ctx, h.Name+" has all routes of the feed over all ToRs", func() bool {
			if int(s.Status(ctx, h).GetRoutesInstalled()) < s.opts.Feed {
				return false
			}
			resp, err := client.ListRoutes(ctx, &apiv1.ListRoutesRequest{Owner: "fabric"})
			n := 0
			for _, r := range resp.GetRoutes() {
				if r.GetState() == "installed" && len(r.GetNextHops()) == len(h.Links) {
					n++
				}
			}
			return err == nil && n >= s.opts.Feed
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ready reports whether a host's agent has everything in order and both sessions.
func (s *Stage) ready(ctx context.Context, h fabric.Host) bool {
	st := s.Status(ctx, h)
	return st.GetReady() && int(st.GetPeersEstablished()) == len(h.Links) && len(st.GetAnnounced()) == len(h.Blocks)
}

// Status is what a host's agent tells; it is nil while no agent answers.
func (s *Stage) Status(ctx context.Context, h fabric.Host) *apiv1.GetStatusResponse {
	client, err := s.Hosts.Client(h.Name)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := client.GetStatus(ctx, &apiv1.GetStatusRequest{})
	if err != nil {
		return nil
	}
	return st
}

// Await polls for a condition until the patience is at its end.
func (s *Stage) Await(ctx context.Context, what string, ok func() bool) error {
	patience := max(patience, s.opts.Timeout)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const often = 20 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		began := time.Now()
		if ok() {
			return nil
		}
		tick.Reset(max(often, 4*time.Since(began))) // who has 100,000 routes needs long to answer, and has something else to do
		select {
		case <-ctx.Done():
			return fmt.Errorf("not so within %s: %s", patience, what)
		case <-tick.C:
		}
	}
}

// speakerPID is 0 while there is no speaker.
func (s *Stage) speakerPID() int {
	pid, err := supervisor.ListenerPID(s.Lab.Plan.SocketPath(s.Victim.Name, "speaker/gobgp.sock"))
	if err != nil {
		return 0
	}
	return pid
}

// EndAgent sends a signal to the victim's agent and waits until it is gone.
func (s *Stage) EndAgent(ctx context.Context, sig syscall.Signal) error {
	pid, err := s.Lab.AgentPID(s.Victim.Name)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal the agent of %s: %w", s.Victim.Name, err)
	}
	return s.Await(ctx, "the agent has ended", func() bool {
		_, err := s.Lab.AgentPID(s.Victim.Name)
		return err != nil
	})
}

// StartAgent starts the binary that is installed.
func (s *Stage) StartAgent() error { return s.Lab.StartAgent(s.Victim.Name, s.agent()) }

// Session is one of the victim's, as its agent tells.
type Session struct {
	Peer        string
	Established bool
	Age         time.Duration
}

func (s *Stage) sessions(ctx context.Context) ([]Session, error) {
	client, err := s.Hosts.Client(s.Victim.Name)
	if err != nil {
		return nil, err
	}
	resp, err := client.ListPeers(ctx, &apiv1.ListPeersRequest{})
	if err != nil {
		return nil, fmt.Errorf("sessions of %s: %w", s.Victim.Name, err)
	}
	var all []Session
	for _, p := range resp.GetPeers() {
		all = append(all, Session{Peer: p.GetDescription(), Established: strings.EqualFold(p.GetState(), "established"), Age: p.GetUptime().AsDuration()})
	}
	return all, nil
}

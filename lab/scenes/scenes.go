package scenes

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

// Of hosts: not one packet may be lost, and no router's kernel be without the host's block.

// AgentEnds ends the agent with a signal and starts it again: the speaker and its sessions go on.
func AgentEnds(sig syscall.Signal) Scene {
	return Scene{Name: "agent: " + sig.String(), Present: true, Sessions: true, Play: func(ctx context.Context, s *Stage) error {
		if err := s.EndAgent(ctx, sig); err != nil {
			return err
		}
		if err := s.StartAgent(); err != nil {
			return err
		}
		return s.Await(ctx, "the new agent is ready", func() bool { return s.ready(ctx, s.Victim) })
	}}
}

// SpeakerKilled kills the speaker: the agent starts another under graceful restart, and serves attaches meanwhile.
func SpeakerKilled() Scene {
	return Scene{Name: "speaker killed", Present: true, Play: func(ctx context.Context, s *Stage) error {
		old := s.speakerPID()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the speaker: %w", err)
		}
		spare := s.Victim.Containers[len(s.Victim.Containers)-1]
		if err := s.Hosts.Detach(ctx, s.Victim.Name, spare); err != nil {
			return err
		}
		if _, err := s.Hosts.Attach(ctx, s.Victim.Name, spare); err != nil {
			return err
		}
		return s.awaitSpeaker(ctx, old)
	}}
}

// BothKilled kills agent and speaker: the next agent knows that peers may still hold this host's routes.
func BothKilled() Scene {
	return Scene{Name: "agent and speaker killed", Present: true, Play: func(ctx context.Context, s *Stage) error {
		old := s.speakerPID()
		if err := s.EndAgent(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill the speaker: %w", err)
		}
		if err := s.StartAgent(); err != nil {
			return err
		}
		return s.awaitSpeaker(ctx, old)
	}}
}

// Upgrade replaces the binary by the stage's other one and restarts the agent, which replaces the other processes.
func Upgrade() Scene {
	return Scene{Name: "upgrade", Present: true, Play: func(ctx context.Context, s *Stage) error {
		old := s.speakerPID()
		next := s.opts.Upgrade
		if s.installed == next {
			next = s.opts.Agent
		}
		if err := s.install(next); err != nil {
			return err
		}
		if err := s.EndAgent(ctx, syscall.SIGTERM); err != nil {
			return err
		}
		if err := s.StartAgent(); err != nil {
			return err
		}
		if err := s.awaitSpeaker(ctx, old); err != nil {
			return err
		}
		if st := s.Status(ctx, s.Victim); st.GetVersion() != st.GetSpeaker().GetVersion() {
			return fmt.Errorf("agent %s with speaker %s after the upgrade", st.GetVersion(), st.GetSpeaker().GetVersion())
		}
		return nil
	}}
}

// awaitSpeaker waits until another speaker than the old one has everything in order.
func (s *Stage) awaitSpeaker(ctx context.Context, old int) error {
	return s.Await(ctx, "another speaker has the sessions", func() bool {
		pid := s.speakerPID()
		return pid != 0 && pid != old && int(s.Status(ctx, s.Victim).GetSpeaker().GetPid()) == pid && s.ready(ctx, s.Victim)
	})
}

// Of routers.

// holdTime is the lab's, with room for what has to be done when it is over.
const holdTime = 9*time.Second + 500*time.Millisecond

// LinkDown takes the carrier from the cable between the router and the victim.
func LinkDown() Scene {
	return Scene{Name: "ToR link down", Outage: 50 * time.Millisecond, Play: func(ctx context.Context, s *Stage) error {
		if err := s.Lab.SetCable(s.Router.Name, s.Victim.Name, false); err != nil {
			return err
		}
		return s.awaitOutcome(ctx, s.Victim)
	}, Restore: func(_ context.Context, s *Stage) error {
		return s.Lab.SetCable(s.Router.Name, s.Victim.Name, true)
	}}
}

// RouterSilent has a router drop all packets without telling anybody.
func RouterSilent() Scene {
	return Scene{Name: "ToR silent", Outage: 350 * time.Millisecond, WithoutBFD: holdTime, Play: func(ctx context.Context, s *Stage) error {
		if err := s.Lab.Silence(ctx, s.Router.Name, true); err != nil {
			return err
		}
		return s.awaitOutcome(ctx, s.Lab.Plan.AllHosts()...)
	}, Restore: func(ctx context.Context, s *Stage) error {
		return s.Lab.Silence(ctx, s.Router.Name, false)
	}}
}

// RouterRestarts kills the router's BGP daemon and starts it again; it has said that it goes on forwarding meanwhile. The
// stage must be Graceful.
func RouterRestarts() Scene {
	return Scene{Name: "ToR daemon graceful restart", Play: func(ctx context.Context, s *Stage) error {
		if !s.opts.Graceful {
			return errors.New("the stage's routers do not restart gracefully")
		}
		if err := s.Lab.RestartBGP(ctx, s.Router.Name); err != nil {
			return err
		}
		return s.AwaitReady(ctx)
	}}
}

// awaitOutcome waits until the hosts have given the router up and packets flow again.
func (s *Stage) awaitOutcome(ctx context.Context, hosts ...fabric.Host) error {
	for _, h := range hosts {
		err := s.Await(ctx, h.Name+" has lost its session with "+s.Router.Name, func() bool {
			st := s.Status(ctx, h)
			return st != nil && int(st.GetPeersEstablished()) < len(h.Links)
		})
		if err != nil {
			return err
		}
	}
	return s.Await(ctx, "all flows have found another way", func() bool { return s.streams.Flowing(200 * time.Millisecond) })
}

package scenes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
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
		if !s.Lab.Plan.BFD {
			return nil
		}
		return s.Await(ctx, "BFD goes on as the new version, with its sessions", func() bool {
			st := s.Status(ctx, s.Victim)
			return st.GetBfd().GetVersion() == st.GetVersion() && st.GetBfd().GetSessionsUp() == uint32(len(s.Victim.Links))
		})
	}}
}

// Reload has the victim's agent apply a configuration with another block and another peer.
func Reload() Scene {
	more := netip.MustParsePrefix("10.79.255.0/26") // in the lab's container space, far from what hosts get
	var before []byte
	return Scene{Name: "reload", Present: true, Sessions: true, Play: func(ctx context.Context, s *Stage) error {
		file := filepath.Join(s.Lab.Plan.NodeDir(s.Victim.Name), "hostfabric.yaml")
		var err error
		if before, err = os.ReadFile(file); err != nil {
			return err
		}
		after := bytes.Replace(before, []byte("\nblocks:\n"), fmt.Appendf(nil, "\nblocks:\n  - %q\n", more), 1)
		after = bytes.Replace(after, []byte("\npeers:\n"), []byte("\npeers:\n  - {address: 172.31.255.254, asn: 64999}\n"), 1)
		if err := s.reload(ctx, file, after); err != nil {
			return err
		}
		return s.Await(ctx, "the other block is announced, and the other peer tried", func() bool {
			for _, r := range s.Lab.Plan.Racks[0].ToRs {
				if have, err := s.Lab.Tor(r.Name).KernelPrefixes(ctx, more); err != nil || !slices.Contains(have, more) {
					return false
				}
			}
			return int(s.Status(ctx, s.Victim).GetPeersTotal()) == len(s.Victim.Links)+1
		})
	}, Restore: func(ctx context.Context, s *Stage) error {
		return s.reload(ctx, filepath.Join(s.Lab.Plan.NodeDir(s.Victim.Name), "hostfabric.yaml"), before)
	}}
}

func (s *Stage) reload(ctx context.Context, file string, text []byte) error {
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	client, err := s.Hosts.Client(s.Victim.Name)
	if err != nil {
		return err
	}
	_, err = client.Reload(ctx, &apiv1.ReloadRequest{})
	return err
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

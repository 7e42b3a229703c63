package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/lab/binaries"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/scenes"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// onStage sets a stage, has do play on it and removes it.
func onStage(ctx context.Context, so scenes.Options, do func(*scenes.Stage) error) (err error) {
	so.Name = "hfbench"
	s, err := scenes.Set(ctx, so)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	return do(s)
}

func (o Options) stage(kind tor.Kind) scenes.Options {
	return scenes.Options{Shape: fabric.Shape{Tor: kind, BFD: o.BFD}, Agent: o.Agent, Lab: o.Lab, Progress: o.Progress, Timeout: 5 * time.Minute}
}

// hostScene plays a scene of a host's processes behind each kind of router, and counts what is lost.
func hostScene(name string, scene func() scenes.Scene) func(context.Context, Options) ([]Result, error) {
	return func(ctx context.Context, o Options) ([]Result, error) {
		upgrade, cleanup, err := binaries.Build(ctx, "hostfabric", "next")
		if err != nil {
			return nil, err
		}
		defer cleanup()
		var lost, absent, sent, polls float64
		var kinds []string
		for _, kind := range []tor.Kind{tor.FRR, tor.BIRD} {
			so := o.stage(kind)
			so.Upgrade = upgrade
			err := onStage(ctx, so, func(s *scenes.Stage) error {
				r, err := s.Play(ctx, scene())
				lost, sent, absent, polls = lost+float64(r.Lost), sent+float64(r.Sent), absent+float64(r.Absent), polls+float64(r.Polls)
				kinds = append(kinds, string(kind))
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		conditions := fmt.Sprintf("behind %s, %s", strings.Join(kinds, " and "), o.bfd())
		return []Result{
			{Name: name, Unit: "packets lost", Value: lost, Target: "0", Conditions: fmt.Sprintf("of %.0f, 1,000 a second each way; %s", sent, conditions)},
			{Name: name + ".absent", Unit: "polls", Value: absent, Target: "0", Conditions: fmt.Sprintf("of %.0f at 10 ms, in which a ToR's kernel had no route to the host's block; %s", polls, conditions)},
		}, nil
	}
}

func (o Options) bfd() string {
	if o.BFD {
		return "BFD 3 x 100 ms"
	}
	return "no BFD, hold time 9 s"
}

// fewPrefixes is the size of the smaller table of failover.
const fewPrefixes = 10

// failover10 measures what traffic misses when a ToR dies silently, or its cable loses carrier, with a small table.
func failover10(ctx context.Context, o Options) ([]Result, error) {
	r, err := failover(ctx, o, fewPrefixes)
	if err != nil {
		return nil, err
	}
	return r.results("failover.10", fewPrefixes, o), nil
}

// failover100k does the same with a large table, and with the small one beside it.
func failover100k(ctx context.Context, o Options) ([]Result, error) {
	few, err := failover(ctx, o, fewPrefixes)
	if err != nil {
		return nil, err
	}
	many, err := failover(ctx, o, o.Prefixes)
	if err != nil {
		return nil, err
	}
	results := many.results("failover.100k", o.Prefixes, o)
	for i, small := range few.results("failover.10", fewPrefixes, o) {
		results[i] = results[i].against(fmt.Sprintf("%d prefixes", fewPrefixes), small.Value)
	}
	return results, nil
}

// outages are the longest of any flow.
type outages struct{ silent, link time.Duration }

// failover has the spine announce n prefixes, which every host then has over both ToRs, in one nexthop group.
func failover(ctx context.Context, o Options, n int) (outages, error) {
	so := o.stage(tor.BIRD)
	so.Feed = n
	var out outages
	err := onStage(ctx, so, func(s *scenes.Stage) error {
		if err := s.AwaitFeed(ctx); err != nil {
			return err
		}
		link, err := s.Play(ctx, scenes.LinkDown())
		if err != nil {
			return err
		}
		if err := s.AwaitFeed(ctx); err != nil {
			return err
		}
		silent, err := s.Play(ctx, scenes.RouterSilent())
		out = outages{silent: silent.Outage, link: link.Outage}
		return err
	})
	return out, err
}

func (out outages) results(name string, n int, o Options) []Result {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	conditions := fmt.Sprintf("longest outage of 16 flows of 125 packets/s between containers on two hosts, %d prefixes besides their blocks, ECMP over 2 BIRD ToRs", n)
	return []Result{
		{Name: name, Unit: "ms", Value: ms(out.silent), Target: "<= 350", Conditions: "a ToR drops all packets, " + o.bfd() + "; " + conditions},
		{Name: name + ".link", Unit: "ms", Value: ms(out.link), Target: "<= 50", Conditions: "a ToR's cable loses carrier; " + conditions},
	}
}

// The scenes of restart.*.
var (
	restartAgent   = hostScene("restart.agent", func() scenes.Scene { return scenes.AgentEnds(syscall.SIGKILL) })
	restartSpeaker = hostScene("restart.speaker", scenes.SpeakerKilled)
	restartUpgrade = hostScene("restart.upgrade", scenes.Upgrade)
)

package docker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/agent"
)

const (
	defaultLook = 30 * time.Second
	// A container is in Docker's list a moment after it was connected: asked for at once, then at doubled intervals.
	firstTry = 50 * time.Millisecond
	lastTry  = 2 * time.Second
)

// containerLabel has the ID of the container of an endpoint, beside the container's own labels.
const containerLabel = "hostfabric.container-id"

// follower brings from Docker's API what the plugin protocol does not tell: names and labels, soon after a container was connected,
// and what Docker has forgotten, at every look. A Docker that does not answer changes nothing.
type follower struct {
	s     *server
	api   *api
	ready <-chan struct{}
	every time.Duration
	woken chan struct{} // size 1
	log   *slog.Logger

	// Of run's goroutine.
	aliases map[string][]string // by endpoint; Docker is asked once for each
	missing map[string]bool     // networks and endpoints that Docker did not know at the last look
	warned  map[string]bool     // networks that somebody was told of
	away    bool                // Docker did not answer when it was last asked
}

func newFollower(s *server, o Options) *follower {
	return &follower{
		s: s, api: newAPI(o.API), ready: o.Ready, every: o.Look, woken: make(chan struct{}, 1), log: o.Log,
		aliases: make(map[string][]string), missing: make(map[string]bool), warned: make(map[string]bool),
	}
}

// wake has names looked for soon.
func (f *follower) wake() {
	select {
	case f.woken <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) error {
	select {
	case <-f.ready:
	case <-ctx.Done():
		return nil
	}
	look := time.NewTicker(f.every)
	defer look.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	wait := firstTry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.woken:
			wait = firstTry
			again.Reset(wait)
		case <-look.C:
			f.report(f.compare(ctx))
			wait = firstTry
			again.Reset(wait)
		case <-again.C:
			nameless, err := f.describe(ctx)
			f.report(err)
			if wait *= 2; nameless && err == nil && wait <= lastTry {
				again.Reset(wait)
			}
		}
	}
}

// report says once that Docker is away, and once that it is back.
func (f *follower) report(err error) {
	switch {
	case err != nil && !f.away:
		f.log.Warn("docker: not asked: names wait, and nothing is tidied up", "err", err)
	case err == nil && f.away:
		f.log.Info("docker: answers again")
	}
	f.away = err != nil
}

// attached are the endpoints of Docker's networks.
func (f *follower) attached() []agent.Endpoint {
	var all []agent.Endpoint
	for _, ep := range f.s.endpoints.Endpoints() {
		if networkOfOwner(ep.Owner) != "" {
			all = append(all, ep)
		}
	}
	return all
}

func networkOfOwner(owner string) string {
	id, ours := strings.CutPrefix(owner, agent.OwnerDocker(""))
	if !ours {
		return ""
	}
	return id
}

func byEndpoint(containers []apiContainer) map[string]apiContainer {
	of := make(map[string]apiContainer)
	for _, c := range containers {
		for _, n := range c.NetworkSettings.Networks {
			of[n.EndpointID] = c
		}
	}
	return of
}

// compare tidies up what Docker does not know of at two looks: networks without endpoints, and endpoints of networks that it
// knows. An endpoint of a network that Docker does not know is left alone: Docker deletes no network that is in use, so this is
// another Docker, or one that has lost its memory while its containers live.
func (f *follower) compare(ctx context.Context) error {
	listed, err := f.api.networks(ctx)
	if err != nil {
		return err
	}
	f.adopt(listed)
	known := make(map[string]bool, len(listed))
	for _, n := range listed {
		known[n.ID] = true
	}
	in := make(map[string][]agent.Endpoint)
	for _, ep := range f.attached() {
		id := networkOfOwner(ep.Owner)
		in[id] = append(in[id], ep)
	}
	missing := make(map[string]bool)
	for _, id := range f.s.networks.ids() {
		if known[id] || len(in[id]) > 0 {
			continue
		}
		if missing[id] = true; f.missing[id] {
			f.forget(id)
		}
	}
	for id, endpoints := range in {
		if !known[id] {
			f.warn(id, "docker: containers of a network that Docker does not know of are left as they are", "network", id, "endpoints", len(endpoints))
			continue
		}
		unknown, err := f.unknown(ctx, id, endpoints)
		if err != nil {
			return err
		}
		for _, ep := range unknown {
			if missing[ep.ContainerID] = true; f.missing[ep.ContainerID] {
				f.detach(ctx, ep)
			}
		}
	}
	f.missing = missing
	return nil
}

// unknown are the endpoints of a network that Docker says nothing of. A Docker that cannot read its store lists a network without
// endpoints and no error; so its running containers are asked for too, which it has in another place.
func (f *follower) unknown(ctx context.Context, network string, endpoints []agent.Endpoint) ([]agent.Endpoint, error) {
	have, err := f.api.endpoints(ctx, network)
	if err != nil {
		return nil, err
	}
	endpoints = slices.DeleteFunc(endpoints, func(ep agent.Endpoint) bool { return have[ep.ContainerID] })
	if len(endpoints) == 0 {
		return nil, nil
	}
	containers, err := f.api.containers(ctx)
	if err != nil {
		return nil, err
	}
	of := byEndpoint(containers)
	return slices.DeleteFunc(endpoints, func(ep agent.Endpoint) bool { _, runs := of[ep.ContainerID]; return runs }), nil
}

// warn says something of a network once.
func (f *follower) warn(network, text string, args ...any) {
	if !f.warned[network] {
		f.warned[network] = true
		f.log.Warn(text, args...)
	}
}

func (f *follower) forget(network string) {
	f.log.Info("docker: network that Docker does not know of is forgotten", "network", network)
	if err := f.s.networks.drop(network); err != nil {
		f.log.Error("docker: network not forgotten, will be retried", "network", network, "err", err)
	}
}

func (f *follower) detach(ctx context.Context, ep agent.Endpoint) {
	f.log.Info("docker: endpoint that Docker does not know of is detached", "endpoint", ep.ContainerID, "addresses", ep.Addresses)
	f.s.sandboxes.leave(ep.ContainerID)
	if _, err := f.s.endpoints.Detach(ctx, ep.Key); err != nil {
		f.log.Error("docker: endpoint not detached, will be retried", "endpoint", ep.ContainerID, "err", err)
	}
}

// adopt records networks of ours that only Docker knows of, as after the record was lost, and warns of networks that have our
// addresses without our driver: nobody tells us what becomes of these.
func (f *follower) adopt(listed []apiNetwork) {
	for _, n := range listed {
		if n.Driver != f.s.driver && n.IPAM.Driver == f.s.driver {
			f.warn(n.ID, "docker: network has addresses of this driver and another one's links: they are given to others after a while; create it with -d "+f.s.driver,
				"network", n.Name, "driver", n.Driver)
		}
		if _, recorded := f.s.networks.get(n.ID); recorded || n.Driver != f.s.driver || n.IPAM.Driver != f.s.driver {
			continue
		}
		nw, err := networkOf(n.Options)
		if err == nil {
			err = errors.Join(validID("network", n.ID), f.s.networks.put(n.ID, nw))
		}
		if err != nil {
			f.log.Error("docker: network not taken from Docker", "network", n.Name, "err", err)
			continue
		}
		f.log.Info("docker: network taken from Docker", "network", n.Name)
	}
}

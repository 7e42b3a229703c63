package cni

import (
	"context"
	"errors"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// notReadyRetry is how often an ADD asks an agent that is still starting.
const notReadyRetry = 50 * time.Millisecond

// handle answers a request: what the shim prints, or an error. version is what the answer is to be written in.
func (s *server) handle(ctx context.Context, req *relay.Request) (version string, out []byte, err error) {
	version = relay.LatestVersion
	if err := req.Validate(); err != nil {
		return version, nil, err
	}
	conf, err := parseConfig(req.Config)
	if conf.version != "" {
		version = conf.version
	}
	if err == nil {
		err = conf.allows(req.Command)
	}
	if err != nil {
		return version, nil, err
	}
	switch req.Command {
	case relay.Add:
		out, err = s.add(ctx, req, conf)
	case relay.Del:
		err = s.del(ctx, key(req))
	case relay.Check:
		err = s.check(ctx, req, conf)
	case relay.GC:
		err = s.collect(ctx, conf)
	case relay.Status:
		err = s.status(ctx, conf)
	case relay.Version: // shims answer it themselves
		out = relay.VersionJSON(version)
	}
	return version, out, err
}

func key(req *relay.Request) agent.Key {
	return agent.Key{ContainerID: req.ContainerID, Interface: req.IfName}
}

func (s *server) add(ctx context.Context, req *relay.Request, conf config) ([]byte, error) {
	p, err := conf.plugin(s.spool)
	if err != nil {
		return nil, err
	}
	wanted, err := p.request(req.Args)
	if err != nil {
		return nil, err
	}
	prev, err := conf.prevResult()
	if err != nil {
		return nil, err
	}
	k := key(req)
	unlock, err := s.locks.Lock(ctx, k)
	if err != nil {
		return nil, problem(err)
	}
	defer unlock()
	if err := s.settle(ctx, k); err != nil {
		return nil, problem(err)
	}
	wanted.Key, wanted.Owner, wanted.Netns = k, agent.OwnerCNI(conf.name), req.Netns
	ep, err := s.attach(ctx, wanted)
	if err != nil {
		return nil, problem(err)
	}
	return encodeResult(conf.version, merge(prev, endpointResult(ep, req.Netns, p.dns(s.resolver().For(ep.Addresses)))))
}

// attach waits for an agent that is not ready as the shim waits for one that is not there.
func (s *server) attach(ctx context.Context, r agent.AttachRequest) (agent.Endpoint, error) {
	for {
		ep, err := s.endpoints.Attach(ctx, r)
		if !errors.Is(err, agent.ErrNotReady) || !pause(ctx, notReadyRetry) {
			return ep, err
		}
	}
}

// del succeeds unless the agent refuses: what it cannot do now goes into the spool, since a container must be able to
// go at any time.
func (s *server) del(ctx context.Context, k agent.Key) error {
	err := s.delNow(ctx, k)
	if !errors.Is(err, agent.ErrNotReady) && !errors.Is(err, context.DeadlineExceeded) {
		return problem(err)
	}
	if spoolErr := s.spool.Add(relay.Key{ContainerID: k.ContainerID, IfName: k.Interface}); spoolErr != nil {
		return ioError("cannot detach now nor keep the DEL for later", errors.Join(err, spoolErr))
	}
	s.log.Info("cni: DEL spooled", "container", k.ContainerID, "interface", k.Interface, "err", err)
	return nil
}

func (s *server) delNow(ctx context.Context, k agent.Key) error {
	unlock, err := s.locks.Lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := s.endpoints.Detach(ctx, k); err != nil {
		return err
	}
	if err := s.spool.Remove(relay.Key{ContainerID: k.ContainerID, IfName: k.Interface}); err != nil {
		return ioError("cannot take a DEL out of the spool", err)
	}
	return nil
}

func (s *server) check(ctx context.Context, req *relay.Request, conf config) error {
	if _, err := conf.plugin(s.spool); err != nil {
		return err
	}
	prev, err := conf.prevResult()
	if err != nil {
		return err
	}
	if prev == nil {
		return configError("prevResult", "missing: CHECK compares it with what is there")
	}
	ep, err := s.endpoints.Check(ctx, agent.CheckRequest{Key: key(req), Netns: req.Netns})
	if err != nil {
		return checkProblem(err)
	}
	if err := compare(ep, req.Netns, prev); err != nil {
		return checkProblem(err)
	}
	return nil
}

// collect detaches what the network's list of valid attachments lacks. Without a list it does nothing: cnitool and
// others send none, and mean nothing by it.
func (s *server) collect(ctx context.Context, conf config) error {
	valid, listed, err := conf.validAttachments()
	if err != nil || !listed {
		return err
	}
	gone, err := s.endpoints.Collect(ctx, agent.OwnerCNI(conf.name), valid)
	if len(gone) > 0 {
		s.log.Info("cni: stale attachments removed", "network", conf.name, "attachments", gone)
	}
	return problem(err)
}

func (s *server) status(ctx context.Context, conf config) error {
	if _, err := conf.plugin(s.spool); err != nil {
		return err
	}
	err := s.endpoints.Ready(ctx)
	if err == nil {
		return nil
	}
	var limited interface{ LimitedConnectivity() bool }
	if errors.As(err, &limited) && limited.LimitedConnectivity() {
		return &relay.Error{Code: relay.CodeLimited, Msg: "not ready, and connectivity is limited", Details: err.Error()}
	}
	return &relay.Error{Code: relay.CodeNotAvailable, Msg: "not ready", Details: err.Error()}
}

package cni

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// drainDeadline bounds one spooled DEL, so that a stuck one does not keep the others.
const drainDeadline = 10 * time.Second

// settle does the DEL that waits in the spool for this key, if there is one. The caller holds the key's lock. ADD
// calls it before anything else, so that no DEL of an earlier life of the key can come after the ADD: either the
// drain had the lock first and did the DEL, or ADD does it here, and the drain finds nothing.
func (s *server) settle(ctx context.Context, k agent.Key) error {
	spooled := relay.Key{ContainerID: k.ContainerID, IfName: k.Interface}
	waits, err := s.spool.Has(spooled)
	if err != nil {
		return ioError("cannot look for a spooled DEL", err)
	}
	if !waits {
		return nil
	}
	if _, err := s.endpoints.Detach(ctx, k); err != nil {
		return fmt.Errorf("spooled DEL of %s: %w", k, err)
	}
	if err := s.spool.Remove(spooled); err != nil {
		return ioError("cannot take a DEL out of the spool", err)
	}
	s.log.Info("cni: spooled DEL done", "container", k.ContainerID, "interface", k.Interface)
	return nil
}

// drainer does spooled DELs: shims write them only while the agent is away, but the last of them may do so just
// after it came back.
type drainer struct {
	s    *server
	last string // the failure logged last, said once
}

func (d *drainer) run(ctx context.Context, every time.Duration) {
	for pause(ctx, every) {
		d.pass(ctx)
	}
}

func (d *drainer) pass(ctx context.Context) {
	keys, err := d.s.spool.List()
	failed := 0
	for _, k := range keys {
		if ctx.Err() != nil {
			return
		}
		if e := d.one(ctx, agent.Key{ContainerID: k.ContainerID, Interface: k.IfName}); e != nil {
			failed++
			err = errors.Join(err, e)
		}
	}
	if err == nil {
		d.last = ""
	} else if text := err.Error(); text != d.last {
		d.last = text
		d.s.log.Warn("cni: spooled DELs left for later", "count", failed, "err", err)
	}
}

func (d *drainer) one(ctx context.Context, k agent.Key) error {
	ctx, cancel := context.WithTimeout(ctx, drainDeadline)
	defer cancel()
	unlock, err := d.s.locks.Lock(ctx, k)
	if err != nil {
		return fmt.Errorf("spooled DEL of %s: %w", k, err)
	}
	defer unlock()
	return d.s.settle(ctx, k)
}

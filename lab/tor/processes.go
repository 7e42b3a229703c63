package tor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

const stopGrace = 3 * time.Second // from SIGTERM to SIGKILL

// processes are the daemons of one router, by the names of their records in the order in which they start.
type processes struct {
	node    Node
	daemons []string
}

// clear forgets the processes of an earlier run, which must have ended.
func (p processes) clear() error {
	if procs, err := p.load(); err != nil {
		return err
	} else if slices.ContainsFunc(procs, daemon.Process.Alive) {
		return fmt.Errorf("router %s runs already", p.node.Name)
	}
	for _, name := range p.daemons {
		if err := daemon.Forget(p.node.Dir, name); err != nil {
			return fmt.Errorf("router %s: %w", p.node.Name, err)
		}
	}
	return nil
}

func (p processes) start(name, path string, args ...string) error {
	_, err := daemon.Start(daemon.Spec{Name: name, Dir: p.node.Dir, NS: p.node.NS, Path: path, Args: args, Env: p.node.Env})
	return err
}

// load returns the router's processes, the last started first.
func (p processes) load() ([]daemon.Process, error) {
	var all []daemon.Process
	for i := len(p.daemons) - 1; i >= 0; i-- {
		d, err := daemon.Load(p.node.Dir, p.daemons[i])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("router %s: %w", p.node.Name, err)
		}
		all = append(all, d)
	}
	return all, nil
}

func (p processes) Stop(ctx context.Context) error {
	procs, err := p.load()
	if err != nil {
		return err
	}
	for _, d := range procs { // the BGP daemon first: it says goodbye while its routes still stand
		if err := daemon.Stop(ctx, []daemon.Process{d}, stopGrace); err != nil {
			return fmt.Errorf("stop router %s: %w", p.node.Name, err)
		}
	}
	return nil
}

func (p processes) Kill() error {
	procs, err := p.load()
	if err != nil {
		return err
	}
	if err := daemon.Stop(context.Background(), procs, 0); err != nil {
		return fmt.Errorf("kill router %s: %w", p.node.Name, err)
	}
	return nil
}

// kill ends one daemon with SIGKILL and forgets it.
func (p processes) kill(ctx context.Context, name string) error {
	d, err := daemon.Load(p.node.Dir, name)
	if err == nil {
		err = daemon.Stop(ctx, []daemon.Process{d}, 0)
	}
	if err == nil {
		Forget(d)
		err = daemon.Forget(p.node.Dir, name)
	}
	if err != nil {
		return fmt.Errorf("kill %s of router %s: %w", name, p.node.Name, err)
	}
	return nil
}

func (p processes) Alive() bool {
	procs, err := p.load()
	if err != nil || len(procs) != len(p.daemons) {
		return false
	}
	for _, d := range procs {
		if !d.Alive() {
			return false
		}
	}
	return true
}

// ended says that a daemon is gone, with the last it had to say.
func (p processes) ended() error {
	procs, err := p.load()
	if err != nil {
		return err
	}
	for _, d := range procs {
		if !d.Alive() {
			log := filepath.Join(p.node.Dir, d.Command+".log")
			return fmt.Errorf("router %s: %s has ended; the end of %s:\n%s", p.node.Name, d.Command, log, daemon.Tail(log, 10))
		}
	}
	return nil
}

// await polls until ready says true, a daemon ends, or the context does.
func (p processes) await(ctx context.Context, what string, ready func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		if err := p.ended(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("router %s: waiting for %s: %w", p.node.Name, what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

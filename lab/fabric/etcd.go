package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/hostfabric/hostfabric/lab/etcd"
	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

// etcdName is the node, the record and the log of the lab's etcd. Its namespace has no links: agents reach it by its socket.
const etcdName = "etcd"

func (p Plan) etcd() etcd.Server { return etcd.Server{Dir: p.NodeDir(etcdName)} }

// etcd starts the lab's etcd, where hosts claim their blocks.
func (b *builder) etcd(ctx context.Context) error {
	if b.plan.Source != Etcd {
		return nil
	}
	return b.each(ctx, "etcd", 1, func(ctx context.Context, _ int) error {
		if err := os.MkdirAll(b.plan.NodeDir(etcdName), 0o755); err != nil {
			return fmt.Errorf("etcd of lab %s: %w", b.plan.Name, err)
		}
		return b.lab.StartEtcd(ctx)
	})
}

// StartEtcd starts the etcd of a lab whose hosts claim their blocks there, with the data that it had, and waits until it answers.
func (l *Lab) StartEtcd(ctx context.Context) error {
	if err := l.startEtcd(ctx); err != nil {
		return fmt.Errorf("etcd of lab %s: %w", l.Plan.Name, err)
	}
	return nil
}

var errNoEtcd = errors.New("there is none: the hosts' blocks are not claimed")

func (l *Lab) startEtcd(ctx context.Context) error {
	if l.Plan.Source != Etcd {
		return errNoEtcd
	}
	path, err := etcd.Binary()
	if err != nil {
		return err
	}
	server := l.Plan.etcd()
	old, err := daemon.Load(server.Dir, etcdName)
	if err == nil && old.Alive() {
		return fmt.Errorf("it runs already as process %d", old.PID)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := server.Clear(); err != nil {
		return err
	}
	p, err := daemon.Start(daemon.Spec{
		Name: etcdName, Dir: server.Dir, NS: l.Plan.namespace(etcdName), Env: l.Plan.mark(), Path: path, Args: server.Args(),
	})
	if err != nil {
		return err
	}
	return server.AwaitReady(ctx, func() error {
		if p.Alive() {
			return nil
		}
		return fmt.Errorf("it has ended%s", l.tail(etcdName, etcdName))
	})
}

// KillEtcd ends the lab's etcd with SIGKILL. Its data stay.
func (l *Lab) KillEtcd() error {
	if l.Plan.Source != Etcd {
		return fmt.Errorf("etcd of lab %s: %w", l.Plan.Name, errNoEtcd)
	}
	p, err := daemon.Load(l.Plan.NodeDir(etcdName), etcdName)
	if err == nil {
		err = daemon.Stop(context.Background(), []daemon.Process{p}, 0)
	}
	if err != nil {
		return fmt.Errorf("kill etcd of lab %s: %w", l.Plan.Name, err)
	}
	return nil
}

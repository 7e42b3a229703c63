package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/hostfabric/hostfabric/lab/etcd"
	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/tor"
	"golang.org/x/sync/errgroup"
)

// Options say what to build and with which programs.
type Options struct {
	Shape
	Agent   string        // the hostfabric binary; empty builds hosts without agents
	Binary  string        // the hostfabric-lab binary, which runs embedded routers
	Timeout time.Duration // for everything to be ready; default 60 s
	Keep    bool          // leave a lab that failed to come up as it is, to look at
}

// Progress tells how far Up is: Done of Total parts of a step.
type Progress struct {
	Step        string
	Done, Total int
}

// Lab is a running fabric.
type Lab struct {
	Plan   Plan
	Agents bool // hosts run agents
	driver tor.Driver
	tors   map[string]tor.Tor
}

// parallel is how many processes are started at the same time.
const parallel = 8

// builder is an Up in progress.
type builder struct {
	plan     Plan
	opts     Options
	driver   tor.Driver
	lab      *Lab
	progress func(Progress)
}

func (b *builder) report(step string, done, total int) {
	if b.progress != nil {
		b.progress(Progress{step, done, total})
	}
}

// Up builds a lab and waits until every session is established and every router's kernel has a route to every block.
// What it cannot finish it removes again, unless told to keep it. progress may be nil; it is called from this goroutine.
func Up(ctx context.Context, opts Options, progress func(Progress)) (*Lab, error) {
	plan, err := NewPlan(opts.Shape)
	if err != nil {
		return nil, err
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Minute
	}
	driver, err := tor.New(plan.Tor, tor.Options{Binary: opts.Binary})
	if err != nil {
		return nil, err
	}
	if err := driver.Check(); err != nil {
		return nil, err
	}
	if plan.Source == Etcd {
		if _, err := etcd.Binary(); err != nil {
			return nil, err
		}
	}
	b := &builder{plan: plan, opts: opts, driver: driver, progress: progress, lab: newLab(plan, driver, opts.Agent != "")}
	if err := b.claim(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, opts.Timeout, fmt.Errorf("%s have passed", opts.Timeout))
	defer cancel()
	if err := b.build(ctx); err != nil {
		if opts.Keep {
			return nil, errors.Join(err, b.finish())
		}
		return nil, errors.Join(err, Down(context.WithoutCancel(ctx), plan.Shape))
	}
	return b.lab, b.finish()
}

// claim takes the lab's directory, which no other Up can, and writes down what is going to be built.
func (b *builder) claim() error {
	if err := os.MkdirAll(b.plan.Dir, 0o755); err != nil {
		return fmt.Errorf("lab %s: %w", b.plan.Name, err)
	}
	if err := os.Mkdir(b.plan.StateDir(), 0o755); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("lab %s exists already; `hostfabric-lab down --name %s` removes it", b.plan.Name, b.plan.Name)
	} else if err != nil {
		return fmt.Errorf("lab %s: %w", b.plan.Name, err)
	}
	return b.save(daemon.Self())
}

func (b *builder) finish() error { return b.save(daemon.Process{}) }

func (b *builder) save(builder daemon.Process) error {
	return state{Plan: b.plan, Agents: b.lab.Agents, Binary: b.opts.Binary, Builder: builder}.save()
}

func (b *builder) build(ctx context.Context) error {
	if err := b.network(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{b.etcd, b.routers, b.agents, b.settle} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) routers(ctx context.Context) error {
	routers := b.plan.Routers()
	return b.each(ctx, "routers", len(routers), func(ctx context.Context, i int) error {
		if err := os.MkdirAll(b.plan.NodeDir(routers[i].Name), 0o755); err != nil {
			return fmt.Errorf("router %s: %w", routers[i].Name, err)
		}
		_, err := b.driver.Start(ctx, b.plan.TorNode(routers[i]))
		return err
	})
}

func (b *builder) agents(ctx context.Context) error {
	if b.opts.Agent == "" {
		return nil
	}
	hosts := b.plan.AllHosts()
	return b.each(ctx, "agents", len(hosts), func(_ context.Context, i int) error {
		return b.plan.startAgent(hosts[i], b.opts.Agent)
	})
}

// each does n things, a few at a time, and reports how many are done.
func (b *builder) each(ctx context.Context, step string, n int, do func(ctx context.Context, i int) error) error {
	b.report(step, 0, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	done := make(chan struct{}, n)
	go func() {
		for i := range n {
			g.Go(func() error {
				defer func() { done <- struct{}{} }()
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return do(ctx, i)
			})
		}
	}()
	for i := range n {
		<-done
		b.report(step, i+1, n)
	}
	return g.Wait()
}

func newLab(p Plan, driver tor.Driver, agents bool) *Lab {
	l := &Lab{Plan: p, Agents: agents, driver: driver, tors: map[string]tor.Tor{}}
	for _, r := range p.Routers() {
		l.tors[r.Name] = driver.Attach(p.TorNode(r))
	}
	return l
}

// Open returns a lab that another process built.
func Open(name Shape) (*Lab, error) {
	name.setDefaults()
	s, err := loadState(name)
	if err != nil {
		return nil, err
	}
	driver, err := tor.New(s.Plan.Tor, tor.Options{Binary: s.Binary})
	if err != nil {
		return nil, fmt.Errorf("lab %s: %w", name.Name, err)
	}
	return newLab(s.Plan, driver, s.Agents), nil
}

// Tor returns the running router of this name, which must be in the plan.
func (l *Lab) Tor(name string) tor.Tor { return l.tors[name] }

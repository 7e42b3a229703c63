package bench

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

// side is one of those who take turns in attaching containers to the same host and detaching them again.
type side struct {
	name   string
	attach func(ctx context.Context, c fabric.Container) (time.Duration, error)
	// detach returns how long the caller waits; the kernel may have the link for a little longer.
	detach func(ctx context.Context, c fabric.Container) (time.Duration, error)

	attached, detached []float64 // ms
}

// turns are sides that share out the containers of a host, each with as many as the next: they never meet in a namespace.
type turns struct {
	host       fabric.Host
	sides      []*side
	containers []fabric.Container
	o          Options
}

// takeTurns shares out the containers.
func takeTurns(o Options, host fabric.Host, containers []fabric.Container, sides ...*side) turns {
	return turns{host: host, sides: sides, containers: containers, o: o}
}

// each is how many containers a side has.
func (t turns) each() int { return len(t.containers) / len(t.sides) }

func (t turns) of(s, i int) fabric.Container { return t.containers[s*t.each()+i] }

// serially has every side attach its containers, one at a time and in turns, and then detach them. Nothing is torn down
// while attaches are timed, and no detach begins before the kernel is through with the one before: both cost grace periods
// that whoever comes next would pay for.
func (t turns) serially(ctx context.Context) error {
	step := t.o.step("attached and detached in turns")
	total := 2 * t.each()
	err := t.alternate(func(s, i int) error {
		took, err := t.sides[s].attach(ctx, t.of(s, i))
		t.sides[s].attached = append(t.sides[s].attached, milliseconds(took))
		step(i+1, total)
		return err
	})
	if err != nil {
		return err
	}
	return t.alternate(func(s, i int) error {
		took, err := t.sides[s].detach(ctx, t.of(s, i))
		if err != nil {
			return err
		}
		t.sides[s].detached = append(t.sides[s].detached, milliseconds(took))
		step(t.each()+i+1, total)
		return awaitNoLink(ctx, t.of(s, i).NS, containerLink)
	})
}

// alternate goes through the containers; whose turn is first changes, so that no side always follows the same one.
func (t turns) alternate(do func(side, i int) error) error {
	for i := range t.each() {
		for k := range t.sides {
			if err := do((i+k)%len(t.sides), i); err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce has each of the containers handled, so many at a time. It returns how long each took, in ms, and how long all did
// together. What fails does not keep the others from being handled; the first error comes with the number of them.
func atOnce(ctx context.Context, callers int, containers []fabric.Container, do func(context.Context, fabric.Container) (time.Duration, error)) (each []float64, all time.Duration, failed failures) {
	took, errs := make([]time.Duration, len(containers)), make([]error, len(containers))
	var g errgroup.Group
	g.SetLimit(callers)
	began := time.Now()
	for i, c := range containers {
		g.Go(func() error {
			took[i], errs[i] = do(ctx, c)
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	all = time.Since(began)
	for i, err := range errs {
		if err != nil {
			failed.add(err)
			continue
		}
		each = append(each, milliseconds(took[i]))
	}
	return each, all, failed
}

// failures counts what went wrong and keeps the first of it.
type failures struct {
	n     int
	first error
}

func (f *failures) add(err error) {
	if f.n++; f.first == nil {
		f.first = err
	}
}

func (f *failures) join(o failures) {
	if f.n += o.n; f.first == nil {
		f.first = o.first
	}
}

func (f failures) String() string {
	if f.n == 0 {
		return "none failed"
	}
	return fmt.Sprintf("%d FAILED, the first with: %v", f.n, f.first)
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

const (
	lifetime = time.Second // of a container of churn.sustained
	// roomFor is how many lifetimes' worth of namespaces there are: when a container is due and none is free, attaching,
	// detaching and the work left behind take longer than a container lives, and a queue grows.
	roomFor = 2

	searchSteps   = 4
	searchFactor  = 10  // a step of the search is so much shorter than the proof
	proofBackoff  = 0.9 // a rate that did not last is tried again so much lower
	proofAttempts = 5
)

// churnSustained looks for the highest rate of containers of 1 s life that keeps up for a minute.
func churnSustained(ctx context.Context, o Options) ([]Result, error) {
	const name = "churn.sustained"
	life := min(lifetime, o.Churn/2)
	var results []Result
	err := inArena(ctx, o, o.Namespaces, func(a *arena) error {
		api, err := a.api()
		if err != nil {
			return err
		}
		var found []pace
		for _, s := range []*side{a.shim(), api, a.ptp()} {
			c := churn{side: s, containers: a.host.Containers, life: life, last: o.Churn, step: o.step("rates tried, " + s.name)}
			p, err := c.search(ctx)
			if err != nil {
				return err
			}
			found = append(found, p)
			if err := awaitNoLinks(ctx, a.host.Containers); err != nil {
				return err
			}
		}
		theirs := found[2]
		row := func(name, what string, p pace) Result {
			p99 := quantile(p.attached, 0.99)
			r := Result{
				Name: name, Unit: "containers/s", Value: p.rate, P99: &p99, Target: "ratio >= 10",
				Conditions: fmt.Sprintf("%s, containers of %s life, the highest rate found that kept up for %s; attach p50 %.3g ms, p99 (ms) beside, detach p50 %.3g; baseline: attach p50 %.3g ms, p99 %.3g",
					what, life, o.Churn, quantile(p.attached, 0.5), quantile(p.detached, 0.5), quantile(theirs.attached, 0.5), quantile(theirs.attached, 0.99)),
			}
			return r.against(ptpName+", /s", theirs.rate)
		}
		results = []Result{
			row(name, "CNI ADD and DEL, exec to exit", found[0]),
			row(name+".api", "Attach and Detach over the API", found[1]),
		}
		return nil
	})
	return results, err
}

// churn is one side whose containers come and go at a steady rate.
type churn struct {
	side       *side
	containers []fabric.Container
	life, last time.Duration
	step       func(done, total int)
}

// pace is a rate and how it went.
type pace struct {
	rate               float64 // a second
	attached, detached []float64
}

// search tries rates around what many callers get done without a pause, each for a while, and then proves the best.
func (c churn) search(ctx context.Context) (pace, error) {
	rate, err := c.closedLoop(ctx)
	if err != nil {
		return pace{}, err
	}
	low, high := rate/4, min(rate*1.2, c.most())
	for i := range searchSteps {
		try := (low + high) / 2
		_, ok, err := c.keepsUp(ctx, try, c.last/searchFactor+c.life)
		if err != nil {
			return pace{}, err
		}
		if ok {
			low = try
		} else {
			high = try
		}
		c.step(i+1, searchSteps+proofAttempts)
	}
	for i := range proofAttempts {
		p, ok, err := c.keepsUp(ctx, low, c.last)
		c.step(searchSteps+i+1, searchSteps+proofAttempts)
		if ok || err != nil {
			return p, err
		}
		low *= proofBackoff
	}
	return pace{}, fmt.Errorf("%s: no rate lasts, down to %.1f containers/s", c.side.name, low)
}

// most is the rate that there are namespaces for.
func (c churn) most() float64 {
	return float64(len(c.containers)-parallelCallers) / (roomFor * c.life.Seconds())
}

// closedLoop counts the cycles in a second that a few callers get done, each beginning the next when one is over.
func (c churn) closedLoop(ctx context.Context) (float64, error) {
	n := min(len(c.containers), 10*parallelCallers)
	_, all, failed := atOnce(ctx, parallelCallers, c.containers[:n], func(ctx context.Context, b fabric.Container) (time.Duration, error) {
		if _, err := c.side.attach(ctx, b); err != nil {
			return 0, err
		}
		return c.side.detach(ctx, b)
	})
	return float64(n) / all.Seconds(), failed.first
}

// keepsUp starts containers at a rate, whether or not those before are through, and ends each after its life. ok is false
// once one is due and no namespace is free.
func (c churn) keepsUp(ctx context.Context, rate float64, lasts time.Duration) (p pace, ok bool, err error) {
	room := min(int(roomFor*rate*c.life.Seconds())+parallelCallers, len(c.containers))
	free := make(chan fabric.Container, room)
	for _, b := range c.containers[:room] {
		free <- b
	}
	p.rate = rate
	var mu sync.Mutex // guards p and errs
	var errs failures
	var living sync.WaitGroup
	defer func() {
		living.Wait()
		err = errors.Join(err, errs.first)
	}()
	start := time.Now()
	for i := 0; ; i++ {
		due := time.Duration(float64(i) / rate * float64(time.Second))
		if due >= lasts {
			return p, true, nil
		}
		if err := pause(ctx, time.Until(start.Add(due))); err != nil {
			return p, false, err
		}
		select {
		case b := <-free:
			container := fabric.Container{Name: fmt.Sprintf("%s-%d", b.Name, i), NS: b.NS} // a new one each time, as in life
			living.Go(func() {
				attached, detached, err := c.live(ctx, container)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs.add(err)
					return
				}
				p.attached, p.detached = append(p.attached, milliseconds(attached)), append(p.detached, milliseconds(detached))
				free <- b
			})
		default:
			return p, false, nil
		}
	}
}

// live is the life of one container.
func (c churn) live(ctx context.Context, b fabric.Container) (attached, detached time.Duration, err error) {
	if attached, err = c.side.attach(ctx, b); err != nil {
		return attached, 0, err
	}
	if err := pause(ctx, c.life); err != nil {
		return attached, 0, err
	}
	detached, err = c.side.detach(ctx, b)
	return attached, detached, err
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package bench

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/fabric"
)

// singleDeletes is how many links the baseline of detach.1000 deletes, one at a time.
const singleDeletes = 50

// detach1000 takes many endpoints off a host at once and waits until the kernel has none of their links, beside links that
// are deleted one after another.
func detach1000(ctx context.Context, o Options) ([]Result, error) {
	var results []Result
	singles := min(singleDeletes, o.Detaches)
	err := inArena(ctx, o, o.Detaches+singles, func(a *arena) error {
		ours, lone := a.host.Containers[:o.Detaches], a.host.Containers[o.Detaches:]
		single, err := a.deleteOneByOne(ctx, lone[:(singles+1)/2])
		if err != nil {
			return err
		}
		if err := a.settle(ctx, ours); err != nil {
			return err
		}
		api, err := a.api()
		if err != nil {
			return err
		}
		began := time.Now()
		each, answered, failed := atOnce(ctx, parallelCallers, ours, api.detach)
		if err := await(ctx, "the links are gone", soon, a.noLinks); err != nil {
			return err
		}
		all := time.Since(began)
		more, err := a.deleteOneByOne(ctx, lone[(singles+1)/2:])
		if err != nil {
			return err
		}
		single = append(single, more...)
		r := Result{
			Name: "detach.1000", Unit: "ms each", Value: milliseconds(all) / float64(len(ours)), Target: "<= 1",
			Conditions: fmt.Sprintf("%d detaches over the API, %d at once, until the links are gone, amortised; all answered after %.3g ms, p50 of one %.3g ms, p99 %.3g; %s",
				len(ours), parallelCallers, milliseconds(answered), quantile(each, 0.5), quantile(each, 0.99), failed),
		}
		results = []Result{r.against(fmt.Sprintf("%d links deleted one by one, p50", len(single)), quantile(single, 0.5))}
		return nil
	})
	return results, err
}

// deleteOneByOne wires containers barely and returns how long each one's link took to be deleted, in ms.
func (a *arena) deleteOneByOne(ctx context.Context, containers []fabric.Container) ([]float64, error) {
	bare := a.bare.side("bare kernel work", nil)
	for _, c := range containers {
		if _, err := bare.attach(ctx, c); err != nil {
			return nil, err
		}
	}
	var each []float64
	for _, c := range containers {
		took, err := bare.detach(ctx, c)
		if err != nil {
			return nil, err
		}
		each = append(each, milliseconds(took))
	}
	return each, nil
}

// noLinks reports whether the host has no end of an endpoint.
func (a *arena) noLinks() (none bool, err error) {
	err = a.host.NS.Do(func() error {
		links, err := net.Interfaces()
		none = true
		for _, l := range links {
			none = none && !strings.HasPrefix(l.Name, endpoint.HostLinkPrefix)
		}
		return err
	})
	return none, err
}

package docker_test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/docker"
)

var stormTime = flag.Duration("docker.storm", 4*time.Second, "for how long containers come and go while agents and dockerds are killed")

// storm has containers come and go on a host whose agent is killed every second, and whose dockerd every fifth time. What
// fails says so by failing; afterwards leases, links and routes are those of the containers that live.
func storm(r *rig) {
	ctx, cancel := context.WithTimeout(r.Context(), *stormTime)
	defer cancel()
	var started, failed, kills atomic.Int64
	var g errgroup.Group
	for i := range 4 {
		g.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				name := fmt.Sprintf("storm-%d-%d", i, n)
				// Not the storm's context: a client that is killed tells nothing of what became of its request.
				_, err := r.a.Run(r.Context(), "run", "--detach", "--name", name, "--network", "net", docker.Image, "sleep", "3600")
				if err == nil {
					started.Add(1)
					_, err = r.a.Run(r.Context(), "rm", "--force", name)
				}
				if err != nil {
					failed.Add(1)
				}
			}
			return nil
		})
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			r.killAgent(r.a)
			if kills.Add(1)%5 == 0 {
				if err := r.a.KillDaemon(r.Context()); err != nil {
					r.Fatal(err)
				}
				if err := r.a.StartDaemon(r.Context()); err != nil {
					r.Fatal(err)
				}
			}
			r.startAgent(r.a)
		}
	}
	if err := g.Wait(); err != nil {
		r.Fatal(err)
	}
	r.Logf("%d containers started, %d commands failed, agent killed %d times", started.Load(), failed.Load(), kills.Load())
	if started.Load() == 0 {
		r.Error("no container started")
	}
	if left := r.do(r.a, "ps", "--all", "--quiet", "--filter", "name=storm-"); left != "" {
		r.do(r.a, append([]string{"rm", "--force"}, strings.Fields(left)...)...)
	}
	r.agree(r.a, 2)
	r.reach(append(r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")...)...)
}

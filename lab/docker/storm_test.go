package docker_test

import (
	"context"
	"flag"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/lab/docker"
)

var stormTime = flag.Duration("docker.storm", 4*time.Second, "for how long containers come and go while agents and dockerds are killed")

// storm has containers come and go on a host whose agent is killed every second, and whose dockerd with every third time. What
// fails says so by failing; afterwards leases, links and routes are those of the containers that live.
func storm(r *rig) {
	ctx, cancel := context.WithTimeout(r.Context(), *stormTime)
	defer cancel()
	var started, kills atomic.Int64
	var failed failures
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
					failed.add(err)
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
			both := kills.Add(1)%3 == 0
			if both {
				if err := r.a.KillDaemon(r.Context()); err != nil {
					r.Fatal(err)
				}
			}
			r.startAgent(r.a) // first: a dockerd that starts without it asks for a minute
			if both {
				if err := r.a.StartDaemon(r.Context()); err != nil {
					r.Fatal(err)
				}
			}
			tick.Reset(time.Second)
		}
	}
	if err := g.Wait(); err != nil {
		r.Fatal(err)
	}
	r.Logf("%d containers started, agent killed %d times, commands that failed:%s", started.Load(), kills.Load(), &failed)
	if started.Load() == 0 {
		r.Error("no container started")
	}
	if left := r.do(r.a, "ps", "--all", "--quiet", "--filter", "name=storm-"); left != "" {
		r.do(r.a, append([]string{"rm", "--force"}, strings.Fields(left)...)...)
	}
	r.agree(r.a, 2)
	r.reach(append(r.ends(r.a, "net", "c1"), r.ends(r.b, "net", "c1")...)...)
}

// failures counts what commands said.
type failures struct {
	mu  sync.Mutex
	all map[string]int
}

// specific is what differs from one failure to the next.
var specific = regexp.MustCompile(`storm-\d+-\d+|[0-9a-f]{12,}|(h[fd])[0-9a-z]{13}|\d+\.\d+\.\d+\.\d+|[0-9a-f:]+::[0-9a-f]+`)

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all == nil {
		f.all = make(map[string]int)
	}
	f.all[specific.ReplaceAllString(err.Error(), "X")]++
}

func (f *failures) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for text, n := range f.all {
		fmt.Fprintf(&b, "\n%d times: %s", n, text)
	}
	return b.String()
}

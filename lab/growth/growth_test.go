// Package growth tests what a fabric feels when the hosts' blocks grow and shrink: nothing.
package growth_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
	"github.com/hostfabric/hostfabric/lab/tor"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

// routers are the kinds of ToR that the hosts grow behind.
var routers = tor.Kinds

// kept is how many of the burst's containers outlive it: few enough for the blocks that the hosts began with.
const kept = 10

// TestGrowUnderLoad attaches more containers than the hosts' first blocks hold, all at once, and then detaches most of them.
func TestGrowUnderLoad(t *testing.T) {
	for _, kind := range routers {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind)
			r.unharmed(t, func() {
				before := r.space(t)
				r.log(t, "at first")
				if err := r.attach(t.Context(), r.burst(0, burst), nil); err != nil {
					t.Fatal(err)
				}
				r.log(t, "at the peak")
				peak := r.space(t)
				for host, leases := range r.leases(t) {
					if leases != burst+1 {
						t.Errorf("%s holds %d leases at the peak, want %d", host, leases, burst+1)
					}
					if peak[host] <= before[host] {
						t.Errorf("%s announces %d addresses at the peak, %d at first", host, peak[host], before[host])
					}
				}
				if err := r.detach(t.Context(), kept); err != nil {
					t.Fatal(err)
				}
				eventually(t, "no host holds a lease of those that have gone", func() bool {
					for _, leases := range r.leases(t) {
						if leases > kept+1 {
							return false
						}
					}
					return true
				})
				eventually(t, "every host announces no more than half of the addresses that it had at the peak", func() bool {
					for host, n := range r.space(t) {
						if n > peak[host]/2 {
							return false
						}
					}
					return true
				})
				for host, leases := range r.leases(t) {
					if leases != kept+1 {
						t.Errorf("%s holds %d leases in the end, want %d", host, leases, kept+1)
					}
				}
				r.log(t, "after most have gone")
			})
			if r.pings.sent != 2*burst || r.pings.lost > 0 {
				t.Errorf("%d of %d first pings were lost, want 0 of %d", r.pings.lost, r.pings.sent, 2*burst)
			}
		})
	}
}

const (
	beforeOutage = 30              // containers of each host, which its first block holds
	outage       = 3 * time.Second // of etcd, once every host has missed it
)

// TestGrowWhileEtcdIsAway kills etcd in the middle of the burst: what needs no new block goes on, what needs one is refused with
// the reason, and nobody has to do anything once etcd is back.
func TestGrowWhileEtcdIsAway(t *testing.T) {
	for _, kind := range routers {
		t.Run(string(kind), func(t *testing.T) {
			r := newRig(t, kind)
			r.unharmed(t, func() {
				if err := r.attach(t.Context(), r.burst(0, beforeOutage), nil); err != nil {
					t.Fatal(err)
				}
				if err := r.lab.KillEtcd(); err != nil {
					t.Fatal(err)
				}
				without := newRefusals(r.hostNames())
				finish := attachInBackground(t, r, without)
				eventually(t, "every host has refused a container for want of etcd", without.everywhere)
				r.log(t, "without etcd")
				wait(t, outage)
				meanwhile := r.attached()
				if meanwhile <= 2*beforeOutage {
					t.Errorf("%d containers were attached before etcd went away and %d when it came back: none meanwhile", 2*beforeOutage, meanwhile)
				}
				if err := r.lab.StartEtcd(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := finish(); err != nil {
					t.Fatal(err)
				}
				r.log(t, "with etcd again")
				t.Logf("%d containers attached while etcd was away; refused: %s", meanwhile-2*beforeOutage, without)
				for host, leases := range r.leases(t) {
					if leases != burst+1 {
						t.Errorf("%s holds %d leases in the end, want %d", host, leases, burst+1)
					}
				}
			})
			if r.pings.sent != 2*burst || r.pings.lost > 0 {
				t.Errorf("%d of %d first pings were lost, want 0 of %d", r.pings.lost, r.pings.sent, 2*burst)
			}
		})
	}
}

// attachInBackground attaches the rest of the burst, as a runtime does that tries again what was refused.
func attachInBackground(t *testing.T, r *rig, refused *refusals) (finish func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = r.attach(ctx, r.burst(beforeOutage, burst), refused.again) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() error { wg.Wait(); return err }
}

// refusals are the attaches that failed for want of etcd, by host.
type refusals struct {
	mu    sync.Mutex
	count map[string]int
	text  string // of one
}

func newRefusals(hosts []string) *refusals {
	f := &refusals{count: map[string]int{}}
	for _, h := range hosts {
		f.count[h] = 0
	}
	return f
}

// again reports whether an attach failed for want of etcd, in words that say so.
func (f *refusals) again(host string, err error) bool {
	if !strings.Contains(err.Error(), "etcd") || !strings.Contains(err.Error(), "cannot be reached") {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[host]++
	f.text = err.Error()
	return true
}

func (f *refusals) everywhere() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, n := range f.count {
		if n == 0 {
			return false
		}
	}
	return true
}

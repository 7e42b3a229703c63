package bgp_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// rack is one host with an FRR and a BIRD router.
type rack struct {
	host *node
	frr  frr
	bird bird
	conf bgp.Config
}

const (
	atFRR  = "10.64.1.0/26 via 10.0.1.1; fd64:0:1::/64 via fd00:1::1"
	atBIRD = "10.64.1.0/26 via 10.0.2.1; fd64:0:1::/64 via fd00:2::1"
	atHost = "0.0.0.0/0 via [10.0.1.0 10.0.2.0]; 10.64.2.0/26 via [10.0.1.0 10.0.2.0]; " +
		"::/0 via [fd00:1:: fd00:2::]; fd64:0:2::/64 via [fd00:1:: fd00:2::]"
)

func newRack(t testing.TB) *rack {
	t.Helper()
	h, r1, r2 := nstest.New(t, "host"), nstest.New(t, "frr"), nstest.New(t, "bird")
	cable(t, h, r1, 1)
	cable(t, h, r2, 2)
	r := &rack{frr: startFRR(t, r1), bird: startBIRD(t, r2), host: newNode(t, h, "host", "127.0.0.1:50051")}
	r.conf = hostConfig(
		bgp.Peer{Address: addr("10.0.1.0"), ASN: 65101, Password: password, TTLSecurity: false, NextHop6: addr("fd00:1::1")},
		bgp.Peer{Address: addr("10.0.2.0"), ASN: 65102, NextHop6: addr("fd00:2::1")})
	r.host.configure(t, r.conf, "10.64.1.0/26", "fd64:0:1::/64")
	wantLearned(t, r.frr, 20*time.Second, atFRR)
	wantLearned(t, r.bird, 20*time.Second, atBIRD)
	r.host.fabric.want(t, 10*time.Second, atHost)
	r.host.fabric.waitSynced(t, 1)
	return r
}

// watch polls the routers' tables until stop, which fails the test if our prefixes were ever missing.
func (r *rack) watch(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	poll := func(rt router, want string) {
		polls, missing := 0, []string{}
		for ctx.Err() == nil {
			got, err := rt.learned()
			if err != nil {
				continue // the tool was not answered; the next poll is a moment away
			}
			polls++
			if got != want {
				missing = append(missing, fmt.Sprintf("%s: %q", time.Now().Format("05.000"), got))
			}
		}
		t.Logf("%T: %d polls", rt, polls)
		if len(missing) > 0 {
			t.Errorf("%T lost our routes in %d of %d polls:\n%s", rt, len(missing), polls, strings.Join(missing[:min(len(missing), 5)], "\n"))
		}
	}
	wg.Go(func() { poll(r.frr, atFRR) })
	wg.Go(func() { poll(r.bird, atBIRD) })
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

func TestRealRouters(t *testing.T) {
	r := newRack(t)

	t.Run("announce and withdraw while up", func(t *testing.T) {
		r.host.announce(t, "10.64.1.0/26", "10.64.1.64/26", "fd64:0:1::/64")
		wantLearned(t, r.frr, 5*time.Second, "10.64.1.0/26 via 10.0.1.1; 10.64.1.64/26 via 10.0.1.1; fd64:0:1::/64 via fd00:1::1")
		wantLearned(t, r.bird, 5*time.Second, "10.64.1.0/26 via 10.0.2.1; 10.64.1.64/26 via 10.0.2.1; fd64:0:1::/64 via fd00:2::1")
		r.host.announce(t, "10.64.1.0/26", "fd64:0:1::/64")
		wantLearned(t, r.frr, 5*time.Second, atFRR)
		wantLearned(t, r.bird, 5*time.Second, atBIRD)
	})

	t.Run("client restart changes nothing", func(t *testing.T) {
		before := r.frr.session(t) + ", " + r.bird.session(t)
		stop := r.watch(t)
		for range 3 {
			r.host.stop()
			r.host.connect(t)
			if err := r.host.Configure(t.Context(), r.conf); err != nil { // agents announce later
				t.Fatal(err)
			}
			r.host.fabric.waitSynced(t, 1)
			r.host.fabric.want(t, 5*time.Second, atHost)
			r.host.announce(t, "10.64.1.0/26", "fd64:0:1::/64")
		}
		stop()
		if after := r.frr.session(t) + ", " + r.bird.session(t); after != before {
			t.Errorf("sessions noticed: %s, before %s", after, before)
		}
		r.host.stop()
	})
	r.host.connect(t)
	r.host.configure(t, r.conf, "10.64.1.0/26", "fd64:0:1::/64")
	r.host.fabric.waitSynced(t, 1)

	t.Run("speaker killed", func(t *testing.T) {
		stop := r.watch(t)
		for i := range 3 {
			r.host.respawn(t)
			r.host.fabric.waitSynced(t, i+2)
			r.host.fabric.want(t, 15*time.Second, atHost)
			for _, p := range []string{"10.0.1.0", "10.0.2.0"} {
				r.host.established(t, p)
				eventually(t, 15*time.Second, func() error {
					if p := r.host.peer(t, p); p.LocalRestarting {
						return fmt.Errorf("peer %s: still restarting", p.Address)
					}
					return nil
				})
			}
		}
		stop()
		r.host.fabric.mu.Lock()
		defer r.host.fabric.mu.Unlock()
		if len(r.host.fabric.gone) > 0 {
			t.Errorf("learned routes withdrawn during restarts: %v", r.host.fabric.gone)
		}
	})
	outer := t
	t.Run("agent restarts in the middle of that", func(t *testing.T) {
		stop := r.watch(t)
		for range 3 {
			r.host.proc.signal(syscall.SIGKILL)
			r.host.proc = startSpeaker(outer, r.host.ns, r.host.socket)
			r.host.admitted(t)
			r.host.stop()
			r.host.connect(outer)
			r.host.configure(t, r.conf, "10.64.1.0/26", "fd64:0:1::/64")
			r.host.fabric.waitSynced(t, 1)
			r.host.fabric.want(t, 15*time.Second, atHost)
		}
		stop()
	})
	t.Run("speaker killed again and again", func(t *testing.T) {
		stop := r.watch(t)
		for range 6 {
			r.host.proc.signal(syscall.SIGKILL)
			r.host.proc = startSpeaker(outer, r.host.ns, r.host.socket)
			r.host.admitted(t)
		}
		r.host.fabric.want(t, 20*time.Second, atHost)
		for _, p := range []string{"10.0.1.0", "10.0.2.0"} {
			r.host.established(t, p)
		}
		stop()
	})
}

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/history/historytest"
	"github.com/hostfabric/hostfabric/ipam"
)

// tells fails unless the ledger was told just this of containers since the last time. What follows by itself is waited for.
func (r *rig) tells(t *testing.T, want string) {
	t.Helper()
	want = strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\t", "")
	var got strings.Builder
	eventually(t, fmt.Sprintf("as many events are told as there are in\n%s", want), func() bool {
		got.WriteString(r.ledger.Story(history.Allocate, history.Attach, history.Describe, history.Detach, history.Release, history.Refuse, history.HostDrain, history.HostUndrain))
		return strings.Count(got.String(), "\n") >= strings.Count(want, "\n")
	})
	if got.String() != want {
		t.Errorf("told\n%s\nwant\n%s", got.String(), want)
	}
}

func TestLedgerIsToldOfAContainersLife(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	web, key := request("web"), request("web").Key
	web.Description = agent.Description{Name: "web-1", Labels: map[string]string{"app": "shop"}}
	attach := func(want error) {
		t.Helper()
		if _, err := r.Attach(t.Context(), web); !errors.Is(err, want) {
			t.Fatalf("Attach = %v, want %v", err, want)
		}
	}
	attach(nil)
	r.tells(t, `
		allocate web/eth0 by api [10.64.0.0 fd00:64::] of default
		attach web/eth0 by api [10.64.0.0 fd00:64::] named web-1 app=shop
	`)
	for _, e := range r.ledger.Events() {
		if e.Time.IsZero() || e.Kind == history.Attach && e.Duration <= 0 {
			t.Errorf("event without time or duration: %+v", e)
		}
	}
	attach(nil) // nothing has changed
	if err := r.Describe(t.Context(), key, web.Description); err != nil {
		t.Fatal(err)
	}
	web.Description = agent.Description{Name: "web-2", Aliases: []string{"www"}}
	attach(nil)
	web.Pool = "gold"
	attach(agent.ErrMismatch)
	r.tells(t, `
		describe web/eth0 by api [10.64.0.0 fd00:64::] named web-2 www
		refuse web/eth0 by api of gold named web-2 www error "attach web/eth0: attached with other parameters: its addresses are of pool default" (attach)
	`)
	for range 2 { // the second finds nothing
		if _, err := r.Detach(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	r.tells(t, `
		detach web/eth0 by api [10.64.0.0 fd00:64::] named web-2 www
		release web/eth0 [10.64.0.0 fd00:64::] of default
	`)
}

func TestLedgerIsToldOfFailures(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	r.wirer.set(func() { r.wirer.wireErr = errors.New("no link today") })
	if _, err := r.Attach(t.Context(), request("web")); err == nil {
		t.Fatal("attached without a link")
	}
	r.tells(t, `
		allocate web/eth0 by api [10.64.0.0] of default
		release web/eth0 [10.64.0.0] of default (its attach failed)
		refuse web/eth0 by api error "attach web/eth0: no link today" (attach)
	`)
	r.wirer.set(func() { r.wirer.wireErr = nil })
	ep := r.attach(t, "db")
	r.wirer.set(func() { r.wirer.retireErr = errors.New("no netlink today") })
	if _, err := r.Detach(t.Context(), ep.Key); err == nil {
		t.Fatal("detached without netlink")
	}
	r.wirer.set(func() { r.wirer.retireErr = nil })
	if _, err := r.Detach(t.Context(), ep.Key); err != nil {
		t.Fatal(err)
	}
	r.tells(t, `
		allocate db/eth0 by api [10.64.0.1] of default
		attach db/eth0 by api [10.64.0.1]
		refuse db/eth0 by api [10.64.0.1] error "detach db/eth0: no netlink today" (detach)
		detach db/eth0 by api [10.64.0.1]
		release db/eth0 [10.64.0.1] of default
	`)
	bad := request("no spaces")
	bad.Name = strings.Repeat("x", 1<<20)
	if _, err := r.Attach(t.Context(), bad); !errors.Is(err, agent.ErrInvalid) {
		t.Fatal(err)
	}
	for _, e := range r.ledger.Events() {
		if e.Container != "" || e.Name != "" || len(e.Error) > 2<<10 {
			t.Errorf("told of a request that cannot be: %+v", e)
		}
	}
}

func TestLedgerIsNotFilledByRefusals(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	const tries = 5_000
	for range tries {
		if _, err := r.Attach(t.Context(), agent.AttachRequest{Key: agent.Key{ContainerID: "a", Interface: "eth0"}, Netns: "relative"}); err == nil {
			t.Fatal("attached to nowhere")
		}
	}
	var told, summed uint64
	eventually(t, "all refusals are told or counted", func() bool {
		told, summed = 0, 0
		for _, e := range r.ledger.Events() {
			switch {
			case e.Kind != history.Refuse:
			case e.Count > 0:
				summed += e.Count
			default:
				told++
			}
		}
		return told+summed == tries
	})
	if told > 200 { // a hundred, and one a second
		t.Errorf("%d refusals are told one by one", told)
	}
}

func TestLedgerIsToldWhyItWasDetached(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	r := newRig(t, file, wirer, "10.64.0.0/26")
	lost := r.attach(t, "lost")
	for _, id := range []string{"kept", "collected"} {
		req := request(id)
		req.Owner = agent.OwnerCNI("pods")
		if _, err := r.Attach(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	r.ledger.Story()
	wirer.vanish(lost.HostInterface)
	r.tells(t, `
		detach lost/eth0 by api [10.64.0.0] (found by reconciliation: its link is gone)
		release lost/eth0 [10.64.0.0] of default
	`)
	if _, err := r.Collect(t.Context(), agent.OwnerCNI("pods"), []agent.Key{request("kept").Key}); err != nil {
		t.Fatal(err)
	}
	r.tells(t, `
		detach collected/eth0 by cni/pods [10.64.0.2] (collected: cni/pods no longer has it)
		release collected/eth0 [10.64.0.2] of default
	`)
	kept, _ := r.Endpoint(request("kept").Key)
	r.stop()
	r.ledger.Story()

	// While no agent looks, one goes; another attach was cut short before its link had its alias.
	wirer.vanish(kept.HostInterface)
	half, err := ipam.Open(file, ipam.Options{Quarantine: quarantine})
	if err != nil {
		t.Fatal(err)
	}
	if err := half.SetBlocks([]ipam.Block{{Prefix: netip.MustParsePrefix("10.64.0.0/26")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Allocate(ipam.Key{ContainerID: "half", Interface: "eth0"}, ipam.Request{}); err != nil {
		t.Fatal(err)
	}
	if err := half.Close(); err != nil {
		t.Fatal(err)
	}
	link := endpoint.HostLink("half", "eth0")
	if _, err := wirer.Wire(t.Context(), endpoint.Spec{HostLink: link, Netns: "/run/netns/half", ContainerLink: "eth0"}); err != nil {
		t.Fatal(err)
	}
	second := newRig(t, file, wirer, "10.64.0.0/26")
	eventually(t, "both leases have ended", func() bool { return len(second.leases.Leases()) == 0 })
	second.stop()
	got := second.ledger.Story(history.Detach, history.Release, history.Attach, history.Allocate)
	for line, times := range map[string]int{
		"detach kept/eth0 [10.64.0.1] of default (found by reconciliation: its link is gone)\n": 1,
		"release kept/eth0 [10.64.0.1] of default\n":                                            1,
		"detach half": 0,
		"release half/eth0 [10.64.0.3] of default": 1,
		"\n": 3,
	} {
		if n := strings.Count(got, line); n != times {
			t.Errorf("%q is told %d times, want %d:\n%s", line, n, times, got)
		}
	}
}

func TestLedgerIsToldOfALinkWiredAnew(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	ep := r.attach(t, "web")
	r.ledger.Story()
	r.wirer.vanish(ep.HostInterface)
	if _, err := r.Attach(t.Context(), request("web")); err != nil {
		t.Fatal(err)
	}
	r.tells(t, `
		attach web/eth0 by api [10.64.0.0] (wired anew: its earlier link was gone)
	`)
}

func TestLedgerIsToldOfReservations(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	addr := r.reserve(t, ipam.OnlyIPv4)
	if _, err := r.Attach(t.Context(), offer("e1", addr)); err != nil {
		t.Fatal(err)
	}
	back := r.reserve(t, ipam.OnlyIPv4)
	if _, err := r.Unreserve(t.Context(), back); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Reserve(t.Context(), agent.ReserveRequest{Family: ipam.OnlyIPv6}); err == nil {
		t.Fatal("reserved of a family there is not")
	}
	r.reserve(t, ipam.OnlyIPv4) // nobody comes for it
	var got string
	eventually(t, "the reservation has ended", func() bool {
		got += r.ledger.Story()
		return strings.Contains(got, "never attached")
	})
	for line, times := range map[string]int{
		"/reserved [10.64.0.0] of default (reserved for an attach to come)\n":        1,
		"allocate e1/eth by docker/n1 [10.64.0.0] of default (as reserved before)\n": 1,
		"attach e1/eth by docker/n1 [10.64.0.0]\n":                                   1,
		"/reserved [10.64.0.1] of default (reserved, and given back)\n":              1,
		"/reserved [10.64.0.2] of default (reserved, and never attached)\n":          1,
		"refuse error \"reserve an address: ":                                        1,
		"release":                                                                    2,
	} {
		if n := strings.Count(got, line); n != times {
			t.Errorf("%q is told %d times, want %d:\n%s", line, n, times, got)
		}
	}
}

func TestLedgerIsToldOfDrains(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	for _, reason := range []string{"new kernel", "new kernel", "new rack"} {
		if _, err := r.Drain(t.Context(), agent.DrainRequest{Reason: reason}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Attach(t.Context(), request("web")); !errors.Is(err, agent.ErrDraining) {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.Undrain(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, line := range strings.Split(r.ledger.Story(), "\n") {
		if line, _, _ = strings.Cut(line, " error"); line != "" {
			got = append(got, line)
		}
	}
	if want := "[drain (new kernel) drain (new rack) refuse web/eth0 by api undrain]"; fmt.Sprint(got) != want {
		t.Errorf("told %v, want %s", got, want)
	}
}

// TestEventsOfAContainerAreInOrder: whatever comes at the same time, an address is allocated, attached, detached and released, in this order.
func TestEventsOfAContainerAreInOrder(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/24")
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			req := request(fmt.Sprint("c", worker%4)) // two on each
			for range 50 {
				r.Attach(t.Context(), req)
				r.Detach(context.WithoutCancel(t.Context()), req.Key)
			}
		})
	}
	wg.Wait()
	eventually(t, "all is released", func() bool { return len(r.leases.Leases()) == 0 })
	r.stop()
	next := map[history.Kind]history.Kind{"": history.Allocate, history.Allocate: history.Attach, history.Attach: history.Detach, history.Detach: history.Release, history.Release: history.Allocate}
	last, addrs := make(map[string]history.Event), make(map[string][]netip.Addr)
	for _, e := range r.ledger.Events() {
		if e.Container == "" {
			continue
		}
		before := last[e.Container]
		if next[before.Kind] != e.Kind {
			t.Fatalf("after %q came %q", historytest.Text(before), historytest.Text(e))
		}
		if e.Kind == history.Allocate {
			addrs[e.Container] = e.Addresses
		}
		if fmt.Sprint(addrs[e.Container]) != fmt.Sprint(e.Addresses) {
			t.Fatalf("%q, and allocated was %v", historytest.Text(e), addrs[e.Container])
		}
		last[e.Container] = e
	}
	for _, e := range last {
		if e.Kind != history.Release {
			t.Errorf("the last that was told is %q", historytest.Text(e))
		}
	}
}

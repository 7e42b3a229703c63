package agent_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// explain returns the steps as text, one a line, and the first broken link.
func (r *rig) explain(t *testing.T, subject string) (steps, broken string) {
	t.Helper()
	p, err := netip.ParsePrefix(subject)
	if err != nil {
		a := netip.MustParseAddr(subject)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	e, err := r.Explain(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range e.Steps {
		b.WriteString(string(s.Verdict) + " " + s.Link + ": " + s.Text + "\n")
	}
	if e.Subject != subject {
		t.Errorf("subject %s, want %s", e.Subject, subject)
	}
	return b.String(), e.Broken
}

// explains wants these words in the first broken link, or a chain without one.
func (r *rig) explains(t *testing.T, subject, broken string) {
	t.Helper()
	steps, got := r.explain(t, subject)
	if (got == "") != (broken == "") || !strings.Contains(got, broken) {
		t.Errorf("%s: broken at %q, want %q\n%s", subject, got, broken, steps)
	}
}

func TestExplainOwnAddress(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26", "fd00:64::/64")
	eventually(t, "blocks are announced", func() bool { return len(r.Status(t.Context()).Announced) == 2 })
	ep := r.attach(t, "web")
	addr := ep.Addresses[0].String()

	steps, broken := r.explain(t, addr)
	since := r.leases.Leases()[0].Allocated.Format(time.RFC3339)
	want := `ok block: 10.64.0.0/26 of pool default is open, its cover is 10.64.0.0/26
ok lease: web/eth0 has it since ` + since + `
ok endpoint: link ` + ep.HostInterface + ` is up
ok kernel: a lookup finds 10.64.0.0/32 dev ` + ep.HostInterface + `
ok discard: what nobody has of 10.64.0.0/26 is discarded
ok health: blocks may be announced
ok announced: the speaker announces 10.64.0.0/26
ok peer: 172.31.0.0 (AS64513): it is told of 10.64.0.0/26 GRACEFUL_SHUTDOWN 65001:7
`
	if diff := cmp.Diff(want, steps); diff != "" || broken != "" {
		t.Errorf("broken at %q, (-want +got):\n%s", broken, diff)
	}
	if steps, broken := r.explain(t, "10.64.0.0/26"); broken != "" || strings.Contains(steps, "lease") || !strings.HasPrefix(steps, "ok block: ") {
		t.Errorf("the block: broken at %q\n%s", broken, steps)
	}
	r.explains(t, ep.Addresses[1].String(), "")

	// Each link broken, one by one.
	r.explains(t, "10.64.0.33", "lease: it is free")
	r.wirer.set(func() { r.wirer.down = errors.New("link hf0 is down") })
	r.explains(t, addr, "endpoint: link hf0 is down")
	r.wirer.set(func() {
		r.wirer.down = nil
		r.wirer.found = map[netip.Addr]endpoint.Found{ep.Addresses[0]: {Kind: "unicast", Prefix: netip.MustParsePrefix("10.64.0.0/25"), Hops: []endpoint.Hop{{Link: "docker0"}}}}
	})
	r.explains(t, addr, "kernel: a lookup finds 10.64.0.0/25 dev docker0, not a route to link "+ep.HostInterface)
	r.table.set(func() { r.table.failing = routes.Endpoints })
	r.explains(t, addr, "the route is failed: refused by the kernel")
	r.table.set(func() { r.table.failing = "" })
	r.wirer.set(func() { r.wirer.found = nil })

	r.wirer.use(endpoint.Use{Prefix: netip.MustParsePrefix("10.64.0.40/32"), By: "address of docker0"})
	eventually(t, "the use is seen", func() bool { return len(r.leases.InUse()) > 0 })
	r.explains(t, "10.64.0.40", "in use: address of docker0")

	r.speaker.set(func() { r.speaker.withheld = true })
	r.explains(t, addr, "peer: 172.31.0.0 (AS64513): it is not told of 10.64.0.0/26: the export policy")
	r.explains(t, ep.Addresses[1].String(), "peer: 172.31.0.0 (AS64513): it is not told of fd00:64::/64: the uplink to it has no IPv6 address")
	r.speaker.set(func() { r.speaker.late = true })
	r.explains(t, addr, "peer: 172.31.0.0 (AS64513): the session is Active")
	r.speaker.set(func() { r.speaker.withheld, r.speaker.late = false, false })

	r.forwarding(errors.New("net.ipv4.ip_forward is 0"))
	eventually(t, "the gate is shut", func() bool { return !r.Status(t.Context()).Announcing })
	r.explains(t, addr, "health: net.ipv4.ip_forward is 0")
	r.forwarding(nil)
	eventually(t, "the gate is open", func() bool { return len(r.Status(t.Context()).Announced) == 2 })

	r.table.set(func() { r.table.failing = routes.Blocks })
	r.explains(t, addr, "discard: the discard route of 10.64.0.0/26 is failed: refused by the kernel")
	eventually(t, "nothing is announced without", func() bool { return len(r.Status(t.Context()).Announced) == 0 })
	if steps, _ := r.explain(t, addr); !strings.Contains(steps, "broken announced: the speaker does not announce 10.64.0.0/26: 10.64.0.0/26 is not announced: its discard route") {
		t.Errorf("steps\n%s", steps)
	}
	r.table.set(func() { r.table.failing = "" })
	eventually(t, "all is well", func() bool { return len(r.Status(t.Context()).Announced) == 2 })

	r.speaker.set(func() { r.speaker.away = errors.New("no answer") })
	if steps, broken := r.explain(t, addr); broken != "" || !strings.Contains(steps, "unknown announced: no answer") {
		t.Errorf("without a speaker: broken at %q\n%s", broken, steps)
	}
	r.speaker.set(func() { r.speaker.away = nil })

	if _, err := r.Drain(t.Context(), agent.DrainRequest{Reason: "memory"}, nil); err != nil {
		t.Fatal(err)
	}
	r.explains(t, addr, "health: the host is drained since ")
	r.explains(t, "192.0.2.1", "session: the host is drained: memory (hostfabric undrain)")
	if _, err := r.Undrain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}

	r.wirer.vanish(ep.HostInterface)
	r.explains(t, addr, "endpoint: ")
	if _, err := r.Detach(t.Context(), ep.Key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease has ended", func() bool { return len(r.leases.Leases()) == 0 })
	r.explains(t, addr, "lease: no container has it: it was freed at ")
}

// TestExplainBudget: a block for which the budget has no room is not in use, and the explanation says why.
func TestExplainBudget(t *testing.T) {
	file, wirer := filepath.Join(t.TempDir(), "leases"), &fakeWirer{}
	newRig(t, file, wirer, "10.64.0.0/28").stop()
	r := newRig(t, file, wirer, "10.64.0.0/28", "10.65.0.0/28", "10.66.0.0/28", "10.67.0.0/28", "10.68.0.0/28")
	eventually(t, "as many as the budget allows are announced", func() bool { s := r.Status(t.Context()); return len(s.Announced) == 4 && s.Announcing })
	r.explains(t, "10.67.0.0/28", "")
	r.explains(t, "10.68.0.7", "block: 10.68.0.0/28 of pool default is opening: block 10.68.0.0/28 is not used yet: with it this host takes 5 prefixes")
}

func TestExplainElsewhere(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	peer := netip.MustParseAddr("172.31.0.0")
	prefix := netip.MustParsePrefix
	routed := endpoint.Found{Kind: "unicast", Prefix: prefix("0.0.0.0/0"), Ours: true, Hops: []endpoint.Hop{{Addr: peer, Link: "eth0"}}}
	host := func(found endpoint.Found, received ...bgp.ReceivedRoute) {
		r.wirer.set(func() { r.wirer.found = map[netip.Addr]endpoint.Found{netip.MustParseAddr("192.0.2.1"): found} })
		r.speaker.set(func() { r.speaker.received = received })
	}
	def := bgp.ReceivedRoute{Prefix: prefix("0.0.0.0/0"), Peer: peer, NextHop: peer}
	refused := bgp.ReceivedRoute{Prefix: prefix("192.0.2.0/24"), Peer: peer, NextHop: peer, Refusal: "it is not in the import list"}

	host(endpoint.Found{Kind: "none"})
	r.explains(t, "192.0.2.1", "learned: no peer announces a route to it")
	host(endpoint.Found{Kind: "none"}, refused)
	r.explains(t, "192.0.2.1", "learned: 192.0.2.0/24 from 172.31.0.0 is refused: it is not in the import list")
	host(endpoint.Found{Kind: "none"}, def)
	r.explains(t, "192.0.2.1", "route: 0.0.0.0/0 is not wanted in the kernel")
	r.table.Set(routes.Fabric, []routes.Route{{Prefix: def.Prefix, NextHops: []routes.NextHop{{Addr: peer}}}})
	r.table.set(func() { r.table.failing = routes.Fabric })
	r.explains(t, "192.0.2.1", "route: 0.0.0.0/0, via 172.31.0.0 is failed: refused by the kernel")
	r.table.set(func() { r.table.failing = "" })
	r.explains(t, "192.0.2.1", "kernel: a lookup of 192.0.2.1 finds no route")
	host(endpoint.Found{Kind: "blackhole"}, def)
	r.explains(t, "192.0.2.1", "kernel: a lookup of 192.0.2.1 finds blackhole, which drops its packets")

	host(routed, refused, def)
	steps, broken := r.explain(t, "192.0.2.1")
	want := `ok session: 172.31.0.0 (AS64513) is Established
broken learned: 192.0.2.0/24 from 172.31.0.0 is refused: it is not in the import list
ok learned: 0.0.0.0/0 from 172.31.0.0 is accepted, next hop 172.31.0.0
ok route: 0.0.0.0/0 is in the kernel, via 172.31.0.0
ok kernel: a lookup of 192.0.2.1 finds 0.0.0.0/0 via 172.31.0.0 dev eth0
`
	if diff := cmp.Diff(want, steps); diff != "" || broken != "" {
		t.Errorf("broken at %q, (-want +got):\n%s", broken, diff)
	}
	// The default route is looked up by an address that only it leads to: 0.0.0.0 is none.
	r.wirer.set(func() { r.wirer.found[netip.MustParseAddr("203.0.113.1")] = routed })
	r.speaker.set(func() { r.speaker.received = []bgp.ReceivedRoute{def} })
	r.explains(t, "0.0.0.0/0", "")
	host(routed, refused, def)
	r.speaker.set(func() { r.speaker.late = true })
	r.explains(t, "192.0.2.1", "session: 172.31.0.0 (AS64513) is Active")
	// What is connected needs no session.
	host(endpoint.Found{Kind: "unicast", Prefix: prefix("192.0.2.0/31"), Hops: []endpoint.Hop{{Link: "eth0"}}})
	if steps, broken := r.explain(t, "192.0.2.1"); broken != "" || strings.Contains(steps, "session") || !strings.Contains(steps, "the host needs none") {
		t.Errorf("connected: broken at %q\n%s", broken, steps)
	}
	host(endpoint.Found{Kind: "unicast", Prefix: prefix("192.0.2.0/31"), Hops: []endpoint.Hop{{Link: "eth0"}}}, def)
	if steps, broken := r.explain(t, "192.0.2.1"); broken != "" || !strings.Contains(steps, "finds another route of the host, which wins: 192.0.2.0/31 dev eth0") {
		t.Errorf("connected and learned: broken at %q\n%s", broken, steps)
	}
}

func TestExplainNonsense(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/26")
	for _, p := range []netip.Prefix{{}, netip.MustParsePrefix("10.64.0.1/26"), netip.MustParsePrefix("::ffff:10.64.0.0/122")} {
		if _, err := r.Explain(t.Context(), p); !errors.Is(err, agent.ErrInvalid) {
			t.Errorf("%v: %v", p, err)
		}
	}
}

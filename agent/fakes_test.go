package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// fakeWirer keeps links in memory and fails when told to.
type fakeWirer struct {
	mu        sync.Mutex
	links     map[string]endpoint.Spec // by host link
	wireErr   error
	retireErr error
	hold      chan struct{} // retired links stay until it is closed; nil: no time at all
	inspects  int
	others    []endpoint.Use // what Others finds
	suddenly  []endpoint.Use // what UsedBy finds
	asked     int            // calls of UsedBy
	usedByErr error
	lists     int
	found     map[netip.Addr]endpoint.Found // what Lookup finds instead of the container's link
	down      error                         // what LinkUp finds
	rates     map[string]uint64             // what a link sends from one count to the next
	sent      map[string]uint64
	wiring    chan struct{} // Wire sends on it, then waits for its close; nil: it does neither
}

func (w *fakeWirer) Wire(_ context.Context, s endpoint.Spec) (endpoint.Endpoint, error) {
	w.mu.Lock()
	wiring := w.wiring
	w.mu.Unlock()
	if wiring != nil {
		wiring <- struct{}{}
		<-wiring
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wireErr != nil {
		return endpoint.Endpoint{}, w.wireErr
	}
	for _, l := range w.links {
		leftover := l.HostLink == s.HostLink && l.Alias == ""
		if l.Netns == s.Netns && l.ContainerLink == s.ContainerLink && !leftover {
			return endpoint.Endpoint{}, fmt.Errorf("%s: %w", s.ContainerLink, endpoint.ErrLinkExists)
		}
	}
	if w.links == nil {
		w.links = make(map[string]endpoint.Spec)
	}
	w.links[s.HostLink] = s
	return endpoint.Endpoint{Spec: s}, nil
}

func (w *fakeWirer) Offer(ctx context.Context, s endpoint.Spec) (endpoint.Endpoint, error) {
	if s.Netns != "" || s.ContainerLink != endpoint.OfferedLink(s.HostLink) {
		return endpoint.Endpoint{}, fmt.Errorf("%w: offered as %s in %q", endpoint.ErrInvalid, s.ContainerLink, s.Netns)
	}
	return w.Wire(ctx, s)
}

func (w *fakeWirer) Retire(_ context.Context, hostLink string, _ []netip.Addr) (<-chan struct{}, error) {
	gone := make(chan struct{})
	w.mu.Lock()
	hold, err := w.hold, w.retireErr
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	remove := func() {
		w.mu.Lock()
		delete(w.links, hostLink)
		w.mu.Unlock()
		close(gone)
	}
	if hold == nil {
		remove()
		return gone, nil
	}
	go func() { <-hold; remove() }()
	return gone, nil
}

func (w *fakeWirer) Inspect(_ context.Context, s endpoint.Spec) (endpoint.Endpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.inspects++
	l, ok := w.links[s.HostLink]
	if !ok {
		return endpoint.Endpoint{}, endpoint.ErrNotFound
	}
	if l.Netns != s.Netns {
		return endpoint.Endpoint{}, errors.New("link is in another namespace")
	}
	return endpoint.Endpoint{Spec: l}, nil
}

// strip takes the alias off a link.
func (w *fakeWirer) strip(hostLink string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.links[hostLink]
	l.Alias = ""
	w.links[hostLink] = l
}

func (w *fakeWirer) List(context.Context) ([]endpoint.Live, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lists++
	var live []endpoint.Live
	for _, name := range slices.Sorted(maps.Keys(w.links)) {
		live = append(live, endpoint.Live{HostLink: name, Alias: w.links[name].Alias, MTU: w.links[name].MTU, Addrs: w.links[name].Addrs})
	}
	return live, nil
}

func (w *fakeWirer) Others(context.Context, []netip.Prefix, []netip.Addr) ([]endpoint.Use, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.others), nil
}

func (w *fakeWirer) UsedBy(_ context.Context, addr netip.Addr, _ netip.Prefix) (endpoint.Use, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	for _, u := range w.suddenly {
		if u.Prefix.Contains(addr) {
			return u, w.usedByErr
		}
	}
	return endpoint.Use{}, w.usedByErr
}

func (w *fakeWirer) Lookup(_ context.Context, addr netip.Addr) (endpoint.Found, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f, ok := w.found[addr]; ok {
		return f, nil
	}
	for _, l := range w.links {
		if slices.Contains(l.Addrs, addr) {
			return endpoint.Found{Prefix: netip.PrefixFrom(addr, addr.BitLen()), Kind: "unicast", Ours: true, Hops: []endpoint.Hop{{Link: l.HostLink}}}, nil
		}
	}
	return endpoint.Found{Kind: "none"}, nil
}

func (w *fakeWirer) LinkUp(_ context.Context, hostLink string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.links[hostLink]; !ok {
		return endpoint.ErrNotFound
	}
	return w.down
}

func (w *fakeWirer) Packets(context.Context) (map[string]uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := make(map[string]uint64)
	if w.sent == nil {
		w.sent = make(map[string]uint64)
	}
	for name := range w.links {
		w.sent[name] += w.rates[name]
		counts[name] = w.sent[name]
	}
	return counts, nil
}

func (w *fakeWirer) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// use has something else use addresses, as reconciliation finds it.
func (w *fakeWirer) use(others ...endpoint.Use) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.others = others
}

// vanish takes a link away as a runtime does that deletes the namespace first.
func (w *fakeWirer) vanish(hostLink string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, hostLink)
}

func (w *fakeWirer) listed() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lists
}

func (w *fakeWirer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.links)
}

// fakeTable keeps routes in memory and fails when told to.
type fakeTable struct {
	mu        sync.Mutex
	routes    map[routes.Owner]map[netip.Prefix]routes.Route
	synced    map[routes.Owner]bool
	upsertErr error
	failing   routes.Owner // all routes of this owner are shown as failed
}

func (t *fakeTable) of(owner routes.Owner) map[netip.Prefix]routes.Route {
	if t.routes == nil {
		t.routes = make(map[routes.Owner]map[netip.Prefix]routes.Route)
		t.synced = make(map[routes.Owner]bool)
	}
	if t.routes[owner] == nil {
		t.routes[owner] = make(map[netip.Prefix]routes.Route)
	}
	return t.routes[owner]
}

func (t *fakeTable) Upsert(_ context.Context, owner routes.Owner, r routes.Route) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.upsertErr != nil {
		return t.upsertErr
	}
	t.of(owner)[r.Prefix] = r
	return nil
}

func (t *fakeTable) Delete(_ context.Context, owner routes.Owner, p netip.Prefix) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.of(owner), p)
	return nil
}

func (t *fakeTable) Set(owner routes.Owner, rs []routes.Route) {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.of(owner))
	for _, r := range rs {
		t.of(owner)[r.Prefix] = r
	}
}

func (t *fakeTable) Update(owner routes.Owner, upserts []routes.Route, deletes []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range upserts {
		t.of(owner)[r.Prefix] = r
	}
	for _, p := range deletes {
		delete(t.of(owner), p)
	}
}

func (t *fakeTable) Synced(owner routes.Owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.of(owner)
	t.synced[owner] = true
}

func (t *fakeTable) Status(of ...routes.Owner) []routes.Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []routes.Status
	for owner, rs := range t.routes {
		if len(of) > 0 && !slices.Contains(of, owner) {
			continue
		}
		for _, r := range rs {
			s := routes.Status{Owner: owner, Route: r, State: routes.Installed}
			if owner == t.failing {
				s.State, s.Err = routes.Failed, errors.New("refused by the kernel")
			}
			all = append(all, s)
		}
	}
	return all
}

func (t *fakeTable) Amiss() []routes.Status {
	return slices.DeleteFunc(t.Status(), func(s routes.Status) bool { return s.State == routes.Installed })
}

func (t *fakeTable) Stats() routes.Stats {
	return routes.Stats{States: map[routes.State]int{routes.Installed: len(t.Status()) - len(t.Amiss())}}
}

func (t *fakeTable) WaitIdle(context.Context) error { return nil }

func (t *fakeTable) set(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// prefixes lists an owner's routes.
func (t *fakeTable) prefixes(owner routes.Owner) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for p := range t.of(owner) {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

// fakeFirewall is well unless it is spoilt.
type fakeFirewall struct{ err atomic.Pointer[error] }

func (f *fakeFirewall) spoil(err error) { f.err.Store(&err) }

func (f *fakeFirewall) Err() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (f *fakeFirewall) Dropped() (firewall.Dropped, error) {
	return firewall.Dropped{SpoofedIPv4: 4, SpoofedIPv6: 6, Closed: 1}, nil
}

// fakeNames has what is published, as "NAME ADDRESSES" by key.
type fakeNames struct{ published sync.Map }

func (n *fakeNames) Publish(ep agent.Endpoint) {
	n.published.Store(ep.Key, fmt.Sprint(ep.Name, ep.Addresses))
}
func (n *fakeNames) Retract(key agent.Key) { n.published.Delete(key) }

func (n *fakeNames) of(key agent.Key) string {
	text, ok := n.published.Load(key)
	if !ok {
		return "nothing"
	}
	return text.(string)
}

// fakeSpeaker remembers what it was told to announce.
type fakeSpeaker struct {
	mu        sync.Mutex
	announced []netip.Prefix
	deaf      bgp.Family // announcements of this family reach no peer
	did       []string   // announcements and shutdowns, in order, as text
	down      string     // why the sessions are down
	late      bool       // the sessions do not come up
	refuse    error      // Announce fails with it
	stuck     bool       // the speaker takes the wish to take the sessions down, and does not say so
	withheld  bool       // Sent finds nothing
	received  []bgp.ReceivedRoute
	away      error            // the speaker cannot be asked
	peers     []bgp.PeerStatus // in place of the usual one
}

// sessions takes the place of what an agent is given for that.
func (s *fakeSpeaker) sessions(ctx context.Context, to agent.Sessions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = to.Shutdown
	s.did = append(s.did, fmt.Sprintf("sessions %d %q", to.Leave, to.Shutdown))
	if s.stuck && to.Shutdown != "" {
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return ctx.Err()
	}
	return nil
}

// onDrain is told before.
func (s *fakeSpeaker) onDrain(_ context.Context, drained bool, why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, fmt.Sprintf("on drain %v %q", drained, why))
	return nil
}

// story returns what was done since the last time.
func (s *fakeSpeaker) story() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	did := s.did
	s.did = nil
	return did
}

func (s *fakeSpeaker) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *fakeSpeaker) Announce(_ context.Context, set []bgp.Announcement) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.announced = nil
	for _, a := range set {
		s.announced = append(s.announced, a.Prefix)
	}
	s.did = append(s.did, fmt.Sprintf("announce %v", s.announced))
	return nil
}

func (s *fakeSpeaker) Announced(context.Context) ([]netip.Prefix, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.announced), s.away
}

func (s *fakeSpeaker) Sent(_ context.Context, prefix netip.Prefix) ([]bgp.SentRoute, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.withheld || !slices.Contains(s.announced, prefix) {
		return nil, nil
	}
	return []bgp.SentRoute{{Peer: netip.MustParseAddr("172.31.0.0"), Communities: []uint32{bgp.GracefulShutdown, 65001<<16 | 7}}}, nil
}

func (s *fakeSpeaker) Received(context.Context, netip.Prefix) ([]bgp.ReceivedRoute, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received, s.away
}

func (s *fakeSpeaker) Peers(context.Context) ([]bgp.PeerStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return nil, s.away
	}
	if s.peers != nil {
		return slices.Clone(s.peers), nil
	}
	peer := bgp.PeerStatus{Address: netip.MustParseAddr("172.31.0.0"), ASN: 64513, State: bgp.StateEstablished}
	if s.late {
		peer.State = bgp.StateActive
	}
	if s.down != "" {
		peer.State = bgp.StateAdminDown
	}
	for _, p := range s.announced {
		if f := bgp.FamilyOf(p.Addr()); f != s.deaf {
			peer.Families = append(peer.Families, bgp.FamilyStatus{Family: f, Advertised: 1})
		}
	}
	return []bgp.PeerStatus{peer}, nil
}

func (s *fakeSpeaker) Reset(_ context.Context, peer netip.Addr, reason string) error {
	return s.note("reset %s %q", peer, reason)
}

func (s *fakeSpeaker) Enable(_ context.Context, peer netip.Addr) error {
	return s.note("enable %s", peer)
}

func (s *fakeSpeaker) Release(peer netip.Addr) error { return s.note("release %s", peer) }

func (s *fakeSpeaker) note(format string, args ...any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.did = append(s.did, fmt.Sprintf(format, args...))
	return s.refuse
}

func (s *fakeSpeaker) Status() bgp.Status { return bgp.Status{Connected: true, Version: "test"} }

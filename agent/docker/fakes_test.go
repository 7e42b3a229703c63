package docker

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeAgent gives addresses in order, and none twice.
type fakeAgent struct {
	mu        sync.Mutex
	own       []netip.Prefix
	last      map[ipam.Family]netip.Addr
	reserved  map[netip.Addr]bool
	endpoints map[agent.Key]agent.Endpoint
	described int
	err       error // of everything that changes something
}

func newFakeAgent(own ...string) *fakeAgent {
	f := &fakeAgent{last: make(map[ipam.Family]netip.Addr), reserved: make(map[netip.Addr]bool), endpoints: make(map[agent.Key]agent.Endpoint)}
	for _, text := range own {
		p := netip.MustParsePrefix(text)
		f.own = append(f.own, p)
		family := ipam.OnlyIPv4
		if p.Addr().Is6() {
			family = ipam.OnlyIPv6
		}
		f.last[family] = p.Addr()
	}
	return f
}

func (f *fakeAgent) Own() []netip.Prefix { return f.own }

func (f *fakeAgent) Reserve(_ context.Context, q agent.ReserveRequest) (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	addr := q.Address
	if !addr.IsValid() {
		addr = f.last[q.Family].Next()
		f.last[q.Family] = addr
	}
	switch {
	case f.err != nil:
		return netip.Addr{}, f.err
	case !slices.ContainsFunc(f.own, func(p netip.Prefix) bool { return p.Contains(addr) }):
		return netip.Addr{}, fmt.Errorf("%w: %s", agent.ErrNotInBlock, addr)
	case f.reserved[addr]:
		return netip.Addr{}, fmt.Errorf("%w: %s", agent.ErrAddressInUse, addr)
	}
	f.reserved[addr] = true
	return addr, nil
}

func (f *fakeAgent) Unreserve(_ context.Context, addr netip.Addr) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := f.reserved[addr]
	delete(f.reserved, addr)
	return found, f.err
}

func (f *fakeAgent) Attach(_ context.Context, q agent.AttachRequest) (agent.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return agent.Endpoint{}, f.err
	}
	if !q.Offer || !q.Reserved || q.Netns != "" {
		return agent.Endpoint{}, fmt.Errorf("%w: %+v", agent.ErrInvalid, q)
	}
	if old, ok := f.endpoints[q.Key]; ok {
		if slices.Equal(old.Addresses, q.Addresses) && old.Owner == q.Owner {
			return old, nil
		}
		return agent.Endpoint{}, agent.ErrMismatch
	}
	for _, addr := range q.Addresses {
		if !f.reserved[addr] {
			return agent.Endpoint{}, fmt.Errorf("%w: %s", agent.ErrNotReserved, addr)
		}
	}
	for _, addr := range q.Addresses {
		delete(f.reserved, addr)
	}
	mac := q.MAC
	if mac == nil {
		mac = endpoint.ContainerMAC(q.Addresses[0])
	}
	ep := agent.Endpoint{
		Key: q.Key, Owner: q.Owner, HostInterface: endpoint.HostLink(q.ContainerID, q.Interface), MAC: mac.String(),
		Addresses: q.Addresses, MTU: q.MTU,
	}
	f.endpoints[q.Key] = ep
	return ep, nil
}

func (f *fakeAgent) Detach(_ context.Context, key agent.Key) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, found := f.endpoints[key]
	if f.err == nil {
		delete(f.endpoints, key)
	}
	return found, f.err
}

func (f *fakeAgent) Lookup(_ context.Context, key agent.Key) (agent.Endpoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ep, ok := f.endpoints[key]
	if !ok {
		return ep, fmt.Errorf("%s: %w", key, agent.ErrNotFound)
	}
	return ep, nil
}

func (f *fakeAgent) Endpoints() []agent.Endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []agent.Endpoint
	for _, ep := range f.endpoints {
		all = append(all, ep)
	}
	slices.SortFunc(all, func(x, y agent.Endpoint) int { return cmp.Compare(x.ContainerID, y.ContainerID) })
	return all
}

func (f *fakeAgent) Describe(_ context.Context, key agent.Key, d agent.Description) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	ep, ok := f.endpoints[key]
	if !ok {
		return agent.ErrNotFound
	}
	if err := d.Validate(); err != nil {
		return err
	}
	f.described++
	ep.Description = d
	f.endpoints[key] = ep
	return nil
}

// attached adds an endpoint, as an earlier run left it.
func (f *fakeAgent) attached(network, id string, addr string) agent.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := endpointKey(id)
	f.endpoints[key] = agent.Endpoint{Key: key, Owner: agent.OwnerDocker(network), Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
	return key
}

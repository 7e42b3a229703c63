package agent_test

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

func (r *rig) reserve(t *testing.T, family ipam.Family) netip.Addr {
	t.Helper()
	addr, err := r.Reserve(t.Context(), agent.ReserveRequest{Family: family})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func offer(id string, addrs ...netip.Addr) agent.AttachRequest {
	return agent.AttachRequest{
		Key: agent.Key{ContainerID: id, Interface: "eth"}, Owner: agent.OwnerDocker("n1"), Addresses: addrs, Offer: true, Reserved: true,
		MAC: net.HardwareAddr{2, 0x42, 1, 2, 3, 4},
	}
}

func TestReservedAddressesAreTakenOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases")
	wirer := &fakeWirer{}
	r := newRig(t, file, wirer, "10.64.0.0/29", "fd00:64::/64")
	four, six := r.reserve(t, ipam.OnlyIPv4), r.reserve(t, ipam.OnlyIPv6)
	ep, err := r.Attach(t.Context(), offer("e1", four, six))
	if err != nil {
		t.Fatal(err)
	}
	if len(ep.Addresses) != 2 || ep.Addresses[0] != four || ep.Addresses[1] != six || ep.Netns != "" {
		t.Errorf("attached %+v", ep)
	}
	if leases, _ := r.leases.Lookup(ipam.Key{ContainerID: "e1", Interface: "eth"}); len(leases) != 2 || len(r.leases.Leases()) != 2 {
		t.Errorf("leases %v", r.leases.Leases())
	}
	if again, err := r.Attach(t.Context(), offer("e1", four, six)); err != nil || again.HostInterface != ep.HostInterface {
		t.Errorf("again: %+v, %v", again, err)
	}
	other := offer("e1", four, six)
	other.Owner = agent.OwnerDocker("n2")
	if _, err := r.Attach(t.Context(), other); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("from another network: %v", err)
	}
	other = offer("e1", four)
	if _, err := r.Attach(t.Context(), other); !errors.Is(err, agent.ErrMismatch) {
		t.Errorf("with other addresses: %v", err)
	}
	if found, err := r.Unreserve(t.Context(), four); found || err != nil {
		t.Errorf("giving an attachment's address back: %v, %v", found, err)
	}

	r.stop()
	r = newRig(t, file, wirer, "10.64.0.0/29", "fd00:64::/64")
	ep, err = r.Lookup(t.Context(), ep.Key)
	if err != nil || ep.OfferedLink() != endpoint.OfferedLink(endpoint.HostLink("e1", "eth")) || ep.Owner != agent.OwnerDocker("n1") || len(ep.Addresses) != 2 {
		t.Errorf("after a restart: %+v, %v", ep, err)
	}
	if _, err := r.Detach(t.Context(), ep.Key); err != nil {
		t.Fatal(err)
	}
	r.nothingLeft(t)
	if _, err := r.Lookup(t.Context(), ep.Key); !errors.Is(err, agent.ErrNotFound) {
		t.Errorf("once detached: %v", err)
	}
}

func TestReservationsThatNobodyTakesEnd(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/29")
	addr := r.reserve(t, ipam.OnlyIPv4)
	if _, err := r.leases.Allocate(ipam.Key{ContainerID: "orphan", Interface: "eth0"}, ipam.Request{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an orphan is freed", func() bool { return len(r.leases.Leases()) == 1 })
	if holder, _ := r.leases.Holder(addr); holder.Interface != "reserved" {
		t.Errorf("%s is held by %s while somebody may come for it", addr, holder)
	}
	r.nothingLeft(t) // after the grace
	if _, err := r.Attach(t.Context(), offer("late", addr)); !errors.Is(err, agent.ErrNotReserved) {
		t.Errorf("too late: %v", err)
	}
}

func TestReservationsAreGivenBack(t *testing.T) {
	r := simpleRig(t, "10.64.0.0/30")
	addr := r.reserve(t, ipam.OnlyIPv4)
	for _, want := range []bool{true, false} {
		if found, err := r.Unreserve(t.Context(), addr); found != want || err != nil {
			t.Errorf("given back: %v, %v", found, err)
		}
	}
	r.nothingLeft(t)

	wanted := agent.ReserveRequest{Family: ipam.OnlyIPv4, Address: netip.MustParseAddr("10.64.0.2")}
	if got, err := r.Reserve(t.Context(), wanted); err != nil || got != wanted.Address {
		t.Errorf("wanted %s, got %s, %v", wanted.Address, got, err)
	}
	refused := func(what string, sentinel error, req agent.ReserveRequest) {
		t.Helper()
		if _, err := r.Reserve(t.Context(), req); !errors.Is(err, sentinel) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a taken address", agent.ErrAddressInUse, wanted)
	refused("another host's address", agent.ErrNotInBlock, agent.ReserveRequest{Family: ipam.OnlyIPv4, Address: netip.MustParseAddr("10.64.9.9")})
	refused("no family", agent.ErrInvalid, agent.ReserveRequest{})
	refused("a family that is not there", agent.ErrInvalid, agent.ReserveRequest{Family: ipam.OnlyIPv6})
	refused("a pool's bad name", agent.ErrInvalid, agent.ReserveRequest{Family: ipam.OnlyIPv4, Pool: "A B"})

	// An attach that fails takes nothing with it.
	r.wirer.wireErr = errors.New("no link")
	if _, err := r.Attach(t.Context(), offer("e1", wanted.Address)); err == nil {
		t.Error("attached without a link")
	}
	r.nothingLeft(t)
	for name, change := range map[string]func(*agent.AttachRequest){
		"namespace": func(q *agent.AttachRequest) { q.Netns = "/run/netns/x" },
		"no offer":  func(q *agent.AttachRequest) { q.Offer, q.Netns = false, "/run/netns/x" },
		"MTU":       func(q *agent.AttachRequest) { q.MTU = -1 },
	} {
		req := offer("e1", wanted.Address)
		change(&req)
		if _, err := r.Attach(t.Context(), req); !errors.Is(err, agent.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

package storm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/routes/kernel"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// accounts are the same things as different parts know them. All are sorted.
type accounts struct {
	Addresses, Leases, Routes []string // one a container and family
	Links, HostLinks          []string // host ends: as told, and as the kernel has them
	Inside                    []string // namespaces of callers with an interface
	Namespaces                []string // of sandboxes
	Announced                 []string // by router
}

// awaitAgreement waits until all accounts say what the callers were told, and nothing else.
func (s *storm) awaitAgreement(when string) {
	s.t.Helper()
	start := time.Now()
	nstest.Eventually(s.t, patience, func() error {
		want, have, err := s.accounts()
		if err != nil {
			return fmt.Errorf("%s: %w", when, err)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			return fmt.Errorf("%s the accounts do not agree (-told +found):\n%s", when, diff)
		}
		return nil
	})
	s.t.Logf("%s all agree after %s", when, time.Since(start).Round(time.Millisecond))
}

// accounts returns what must be by what the callers were told, and what is.
func (s *storm) accounts() (want, have accounts, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	standing := s.book.standing()
	pool, err := s.client.ListSandboxes(ctx, &apiv1.ListSandboxesRequest{})
	if err != nil {
		return want, have, err
	}
	nReady := 0
	for _, sb := range pool.GetSandboxes() {
		have.Namespaces = append(have.Namespaces, sb.GetId())
		if sb.GetState() != "ready" {
			continue
		}
		nReady++
		if standing[sb.GetId()], err = told(sb.GetEndpoint(), s.host.NS); err != nil { // an attachment that nobody was told of yet
			return want, have, err
		}
	}
	if nReady != ready {
		return want, have, fmt.Errorf("%d sandboxes are ready, want %d", nReady, ready)
	}
	for _, a := range standing {
		want.HostLinks = append(want.HostLinks, a.hostLink)
		for _, addr := range a.addrs {
			want.Addresses = append(want.Addresses, addr.String())
		}
		if slices.Contains(s.boxes, a.ns) {
			want.Inside = append(want.Inside, a.ns.Name)
		}
	}
	for _, p := range s.host.Blocks {
		for _, tor := range s.lab.Plan.Racks[0].ToRs {
			want.Announced = append(want.Announced, tor.Name+" "+p.String())
		}
	}
	if err := s.found(ctx, &have); err != nil {
		return want, have, err
	}
	// What is told and found twice over must be the same.
	want.Leases, want.Routes, want.Links, have.Addresses, have.HostLinks = want.Addresses, want.Addresses, want.HostLinks, have.Leases, have.Links
	files, err := os.ReadDir(s.socket("sandboxes"))
	for _, f := range files {
		want.Namespaces = append(want.Namespaces, f.Name())
	}
	for _, a := range []*accounts{&want, &have} {
		for _, list := range []*[]string{&a.Addresses, &a.Leases, &a.Routes, &a.Links, &a.HostLinks, &a.Inside, &a.Namespaces, &a.Announced} {
			sort.Strings(*list)
		}
	}
	return want, have, err
}

// found fills in what the agent, the kernel and the routers have.
func (s *storm) found(ctx context.Context, have *accounts) error {
	leases, err := s.client.ListLeases(ctx, &apiv1.ListLeasesRequest{})
	if err != nil {
		return err
	}
	for _, l := range leases.GetLeases() {
		if l.GetState() != "quarantined" {
			have.Leases = append(have.Leases, l.GetAddress())
		}
	}
	for _, router := range s.lab.Plan.Racks[0].ToRs {
		for _, space := range s.lab.Plan.Space {
			prefixes, err := s.lab.Tor(router.Name).Prefixes(ctx, space)
			if err != nil {
				return err
			}
			for _, p := range prefixes {
				have.Announced = append(have.Announced, router.Name+" "+p.String())
			}
		}
	}
	for _, ns := range s.boxes {
		if ns.HasLink(iface) {
			have.Inside = append(have.Inside, ns.Name)
		}
	}
	return s.host.NS.Do(func() error { return hostAccount(have) })
}

// hostAccount reads the links and routes of the calling thread's network namespace.
func hostAccount(have *accounts) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, endpoint.HostLinkPrefix) {
			have.Links = append(have.Links, l.Name)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		var routes []netlink.Route
		err := rtnl.Uninterrupted(func() (err error) {
			routes, err = netlink.RouteListFiltered(family, &netlink.Route{Protocol: kernel.Protocol}, netlink.RT_FILTER_PROTOCOL) //nolint:forbidigo // retried here
			return err
		})
		if err != nil {
			return err
		}
		for _, r := range routes {
			if addr, ok := netip.AddrFromSlice(r.Dst.IP); ok && r.LinkIndex > 1 && len(r.MultiPath) == 0 && r.Gw == nil {
				if ones, bits := r.Dst.Mask.Size(); ones == bits {
					have.Routes = append(have.Routes, addr.Unmap().String())
				}
			}
		}
	}
	return nil
}

// detachAll ends the containers that are left, and expects no failure: nobody kills the agent any more.
func (s *storm) detachAll() {
	var all sync.WaitGroup
	for id := range s.book.standing() {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(s.t.Context(), patience)
			defer cancel()
			var err error
			if strings.HasPrefix(id, sandboxes{}.name()) {
				_, err = s.client.ReleaseSandbox(ctx, &apiv1.ReleaseSandboxRequest{Holder: id})
			} else {
				_, err = s.client.Detach(ctx, &apiv1.DetachRequest{ContainerId: id, Interface: iface})
			}
			if err != nil {
				s.book.lie("detach of %s without a storm: %v", id, err)
			}
			s.book.returning(id)
		})
	}
	all.Wait()
}

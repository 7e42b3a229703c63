package storm

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// accounts are what the callers know and others do too. All are sorted.
type accounts struct {
	Addresses  []string // of each container
	Inside     []string // namespaces of callers that have an interface
	Namespaces []string // of sandboxes
	Announced  []string // by router
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
	standing := slices.Collect(maps.Values(s.book.standing()))
	pool, err := s.client.ListSandboxes(ctx, &apiv1.ListSandboxesRequest{})
	if err != nil {
		return want, have, err
	}
	nReady := 0
	for _, sb := range pool.GetSandboxes() {
		want.Namespaces = append(want.Namespaces, sb.GetId())
		if sb.GetState() == "ready" { // nobody was told of it yet
			nReady++
			a, err := told(sb.GetEndpoint(), netns.NS{})
			if err != nil {
				return want, have, err
			}
			standing = append(standing, a)
		}
	}
	if nReady != ready {
		return want, have, fmt.Errorf("%d sandboxes are ready, want %d", nReady, ready)
	}
	var containers []string
	for _, a := range standing {
		containers = append(containers, a.container)
		for _, addr := range a.addrs {
			want.Addresses = append(want.Addresses, a.container+" "+addr.String())
		}
		if slices.Contains(s.boxes, a.ns) {
			want.Inside = append(want.Inside, a.ns.Name)
		}
	}
	for _, router := range s.lab.Plan.Racks[0].ToRs {
		for _, p := range s.host.Blocks {
			want.Announced = append(want.Announced, router.Name+" "+p.String())
		}
	}
	if have, err = s.found(ctx); err != nil {
		return want, have, err
	}
	for _, a := range []*accounts{&want, &have} {
		for _, list := range [][]string{a.Addresses, a.Inside, a.Namespaces, a.Announced} {
			slices.Sort(list)
		}
	}
	return want, have, workload.Agree(ctx, s.client, s.host.NS, containers...)
}

// found is what the agent, the namespaces and the routers have.
func (s *storm) found(ctx context.Context) (have accounts, err error) {
	endpoints, err := s.client.ListEndpoints(ctx, &apiv1.ListEndpointsRequest{})
	if err != nil {
		return have, err
	}
	for _, ep := range endpoints.GetEndpoints() {
		for _, addr := range ep.GetAddresses() {
			have.Addresses = append(have.Addresses, ep.GetContainerId()+" "+addr)
		}
	}
	for _, ns := range s.boxes {
		if ns.HasLink(iface) {
			have.Inside = append(have.Inside, ns.Name)
		}
	}
	files, err := os.ReadDir(s.socket("sandboxes"))
	if err != nil {
		return have, err
	}
	for _, f := range files {
		have.Namespaces = append(have.Namespaces, f.Name())
	}
	for _, router := range s.lab.Plan.Racks[0].ToRs {
		for _, space := range s.lab.Plan.Space {
			prefixes, err := s.lab.Tor(router.Name).Prefixes(ctx, space)
			if err != nil {
				return have, err
			}
			for _, p := range prefixes {
				have.Announced = append(have.Announced, router.Name+" "+p.String())
			}
		}
	}
	return have, nil
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

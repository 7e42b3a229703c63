package rpc

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/ipam"
)

func TestLeaseFilter(t *testing.T) {
	lease := func(addr, container, pool string, age time.Duration) agent.Lease {
		l := ipam.Lease{Addr: netip.MustParseAddr(addr), Key: ipam.Key{ContainerID: container}, Pool: pool}
		if age > 0 {
			l.Allocated = time.Now().Add(-age)
		}
		return agent.Lease{Lease: l}
	}
	all := []agent.Lease{
		lease("10.64.0.1", "web", "default", time.Hour), lease("10.64.0.2", "db", "default", 2*time.Hour), lease("10.80.0.1", "web", "gold", 3*time.Hour),
		lease("10.64.0.3", "", "default", 0), // fenced off: nobody knows since when
		lease("fd00::1", "web", "default", time.Hour),
	}
	for name, tt := range map[string]struct {
		req  *apiv1.ListLeasesRequest
		want []string
	}{
		"all":          {&apiv1.ListLeasesRequest{}, []string{"10.64.0.1", "10.64.0.2", "10.80.0.1", "10.64.0.3", "fd00::1"}},
		"container":    {&apiv1.ListLeasesRequest{ContainerId: "web"}, []string{"10.64.0.1", "10.80.0.1", "fd00::1"}},
		"address":      {&apiv1.ListLeasesRequest{Address: "10.64.0.2"}, []string{"10.64.0.2"}},
		"mapped":       {&apiv1.ListLeasesRequest{Address: "::ffff:10.64.0.2"}, []string{"10.64.0.2"}},
		"prefix":       {&apiv1.ListLeasesRequest{Address: "10.64.0.2/31"}, []string{"10.64.0.2", "10.64.0.3"}},
		"pool":         {&apiv1.ListLeasesRequest{Pool: "gold"}, []string{"10.80.0.1"}},
		"old":          {&apiv1.ListLeasesRequest{MinAge: durationpb.New(2 * time.Hour)}, []string{"10.64.0.2", "10.80.0.1"}},
		"young":        {&apiv1.ListLeasesRequest{MaxAge: durationpb.New(90 * time.Minute)}, []string{"10.64.0.1", "fd00::1"}},
		"between":      {&apiv1.ListLeasesRequest{MinAge: durationpb.New(90 * time.Minute), MaxAge: durationpb.New(150 * time.Minute)}, []string{"10.64.0.2"}},
		"all together": {&apiv1.ListLeasesRequest{ContainerId: "web", Pool: "default", Address: "10.0.0.0/8"}, []string{"10.64.0.1"}},
		"none":         {&apiv1.ListLeasesRequest{ContainerId: "web", Pool: "gold", Address: "10.64.0.0/16"}, nil},
	} {
		wanted, err := leaseFilter(tt.req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, l := range all {
			if wanted(l) {
				got = append(got, l.Addr.String())
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestEndpointFilter(t *testing.T) {
	ep := agent.Endpoint{
		Key: agent.Key{ContainerID: "c1", Interface: "eth0"}, Owner: agent.OwnerAPI,
		Description: agent.Description{Name: "web-1", Aliases: []string{"web", "www.Shop"}, Labels: map[string]string{"app": "shop"}},
	}
	for name, tt := range map[string]struct {
		req  *apiv1.ListEndpointsRequest
		want bool
	}{
		"all":          {&apiv1.ListEndpointsRequest{}, true},
		"name":         {&apiv1.ListEndpointsRequest{Name: "WEB-1"}, true},
		"alias":        {&apiv1.ListEndpointsRequest{Name: "www.shop", Owner: "api"}, true},
		"part of one":  {&apiv1.ListEndpointsRequest{Name: "we"}, false},
		"other label":  {&apiv1.ListEndpointsRequest{Name: "web", Labels: map[string]string{"app": "db"}}, false},
		"other's":      {&apiv1.ListEndpointsRequest{Name: "web", Owner: "cni/pods"}, false},
		"container":    {&apiv1.ListEndpointsRequest{ContainerId: "c1"}, true},
		"no container": {&apiv1.ListEndpointsRequest{ContainerId: "c2"}, false},
	} {
		if got := endpointWanted(tt.req, ep); got != tt.want {
			t.Errorf("%s: wanted %t", name, got)
		}
	}
}

func TestLeaseFilterRefuses(t *testing.T) {
	for _, req := range []*apiv1.ListLeasesRequest{
		{Address: "10.64.0"}, {Address: "10.64.0.0/33"}, {Address: "web"}, {MinAge: durationpb.New(-time.Second)}, {MaxAge: durationpb.New(-1)},
	} {
		if _, err := leaseFilter(req); !errors.Is(err, agent.ErrInvalid) {
			t.Errorf("%v: %v, want it refused", req, err)
		}
	}
}

package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/routes/kernel/rtnl"
)

// Agree holds the accounts that there are of a host's containers against each other: the leases, the host links and host
// routes in the kernel, and the agent's endpoints and routes. containers are those that should be attached, and nobody else. The
// error names all that differs; what is on its way out differs, too, for the moment.
func (w *Hosts) Agree(ctx context.Context, name string, containers ...string) error {
	for _, h := range w.hosts {
		if h.Name == name {
			if err := Agree(ctx, h.client, h.NS, containers...); err != nil {
				return fmt.Errorf("host %s: %w", name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("no host %q in this lab", name)
}

// Agree is Hosts.Agree for an agent that is not of a lab.
func Agree(ctx context.Context, agent apiv1.HostfabricClient, ns netns.NS, containers ...string) error {
	leased, attached, err := leasedLinks(ctx, agent)
	if err != nil {
		return err
	}
	table, err := tableLinks(ctx, agent)
	if err != nil {
		return err
	}
	endpoints, err := endpointLinks(ctx, agent)
	if err != nil {
		return err
	}
	kernel, err := kernelLinks(ctx, ns)
	if err != nil {
		return err
	}
	links, err := hostLinks(ctx, ns)
	if err != nil {
		return err
	}
	wanted := slices.Compact(slices.Sorted(slices.Values(containers)))
	return errors.Join(
		same("containers with leases", attached, wanted),
		same("host links", links, slices.Compact(slices.Sorted(maps.Values(leased)))),
		same("endpoints", pairs(endpoints), pairs(leased)),
		same("routes in the kernel", pairs(kernel), pairs(leased)),
		same("routes in the agent's table", pairs(table), pairs(leased)))
}

func same(what string, have, want []string) error {
	if slices.Equal(have, want) {
		return nil
	}
	return fmt.Errorf("%s: %q, want %q", what, have, want)
}

func pairs(links map[netip.Addr]string) []string {
	var all []string
	for a, link := range links {
		all = append(all, a.String()+" "+link)
	}
	slices.Sort(all)
	return all
}

// leasedLinks are the host links of the addresses that containers hold, and the containers.
func leasedLinks(ctx context.Context, agent apiv1.HostfabricClient) (links map[netip.Addr]string, containers []string, err error) {
	resp, err := agent.ListLeases(ctx, &apiv1.ListLeasesRequest{})
	if err != nil {
		return nil, nil, err
	}
	links = map[netip.Addr]string{}
	for _, l := range resp.GetLeases() {
		if l.GetContainerId() == "" {
			continue // it rests
		}
		a, err := netip.ParseAddr(l.GetAddress())
		if err != nil {
			return nil, nil, fmt.Errorf("leases: %w", err)
		}
		links[a] = endpoint.HostLink(l.GetContainerId(), l.GetInterface())
		containers = append(containers, l.GetContainerId())
	}
	slices.Sort(containers)
	return links, slices.Compact(containers), nil
}

// endpointLinks are the host links of what the agent says is attached.
func endpointLinks(ctx context.Context, agent apiv1.HostfabricClient) (map[netip.Addr]string, error) {
	resp, err := agent.ListEndpoints(ctx, &apiv1.ListEndpointsRequest{})
	if err != nil {
		return nil, err
	}
	links := map[netip.Addr]string{}
	for _, ep := range resp.GetEndpoints() {
		for _, text := range ep.GetAddresses() {
			a, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("endpoints: %w", err)
			}
			links[a] = ep.GetHostInterface()
		}
	}
	return links, nil
}

// tableLinks are the containers' routes that the agent says it has installed.
func tableLinks(ctx context.Context, agent apiv1.HostfabricClient) (map[netip.Addr]string, error) {
	resp, err := agent.ListRoutes(ctx, &apiv1.ListRoutesRequest{Owner: "endpoints"})
	if err != nil {
		return nil, err
	}
	links := map[netip.Addr]string{}
	for _, r := range resp.GetRoutes() {
		p, err := netip.ParsePrefix(r.GetPrefix())
		if err != nil {
			return nil, fmt.Errorf("routes: %w", err)
		}
		via := r.GetState()
		if via == "installed" && len(r.GetNextHops()) == 1 {
			via = r.GetNextHops()[0].GetInterface()
		}
		links[p.Addr()] = via
	}
	return links, nil
}

// kernelLinks are our routes over host links.
func kernelLinks(ctx context.Context, ns netns.NS) (map[netip.Addr]string, error) {
	links := map[netip.Addr]string{}
	for _, family := range []string{"-4", "-6"} {
		var routes []struct{ Dst, Dev string }
		err := ip(ctx, ns, &routes, family, "route", "show", "table", "all", "proto", fmt.Sprint(rtnl.Protocol))
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if a, err := netip.ParseAddr(r.Dst); err == nil && strings.HasPrefix(r.Dev, endpoint.HostLinkPrefix) {
				links[a] = r.Dev
			}
		}
	}
	return links, nil
}

// hostLinks are the names of the host ends that the kernel has, those about to be deleted among them.
func hostLinks(ctx context.Context, ns netns.NS) ([]string, error) {
	var links []struct{ IfName, Address string }
	if err := ip(ctx, ns, &links, "link", "show", "type", "veth"); err != nil {
		return nil, err
	}
	var names []string
	for _, l := range links {
		if l.Address == endpoint.HostMAC().String() {
			names = append(names, l.IfName)
		}
	}
	slices.Sort(names)
	return names, nil
}

// ip runs iproute2 in the namespace and reads its JSON, which is nothing where there is nothing to tell.
func ip(ctx context.Context, ns netns.NS, into any, args ...string) error {
	out, err := ns.Output(ctx, "ip", append([]string{"-json"}, args...)...)
	if err != nil || len(out) == 0 {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("ip %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Addresses are those that a container holds on a host, sorted.
func (w *Hosts) Addresses(ctx context.Context, name, container string) ([]netip.Addr, error) {
	client, err := w.Client(name)
	if err != nil {
		return nil, err
	}
	resp, err := client.ListLeases(ctx, &apiv1.ListLeasesRequest{ContainerId: container})
	if err != nil {
		return nil, fmt.Errorf("leases of %s: %w", name, err)
	}
	var held []netip.Addr
	for _, l := range resp.GetLeases() {
		a, err := netip.ParseAddr(l.GetAddress())
		if err != nil {
			return nil, fmt.Errorf("leases of %s: %w", name, err)
		}
		held = append(held, a)
	}
	slices.SortFunc(held, netip.Addr.Compare)
	return held, nil
}

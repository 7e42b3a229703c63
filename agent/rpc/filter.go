package rpc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// leaseFilter says which leases a request is about: those that meet everything it names.
func leaseFilter(r *apiv1.ListLeasesRequest) (func(agent.Lease) bool, error) {
	within, err := parseWithin(r.GetAddress())
	if err != nil {
		return nil, err
	}
	for name, d := range map[string]interface{ AsDuration() time.Duration }{"min_age": r.GetMinAge(), "max_age": r.GetMaxAge()} {
		if d.AsDuration() < 0 {
			return nil, fmt.Errorf("%w: %s %s is negative", agent.ErrInvalid, name, d.AsDuration())
		}
	}
	now := time.Now()
	return func(l agent.Lease) bool {
		age := now.Sub(l.Allocated)
		switch {
		case r.GetContainerId() != "" && l.Key.ContainerID != r.GetContainerId():
		case within.IsValid() && !within.Contains(l.Addr):
		case r.GetPool() != "" && l.Pool != r.GetPool():
		case l.Allocated.IsZero() && (r.GetMinAge() != nil || r.GetMaxAge() != nil):
		case r.GetMinAge() != nil && age < r.GetMinAge().AsDuration():
		case r.GetMaxAge() != nil && age > r.GetMaxAge().AsDuration():
		default:
			return true
		}
		return false
	}, nil
}

// endpointWanted reports whether an endpoint meets everything that a request names.
func endpointWanted(r *apiv1.ListEndpointsRequest, ep agent.Endpoint) bool {
	for key, value := range r.GetLabels() {
		if have, ok := ep.Labels[key]; !ok || have != value {
			return false
		}
	}
	return (r.GetContainerId() == "" || r.GetContainerId() == ep.ContainerID) &&
		(r.GetName() == "" || isNamed(ep, r.GetName())) &&
		(r.GetOwner() == "" || r.GetOwner() == ep.Owner)
}

func isNamed(ep agent.Endpoint, name string) bool {
	return strings.EqualFold(name, ep.Name) || slices.ContainsFunc(ep.Aliases, func(alias string) bool { return strings.EqualFold(name, alias) })
}

// parseWithin reads an address, or a prefix that addresses are to be inside of. Empty is no prefix.
func parseWithin(text string) (netip.Prefix, error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: address %.64q is neither an IPv4 or IPv6 address nor a prefix", agent.ErrInvalid, text)
	}
	return p.Masked(), nil
}

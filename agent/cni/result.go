package cni

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// Places in the list of interfaces of our own result.
const (
	hostIndex = iota
	containerIndex
)

// endpointResult describes an endpoint as CNI does: both ends of the veth, host routes for addresses, and the
// default route of each family.
func endpointResult(ep agent.Endpoint, netns string, dns types.DNS) *types100.Result {
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			hostIndex:      {Name: ep.HostInterface, Mac: ep.HostMAC, Mtu: ep.MTU},
			containerIndex: {Name: ep.Interface, Mac: ep.MAC, Mtu: ep.MTU, Sandbox: netns},
		},
		DNS: dns,
	}
	for _, a := range ep.Addresses {
		ip := &types100.IPConfig{
			Interface: types100.Int(containerIndex),
			Address:   ipNet(netip.PrefixFrom(a, a.BitLen())),
		}
		if i := slices.IndexFunc(ep.Gateways, func(g netip.Addr) bool { return g.Is4() == a.Is4() }); i >= 0 {
			ip.Gateway = ep.Gateways[i].AsSlice()
		}
		r.IPs = append(r.IPs, ip)
	}
	for _, g := range ep.Gateways {
		everything := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if g.Is4() {
			everything = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(everything), GW: g.AsSlice()})
	}
	return r
}

// merge adds our result to that of the plugins before us, which the specification has us pass on (section 2, ADD).
// We create an interface even then, and so we add to theirs instead of changing them.
func merge(prev, ours *types100.Result) *types100.Result {
	if prev == nil {
		return ours
	}
	for _, ip := range ours.IPs {
		ip.Interface = types100.Int(*ip.Interface + len(prev.Interfaces))
	}
	merged := *prev
	merged.Interfaces = slices.Concat(prev.Interfaces, ours.Interfaces)
	merged.IPs = slices.Concat(prev.IPs, ours.IPs)
	merged.Routes = slices.Concat(prev.Routes, ours.Routes)
	if merged.DNS.IsEmpty() {
		merged.DNS = ours.DNS
	}
	return &merged
}

// encodeResult writes the result as the version of the specification has it.
func encodeResult(version string, r *types100.Result) ([]byte, error) {
	if version != types100.ImplementedSpecVersion { // "mtu" came with 1.1.0, which the conversion does not know
		for _, i := range r.Interfaces {
			i.Mtu = 0
		}
	}
	converted, err := r.GetAsVersion(version)
	if err != nil {
		return nil, &relay.Error{Code: relay.CodeIncompatibleVersion, Msg: "cannot express the result", Details: err.Error()}
	}
	var b bytes.Buffer
	if err := converted.PrintTo(&b); err != nil {
		return nil, ioError("cannot write the result", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// compare holds an endpoint against the result of its ADD. Routes are not compared: a later plugin of the chain may
// have changed them, and whether the default routes stand the agent's own Check says.
func compare(ep agent.Endpoint, netns string, prev *types100.Result) error {
	index := slices.IndexFunc(prev.Interfaces, func(i *types100.Interface) bool { return i.Name == ep.Interface && i.Sandbox != "" })
	if index < 0 {
		return fmt.Errorf("prevResult has no interface %s in a sandbox", ep.Interface)
	}
	container := prev.Interfaces[index]
	if container.Sandbox != netns {
		return fmt.Errorf("prevResult has %s in %s, CNI_NETNS is %s", ep.Interface, container.Sandbox, netns)
	}
	if container.Mac != "" && !strings.EqualFold(container.Mac, ep.MAC) {
		return fmt.Errorf("%s has MAC %s, prevResult has %s", ep.Interface, ep.MAC, container.Mac)
	}
	if !slices.ContainsFunc(prev.Interfaces, func(i *types100.Interface) bool { return i.Name == ep.HostInterface && i.Sandbox == "" }) {
		return fmt.Errorf("host interface is %s, which prevResult does not have", ep.HostInterface)
	}
	return compareAddresses(ep, index, prev)
}

func compareAddresses(ep agent.Endpoint, index int, prev *types100.Result) error {
	var expected []netip.Addr
	for _, ip := range prev.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok && ip.Interface != nil && *ip.Interface == index {
			expected = append(expected, a.Unmap())
		}
	}
	actual := slices.SortedFunc(slices.Values(ep.Addresses), netip.Addr.Compare)
	slices.SortFunc(expected, netip.Addr.Compare)
	if !slices.Equal(actual, expected) {
		return fmt.Errorf("%s has addresses %v, prevResult has %v", ep.Interface, actual, expected)
	}
	return nil
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

package docker

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/ipam"
)

// addressSpace marks the pools of this driver; a network with another's has its addresses from elsewhere.
const addressSpace = "hostfabric"

// poolOption names one of the host's pools: docker network create --ipam-opt hostfabric.pool=NAME.
const poolOption = "hostfabric.pool"

// What Docker calls a pool is a prefix that a network's addresses lie in. Ours come from a host's blocks, which grow, so that the
// honest prefix without a --subnet is everything. Docker takes 0.0.0.0/0 for "none" and compares it with nothing. Any other prefix
// that nobody asked for by --subnet it compares with the host's routes and resolvers, and asks for another one for ever while
// they overlap: IPv6 has no such word, and needs a --subnet.
var anyIPv4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// pool is what a PoolID says. All is in it, so that pools need no record. Networks may share one.
type pool struct {
	name   string // of the host's pool; empty: the default one
	subnet netip.Prefix
}

func (p pool) id() string {
	return strings.Join([]string{addressSpace, p.name, p.subnet.String()}, ",")
}

func parsePool(id string) (pool, error) {
	parts := strings.Split(id, ",")
	if len(parts) != 3 || parts[0] != addressSpace {
		return pool{}, invalid("pool %.128q is none of this driver", id)
	}
	subnet, err := netip.ParsePrefix(parts[2])
	if err != nil || agent.ValidatePool(parts[1]) != nil {
		return pool{}, invalid("pool %.128q is none of this driver", id)
	}
	return pool{parts[1], subnet}, nil
}

func (p pool) family() ipam.Family {
	if p.subnet.Addr().Is4() {
		return ipam.OnlyIPv4
	}
	return ipam.OnlyIPv6
}

type requestPoolRequest struct {
	AddressSpace, Pool, SubPool string
	Options                     map[string]string
	V6                          bool
}

type requestPoolAnswer struct {
	PoolID, Pool string
	Data         map[string]string
}

func (s *server) requestPool(_ context.Context, q requestPoolRequest) (a requestPoolAnswer, err error) {
	if q.AddressSpace != addressSpace {
		return a, invalid("address space %.64q: this driver has only %s", q.AddressSpace, addressSpace)
	}
	if q.SubPool != "" {
		return a, invalid("--ip-range %.64q: addresses are chosen from this host's blocks; leave it out", q.SubPool)
	}
	p := pool{name: q.Options[poolOption], subnet: anyIPv4}
	if err := agent.ValidatePool(p.name); err != nil {
		return a, fmt.Errorf("--ipam-opt %s: %w", poolOption, err)
	}
	for key := range q.Options {
		if key != poolOption && !strings.HasPrefix(key, dockerPrefix) {
			return a, invalid("--ipam-opt %.64s: unknown; there is %s", key, poolOption)
		}
	}
	switch {
	case q.Pool != "":
		p.subnet, err = s.subnet(q.Pool, q.V6)
	case q.V6:
		err = invalid("an IPv6 network needs a --subnet: one that contains the fabric's IPv6 blocks, such as %s on this host", s.blocks(true))
	}
	if err != nil {
		return a, err
	}
	return requestPoolAnswer{PoolID: p.id(), Pool: p.subnet.String(), Data: map[string]string{}}, nil
}

// subnet checks what a user has a network's addresses lie in.
func (s *server) subnet(text string, v6 bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() || p != p.Masked() {
		return netip.Prefix{}, invalid("--subnet %.64q is not a prefix such as 10.64.0.0/16", text)
	}
	if p.Addr().Is6() != v6 {
		return netip.Prefix{}, invalid("--subnet %s is not of the family that was asked for", p)
	}
	own := s.endpoints.Own()
	if len(own) > 0 && !slices.ContainsFunc(own, p.Overlaps) {
		return netip.Prefix{}, invalid("--subnet %s has no address of this host's blocks (%s): name the fabric's prefix, or none", p, s.blocks(v6))
	}
	return p, nil
}

// blocks lists a family's for people.
func (s *server) blocks(v6 bool) string {
	var all []string
	for _, b := range s.endpoints.Own() {
		if b.Addr().Is6() == v6 {
			all = append(all, b.String())
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

type poolRequest struct{ PoolID string }

// releasePool has nothing to do but to know the pool: it holds nothing.
func (s *server) releasePool(_ context.Context, q poolRequest) (struct{}, error) {
	_, err := parsePool(q.PoolID)
	return struct{}{}, err
}

type addressRequest struct {
	PoolID, Address string
	Options         map[string]string
}

type addressAnswer struct {
	Address string
	Data    map[string]string
}

// Docker asks for the address of a network's gateway when it makes the network.
const (
	addressType    = "RequestAddressType"
	gatewayAddress = "com.docker.network.gateway"
)

func (s *server) requestAddress(ctx context.Context, q addressRequest) (a addressAnswer, err error) {
	p, err := parsePool(q.PoolID)
	if err != nil {
		return a, err
	}
	var wanted netip.Addr
	if q.Address != "" {
		if wanted, err = netip.ParseAddr(q.Address); err != nil || wanted.Zone() != "" {
			return a, invalid("address %.64q is not an IP address", q.Address)
		}
		wanted = wanted.Unmap()
	}
	if q.Options[addressType] == gatewayAddress {
		gateway := agent.Gateway(p.subnet.Addr())
		if wanted.IsValid() && wanted != gateway {
			return a, invalid("--gateway %s: every container's gateway is %s; leave it out", wanted, gateway)
		}
		return answerAddress(gateway), nil
	}
	if wanted.IsValid() && !p.subnet.Contains(wanted) {
		return a, invalid("address %s is not in the network's --subnet %s", wanted, p.subnet)
	}
	addr, err := s.endpoints.Reserve(ctx, agent.ReserveRequest{Pool: p.name, Address: wanted, Family: p.family()})
	if err != nil {
		return a, err
	}
	if p.subnet.Contains(addr) {
		return answerAddress(addr), nil
	}
	if _, err := s.endpoints.Unreserve(ctx, addr); err != nil {
		return a, err
	}
	return a, fmt.Errorf("%w: this host's next one is %s, outside the network's --subnet %s: name the fabric's prefix there", agent.ErrExhausted, addr, p.subnet)
}

// answerAddress gives an address its full length: nothing else is on the container's link.
func answerAddress(addr netip.Addr) addressAnswer {
	return addressAnswer{Address: netip.PrefixFrom(addr, addr.BitLen()).String(), Data: map[string]string{}}
}

// releaseAddress gives back what no endpoint took. What one had goes with its link, which DeleteEndpoint has sent on its way.
func (s *server) releaseAddress(ctx context.Context, q addressRequest) (struct{}, error) {
	if _, err := parsePool(q.PoolID); err != nil {
		return struct{}{}, err
	}
	addr, err := netip.ParseAddr(q.Address)
	if err != nil {
		return struct{}{}, invalid("address %.64q is not an IP address", q.Address)
	}
	_, err = s.endpoints.Unreserve(ctx, addr.Unmap())
	return struct{}{}, err
}

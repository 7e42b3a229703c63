package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/hostfabric/hostfabric/agent"
)

// Options that libnetwork itself puts into requests begin like this; those that are not known here are another version's.
const (
	dockerPrefix   = "com.docker."
	genericOptions = "com.docker.network.generic" // those of docker network create -o
	internalOption = "com.docker.network.internal"
	mtuOption      = "com.docker.network.driver.mtu"
	portsOption    = "com.docker.network.portmap"
)

// linkPrefix begins the name that Docker gives the link inside the container, and numbers. It stands for the name in our keys.
const linkPrefix = "eth"

// identifier is what the IDs of networks and endpoints are made of, with room for another Docker's taste.
var identifier = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]{0,79}$`)

func validID(what, id string) error {
	if !identifier.MatchString(id) {
		return invalid("%s ID %.100q: want 1 to 80 of a-z A-Z 0-9 _ -", what, id)
	}
	return nil
}

type createNetworkRequest struct {
	NetworkID          string
	Options            map[string]json.RawMessage
	IPv4Data, IPv6Data []struct{ AddressSpace string }
}

func (s *server) createNetwork(_ context.Context, q createNetworkRequest) (struct{}, error) {
	err := validID("network", q.NetworkID)
	if err != nil {
		return struct{}{}, err
	}
	data := append(q.IPv4Data, q.IPv6Data...)
	for _, d := range data {
		if d.AddressSpace != addressSpace {
			return struct{}{}, invalid("addresses must be of this host's blocks: create the network with --ipam-driver %s", s.driver)
		}
	}
	if len(data) == 0 {
		return struct{}{}, invalid("a network without addresses: create it with --ipam-driver %s", s.driver)
	}
	nw, err := parseNetwork(q.Options)
	if err != nil {
		return struct{}{}, err
	}
	if known, ok := s.networks.get(q.NetworkID); ok && known != nw {
		return struct{}{}, &problem{http.StatusConflict, fmt.Sprintf("network %s exists with other options", q.NetworkID)}
	}
	if err := s.networks.put(q.NetworkID, nw); err != nil {
		return struct{}{}, err
	}
	s.log.Info("docker: network created", "network", q.NetworkID, "mtu", nw.MTU)
	return struct{}{}, nil
}

func parseNetwork(options map[string]json.RawMessage) (network, error) {
	if raw, ok := options[internalOption]; ok && string(raw) != "false" && string(raw) != "null" {
		return network{}, invalid("--internal: the fabric routes every container's address; this driver cannot close a network off")
	}
	var generic map[string]string
	if raw, ok := options[genericOptions]; ok {
		if err := json.Unmarshal(raw, &generic); err != nil {
			return network{}, invalid("options of the network are not understood: %v", err)
		}
	}
	return networkOf(generic)
}

// networkOf reads the options that docker network create -o has given.
func networkOf(options map[string]string) (nw network, err error) {
	for key, value := range options {
		if key != mtuOption {
			return network{}, invalid("-o %.64s: unknown; there is %s", key, mtuOption)
		}
		if nw.MTU, err = strconv.Atoi(value); err != nil {
			return network{}, invalid("-o %s=%.16s: not a number of bytes", mtuOption, value)
		}
		if err := agent.ValidateMTU(nw.MTU); err != nil {
			return network{}, fmt.Errorf("-o %s: %w", mtuOption, err)
		}
	}
	return nw, nil
}

type networkRequest struct{ NetworkID string }

// deleteNetwork also ends what Docker no longer knows of: it deletes no network that containers are connected to.
func (s *server) deleteNetwork(ctx context.Context, q networkRequest) (struct{}, error) {
	if err := validID("network", q.NetworkID); err != nil {
		return struct{}{}, err
	}
	for _, ep := range s.endpoints.Endpoints() {
		if ep.Owner == agent.OwnerDocker(q.NetworkID) {
			if _, err := s.endpoints.Detach(ctx, ep.Key); err != nil {
				return struct{}{}, err
			}
		}
	}
	return struct{}{}, s.networks.drop(q.NetworkID)
}

type endpointInterface struct {
	Address, AddressIPv6, MacAddress string
}

type createEndpointRequest struct {
	NetworkID, EndpointID string
	Interface             endpointInterface
	Options               map[string]json.RawMessage
}

// createEndpointAnswer repeats nothing that the request has: Docker takes that for a wish to change it.
type createEndpointAnswer struct {
	Interface struct {
		MacAddress string `json:",omitempty"`
	}
}

// createEndpoint attaches: from here on the address answers as soon as Docker has placed the link that Join names.
func (s *server) createEndpoint(ctx context.Context, q createEndpointRequest) (a createEndpointAnswer, err error) {
	nw, err := s.network(q.NetworkID)
	if err != nil {
		return a, err
	}
	req, err := q.attachRequest()
	if err != nil {
		return a, err
	}
	req.MTU = nw.MTU
	ep, err := s.endpoints.Attach(ctx, req)
	if err != nil {
		return a, err
	}
	if q.Interface.MacAddress == "" {
		a.Interface.MacAddress = ep.MAC
	}
	return a, nil
}

func (s *server) network(id string) (network, error) {
	if err := validID("network", id); err != nil {
		return network{}, err
	}
	nw, ok := s.networks.get(id)
	if !ok {
		return network{}, invalid("network %s is not known to this driver: remove it from Docker and create it again", id)
	}
	return nw, nil
}

func endpointKey(id string) agent.Key { return agent.Key{ContainerID: id, Interface: linkPrefix} }

func (q createEndpointRequest) attachRequest() (agent.AttachRequest, error) {
	req := agent.AttachRequest{Key: endpointKey(q.EndpointID), Owner: agent.OwnerDocker(q.NetworkID), Offer: true, Reserved: true}
	if err := validID("endpoint", q.EndpointID); err != nil {
		return req, err
	}
	for key := range q.Options {
		if !strings.HasPrefix(key, dockerPrefix) {
			return req, invalid("--driver-opt %.64s: unknown; there is none for endpoints", key)
		}
	}
	for _, text := range []string{q.Interface.Address, q.Interface.AddressIPv6} {
		if text == "" {
			continue
		}
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.IsSingleIP() {
			return req, invalid("address %.64q of endpoint %s is not one that this driver gave", text, q.EndpointID)
		}
		req.Addresses = append(req.Addresses, p.Addr().Unmap())
	}
	if len(req.Addresses) == 0 {
		return req, invalid("endpoint %s has no address", q.EndpointID)
	}
	var err error
	if q.Interface.MacAddress != "" {
		if req.MAC, err = net.ParseMAC(q.Interface.MacAddress); err != nil {
			return req, invalid("MAC address %.64q is not understood", q.Interface.MacAddress)
		}
	}
	return req, nil
}

type endpointRequest struct {
	NetworkID, EndpointID string
}

// endpoint finds one of a network.
func (s *server) endpoint(ctx context.Context, q endpointRequest) (agent.Endpoint, error) {
	if _, err := s.network(q.NetworkID); err != nil {
		return agent.Endpoint{}, err
	}
	if err := validID("endpoint", q.EndpointID); err != nil {
		return agent.Endpoint{}, err
	}
	ep, err := s.endpoints.Lookup(ctx, endpointKey(q.EndpointID))
	if err == nil && ep.Owner != agent.OwnerDocker(q.NetworkID) {
		err = invalid("endpoint %s is not of network %s", q.EndpointID, q.NetworkID)
	}
	return ep, err
}

type infoAnswer struct{ Value map[string]string }

func (s *server) endpointInfo(ctx context.Context, q endpointRequest) (infoAnswer, error) {
	ep, err := s.endpoint(ctx, q)
	if err != nil {
		return infoAnswer{}, err
	}
	return infoAnswer{map[string]string{"hostfabric.link": ep.HostInterface}}, nil
}

// deleteEndpoint succeeds for one that is gone, or never was: Docker deletes what is left of before a crash or a boot.
func (s *server) deleteEndpoint(ctx context.Context, q endpointRequest) (struct{}, error) {
	if err := errors.Join(validID("network", q.NetworkID), validID("endpoint", q.EndpointID)); err != nil {
		return struct{}{}, err
	}
	ep, err := s.endpoints.Lookup(ctx, endpointKey(q.EndpointID))
	if err == nil && ep.Owner != agent.OwnerDocker(q.NetworkID) {
		return struct{}{}, invalid("endpoint %s is not of network %s", q.EndpointID, q.NetworkID)
	}
	if err != nil && !errors.Is(err, agent.ErrNotFound) {
		return struct{}{}, err
	}
	s.sandboxes.leave(q.EndpointID)
	_, err = s.endpoints.Detach(ctx, endpointKey(q.EndpointID))
	return struct{}{}, err
}

type joinRequest struct {
	endpointRequest
	SandboxKey string
}

type staticRoute struct {
	Destination string
	RouteType   int
}

// connected has Docker write the route to the link itself.
const connected = 1

type joinAnswer struct {
	InterfaceName         struct{ SrcName, DstPrefix string }
	Gateway               string `json:",omitempty"`
	GatewayIPv6           string `json:",omitempty"`
	StaticRoutes          []staticRoute
	DisableGatewayService bool // else Docker connects the container to a bridge of its own besides
}

// join tells Docker which link to place, and the way out to write. The sandbox is Docker's to open: nothing is done with its path.
func (s *server) join(ctx context.Context, q joinRequest) (a joinAnswer, err error) {
	if !filepath.IsAbs(q.SandboxKey) || filepath.Clean(q.SandboxKey) != q.SandboxKey {
		return a, invalid("sandbox %.128q: want a plain absolute path", q.SandboxKey)
	}
	ep, err := s.endpoint(ctx, q.endpointRequest)
	if err != nil {
		return a, err
	}
	if other := s.sandboxes.of(q.SandboxKey); other != "" && other != q.EndpointID && s.attached(ctx, other) {
		return a, &problem{http.StatusConflict, fmt.Sprintf("the container has an address by endpoint %s already, which everything reaches: "+
			"connect it to one network of this driver only", other)}
	}
	s.sandboxes.join(q.SandboxKey, q.EndpointID)
	a.InterfaceName.SrcName, a.InterfaceName.DstPrefix = ep.OfferedLink(), linkPrefix
	a.DisableGatewayService = true
	for _, addr := range ep.Addresses {
		gateway := agent.Gateway(addr)
		if addr.Is4() {
			a.Gateway = gateway.String()
		} else {
			a.GatewayIPv6 = gateway.String()
		}
		a.StaticRoutes = append(a.StaticRoutes, staticRoute{netip.PrefixFrom(gateway, gateway.BitLen()).String(), connected})
	}
	s.joined()
	return a, nil
}

func (s *server) attached(ctx context.Context, endpoint string) bool {
	_, err := s.endpoints.Lookup(ctx, endpointKey(endpoint))
	return err == nil
}

// leave leaves the link in place: DeleteEndpoint takes it, and until then it may be joined again.
func (s *server) leave(_ context.Context, q endpointRequest) (struct{}, error) {
	s.sandboxes.leave(q.EndpointID)
	return struct{}{}, nil
}

// sandboxes are the endpoints that containers have, as far as they were joined since the agent started. A second one would have
// Docker write the same routes again, which fails with less of a reason, and its answers would take the first one's way out.
type sandboxes struct {
	mu  sync.Mutex
	all map[string]string // endpoint by sandbox
}

// of returns the endpoint that a sandbox has, or "".
func (s *sandboxes) of(sandbox string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[sandbox]
}

func (s *sandboxes) join(sandbox, endpoint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[string]string)
	}
	s.all[sandbox] = endpoint
}

func (s *sandboxes) leave(endpoint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.all, func(_, e string) bool { return e == endpoint })
}

type publishRequest struct {
	endpointRequest
	Options map[string]json.RawMessage
}

// publish publishes no port: a container's address is the fabric's to reach. Docker's own mechanism is its bridge driver's, and
// says nothing of ports that a remote driver leaves out, so this does.
func (s *server) publish(_ context.Context, q publishRequest) (struct{}, error) {
	var ports []struct{ Port, HostPort int }
	if json.Unmarshal(q.Options[portsOption], &ports) == nil && len(ports) > 0 {
		s.log.Warn("docker: published ports are left out, the container is reached at its address", "endpoint", q.EndpointID, "ports", ports)
	}
	return struct{}{}, nil
}

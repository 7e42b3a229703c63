package agent

import (
	"errors"
	"net"
	"net/netip"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/ipam"
)

// Key names one attachment: an interface of a container. Every verb is idempotent by it.
type Key struct {
	ContainerID string
	Interface   string // name inside the container
}

func (k Key) String() string { return k.ContainerID + "/" + k.Interface }

// AttachRequest asks for a container's interface to be connected to the fabric.
type AttachRequest struct {
	Key
	Owner     string       // front-end it came by: OwnerAPI, or OwnerCNI(network); Collect keeps to one owner
	Netns     string       // path of the container's network namespace
	Pool      string       // of which the addresses are to be; empty: the default pool, or that of Addresses
	Addresses []netip.Addr // wanted addresses; empty lets the agent choose one a family
	Family    ipam.Family  // of the addresses; none: all that the pool has
	MTU       int          // bytes; 0 takes the uplink's
	Description

	// Offer has the container's end wait in the host's namespace, as OfferedLink, for a runtime that places, names and addresses
	// it by itself. There is no Netns then, and Key.Interface need not be the name it gets.
	Offer    bool
	MAC      net.HardwareAddr // of the container's end, with Offer; nil: one made from the first address
	Reserved bool             // Addresses are those that Reserve gave
}

// OwnerAPI marks attachments made through the gRPC API.
const OwnerAPI = "api"

// OwnerSandbox marks sandboxes; behind a slash may follow what they are made from.
const OwnerSandbox = "sandbox"

// OwnerCNI marks attachments of a CNI network, so that a garbage collection of one network leaves the others alone.
func OwnerCNI(network string) string { return "cni/" + network }

// OwnerDocker marks attachments of a Docker network.
func OwnerDocker(network string) string { return "docker/" + network }

// CheckRequest asks whether an attachment is as Attach left it.
type CheckRequest struct {
	Key
	Netns string
}

// Endpoint is an attached container interface.
type Endpoint struct {
	Key
	Owner         string
	Netns         string
	HostInterface string
	MAC           string // of the container's interface
	HostMAC       string
	Addresses     []netip.Addr // each a /32 or /128
	Gateways      []netip.Addr // one a family, in the order of Addresses
	MTU           int          // bytes
	Description
}

// OfferedLink is the name by which the container's end waits in the host's namespace, of an attachment that was made to be offered.
func (e Endpoint) OfferedLink() string { return endpoint.OfferedLink(e.HostInterface) }

// Gateway is the next hop of containers' default routes for addresses like this one.
func Gateway(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return endpoint.GatewayV4
	}
	return endpoint.GatewayV6
}

// What an Attach, Detach or Check can fail with, besides what the kernel says. Front-ends map them to their
// protocol's own errors; the text around them names the object.
var (
	ErrInvalid      = errors.New("invalid request")                // a field is missing or malformed
	ErrNetns        = errors.New("not a usable network namespace") // missing, not a network namespace, or the host's own
	ErrLinkExists   = errors.New("interface exists in the container")
	ErrExhausted    = errors.New("no free address")
	ErrAddressInUse = errors.New("address in use")
	ErrNotReserved  = errors.New("address not reserved")
	ErrNotInBlock   = errors.New("address outside this host's blocks")
	ErrMismatch     = errors.New("attached with other parameters")
	ErrNotFound     = errors.New("not attached")
	ErrNotReady     = errors.New("agent not ready")
	ErrStorage      = errors.New("lease file not writable")
	ErrDraining     = errors.New("host has been taken out of the fabric")
	ErrOvertaken    = errors.New("overtaken by another request")
	ErrSourceAway   = errors.New("source of blocks cannot be reached")
)

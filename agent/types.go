package agent

import (
	"errors"
	"net/netip"

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
}

// OwnerAPI marks attachments made through the gRPC API.
const OwnerAPI = "api"

// OwnerSandbox marks sandboxes; behind a slash may follow what they are made from.
const OwnerSandbox = "sandbox"

// OwnerCNI marks attachments of a CNI network, so that a garbage collection of one network leaves the others alone.
func OwnerCNI(network string) string { return "cni/" + network }

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

// What an Attach, Detach or Check can fail with, besides what the kernel says. Front-ends map them to their
// protocol's own errors; the text around them names the object.
var (
	ErrInvalid      = errors.New("invalid request")                // a field is missing or malformed
	ErrNetns        = errors.New("not a usable network namespace") // missing, not a network namespace, or the host's own
	ErrLinkExists   = errors.New("interface exists in the container")
	ErrExhausted    = errors.New("no free address")
	ErrAddressInUse = errors.New("address in use")
	ErrNotInBlock   = errors.New("address outside this host's blocks")
	ErrMismatch     = errors.New("attached with other parameters")
	ErrNotFound     = errors.New("not attached")
	ErrNotReady     = errors.New("agent not ready")
	ErrStorage      = errors.New("lease file not writable")
	ErrDraining     = errors.New("host has been taken out of the fabric")
	ErrOvertaken    = errors.New("overtaken by another request")
	ErrSourceAway   = errors.New("source of blocks cannot be reached")
)

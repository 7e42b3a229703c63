// Package dns answers for the names and the addresses of this host's containers, from memory, and finds who answers for the rest.
package dns

import (
	"errors"
	"net/netip"
)

// Directory tells which servers answer for the names and addresses of other hosts. Its answers come from memory: they are asked for
// with every query that is not about this host.
type Directory interface {
	// Host returns the servers that may answer for a host's names, in the order to try them. The name is one label in lower case.
	// More than one host can be meant: one that is asked for another's name refuses. ErrUnknown: there is no such host.
	Host(name string) ([]netip.Addr, error)
	// Address returns the servers that may answer for a container's address. ErrUnknown: it is nobody's.
	Address(addr netip.Addr) ([]netip.Addr, error)
}

// Why a directory has no servers.
var (
	ErrUnknown = errors.New("no host of the fabric has it")
	ErrUnsure  = errors.New("the fabric's routes are not all known yet") // so whether a host exists cannot be said
)

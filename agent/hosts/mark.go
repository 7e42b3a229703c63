package hosts

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/bgp"
)

// The functions of a mark, ADMIN:FUNCTION:PARAMETER as operators write large communities (RFC 8195).
const (
	// ofHost is on every prefix of a host. Its parameter is the Hash of the host's name.
	ofHost = 1
	// answersAt, plus a length L, is on the prefix that has an address on which the host answers DNS. With parameter i it is the
	// first address of the i-th /L of the prefix, counted from 0.
	answersAt = 2000
)

// maxDistance is how much longer than the prefix an L may be, in bits: i has no more.
const maxDistance = 32

// Hash is what stands for a host's name in its marks: the first four bytes of its SHA-256 in lower case, the most significant
// first. Two hosts may have the same.
func Hash(name string) uint32 {
	sum := sha256.Sum256([]byte(strings.ToLower(name)))
	return binary.BigEndian.Uint32(sum[:])
}

// Marks are the large communities of a prefix that a host announces; own are the addresses on which it answers DNS.
func Marks(admin uint32, host string, prefix netip.Prefix, own []netip.Addr) []bgp.LargeCommunity {
	marks := []bgp.LargeCommunity{{Global: admin, Local1: ofHost, Local2: Hash(host)}}
	for _, addr := range own {
		if !prefix.Contains(addr) {
			continue
		}
		if length, i, ok := placeOf(addr, prefix); ok {
			marks = append(marks, bgp.LargeCommunity{Global: admin, Local1: answersAt + uint32(length), Local2: i})
		}
	}
	return marks
}

// marked is what the marks of a prefix say.
type marked struct {
	hashes  []uint32 // of the names of hosts that it may be of
	servers []netip.Addr
}

// read understands the marks of a learned prefix, whoever their administrator is. What cannot be meant is left out. A default
// route is nobody's, and whoever marks one would have all the world's addresses as servers.
func read(prefix netip.Prefix, marks []bgp.LargeCommunity) (m marked) {
	if prefix.Bits() == 0 {
		return marked{}
	}
	for _, c := range marks {
		if c.Local1 == ofHost {
			m.hashes = append(m.hashes, c.Local2)
		} else if addr, ok := addressAt(prefix, c.Local1, c.Local2); ok {
			m.servers = append(m.servers, addr)
		}
	}
	return m
}

// placeOf is the shortest length of a prefix that lies in another one and begins with addr, and which of that length it is.
func placeOf(addr netip.Addr, in netip.Prefix) (length int, i uint32, ok bool) {
	b := addr.AsSlice()
	for length = addr.BitLen(); length > in.Bits() && bit(b, length-1) == 0; {
		length--
	}
	if length-in.Bits() > maxDistance {
		return 0, 0, false
	}
	for at := in.Bits(); at < length; at++ {
		i = i<<1 | uint32(bit(b, at))
	}
	return length, i, true
}

// addressAt is the reverse of placeOf, of a function that came with a prefix.
func addressAt(prefix netip.Prefix, function, i uint32) (netip.Addr, bool) {
	longest := min(prefix.Addr().BitLen(), prefix.Bits()+maxDistance)
	if function < answersAt+uint32(prefix.Bits()) || function > answersAt+uint32(longest) {
		return netip.Addr{}, false
	}
	b := prefix.Masked().Addr().AsSlice()
	for at := int(function-answersAt) - 1; at >= prefix.Bits(); at-- {
		b[at/8] |= byte(i&1) << (7 - at%8)
		i >>= 1
	}
	addr, ok := netip.AddrFromSlice(b)
	return addr, ok && i == 0
}

// bit is that of an address at a place counted from the most significant.
func bit(b []byte, at int) byte { return b[at/8] >> (7 - at%8) & 1 }

// merge is what is in either, in their order, as many as are of use.
func merge(a, b []netip.Addr) []netip.Addr {
	for _, addr := range b {
		if !slices.Contains(a, addr) && len(a) < maxServers {
			a = append(a, addr)
		}
	}
	return a
}

package fabric

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

// Where a lab's numbers come from. Nothing of it leaves the namespaces.
var (
	space4 = netip.MustParsePrefix("10.64.0.0/12")  // containers; the hosts' own addresses are the first of each block
	space6 = netip.MustParsePrefix("fd00:64::/48")  // containers, a /64 for each host
	wires4 = netip.MustParsePrefix("172.31.0.0/16") // cables, a /31 each (RFC 3021)
	wires6 = netip.MustParsePrefix("fd00:31::/64")  // cables, a /127 each (RFC 6164)
	ids    = netip.MustParsePrefix("10.255.0.0/16") // router identifiers: 10.255.RACK.NUMBER
	feed4  = netip.MustParsePrefix("11.0.0.0/12")   // what the spine announces for the sake of the number, a /32 each
	wild4  = netip.MustParsePrefix("0.0.0.0/0")
	wild6  = netip.MustParsePrefix("::/0")
)

const (
	spineASN     = 64512
	firstToRASN  = 64513      // two a rack, RFC 6996 two-byte private space
	firstHostASN = 4200000000 // plus 1000*rack + host, RFC 6996 four-byte private space
	maxRacks     = 255        // the third byte of the router identifier
	maxHosts     = 200        // in a rack; the fourth byte, after the routers'
	firstHostID  = 11
	minBlockBits = 6 // a /26
)

// blockBits is the number of host bits of a block with room for the containers, the host's own address, and a quarter
// more for addresses that rest before they are used again.
func blockBits(containers int) int {
	need := containers + containers/4 + 2
	return max(minBlockBits, bits.Len(uint(need-1)))
}

// nth is the subnet number n of the given length inside space.
func nth(space netip.Prefix, length, n int) (netip.Prefix, error) {
	if length-space.Bits() < 31 && n >= 1<<(length-space.Bits()) {
		return netip.Prefix{}, fmt.Errorf("%s has only %d prefixes of length /%d", space, 1<<(length-space.Bits()), length)
	}
	return netip.PrefixFrom(add(space.Addr(), uint64(n), space.Addr().BitLen()-length), length), nil
}

// add returns base + n<<shift, for a base that is aligned beyond the sum.
func add(base netip.Addr, n uint64, shift int) netip.Addr {
	if base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n<<shift))
		return netip.AddrFrom4(b)
	}
	b := base.As16()
	half := b[8:]
	if shift >= 64 {
		half, shift = b[:8], shift-64
	}
	binary.BigEndian.PutUint64(half, binary.BigEndian.Uint64(half)+n<<shift)
	return netip.AddrFrom16(b)
}

func routerID(rack, number int) netip.Addr { return add(ids.Addr(), uint64(rack<<8|number), 0) }

// other is the second address of a point-to-point prefix, given one of the two.
func other(p netip.Prefix) netip.Prefix {
	first := p.Masked().Addr()
	if p.Addr() == first {
		return netip.PrefixFrom(first.Next(), p.Bits())
	}
	return netip.PrefixFrom(first, p.Bits())
}

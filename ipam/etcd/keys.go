package etcd

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// DefaultPrefix is where the keys are. Its last part is the version of what is below it.
const DefaultPrefix = "/hostfabric/v1"

// keys knows the names of the keys: PREFIX/pools, PREFIX/claims/POOL/ipv4|ipv6/ADDRESS-BITS, and PREFIX/hosts/NAME/ID.
type keys struct{ prefix string }

func (k keys) registry() string { return k.prefix + "/pools" }

func (k keys) claims() string { return k.prefix + "/claims/" }

// area is one family of a pool.
type area struct {
	pool string
	ipv6 bool
}

func areaOf(pool string, p netip.Prefix) area { return area{pool, p.Addr().Is6()} }

func (a area) family() string {
	if a.ipv6 {
		return "ipv6"
	}
	return "ipv4"
}

// title is how people write the family.
func (a area) title() string {
	if a.ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

func (k keys) area(a area) string { return k.claims() + a.pool + "/" + a.family() + "/" }

func (k keys) claim(pool string, p netip.Prefix) string {
	return k.area(areaOf(pool, p)) + p.Addr().String() + "-" + strconv.Itoa(p.Bits())
}

// parse reads the key of a claim, which must be as claim writes it. A pool has many, so it takes some care not to allocate.
func (k keys) parse(key string) (pool string, p netip.Prefix, err error) {
	rest, _ := strings.CutPrefix(key, k.claims())
	pool, rest, _ = strings.Cut(rest, "/")
	family, rest, _ := strings.Cut(rest, "/")
	text, length, _ := strings.Cut(rest, "-")
	addr, badAddr := netip.ParseAddr(text)
	bits, badBits := strconv.Atoi(length)
	p = netip.PrefixFrom(addr, bits)
	if badAddr == nil && badBits == nil && p.IsValid() && p == p.Masked() && family == areaOf(pool, p).family() {
		buffer := make([]byte, 0, 64)
		buffer = addr.AppendTo(append(buffer, family+"/"...))
		buffer = strconv.AppendInt(append(buffer, '-'), int64(bits), 10)
		if len(key) == len(k.claims())+len(pool)+1+len(buffer) && strings.HasPrefix(key, k.claims()) && strings.HasSuffix(key, string(buffer)) {
			return pool, p, nil
		}
	}
	return "", p, fmt.Errorf("key %s in etcd is not the claim of a block: if no newer hostfabric wrote it, delete it", key)
}

// Claim is of a base block. Host and ID are both empty if the value in etcd cannot be read: the block is nobody's, and taken.
type Claim = ipam.Claim

// holder says for people whose the claim is.
func (c claim) holder() string {
	if c.ID == "" {
		return "somebody whose claim cannot be read"
	}
	return fmt.Sprintf("host %s (ID %s)", c.Host, c.ID)
}

// claim is a Claim with what etcd knows of its key.
type claim struct {
	Claim
	key, claimed      string // claimed as it is in the value
	created, modified int64  // revisions of etcd's store
}

// complete returns the claim with its time, which most have no use for.
func (c claim) complete() Claim {
	c.Claimed, _ = time.Parse(time.RFC3339, c.claimed) // zero if it cannot be read
	return c.Claim
}

// holder is the value of a claim.
type holder struct {
	ID      string `json:"id"`
	Host    string `json:"host"`
	Claimed string `json:"claimed"` // RFC 3339
}

func (h holder) encode() string {
	text, err := json.Marshal(h)
	if err != nil {
		panic(err) // strings
	}
	return string(text)
}

func decodeHolder(value []byte) holder {
	var h holder
	if json.Unmarshal(value, &h) != nil {
		return holder{}
	}
	return h
}

// registered is what the registry of pools says of one.
type registered struct {
	Prefixes []netip.Prefix `json:"prefixes"`
	BaseIPv4 int            `json:"base_ipv4,omitempty"`
	BaseIPv6 int            `json:"base_ipv6,omitempty"`
}

// registry is the shape of every pool that blocks are claimed in.
type registry map[string]registered

func decodeRegistry(key string, value []byte) (registry, error) {
	r := registry{}
	if len(value) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return nil, fmt.Errorf("key %s in etcd is not a registry of pools: restore it, or delete it for the hosts to write it anew: %w", key, err)
	}
	for name, p := range r {
		for _, prefix := range p.Prefixes {
			if !prefix.IsValid() || prefix != prefix.Masked() {
				return nil, fmt.Errorf("key %s in etcd has prefix %s in pool %s, which is none: correct it", key, prefix, name)
			}
		}
	}
	return r, nil
}

func (r registry) encode() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings, numbers and prefixes
	}
	return string(text)
}

// base returns the length of a pool's blocks of the family of p, or 0.
func base(pool ipam.Pool, ipv6 bool) int {
	if ipv6 {
		return pool.BaseIPv6
	}
	return pool.BaseIPv4
}

package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostfabric/hostfabric/ipam"
)

// inEtcd is a host with blocks from etcd, but for its pools.
const inEtcd = `
asn: 4200000001
host: r1h1
peers: [{address: 10.0.0.0, asn: 4200100001}]
source: etcd
etcd: {endpoints: ["http://127.0.0.1:2379"]}
`

// TestSwitchToEtcd adds two lines to a host with static blocks, and to one that has none.
func TestSwitchToEtcd(t *testing.T) {
	const lines = "source: etcd\netcd: {endpoints: ['http://127.0.0.1:2379']}\n"
	c := mustLoad(t, small+"fabric: [10.64.0.0/12, 'fd00:64::/48']\n"+lines, nil)
	want := []ipam.Pool{{Name: "default", Prefixes: []netip.Prefix{pfx("10.64.0.0/12"), pfx("fd00:64::/48")}, BaseIPv4: 26, BaseIPv6: 64}}
	if diff := cmp.Diff(want, c.Pools, sameNetip); diff != "" {
		t.Errorf("pools, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]Block{{pfx("10.64.0.0/26"), "default"}, {pfx("fd00:64::/64"), "default"}}, c.Blocks, sameNetip); diff != "" {
		t.Errorf("blocks, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(c.Fabric, c.ContainerSpace(), sameNetip); diff != "" {
		t.Errorf("container space, -fabric +got:\n%s", diff)
	}

	c = mustLoad(t, inEtcd+"fabric: ['fd00:64::/48']\nmtu: 1280\n", nil)
	want = []ipam.Pool{{Name: "default", Prefixes: []netip.Prefix{pfx("fd00:64::/48")}, BaseIPv6: 64}}
	if diff := cmp.Diff(want, c.Pools, sameNetip); diff != "" || c.Blocks != nil {
		t.Errorf("pools of one family, -want +got:\n%s\nblocks %v", diff, c.Blocks)
	}
	if ipv4, ipv6 := c.Families(); ipv4 || !ipv6 {
		t.Errorf("Families: %t, %t", ipv4, ipv6)
	}
}

// TestPoolsThatFit are at the limits.
func TestPoolsThatFit(t *testing.T) {
	for _, pools := range []string{
		"{name: a, prefixes: [10.64.0.0/26], block_ipv4: 26}",
		"{name: a, prefixes: [11.0.0.0/8], block_ipv4: 28}",
		"{name: a, prefixes: [10.64.0.0/30], block_ipv4: 30}",
		"{name: a, prefixes: ['fd00::/16'], block_ipv6: 124}",
		"{name: a, prefixes: ['fd00::/124'], block_ipv6: 124}",
		"{name: " + strings.Repeat("a", 32) + ", prefixes: [10.64.0.0/13]}, {name: 0-0, prefixes: [10.72.0.0/13]}",
	} {
		mustLoad(t, inEtcd+"pools: ["+pools+"]\n", nil)
	}
}

// TestBlocksOfPools: a block that names no pool is of the one it lies in.
func TestBlocksOfPools(t *testing.T) {
	c := mustLoad(t, inEtcd+`
pools: [{name: db, prefixes: [10.64.0.0/16]}, {name: web, prefixes: [10.80.0.0/16, 10.81.0.0/16]}]
blocks: [10.81.0.64/26, {prefix: 10.80.0.0/25, pool: web}, 10.64.4.0/24]
`, nil)
	want := []Block{{pfx("10.81.0.64/26"), "web"}, {pfx("10.80.0.0/25"), "web"}, {pfx("10.64.4.0/24"), "db"}}
	if diff := cmp.Diff(want, c.Blocks, sameNetip); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestPoolMistakes(t *testing.T) {
	pools := func(list string) string { return inEtcd + "pools: [" + list + "]\n" }
	const wide = "fabric: [10.64.0.0/12]\n"
	for _, tc := range []struct{ name, file, want string }{
		{"neither pools nor fabric", inEtcd, "pools: missing (the prefixes that hosts claim blocks in; without pools, those of fabric are)"},
		{"empty", pools(""), "pools: empty (remove it for one pool with the prefixes of fabric)"},
		{"mapping", inEtcd + "pools: {name: a}\n", "pools: this is a mapping, not a list (write each element below it, beginning with -)"},
		{"no name", pools("{prefixes: [10.64.0.0/12]}"), "pools[0].name: missing (such as default)"},
		{"name", pools("{name: a_b, prefixes: [10.64.0.0/12]}"), `pools[0].name: "a_b" is not the name of a pool (lower-case letters, digits and inner hyphens, at most 32)`},
		{"long name", pools("{name: " + strings.Repeat("a", 33) + ", prefixes: [10.64.0.0/12]}"), `pools[0].name: "` + strings.Repeat("a", 33) + `" is not the name of a pool (lower-case letters, digits and inner hyphens, at most 32)`},
		{"two of a name", pools("{name: a, prefixes: [10.64.0.0/12]}, {name: a, prefixes: [10.80.0.0/12]}"), "pools[1].name: a is also pools[0] (one pool of each name)"},
		{"no prefixes", pools("{name: a}"), "pools[0].prefixes: missing (such as [10.64.0.0/12])"},
		{"empty prefixes", pools("{name: a, prefixes: []}"), "pools[0].prefixes: missing (such as [10.64.0.0/12])"},
		{"one prefix", pools("{name: a, prefixes: 10.64.0.0/12}"), "pools[0].prefixes: this is a single value, not a list (write prefixes: [...])"},
		{"unknown key", pools("{name: a, prefixes: [10.64.0.0/12], base_ipv4: 26}"), "pools[0].base_ipv4: line 7: unknown key (did you mean pools[0].block_ipv4?)"},
		{"host bits", pools("{name: a, prefixes: [10.64.0.1/12]}") + "blocks: [10.64.0.0/26]\n", "pools[0].prefixes[0]: 10.64.0.1/12 has host bits set (write 10.64.0.0/12)"},
		{"overlap within", pools("{name: a, prefixes: [10.64.0.0/12, 10.65.0.0/16]}"), "pools[0].prefixes[1]: 10.65.0.0/16 overlaps pools[0].prefixes[0], 10.64.0.0/12 (remove one)"},
		{"overlap across", pools("{name: a, prefixes: [10.64.0.0/12]}, {name: b, prefixes: [10.65.0.0/16]}"), "pools[1].prefixes[0]: 10.65.0.0/16 overlaps pools[0].prefixes[0], 10.64.0.0/12 (remove one)"},
		{"too large", pools("{name: a, prefixes: [12.0.0.0/7]}"), "pools[0].prefixes[0]: 12.0.0.0/7 is too large (/8 to /30)"},
		{"too small", pools("{name: a, prefixes: ['fd00::/125']}"), "pools[0].prefixes[0]: fd00::/125 is too small (/16 to /124)"},
		{"multicast", pools("{name: a, prefixes: [224.0.0.0/12]}"), "pools[0].prefixes[0]: 224.0.0.0/12 touches multicast (224.0.0.0/4) (containers need unicast addresses that can be routed)"},
		{"with a peer", pools("{name: a, prefixes: [10.0.0.0/8]}"), "pools[0].prefixes[0]: 10.0.0.0/8 contains 10.0.0.0, which is peers[0].address (a container would get that address)"},
		{"outside fabric", pools("{name: a, prefixes: [10.80.0.0/12]}") + wide, "pools[0].prefixes[0]: 10.80.0.0/12 lies outside fabric (other hosts would refuse it; extend fabric)"},

		// Base blocks.
		{"base out of bounds", pools("{name: a, prefixes: [10.64.0.0/12], block_ipv4: 31}"), `pools[0].block_ipv4: "31" is not a number from 20 to 30`},
		{"IPv6 base out of bounds", pools("{name: a, prefixes: ['fd00::/48'], block_ipv6: 128}"), `pools[0].block_ipv6: "128" is not a number from 48 to 124`},
		{"base larger than the pool", pools("{name: a, prefixes: [10.64.0.0/27]}"), "pools[0].prefixes[0]: 10.64.0.0/27 is smaller than a base block, /26 (block_ipv4 can be 27 to 30 here)"},
		{"IPv6 base larger than the pool", pools("{name: a, prefixes: ['fd00::/56'], block_ipv6: 52}"), "pools[0].prefixes[0]: fd00::/56 is smaller than a base block, /52 (block_ipv6 can be 56 to 124 here)"},
		{"too many base blocks", pools("{name: a, prefixes: [11.0.0.0/8], block_ipv4: 29}"), "pools[0].prefixes[0]: 11.0.0.0/8 has 2097152 base blocks (/29), more than 1048576 (block_ipv4 can be 20 to 28 here)"},

		// Pools of fabric.
		{"fabric with a peer", inEtcd + "fabric: [10.0.0.0/8]\n", "fabric[0]: 10.0.0.0/8 contains 10.0.0.0, which is peers[0].address (a container would get that address; set pools to parts of fabric)"},
		{"small fabric", inEtcd + "fabric: [10.64.0.0/28]\n", "fabric[0]: 10.64.0.0/28 is smaller than a base block, /26 (block_ipv4 can be 28 to 30 here; set pools to parts of fabric)"},
		{"tiny fabric", inEtcd + "fabric: [10.64.0.0/31]\n", "fabric[0]: 10.64.0.0/31 is too small (/8 to /30; set pools to parts of fabric)"},
		{"default route", inEtcd + "fabric: [0.0.0.0/0]\n", "fabric[0]: 0.0.0.0/0 is the default route (that is import_default)"},
		{"overlapping fabric", inEtcd + "fabric: [10.64.0.0/12, 10.65.0.0/16]\n", "fabric[1]: 10.65.0.0/16 overlaps fabric[0], 10.64.0.0/12 (remove one)"},
		{"no prefix in fabric", inEtcd + "fabric: [x]\nblocks: [10.64.0.0/26]\n", `fabric[0]: "x" is not a prefix (such as 10.64.0.0/26 or fd00:64::/64)`},

		// Budget and MTU.
		{"no budget", inEtcd + wide + "budget: {ipv4: 0, ipv6: 0}\n", "budget.ipv4: 0 leaves no prefix for a block of the pools' IPv4 (1, or at least 2 for this host to grow)"},
		{"no budget for IPv6", inEtcd + "fabric: ['fd00::/48']\nbudget: {ipv6: 0}\n", "budget.ipv6: 0 leaves no prefix for a block of the pools' IPv6 (1, or at least 2 for this host to grow)"},
		{"mtu of IPv6", inEtcd + "fabric: ['fd00::/48']\nmtu: 1279\n", "mtu: 1279 is below 1280 (IPv6 needs it (RFC 8200 section 5); 0 takes the uplink's)"},

		// Blocks of the file.
		{"block outside the pools", pools("{name: a, prefixes: [10.64.0.0/16]}") + "blocks: [10.65.0.0/26]\n", "blocks[0]: 10.65.0.0/26 lies in no pool (with source etcd it would be claimed in one; remove it, or extend pools)"},
		{"block around a pool", pools("{name: a, prefixes: [10.64.0.0/16]}") + "blocks: [10.64.0.0/15]\n", "blocks[0]: 10.64.0.0/15 lies in no pool (with source etcd it would be claimed in one; remove it, or extend pools)"},
		{"block outside fabric", inEtcd + wide + "blocks: [10.80.0.0/26]\n", "blocks[0]: 10.80.0.0/26 lies outside fabric (other hosts would refuse it; extend fabric)"},
		{"small block", inEtcd + wide + "blocks: [10.64.0.32/27]\n", "blocks[0]: 10.64.0.32/27 is smaller than what pool default is claimed by, /26 (10.64.0.0/26, or a longer block_ipv4)"},
		{"block of another pool", pools("{name: a, prefixes: [10.64.0.0/16]}, {name: b, prefixes: [10.65.0.0/16]}") + "blocks: [{prefix: 10.64.0.0/26, pool: b}]\n", "blocks[0].pool: 10.64.0.0/26 lies in pool a, not b (write a, or leave it out)"},
		{"too many blocks", inEtcd + wide + "ipam: {max_blocks: 4}\nblocks: [10.64.0.0/25, 10.64.0.128/25, 10.64.1.0/26, 10.64.1.64/26]\n", "blocks[2]: with 10.64.1.0/26 the blocks are more than 4 base blocks (/26) of pool default (that is ipam.max_blocks; use fewer or smaller ones, or raise it)"},
		{"a large IPv6 block", inEtcd + "fabric: ['fd00:64::/32']\nblocks: ['fd00:64::/32']\n", "blocks[0]: with fd00:64::/32 the blocks are more than 64 base blocks (/64) of pool default (that is ipam.max_blocks; use fewer or smaller ones, or raise it)"},
		{"overlapping blocks", inEtcd + wide + "blocks: [10.64.0.0/26, 10.64.0.0/26]\n", "blocks[1]: 10.64.0.0/26 overlaps blocks[0], 10.64.0.0/26 (remove one)"},
	} {
		t.Run(tc.name, func(t *testing.T) { refused(t, tc.file, tc.want) })
	}
}

// TestPoolsAreBounded, for each prefix is compared with each other.
func TestPoolsAreBounded(t *testing.T) {
	list := "[" + strings.Repeat("10.64.0.0/24,", 600) + "]"
	refused(t, inEtcd+"pools: [{name: a, prefixes: "+list+"}, {name: b, prefixes: "+list+"}]\n", "pools: 1200 prefixes are too many (at most 1024)")
}

// TestPoolsWithStaticBlocks are checked for form, and limit nothing.
func TestPoolsWithStaticBlocks(t *testing.T) {
	c := mustLoad(t, small+"pools: [{name: web, prefixes: [10.80.0.0/16]}]\nbudget: {ipv6: 1}\n", nil)
	if diff := cmp.Diff([]Block{{pfx("10.64.0.0/26"), "default"}, {pfx("fd00:64::/64"), "default"}}, c.Blocks, sameNetip); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	refused(t, small+"pools: [{name: web, prefixes: [10.80.0.0/27]}]\n",
		"pools[0].prefixes[0]: 10.80.0.0/27 is smaller than a base block, /26 (block_ipv4 can be 27 to 30 here)")
}

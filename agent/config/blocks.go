package config

import (
	"fmt"
	"net/netip"

	"github.com/hostfabric/hostfabric/ipam"
)

// SourceKind is where a host's blocks come from.
type SourceKind string

// The sources there are.
const (
	SourceStatic SourceKind = "static" // the blocks of the file
	SourceEtcd   SourceKind = "etcd"   // claimed in etcd as they are needed
)

// Block is a block of the file.
type Block struct {
	Prefix netip.Prefix // masked
	Pool   string       // if the file names none: ipam.DefaultPool, or with SourceEtcd the pool that it lies in
}

// BlockPrefixes are the prefixes of Blocks.
func (c *Config) BlockPrefixes() []netip.Prefix {
	var prefixes []netip.Prefix
	for _, b := range c.Blocks {
		prefixes = append(prefixes, b.Prefix)
	}
	return prefixes
}

// BlocksByFamily splits BlockPrefixes.
func (c *Config) BlocksByFamily() (ipv4, ipv6 []netip.Prefix) { return byFamily(c.BlockPrefixes()) }

// ContainerSpace is what this host's containers may get their addresses from: its blocks, or with SourceEtcd all of
// the pools.
func (c *Config) ContainerSpace() []netip.Prefix {
	if c.Source != SourceEtcd {
		return c.BlockPrefixes()
	}
	var space []netip.Prefix
	for _, p := range c.Pools {
		space = append(space, p.Prefixes...)
	}
	return space
}

// Families tells which families ContainerSpace has.
func (c *Config) Families() (ipv4, ipv6 bool) {
	v4, v6 := byFamily(c.ContainerSpace())
	return len(v4) > 0, len(v6) > 0
}

func byFamily(prefixes []netip.Prefix) (ipv4, ipv6 []netip.Prefix) {
	for _, p := range prefixes {
		if p.Addr().Is4() {
			ipv4 = append(ipv4, p)
		} else {
			ipv6 = append(ipv6, p)
		}
	}
	return ipv4, ipv6
}

// addBlock understands a prefix on its own and a mapping.
func (d *draft) addBlock(path string, v any, r *report) {
	var b Block
	switch v := v.(type) {
	case string:
		p, err := parsePrefix(v)
		if err != nil {
			r.addErr(path, "", err)
		}
		b.Prefix = p
	case map[string]any:
		setEntry(blockFields, &b, path, v, r)
	}
	if b.Prefix.IsValid() {
		d.blocks = append(d.blocks, located[Block]{path, b})
	}
}

func (d *draft) blockPrefixes() []located[netip.Prefix] {
	var list []located[netip.Prefix]
	for _, b := range d.blocks {
		list = append(list, located[netip.Prefix]{b.path, b.value.Prefix})
	}
	return list
}

// finalBlocks has the pool of every block.
func (d *draft) finalBlocks() []Block {
	blocks := values(d.blocks)
	for i, b := range blocks {
		if b.Pool != "" {
			continue
		}
		blocks[i].Pool = ipam.DefaultPool
		if p := d.poolOf(b.Prefix); d.Source == SourceEtcd && p != nil {
			blocks[i].Pool = p.name
		}
	}
	return blocks
}

// checkClaims holds the blocks of the file to what can be claimed of the pools.
func (d *draft) checkClaims(r *report) {
	if d.Source != SourceEtcd || !d.poolsKnown {
		return
	}
	type share struct {
		pool string
		ipv6 bool
	}
	claimed, tooMany := map[share]int{}, map[share]bool{}
	for _, b := range d.blocks {
		if !r.good(b.path) {
			continue
		}
		prefix := b.value.Prefix
		p := d.poolOf(prefix)
		if p == nil {
			r.add(b.path, fmt.Sprintf("%s lies in no pool", prefix), "with source etcd it would be claimed in one; remove it, or extend pools")
			continue
		}
		if at := b.path + ".pool"; b.value.Pool != "" && b.value.Pool != p.name && r.good(at) {
			r.add(at, fmt.Sprintf("%s lies in pool %s, not %s", prefix, p.name, b.value.Pool), "write "+p.name+", or leave it out")
		}
		key, base := p.base(prefix)
		if prefix.Bits() > base {
			r.add(b.path, fmt.Sprintf("%s is smaller than what pool %s is claimed by, /%d", prefix, p.name, base),
				fmt.Sprintf("%s, or a longer %s", netip.PrefixFrom(prefix.Addr(), base).Masked(), key))
			continue
		}
		s := share{p.name, prefix.Addr().Is6()}
		claimed[s] += 1 << min(base-prefix.Bits(), maxBaseBlockBits)
		if r.good("ipam.max_blocks") && claimed[s] > d.IPAM.MaxBlocks && !tooMany[s] {
			tooMany[s] = true
			r.add(b.path, fmt.Sprintf("with %s the blocks are more than %d base blocks (/%d) of pool %s", prefix, d.IPAM.MaxBlocks, base, p.name),
				"that is ipam.max_blocks; use fewer or smaller ones, or raise it")
		}
	}
}

// poolOf is the pool that a prefix lies in, or nil.
func (d *draft) poolOf(prefix netip.Prefix) *poolDraft {
	for i := range d.pools {
		for _, p := range d.pools[i].prefixes {
			if within(prefix, p.value) {
				return &d.pools[i]
			}
		}
	}
	return nil
}

// within says that all of p lies in outer.
func within(p, outer netip.Prefix) bool { return outer.Bits() <= p.Bits() && outer.Contains(p.Addr()) }

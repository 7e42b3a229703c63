package config

import (
	"fmt"
	"net/netip"

	"github.com/hostfabric/hostfabric/ipam"
)

// checkBudget counts what will be announced: not the blocks but their minimal cover.
func (d *draft) checkBudget(r *report) {
	ipv4, ipv6 := split(d.blocks)
	for _, f := range []struct {
		key    string
		blocks []netip.Prefix
		budget int
	}{{"budget.ipv4", ipv4, d.Budget.IPv4}, {"budget.ipv6", ipv6, d.Budget.IPv6}} {
		if cover := ipam.Cover(f.blocks); r.good(f.key) && len(cover) > f.budget {
			r.add("blocks", fmt.Sprintf("they take %d prefixes in a ToR's table, and %s is %d", len(cover), f.key, f.budget),
				"use fewer or adjacent blocks, or raise "+f.key+" if the ToR's table has room for that on every host")
		}
	}
}

func split(blocks []located[Block]) (ipv4, ipv6 []netip.Prefix) {
	c := Config{Blocks: values(blocks)}
	return c.BlocksByFamily()
}

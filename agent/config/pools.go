package config

import (
	"fmt"
	"net/netip"
	"regexp"

	"github.com/hostfabric/hostfabric/ipam"
)

// The lengths that a base block may have, in bits. Blocks are what a ToR's table holds, so they are not tiny, and a
// host that claims one must not take a large part of the pool.
const (
	minBaseIPv4, maxBaseIPv4 = 20, 30
	minBaseIPv6, maxBaseIPv6 = 48, 124
)

// maxBaseBlockBits is the logarithm of how many base blocks a prefix of an IPv4 pool may have.
const maxBaseBlockBits = 20

// poolDraft is an element of pools, or what fabric stands for where there are none.
type poolDraft struct {
	path         string // empty: fabric
	name         string
	prefixes     []located[netip.Prefix]
	base4, base6 int
}

// base is the length of the base blocks that a prefix is claimed by, and the key that sets it.
func (p *poolDraft) base(prefix netip.Prefix) (key string, bits int) {
	if prefix.Addr().Is4() {
		return "block_ipv4", p.base4
	}
	return "block_ipv6", p.base6
}

func (p *poolDraft) pool() ipam.Pool {
	pool := ipam.Pool{Name: p.name, Prefixes: values(p.prefixes)}
	ipv4, ipv6 := byFamily(pool.Prefixes)
	if len(ipv4) > 0 {
		pool.BaseIPv4 = p.base4
	}
	if len(ipv6) > 0 {
		pool.BaseIPv6 = p.base6
	}
	return pool
}

var poolName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func parsePool(text string) (string, error) {
	if !poolName.MatchString(text) {
		return "", &problem{fmt.Sprintf("%q is not the name of a pool", text),
			"lower-case letters, digits and inner hyphens, at most 32"}
	}
	return text, nil
}

// setPools comes after fabric is set.
func (d *draft) setPools(l *layers, r *report) {
	before := len(r.errs)
	list := l.list("pools", r, "")
	all, total := len(list) > 0, 0
	for i, v := range list {
		entry, ok := v.(map[string]any)
		if !ok {
			all = false
			continue
		}
		p := poolDraft{path: fmt.Sprintf("pools[%d]", i)}
		setEntry(poolFields, &p, p.path, entry, r)
		n := p.setPrefixes(entry, r)
		all = all && n > 0 && len(p.prefixes) == n
		total += n
		d.pools = append(d.pools, p)
	}
	if total > maxList {
		r.add("pools", fmt.Sprintf("%d prefixes are too many", total), fmt.Sprintf("at most %d", maxList))
		d.pools = nil
	}
	d.poolsKnown = all && len(r.errs) == before
	switch {
	case len(list) > 0 || !r.good("pools"):
	case list != nil:
		r.add("pools", "empty", "remove it for one pool with the prefixes of fabric")
	case d.Source == SourceEtcd:
		d.poolOfFabric(l, r)
	}
}

// setPrefixes returns how many there should be.
func (p *poolDraft) setPrefixes(entry map[string]any, r *report) int {
	at := p.path + ".prefixes"
	values, _ := entry["prefixes"].([]any)
	if len(values) == 0 && r.good(at) {
		r.add(at, "missing", "such as [10.64.0.0/12]")
		if r.lines[at] == 0 {
			r.errs[len(r.errs)-1].Line = r.lines[p.path]
		}
	}
	p.prefixes = elements(at, values, r, parsePrefix)
	return len(values)
}

func (d *draft) poolOfFabric(l *layers, r *report) {
	switch given := l.list("fabric", r, ""); {
	case len(given) == 0 && r.good("fabric"):
		r.add("pools", "missing", "the prefixes that hosts claim blocks in; without pools, those of fabric are")
	case len(d.fabric) > 0:
		d.pools = []poolDraft{{name: ipam.DefaultPool, prefixes: d.fabric, base4: defaultBaseIPv4, base6: defaultBaseIPv6}}
		d.poolsKnown = len(given) == len(d.fabric)
	}
}

// checkPools comes after checkFabric, so that what is said of fabric is not said again.
func (d *draft) checkPools(r *report) {
	names := map[string]string{}
	var seen []located[netip.Prefix]
	for _, p := range d.pools {
		if first := names[p.name]; first != "" && r.good(p.path+".name") {
			r.add(p.path+".name", fmt.Sprintf("%s is also %s", p.name, first), "one pool of each name")
		} else if p.name != "" {
			names[p.name] = p.path
		}
		for _, prefix := range p.prefixes {
			if r.good(prefix.path) {
				d.checkPoolPrefix(&p, prefix, seen, r)
			}
			seen = append(seen, prefix)
		}
	}
	d.checkPoolBudget(r)
}

func (d *draft) checkPoolPrefix(p *poolDraft, prefix located[netip.Prefix], seen []located[netip.Prefix], r *report) {
	low, high := 8, maxBaseIPv4
	if prefix.value.Addr().Is6() {
		low, high = 16, maxBaseIPv6
	}
	if text, hint := unfit(prefix.value, low, high); text != "" {
		r.add(prefix.path, text, p.hint(hint))
		return
	}
	if p.path != "" {
		checkOverlap(prefix, seen, r)
		d.checkInFabric(prefix, r)
	}
	if text := d.foreign(prefix.value); text != "" {
		r.add(prefix.path, text, p.hint("a container would get that address"))
	}
	p.checkBase(prefix, r)
}

func (p *poolDraft) hint(hint string) string {
	if p.path != "" {
		return hint
	}
	return hint + "; set pools to parts of fabric"
}

func (p *poolDraft) checkBase(prefix located[netip.Prefix], r *report) {
	key, base := p.base(prefix.value)
	bits := prefix.value.Bits()
	low, high := max(minBaseIPv6, bits), maxBaseIPv6
	if prefix.value.Addr().Is4() {
		low, high = max(minBaseIPv4, bits), min(maxBaseIPv4, bits+maxBaseBlockBits)
	}
	if p.path != "" && !r.good(p.path+"."+key) {
		return
	}
	hint := p.hint(fmt.Sprintf("%s can be %d to %d here", key, low, high))
	switch {
	case base < low:
		r.add(prefix.path, fmt.Sprintf("%s is smaller than a base block, /%d", prefix.value, base), hint)
	case base > high:
		r.add(prefix.path, fmt.Sprintf("%s has %d base blocks (/%d), more than %d", prefix.value, 1<<(base-bits), base, 1<<maxBaseBlockBits), hint)
	}
}

// checkPoolBudget wants room in the ToR's table for at least one block of each family.
func (d *draft) checkPoolBudget(r *report) {
	if d.Source != SourceEtcd {
		return
	}
	ipv4, ipv6 := d.families()
	for _, f := range []struct {
		key, name string
		has       bool
		budget    int
	}{{"budget.ipv4", "IPv4", ipv4, d.Budget.IPv4}, {"budget.ipv6", "IPv6", ipv6, d.Budget.IPv6}} {
		if f.has && r.good(f.key) && f.budget == 0 {
			r.add(f.key, "0 leaves no prefix for a block of the pools' "+f.name, "1, or at least 2 for this host to grow")
		}
	}
}

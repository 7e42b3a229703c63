package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// Change is a key that two configurations differ in. A list entry that came has an empty Old, one that went an empty New.
type Change struct {
	Key      string // such as log.level, blocks, or peers[10.0.1.0].max_prefixes
	Old, New string // secrets do not show
	// Restart: the value is read when the agent starts, and by no reload.
	Restart bool
}

// restartOnly are the keys, or sections of them, that are read when the agent starts: what they are about is open, locked or
// claimed by then.
var restartOnly = []string{
	"host", "source", "etcd", "pools", "ipam.fsync", "ipam.quarantine", "ipam.reconcile", "state_dir", "run_dir", "api", "docker", "metrics",
	"history.enabled", "history.dir", "history.flush", "history.sync", "log.format", "host_address", "manage_sysctls", "routes.resync", "bgp.inspect",
}

func needsRestart(key string) bool {
	return slices.ContainsFunc(restartOnly, func(r string) bool { return key == r || strings.HasPrefix(key, r+".") })
}

// Changes lists what differs between two configurations of this host, in the order of the schema.
func Changes(before, after *Config) []Change {
	c := &comparison{}
	for _, f := range fields {
		c.values(f.key, f.get(&draft{Config: *before}), f.get(&draft{Config: *after}))
	}
	c.values("bgp.listen", before.BGP.Listen, after.BGP.Listen) // what auto comes to
	comparePeers(c, before.Peers, after.Peers)
	compareLists(c, "blocks", before.Blocks, after.Blocks, Block.describe)
	for i := range c.changes {
		// They come from the source that there is, or are claimed from it.
		c.changes[i].Restart = c.changes[i].Restart || c.changes[i].Key == "blocks" && before.Source != after.Source
	}
	compareLists(c, "reserved", before.Reserved, after.Reserved, text)
	compareLists(c, "fabric", before.Fabric, after.Fabric, netip.Prefix.String)
	compareLists(c, "import", before.Import, after.Import, ImportRule.String)
	compareLists(c, "firewall.open", before.Firewall.Open, after.Firewall.Open, text)
	compareLists(c, "masquerade.except", before.Masquerade.Except, after.Masquerade.Except, netip.Prefix.String)
	compareLists(c, "pools", before.Pools, after.Pools, text)
	compareLists(c, "announce.communities", before.Announce.Communities, after.Announce.Communities, communityText)
	compareLists(c, "announce.large_communities", before.Announce.LargeCommunities, after.Announce.LargeCommunities, text)
	compareLists(c, "bgp.bmp", before.BGP.BMP, after.BGP.BMP, text)
	compareLists(c, "dns.upstreams", before.DNS.Upstreams, after.DNS.Upstreams, netip.AddrPort.String)
	compareLists(c, "dns.listen", before.DNS.Listen, after.DNS.Listen, netip.AddrPort.String)
	compareLists(c, "etcd.endpoints", before.Etcd.Endpoints, after.Etcd.Endpoints, text)
	// The files behind these are read anew each time.
	c.add("etcd.password_file", before.Etcd.Password != after.Etcd.Password, "", "(another password)")
	c.add("etcd", (before.Etcd.TLS == nil) != (after.Etcd.TLS == nil), "", "(TLS turned on or off)")
	return c.changes
}

// Applied is the configuration that runs after a reload of next: this one, for as long as the agent is not restarted, in the
// keys that only a start reads.
func (c *Config) Applied(next *Config) *Config {
	from, to := &draft{Config: *c}, &draft{Config: *next}
	for _, f := range fields {
		if needsRestart(f.key) {
			f.keep(to, from)
		}
	}
	to.Etcd, to.Pools = c.Etcd, c.Pools
	if next.Source != c.Source {
		to.Blocks = c.Blocks
	}
	return &to.Config
}

type comparison struct{ changes []Change }

func (c *comparison) add(key string, differs bool, before, after string) {
	if differs {
		c.changes = append(c.changes, Change{Key: key, Old: before, New: after, Restart: needsRestart(key)})
	}
}

func (c *comparison) values(key string, before, after any) {
	c.add(key, !reflect.DeepEqual(before, after), text(before), text(after))
}

// text is a value as the file would have it, as far as that can be told.
func text[T any](v T) string {
	switch v := any(v).(type) {
	case time.Duration:
		return short(v)
	case netip.Addr:
		if !v.IsValid() {
			return ""
		}
	}
	return fmt.Sprint(v)
}

// compareLists tells elements that came and went. Their order means nothing.
func compareLists[T any](c *comparison, key string, before, after []T, describe func(T) string) {
	was, is := describeAll(before, describe), describeAll(after, describe)
	for _, gone := range was {
		c.add(key, !slices.Contains(is, gone), gone, "")
	}
	for _, come := range is {
		c.add(key, !slices.Contains(was, come), "", come)
	}
}

func communityText(c uint32) string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }

func describeAll[T any](list []T, describe func(T) string) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = describe(v)
	}
	return out
}

func (b Block) describe() string {
	if b.Pool == ipam.DefaultPool {
		return b.Prefix.String()
	}
	return fmt.Sprintf("%s (pool %s)", b.Prefix, b.Pool)
}

func (i ImportRule) String() string {
	if i.MinLength == i.MaxLength && i.MinLength == i.Prefix.Bits() {
		return i.Prefix.String()
	}
	return fmt.Sprintf("%s ge %d le %d", i.Prefix, i.MinLength, i.MaxLength)
}

// comparePeers matches peers by what they are reached at.
func comparePeers(c *comparison, before, after []Peer) {
	find := func(list []Peer, id string) (Peer, bool) {
		i := slices.IndexFunc(list, func(p Peer) bool { return p.ID() == id })
		if i < 0 {
			return Peer{}, false
		}
		return list[i], true
	}
	for _, p := range before {
		if _, ok := find(after, p.ID()); !ok {
			c.add("peers", true, p.describe(), "")
		}
	}
	for _, p := range after {
		old, ok := find(before, p.ID())
		if !ok {
			c.add("peers", true, "", p.describe())
			continue
		}
		key := "peers[" + p.ID() + "]."
		for _, f := range peerFields {
			c.values(key+f.key, f.get(&peerDraft{Peer: old}), f.get(&peerDraft{Peer: p}))
		}
		c.values(key+"bfd.enabled", old.BFD.Enabled, p.BFD.Enabled)
		c.add(key+"password_file", old.Password != p.Password, "", "(another password)")
	}
}

// ID is what a peer is told from others by: its address, or the interface it is found on.
func (p Peer) ID() string {
	if p.Interface != "" {
		return p.Interface
	}
	return p.Address.String()
}

func (p Peer) describe() string {
	if p.ASN == 0 {
		return fmt.Sprintf("%s (%s)", p.ID(), PeerASExternal)
	}
	return fmt.Sprintf("%s (AS%d)", p.ID(), p.ASN)
}

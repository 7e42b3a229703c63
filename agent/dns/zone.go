package dns

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hostfabric/hostfabric/agent"
)

// Zone has the names of this host's endpoints, relative to the host's own name, and what their addresses are called. It is told of them
// on the path of an attach, and asked with every query.
type Zone struct {
	names    *shards[string, *node]         // by name in lower case
	reverse  *shards[netip.Addr, []pointer] // the last one answers
	records  *shards[agent.Key, *record]    // what was published
	resident atomic.Int64                   // records
}

// NewZone makes an empty one.
func NewZone() *Zone {
	return &Zone{names: newShards[string, *node](), reverse: newShards[netip.Addr, []pointer](), records: newShards[agent.Key, *record]()}
}

// node is a name, or one that others end with (an empty non-terminal, RFC 8020). It is guarded by its shard's lock.
type node struct {
	owners int       // endpoints of this name
	below  int       // names that end with this one
	v4, v6 addresses // of all owners; one that two of them have is there twice
}

type addresses struct {
	list []netip.Addr
	turn atomic.Uint32 // who comes first in the next answer
}

// pointer is what an address is called.
type pointer struct {
	key  agent.Key
	name string
}

// record is what was published under a key.
type record struct {
	canonical string   // as it was given, upper case and all
	names     []string // in lower case, each once
	addrs     []netip.Addr
}

func (r *record) equal(o *record) bool {
	return r.canonical == o.canonical && slices.Equal(r.names, o.names) && slices.Equal(r.addrs, o.addrs)
}

// Publish implements agent.Names. What replaces something is there before that goes.
func (z *Zone) Publish(ep agent.Endpoint) {
	next := recordOf(ep)
	var before *record
	z.records.update(ep.Key, func(r *record) (*record, bool) {
		before = r
		return next, true
	})
	if before == nil {
		z.resident.Add(1)
	} else if before.equal(next) {
		return
	}
	z.add(ep.Key, next)
	z.remove(ep.Key, before)
}

// Retract implements agent.Names.
func (z *Zone) Retract(key agent.Key) {
	var before *record
	z.records.update(key, func(r *record) (*record, bool) {
		before = r
		return nil, false
	})
	if before != nil {
		z.resident.Add(-1)
		z.remove(key, before)
	}
}

// Endpoints is how many have names.
func (z *Zone) Endpoints() int { return int(z.resident.Load()) }

func (z *Zone) add(key agent.Key, r *record) {
	for _, name := range r.names {
		for parent := range parents(name) {
			z.change(parent, func(n *node) { n.below++ })
		}
		z.change(name, func(n *node) { n.join(r.addrs) })
	}
	for _, addr := range r.addrs {
		z.reverse.update(addr, func(ps []pointer) ([]pointer, bool) { return append(ps, pointer{key, r.canonical}), true })
	}
}

func (z *Zone) remove(key agent.Key, r *record) {
	if r == nil {
		return
	}
	for _, name := range r.names {
		z.change(name, func(n *node) { n.leave(r.addrs) })
		for parent := range parents(name) {
			z.change(parent, func(n *node) { n.below-- })
		}
	}
	for _, addr := range r.addrs {
		z.reverse.update(addr, func(ps []pointer) ([]pointer, bool) {
			if i := slices.Index(ps, pointer{key, r.canonical}); i >= 0 {
				ps = slices.Delete(ps, i, i+1)
			}
			return ps, len(ps) > 0
		})
	}
}

// change changes the node of a name, which is there as long as anything needs it.
func (z *Zone) change(name string, change func(*node)) {
	z.names.update(name, func(n *node) (*node, bool) {
		if n == nil {
			n = &node{}
		}
		change(n)
		return n, n.owners > 0 || n.below > 0
	})
}

func (n *node) join(addrs []netip.Addr) {
	n.owners++
	for _, a := range addrs {
		of := n.family(a.Is4())
		of.list = append(of.list, a)
	}
}

func (n *node) leave(addrs []netip.Addr) {
	n.owners--
	for _, a := range addrs {
		of := n.family(a.Is4())
		if i := slices.Index(of.list, a); i >= 0 {
			last := len(of.list) - 1
			of.list[i] = of.list[last]
			of.list = of.list[:last]
		}
	}
}

func (n *node) family(v4 bool) *addresses {
	if v4 {
		return &n.v4
	}
	return &n.v6
}

// maxAnswers bounds the addresses in one answer: of a name that more endpoints share, each answer has others.
const maxAnswers = 32

// Addresses appends the addresses of a name, in lower case, to those given: all of them in an order that changes with every call, or
// so many of them. exists tells a name without such an address from one that is not there.
func (z *Zone) Addresses(to []netip.Addr, name string, v4 bool) (addrs []netip.Addr, exists bool) {
	exists = z.names.view(name, func(n *node) {
		of := n.family(v4)
		first := int(of.turn.Add(1))
		for i := range min(len(of.list), maxAnswers) {
			if a := of.list[(first+i)%len(of.list)]; !slices.Contains(to, a) {
				to = append(to, a)
			}
		}
	})
	return to, exists
}

// Name returns what an address is called.
func (z *Zone) Name(addr netip.Addr) (name string, ok bool) {
	ok = z.reverse.view(addr, func(ps []pointer) { name = ps[len(ps)-1].name })
	return name, ok
}

// parents are the names that a name ends with, longest first.
func parents(name string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for {
			i := strings.IndexByte(name, '.')
			if i < 0 {
				return
			}
			name = name[i+1:]
			if !yield(name) {
				return
			}
		}
	}
}

// recordOf says what an endpoint is called: by the name and the aliases it was given, and by its container's ID, whatever else. What it
// has no name for is called by its ID, too.
func recordOf(ep agent.Endpoint) *record {
	id := idName(ep)
	r := &record{canonical: ep.Name, addrs: slices.Clone(ep.Addresses)}
	if r.canonical == "" {
		r.canonical = id
	}
	r.names = make([]string, 0, 2+len(ep.Aliases))
	for _, name := range slices.Concat([]string{r.canonical, id}, ep.Aliases) {
		if name = strings.ToLower(name); name != "" && !slices.Contains(r.names, name) {
			r.names = append(r.names, name)
		}
	}
	return r
}

// shortID is how much Docker shows of its 64 hexadecimal digits; containerd's pods have such IDs as well.
const shortID = 12

// idName is the name that a container's ID makes: the ID if it can be a name, its first 12 characters if it is one of Docker's or of a
// pod. One that is neither, such as "a-", is called by its first address: ip-10-64-0-7.
func idName(ep agent.Endpoint) string {
	id := ep.ContainerID
	switch {
	case len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "":
		return id[:shortID]
	case agent.ValidName(id):
		return id
	case len(ep.Addresses) == 0:
		return ""
	}
	return "ip-" + strings.NewReplacer(".", "-", ":", "-").Replace(ep.Addresses[0].StringExpanded())
}

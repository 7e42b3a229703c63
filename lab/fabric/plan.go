// Package fabric plans, builds and removes labs: racks of hosts with two top-of-rack routers each and a spine, all in
// network namespaces of one machine.
package fabric

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// DefaultDir is where labs keep their state, each in a folder of its name.
const DefaultDir = "/run/hostfabric-lab"

// Shape says how large a fabric to plan. The zero value of a field takes its default.
type Shape struct {
	Name       string   // first part of every namespace's name; default "hf"
	Dir        string   // parent of the lab's state directory; default DefaultDir
	Racks      int      `json:"RackCount"` // default 2
	Hosts      int      // in a rack; default 2
	Containers int      // on a host; default 20
	Tor        tor.Kind // default tor.Embedded
	IPv6       bool     // dual stack: cables, sessions and containers
	Unnumbered bool     // the hosts' cables have no addresses, their sessions are by interface; not with tor.Embedded
	// DefaultOnly has the ToRs tell the hosts the default route and nothing else; not with tor.Embedded, nor with Unnumbered.
	DefaultOnly bool
	Graceful    bool // ToRs of FRR or BIRD restart gracefully themselves, beside helping hosts to; the spine does neither
	BFD         bool // hosts and ToRs watch one another with BFD, 3 x 100 ms; not with tor.Embedded
	// BFDGraceful has ToRs of BIRD take a host that BFD says is dead for one that restarts.
	BFDGraceful bool
	Sandboxes   int  // that every host keeps ready, beside its containers
	Docker      bool // the hosts' agents serve a Docker daemon, which is not the fabric's to start: see Plan.DockerAPI
	Feed        int  // prefixes that the spine announces beside the default route; up to 2^20

	Pools     []string      // of the hosts' blocks beside the default one; with Static only
	Reconcile time.Duration // between an agent's comparisons of its leases with its containers; default the agent's own

	Source      Source        // of the hosts' blocks; default Static
	BlockIPv4   int           // length of the hosts' blocks; default 26 with Etcd, and else what the containers need
	Quarantine  time.Duration // of an address before it is given again; default the agent's own
	ShrinkAfter time.Duration // with Etcd, of a block that a host no longer needs; default the agent's own

	Extra map[string]string // lines at the end of a host's configuration, by the host
}

// Source says where hosts get their blocks from.
type Source string

// The sources a lab's hosts can have.
const (
	Static Source = "static" // the plan, written into each host's configuration
	Etcd   Source = "etcd"   // claimed at run time in an etcd of the lab; the plan does not know them
)

// Sources are all sources, in the order they are offered to a user.
var Sources = []Source{Static, Etcd}

// Plan is a lab on paper: every name, number and cable of it. The same Shape gives the same Plan.
type Plan struct {
	Shape
	Space []netip.Prefix // container space of the whole fabric, one prefix a family
	Spine Router
	Racks []Rack
}

// Rack is two top-of-rack routers and the hosts cabled to both.
type Rack struct {
	Number int
	ToRs   []Router
	Hosts  []Host
}

// Router is a top-of-rack router or the spine.
type Router struct {
	Name     string // "r1t1", "spine"
	NS       netns.NS
	ASN      uint32
	RouterID netip.Addr
	Links    []Link
	Networks []netip.Prefix // originated here
}

// Host is a server that runs an agent.
type Host struct {
	Name       string // "r1h1"
	NS         netns.NS
	ASN        uint32
	RouterID   netip.Addr
	Links      []Link                  // to the rack's routers
	Blocks     []netip.Prefix          // none but with Static
	Pools      map[netip.Prefix]string `json:",omitempty"` // of blocks that are not of the default one
	Containers []Container
}

// Container is a network namespace for the host's agent to attach.
type Container struct {
	Name string // "r1h1-c001", fit for a container ID
	NS   netns.NS
}

// Link is one end of a cable, seen from the node it is listed in.
type Link struct {
	Name     string       // interface name
	Addr     netip.Prefix // a /31
	Addr6    netip.Prefix // a /127; zero without IPv6
	Peer     string       // node at the other end
	PeerLink string
	PeerASN  uint32
	PeerAddr netip.Addr
	Up       bool // towards the spine: the lower node opens the BGP session
	// Unnumbered: the cable has no addresses but the kernel's own, whatever those above are.
	Unnumbered bool
}

var labName = regexp.MustCompile(`^[a-z][a-z0-9]{0,9}$`) // without dashes, no lab's namespaces begin like another's

// NewPlan lays a fabric out.
func NewPlan(s Shape) (Plan, error) {
	s.setDefaults()
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	p := Plan{Shape: s, Space: []netip.Prefix{space4}}
	if s.IPv6 {
		p.Space = append(p.Space, space6)
	}
	l := layout{plan: &p}
	return p, l.run()
}

func (s *Shape) setDefaults() {
	if s.Name == "" {
		s.Name = "hf"
	}
	if s.Dir == "" {
		s.Dir = DefaultDir
	}
	if s.Tor == "" {
		s.Tor = tor.Embedded
	}
	if s.Source == "" {
		s.Source = Static
	}
	for _, v := range []struct {
		field *int
		value int
	}{{&s.Racks, 2}, {&s.Hosts, 2}, {&s.Containers, 20}} {
		if *v.field == 0 {
			*v.field = v.value
		}
	}
	switch {
	case s.BlockIPv4 != 0:
	case s.Source == Etcd:
		s.BlockIPv4 = 32 - minBlockBits
	default:
		s.BlockIPv4 = 32 - blockBits(s.Containers)
	}
}

func (s Shape) validate() error {
	var errs []error
	if !labName.MatchString(s.Name) {
		errs = append(errs, fmt.Errorf("lab name %q: up to 10 lower-case letters and digits, a letter first", s.Name))
	}
	for _, v := range []struct {
		what       string
		value, max int
	}{{"racks", s.Racks, maxRacks}, {"hosts in a rack", s.Hosts, maxHosts}, {"containers on a host", s.Containers, 10000}} {
		if v.value < 1 || v.value > v.max {
			errs = append(errs, fmt.Errorf("%d %s: must be 1 to %d", v.value, v.what, v.max))
		}
	}
	if !slices.Contains(tor.Kinds, s.Tor) {
		errs = append(errs, fmt.Errorf("router %q is not known (one of %v)", s.Tor, tor.Kinds))
	}
	if s.Unnumbered && s.Tor == tor.Embedded {
		errs = append(errs, fmt.Errorf("router %q has no sessions by interface: take frr or bird", s.Tor))
	}
	if s.DefaultOnly && (s.Tor == tor.Embedded || s.Unnumbered) {
		errs = append(errs, fmt.Errorf("routers tell hosts all that they know: for the default route only take frr or bird, and cables with addresses"))
	}
	if !slices.Contains(Sources, s.Source) {
		errs = append(errs, fmt.Errorf("source %q is not known (one of %v)", s.Source, Sources))
	}
	if len(s.Pools) > 0 && s.Source != Static {
		errs = append(errs, fmt.Errorf("pools %v: hosts have such by plan only, not with source %q", s.Pools, s.Source))
	}
	if s.Docker && s.ShrinkAfter != 0 {
		errs = append(errs, errors.New("hosts with Docker keep the blocks that they have: leave ShrinkAfter out"))
	}
	if s.BlockIPv4 < 20 && s.Source == Etcd || s.BlockIPv4 > 30 { // what an agent takes
		errs = append(errs, fmt.Errorf("blocks of length /%d: must be /20 to /30", s.BlockIPv4))
	}
	return errors.Join(errs...)
}

// layout hands out numbers in order.
type layout struct {
	plan  *Plan
	wires int // cables laid so far
	hosts int
}

func (l *layout) run() error {
	p := l.plan
	p.Spine = Router{Name: "spine", NS: p.namespace("spine"), ASN: spineASN, RouterID: routerID(0, 1), Networks: []netip.Prefix{wild4}}
	if p.IPv6 {
		p.Spine.Networks = append(p.Spine.Networks, wild6)
	}
	for i := range p.Feed {
		prefix, err := nth(feed4, 32, i)
		if err != nil {
			return fmt.Errorf("plan lab %s: feed: %w", p.Name, err)
		}
		p.Spine.Networks = append(p.Spine.Networks, prefix)
	}
	for r := 1; r <= p.Shape.Racks; r++ {
		rack, err := l.rack(r)
		if err != nil {
			return fmt.Errorf("plan lab %s: %w", p.Name, err)
		}
		p.Racks = append(p.Racks, rack)
	}
	if n := len(p.SocketPath("r255h200", "speaker/gobgp.sock")); n > maxSocketPath {
		return fmt.Errorf("plan lab %s: directory %s is too long: a unix socket below it would have %d bytes, the kernel takes %d", p.Name, p.Dir, n, maxSocketPath)
	}
	return nil
}

const maxSocketPath = 107 // sun_path, unix(7)

func (l *layout) rack(number int) (Rack, error) {
	rack := Rack{Number: number}
	for t := 1; t <= 2; t++ {
		name := fmt.Sprintf("r%dt%d", number, t)
		tor := Router{Name: name, NS: l.plan.namespace(name), ASN: uint32(firstToRASN + 2*(number-1) + t - 1), RouterID: routerID(number, t)}
		up, down, err := l.cable(end{"spine", "spine", spineASN}, end{name, name, tor.ASN})
		if err != nil {
			return rack, err
		}
		up.Up = true
		tor.Links = append(tor.Links, up)
		l.plan.Spine.Links = append(l.plan.Spine.Links, down)
		rack.ToRs = append(rack.ToRs, tor)
	}
	for h := 1; h <= l.plan.Hosts; h++ {
		host, err := l.host(&rack, h)
		if err != nil {
			return rack, err
		}
		rack.Hosts = append(rack.Hosts, host)
	}
	return rack, nil
}

func (l *layout) host(rack *Rack, number int) (Host, error) {
	name := fmt.Sprintf("r%dh%d", rack.Number, number)
	h := Host{
		Name: name, NS: l.plan.namespace(name),
		ASN:      uint32(firstHostASN + 1000*rack.Number + number),
		RouterID: routerID(rack.Number, firstHostID+number-1),
	}
	for t := range rack.ToRs {
		tor := &rack.ToRs[t]
		up, down, err := l.cable(end{tor.Name, fmt.Sprintf("tor%d", t+1), tor.ASN}, end{name, fmt.Sprintf("h%d", number), h.ASN})
		if err != nil {
			return h, err
		}
		up.Up = true
		up.Unnumbered, down.Unnumbered = l.plan.Unnumbered, l.plan.Unnumbered
		h.Links = append(h.Links, up)
		tor.Links = append(tor.Links, down)
	}
	if l.plan.Source == Static {
		if err := l.blocks(&h); err != nil {
			return h, err
		}
	}
	for c := 1; c <= l.plan.Containers; c++ {
		id := fmt.Sprintf("%s-c%03d", name, c)
		h.Containers = append(h.Containers, Container{Name: id, NS: l.plan.namespace(id)})
	}
	return h, nil
}

// blocks gives a host its share of every space, for every pool. A host never has two that its agent would announce as one.
func (l *layout) blocks(h *Host) error {
	for i, pool := range append([]string{""}, l.plan.Pools...) {
		share := l.hosts + i*(l.plan.Shape.Racks*l.plan.Hosts+1)
		for _, b := range []struct {
			space  netip.Prefix
			length int
		}{{space4, l.plan.BlockIPv4}, {space6, 64}}[:len(l.plan.Space)] {
			block, err := nth(b.space, b.length, share)
			if err != nil {
				return fmt.Errorf("block of %s: %w", h.Name, err)
			}
			h.Blocks = append(h.Blocks, block)
			if pool != "" {
				if h.Pools == nil {
					h.Pools = map[netip.Prefix]string{}
				}
				h.Pools[block] = pool
			}
		}
	}
	l.hosts++
	return nil
}

// end names a cable's end: the node there, and the interface that the OTHER node sees it by.
type end struct {
	node, seenAs string
	asn          uint32
}

// cable numbers a cable, the upper node first, and returns the link that the lower node has and the one that the upper has.
func (l *layout) cable(upper, lower end) (lowerLink, upperLink Link, err error) {
	p4, err := nth(wires4, 31, l.wires)
	if err != nil {
		return Link{}, Link{}, fmt.Errorf("cable %s - %s: %w", upper.node, lower.node, err)
	}
	addr := func(p netip.Prefix) (a, b netip.Prefix) { return p, netip.PrefixFrom(p.Addr().Next(), p.Bits()) }
	up4, low4 := addr(p4)
	upperLink = Link{Name: lower.seenAs, Addr: up4, Peer: lower.node, PeerLink: upper.seenAs, PeerASN: lower.asn, PeerAddr: low4.Addr()}
	lowerLink = Link{Name: upper.seenAs, Addr: low4, Peer: upper.node, PeerLink: lower.seenAs, PeerASN: upper.asn, PeerAddr: up4.Addr()}
	if l.plan.IPv6 {
		p6, err := nth(wires6, 127, l.wires)
		if err != nil {
			return Link{}, Link{}, fmt.Errorf("cable %s - %s: %w", upper.node, lower.node, err)
		}
		upperLink.Addr6, lowerLink.Addr6 = addr(p6)
	}
	l.wires++
	return lowerLink, upperLink, nil
}

func (s Shape) namespace(node string) netns.NS { return netns.NS{Name: s.Name + "-" + node} }

// StateDir is the lab's directory.
func (s Shape) StateDir() string { return filepath.Join(s.Dir, s.Name) }

// NodeDir is the directory of one router or host.
func (s Shape) NodeDir(node string) string { return filepath.Join(s.StateDir(), node) }

// SocketPath is the path of a socket in the run directory of a host's agent.
func (s Shape) SocketPath(host, socket string) string {
	return filepath.Join(s.NodeDir(host), "run", socket)
}

// Routers are the spine and all top-of-rack routers, the spine first.
func (p Plan) Routers() []Router {
	all := []Router{p.Spine}
	for _, r := range p.Racks {
		all = append(all, r.ToRs...)
	}
	return all
}

// AllHosts are the hosts of every rack.
func (p Plan) AllHosts() []Host {
	var all []Host
	for _, r := range p.Racks {
		all = append(all, r.Hosts...)
	}
	return all
}

// Blocks are the planned blocks of every host: with Static, what a router's table should hold for the container space.
func (p Plan) Blocks() []netip.Prefix {
	var all []netip.Prefix
	for _, h := range p.AllHosts() {
		all = append(all, h.Blocks...)
	}
	return all
}

// TorNode is the router in the form that its driver takes.
func (p Plan) TorNode(r Router) tor.Node {
	n := tor.Node{
		Name: r.Name, NS: r.NS, Dir: p.NodeDir(r.Name), ASN: r.ASN, RouterID: r.RouterID,
		Networks: r.Networks, IPv6: p.IPv6, Env: p.mark(),
	}
	if p.Graceful {
		n.Restart = tor.Graceful
		if r.Name == p.Spine.Name {
			n.Restart = tor.Unsupported
		}
	}
	for _, l := range r.Links {
		neighbor := tor.Neighbor{
			Name: l.Peer, Link: l.Name, Address: l.PeerAddr, Local: l.Addr.Addr(), Local6: l.Addr6.Addr(), ASN: l.PeerASN, Passive: !l.Up, Unnumbered: l.Unnumbered,
			DefaultOnly: p.DefaultOnly && !l.Up && r.Name != p.Spine.Name,
		}
		if p.BFD && !l.Up && r.Name != p.Spine.Name {
			neighbor.BFD = &tor.BFD{Interval: 100 * time.Millisecond, Multiplier: 3, Graceful: p.BFDGraceful}
		}
		n.Neighbors = append(n.Neighbors, neighbor)
	}
	return n
}

// mark is in the environment of every process of the lab, and of their children: the last resort to find them by.
func (s Shape) mark() []string { return []string{markEnv + "=" + s.StateDir()} }

const markEnv = "HOSTFABRIC_LAB"

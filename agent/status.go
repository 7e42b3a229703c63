package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/firewall"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Status is the agent's own account of itself.
type Status struct {
	Host            string
	Version         string
	Started         time.Time
	Problems        []string // empty when all is well
	ASN             uint32
	RouterID        netip.Addr
	Speaker         bgp.Status
	BFD             BFDStatus
	DNS             DNSStatus
	Peers           []bgp.PeerStatus
	Endpoints       int
	Leases          int
	Announced       []netip.Prefix
	BudgetIPv4      int // announced prefixes allowed
	BudgetIPv6      int
	RoutesInstalled int
	RoutesFailed    int
	RoutesRefused   int  // learned, and not installed for the host has a route of its own there
	MTU             int  // bytes, of new endpoints
	Announcing      bool // the blocks, as far as it is this host's to say
	Drain           DrainStatus
	Dropped         firewall.Dropped // packets of containers
}

// Block is a block of this host and how it is used.
type Block struct {
	blocks.View
	Announced bool // its cover is, by the speaker
}

// Status gathers the state of every room. A speaker that cannot be asked is a problem in it, not an error.
func (a *Agent) Status(ctx context.Context) Status {
	live := a.opts.Live()
	s := Status{
		Host: a.opts.Host, Version: a.opts.Version, Started: a.started, ASN: live.ASN, RouterID: live.RouterID,
		Speaker: a.speaker.Status(), BFD: a.BFD(), DNS: a.DNS(), Endpoints: len(a.Endpoints()), Leases: len(a.leases.Leases()), MTU: a.opts.MTU(),
		BudgetIPv4: live.Budget.IPv4, BudgetIPv6: live.Budget.IPv6, Drain: a.DrainStatus(),
	}
	if d := s.Drain; d.Stage != Serving {
		s.problem("host is %s since %s: %s (hostfabric undrain)", d.Stage, d.Since.Format(time.RFC3339), d.Reason)
		if d.Err != nil {
			s.problem("%s: %v", d.Stage, d.Err)
		}
	}
	kept := a.blocks.Status()
	s.Announcing = kept.Gate == nil && s.Drain.Stage != Drained
	if kept.Gate != nil {
		s.problem("blocks are not announced: %v", kept.Gate)
	}
	for _, p := range kept.Problems {
		s.problem("%s", p)
	}
	if s.Speaker.Connected {
		s.askSpeaker(ctx, a.speaker)
	} else {
		s.problem("the speaker process is not connected: %v", s.Speaker.Err)
	}
	s.paths(a.opts)
	for _, p := range s.DNS.Problems {
		s.problem("%s", p)
	}
	if f := a.opts.Firewall; f != nil {
		s.confinement(f)
	}
	for _, r := range a.table.Status() {
		switch r.State {
		case routes.Installed:
			s.RoutesInstalled++
		case routes.Failed:
			s.RoutesFailed++
			s.problem("route %s (%s) failed: %v", r.Route.Prefix, r.Owner, r.Err)
		case routes.Refused:
			s.RoutesRefused++
			s.refusedRoute(r)
		}
	}
	if n := a.strayLeases(); n > 0 {
		s.problem("%d leases are outside this host's blocks: nobody announces their addresses", n)
	}
	if err := a.leases.Err(); err != nil {
		s.problem("lease file: %v", err)
	}
	for _, u := range a.leases.InUse() {
		s.problem("%s is in use without a lease, and not handed out: %s", u.Prefix, u.By)
	}
	if damaged := a.leases.Damaged(); len(damaged) > 0 {
		s.problem("%d damaged slots in the lease file", len(damaged))
	}
	return s
}

func (s *Status) confinement(f Firewall) {
	if err := f.Err(); err != nil {
		s.problem("no container is attached: %v", err)
		return
	}
	var err error
	if s.Dropped, err = f.Dropped(); err != nil {
		s.problem("packets that the firewall has dropped: %v", err)
	}
}

// maxProblems keeps a status readable when thousands of routes fail for one reason.
const maxProblems = 20

func (s *Status) problem(format string, args ...any) {
	switch {
	case len(s.Problems) < maxProblems:
		s.Problems = append(s.Problems, fmt.Sprintf(format, args...))
	case len(s.Problems) == maxProblems:
		s.Problems = append(s.Problems, "and more")
	}
}

func (s *Status) askSpeaker(ctx context.Context, speaker Speaker) {
	var err error
	if s.Peers, err = speaker.Peers(ctx); err == nil {
		s.Announced, err = speaker.Announced(ctx)
	}
	if err != nil {
		s.problem("%v", err)
		return
	}
	s.ownSpace()
	s.checkAnnounced()
	for _, p := range s.Peers {
		if p.State != bgp.StateEstablished && p.State != bgp.StateAdminDown {
			s.problem("peer %s (%s) is %s%s", p.Address, asn(p), p.State, because(p.LastDown))
		}
		for _, f := range p.Families {
			if n := f.Unusable + f.Refused.NextHop; n > 0 {
				s.problem("peer %s (%s) sent %d %s prefixes without a usable next hop%s", p.Address, asn(p), n, f.Family, such(p.Refused, f.Family))
			}
		}
	}
}

// checkAnnounced looks whether what the speaker originates reaches anybody: an IPv6 prefix does not cross an IPv4
// session while the uplink has no IPv6 address to be the next hop.
func (s *Status) checkAnnounced() {
	if s.PeersEstablished() == 0 {
		return // each peer is a problem already
	}
	reaches := make(map[bgp.Family]bool)
	for _, p := range s.Peers {
		for _, f := range p.Families {
			reaches[f.Family] = reaches[f.Family] || p.State == bgp.StateEstablished && f.Advertised > 0
		}
	}
	for _, prefix := range s.Announced {
		if !reaches[bgp.FamilyOf(prefix.Addr())] {
			s.problem("block %s is announced to no peer: does the uplink have an address of its family?", prefix)
		}
	}
}

// strayLeases counts leases whose block was taken from the configuration.
func (a *Agent) strayLeases() int {
	n := 0
	for _, l := range a.leases.Leases() {
		if !l.Block.IsValid() {
			n++
		}
	}
	return n
}

// asn is the AS of a peer, or what is known of it before its first session.
func asn(p bgp.PeerStatus) string {
	if p.ASN == 0 {
		return "external"
	}
	return fmt.Sprintf("AS%d", p.ASN)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// PeersEstablished counts the sessions that are up.
func (s Status) PeersEstablished() int {
	n := 0
	for _, p := range s.Peers {
		if p.State == bgp.StateEstablished {
			n++
		}
	}
	return n
}

// Peers are the speaker's neighbors.
func (a *Agent) Peers(ctx context.Context) ([]bgp.PeerStatus, error) {
	peers, err := a.speaker.Peers(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: ask the speaker process for its peers: %w", ErrNotReady, err)
	}
	return peers, nil
}

// Own are the prefixes of this host's blocks.
func (a *Agent) Own() []netip.Prefix {
	own, _ := a.blocks.Own()
	return own
}

// Blocks are this host's blocks with their use. While the speaker is away, none counts as announced.
func (a *Agent) Blocks(ctx context.Context) []Block {
	announced, err := a.speaker.Announced(ctx)
	if err != nil {
		a.log.Debug("announced prefixes unknown", "err", err)
	}
	var out []Block
	for _, b := range a.blocks.Blocks() {
		out = append(out, Block{View: b, Announced: slices.Contains(announced, b.Cover)})
	}
	return out
}

// Siblings tells with what each block would merge, see blocks.Keeper.Siblings.
func (a *Agent) Siblings(ctx context.Context) map[netip.Prefix]ipam.Sibling {
	return a.blocks.Siblings(ctx)
}

// Budget is how many prefixes this host may announce, by family.
func (a *Agent) Budget() blocks.Budget { return a.opts.Live().Budget }

// ReleaseBlocks has claimed blocks given back once their last lease has ended; none means all. See blocks.Keeper.Release.
func (a *Agent) ReleaseBlocks(ctx context.Context, prefixes []netip.Prefix) ([]netip.Prefix, error) {
	if err := a.awaitReady(ctx); err != nil {
		return nil, err
	}
	released, err := a.blocks.Release(ctx, prefixes)
	return released, translate(err)
}

// Claims are the blocks that the hosts of the fabric have claimed in the source of this host's blocks.
func (a *Agent) Claims(ctx context.Context) ([]ipam.Claim, error) {
	if a.opts.Registry == nil {
		return nil, errNoRegistry
	}
	claims, err := a.opts.Registry.Claims(ctx)
	return claims, translate(err)
}

// ReleaseHost deletes the claims of another host, which is gone for good; only those of one installation of it if id is not
// empty.
func (a *Agent) ReleaseHost(ctx context.Context, host, id string) ([]ipam.Claim, error) {
	switch {
	case a.opts.Registry == nil:
		return nil, errNoRegistry
	case host == "":
		return nil, fmt.Errorf("%w: the host whose claims are to be deleted is not named", ErrInvalid)
	case host == a.opts.Host && id == "":
		return nil, fmt.Errorf("%w: %s is this host: release all of its blocks instead, or name another installation by its id", ErrInvalid, host)
	}
	released, err := a.opts.Registry.ReleaseHost(ctx, host, id)
	if err == nil {
		a.log.Warn("claims of another host deleted", "host", host, "id", id, "blocks", len(released))
	}
	return released, translate(err)
}

var errNoRegistry = fmt.Errorf("%w: this host's blocks are static: nothing is claimed", ErrInvalid)

// Lease is an address and what it is doing.
type Lease struct {
	ipam.Lease
	State         string // leased, releasing, quarantined
	HostInterface string // empty while nothing is wired
}

// Leases lists held and quarantined addresses, by address.
func (a *Agent) Leases() []Lease {
	var out []Lease
	for _, l := range a.leases.Leases() {
		key := Key{ContainerID: l.Key.ContainerID, Interface: l.Key.Interface}
		ep, _ := a.Endpoint(key)
		state := "leased"
		if a.isRetiring(key) {
			state = "releasing"
		}
		out = append(out, Lease{Lease: l, State: state, HostInterface: ep.HostInterface})
	}
	for _, q := range a.leases.Quarantined() {
		out = append(out, Lease{Lease: ipam.Lease{Addr: q.Addr, Block: q.Block, Allocated: q.Since}, State: "quarantined"})
	}
	slices.SortFunc(out, func(x, y Lease) int { return x.Addr.Compare(y.Addr) })
	return out
}

// Routes lists the desired routes of the given owners, or of all, and what the kernel made of them.
func (a *Agent) Routes(of ...routes.Owner) []routes.Status { return a.table.Status(of...) }

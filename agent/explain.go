package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/routes"
)

// Verdict is how a link of the chain from an address to the fabric is.
type Verdict string

// The verdicts.
const (
	OK      Verdict = "ok"
	Broken  Verdict = "broken"
	Unknown Verdict = "unknown" // it could not be asked
)

// Step is one link of the chain.
type Step struct {
	Link    string // block, lease, endpoint, kernel, discard, health, announced, peer; session, learned, route
	Verdict Verdict
	Text    string
}

// Explanation says why an address or prefix can be reached, or not.
type Explanation struct {
	Subject string
	Steps   []Step
	Broken  string // the first broken link of the chain; empty when none is known to be
}

func (e *Explanation) add(link string, v Verdict, format string, args ...any) {
	e.group(Step{Link: link, Verdict: v, Text: fmt.Sprintf(format, args...)})
}

// group adds steps of which one is enough.
func (e *Explanation) group(steps ...Step) {
	e.Steps = append(e.Steps, steps...)
	broken := slices.IndexFunc(steps, func(s Step) bool { return s.Verdict == Broken })
	if e.Broken == "" && broken >= 0 && !slices.ContainsFunc(steps, func(s Step) bool { return s.Verdict != Broken }) {
		e.Broken = steps[broken].Link + ": " + steps[broken].Text
	}
}

// Explain follows an address, as a prefix of its full length, or a prefix: for one of this host's, from its lease to each
// peer that has been told of it; for one elsewhere, from what peers announce to what the kernel does with it.
func (a *Agent) Explain(ctx context.Context, subject netip.Prefix) (Explanation, error) {
	if !subject.IsValid() || subject != subject.Masked() || subject.Addr().Is4In6() {
		return Explanation{}, fmt.Errorf("%w: %v is no address or prefix to be explained: bits are set beyond its length", ErrInvalid, subject)
	}
	if err := a.awaitReady(ctx); err != nil {
		return Explanation{}, err
	}
	e := &Explanation{Subject: subject.String()}
	if subject.IsSingleIP() {
		e.Subject = subject.Addr().String()
	}
	for _, b := range a.blocks.Blocks() {
		within := b.Block.Prefix.Bits() <= subject.Bits() && b.Block.Prefix.Contains(subject.Addr())
		if within || b.Cover == subject {
			a.explainOwn(ctx, e, subject, b)
			return *e, nil
		}
	}
	a.explainElsewhere(ctx, e, subject)
	return *e, nil
}

func (a *Agent) explainOwn(ctx context.Context, e *Explanation, subject netip.Prefix, b blocks.View) {
	a.explainBlock(e, b)
	if subject.IsSingleIP() {
		a.explainAddress(ctx, e, subject.Addr(), b.Block)
	}
	a.explainDiscard(e, b.Cover)
	a.explainHealth(e)
	a.explainAnnounced(ctx, e, b.Cover)
}

func (a *Agent) explainBlock(e *Explanation, b blocks.View) {
	what := fmt.Sprintf("%s of pool %s is %s", b.Block.Prefix, b.Block.Pool, b.State)
	switch {
	case b.State == "lost":
		e.add("block", Broken, "%s: another host has claimed it", what)
	case !b.Cover.IsValid():
		e.add("block", Broken, "%s: %s", what, a.problemWith(b.Block.Prefix, "it is not announced in this state"))
	default:
		e.add("block", OK, "%s, its cover is %s", what, b.Cover)
	}
}

// problemWith is what the keeper of the blocks says of a prefix, or else the other text.
func (a *Agent) problemWith(p netip.Prefix, otherwise string) string {
	for _, problem := range a.blocks.Status().Problems {
		if strings.Contains(problem, p.String()) {
			return problem
		}
	}
	return otherwise
}

func (a *Agent) explainAddress(ctx context.Context, e *Explanation, addr netip.Addr, block ipam.Block) {
	if _, host := a.blocks.Own(); slices.Contains(host, addr) {
		e.add("lease", OK, "it is the host's own")
		a.explainKernel(ctx, e, addr, "")
		return
	}
	for _, l := range a.leases.Leases() {
		if l.Addr != addr {
			continue
		}
		key := Key{ContainerID: l.Key.ContainerID, Interface: l.Key.Interface}
		e.add("lease", OK, "%s has it since %s", key, l.Allocated.Format(time.RFC3339))
		if link := a.explainEndpoint(ctx, e, key); link != "" {
			a.explainKernel(ctx, e, addr, link)
		}
		return
	}
	for _, q := range a.leases.Quarantined() {
		if q.Addr == addr {
			e.add("lease", Broken, "no container has it: it was freed at %s and rests before it is given again", q.Since.Format(time.RFC3339))
			return
		}
	}
	for _, u := range a.leases.InUse() {
		if u.Prefix.Contains(addr) {
			e.add("lease", Broken, "no container has leased it, and it is in use: %s", u.By)
			return
		}
	}
	for _, r := range block.Reserved {
		if r.First.Compare(addr) <= 0 && addr.Compare(r.Last) <= 0 {
			e.add("lease", Broken, "it is reserved: no container gets it")
			return
		}
	}
	e.add("lease", Broken, "it is free: no container has it")
}

// explainEndpoint returns the host link that leads to the container, if there should be one.
func (a *Agent) explainEndpoint(ctx context.Context, e *Explanation, key Key) (link string) {
	ep, ok := a.Endpoint(key)
	switch {
	case !ok && a.isRetiring(key):
		e.add("endpoint", Broken, "it is being detached: its link is on its way out")
		return ""
	case !ok:
		e.add("endpoint", Broken, "it is leased, but nothing is wired: an attach is under way, or the link died with its container")
		return ""
	}
	if err := a.wirer.LinkUp(ctx, ep.HostInterface); err != nil {
		e.add("endpoint", Broken, "%v", err)
	} else {
		e.add("endpoint", OK, "link %s is up", ep.HostInterface)
	}
	return ep.HostInterface
}

// explainKernel wants the kernel to send packets for an address to a link, or to have it itself where there is none.
func (a *Agent) explainKernel(ctx context.Context, e *Explanation, addr netip.Addr, link string) {
	found, err := a.wirer.Lookup(ctx, addr)
	if err != nil {
		e.add("kernel", Unknown, "%v", err)
		return
	}
	right := found.Kind == "unicast" && found.Prefix.IsSingleIP() && len(found.Hops) == 1 && found.Hops[0].Link == link
	if link == "" {
		right = found.Kind == "local"
	}
	if right {
		e.add("kernel", OK, "a lookup finds %s", found)
		return
	}
	want := "its own address"
	if link != "" {
		want = "a route to link " + link
	}
	why := ""
	for _, s := range a.table.Status(routes.Endpoints) {
		if s.Route.Prefix.Addr() == addr && s.State != routes.Installed {
			why = fmt.Sprintf("; the route is %s: %v", s.State, s.Err)
		}
	}
	e.add("kernel", Broken, "a lookup finds %s, not %s%s", found, want, why)
}

func (a *Agent) explainDiscard(e *Explanation, cover netip.Prefix) {
	if !cover.IsValid() {
		return
	}
	for _, s := range a.table.Status(routes.Blocks) {
		switch {
		case s.Route.Prefix != cover:
		case s.State == routes.Installed:
			e.add("discard", OK, "what nobody has of %s is discarded", cover)
			return
		default:
			e.add("discard", Broken, "the discard route of %s is %s: %v", cover, s.State, s.Err)
			return
		}
	}
	e.add("discard", Broken, "there is no discard route of %s yet", cover)
}

func (a *Agent) explainHealth(e *Explanation) {
	d := a.DrainStatus()
	switch gate := a.blocks.Status().Gate; {
	case d.Stage == Drained:
		e.add("health", Broken, "the host is drained since %s: %s (hostfabric undrain)", d.Since.Format(time.RFC3339), d.Reason)
	case gate != nil:
		e.add("health", Broken, "%v", gate)
	case d.Stage != Serving:
		e.add("health", OK, "the host is %s: %s", d.Stage, d.Reason)
	default:
		e.add("health", OK, "blocks may be announced")
	}
}

func (a *Agent) explainAnnounced(ctx context.Context, e *Explanation, cover netip.Prefix) {
	if !cover.IsValid() {
		return
	}
	announced, err := a.speaker.Announced(ctx)
	switch {
	case err != nil:
		e.add("announced", Unknown, "%v", err)
		return
	case !slices.Contains(announced, cover) && (a.blocks.Status().Gate != nil || a.DrainStatus().Stage == Drained):
		e.add("announced", Broken, "the speaker does not announce %s, for that reason", cover)
		return
	case !slices.Contains(announced, cover):
		e.add("announced", Broken, "the speaker does not announce %s: %s", cover, a.problemWith(cover, "it follows in a moment, or see hostfabric status"))
		return
	}
	e.add("announced", OK, "the speaker announces %s", cover)
	peers, err := a.speaker.Peers(ctx)
	if err != nil {
		e.add("peer", Unknown, "%v", err)
		return
	}
	sent, err := a.speaker.Sent(ctx, cover)
	if len(peers) == 0 {
		e.add("peer", Broken, "no peer is configured")
	}
	steps := make([]Step, len(peers))
	for i, p := range peers {
		steps[i] = explainPeer(p, cover, sent, err)
	}
	e.group(steps...)
}

// explainPeer says whether a peer was told of a cover.
func explainPeer(p bgp.PeerStatus, cover netip.Prefix, sent []bgp.SentRoute, sentErr error) Step {
	name := peerName(p)
	i := slices.IndexFunc(sent, func(s bgp.SentRoute) bool { return s.Peer.WithZone("") == p.Address.WithZone("") })
	switch {
	case p.State != bgp.StateEstablished:
		return Step{"peer", Broken, fmt.Sprintf("%s: the session is %s%s", name, p.State, because(p.LastDown))}
	case sentErr != nil:
		return Step{"peer", Unknown, fmt.Sprintf("%s: %v", name, sentErr)}
	case i < 0 && cover.Addr().Is6() && p.Address.Is4():
		return Step{"peer", Broken, fmt.Sprintf("%s: it is not told of %s: the uplink to it has no IPv6 address to be the next hop", name, cover)}
	case i < 0:
		return Step{"peer", Broken, fmt.Sprintf("%s: it is not told of %s: the export policy does not let it out", name, cover)}
	}
	text := fmt.Sprintf("%s: it is told of %s", name, cover)
	for _, c := range sent[i].Communities {
		text += " " + communityName(c)
	}
	return Step{"peer", OK, text}
}

func peerName(p bgp.PeerStatus) string {
	if p.Description == "" || p.Description == p.Address.String() {
		return fmt.Sprintf("%s (%s)", p.Address, asn(p))
	}
	return fmt.Sprintf("%s (%s, %s)", p.Description, p.Address, asn(p))
}

func communityName(c uint32) string {
	switch c {
	case bgp.GracefulShutdown:
		return "GRACEFUL_SHUTDOWN"
	case bgp.NoAdvertise:
		return "NO_ADVERTISE"
	}
	return fmt.Sprintf("%d:%d", c>>16, c&0xffff)
}

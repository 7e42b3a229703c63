package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/routes"
)

// explainElsewhere follows what peers announce of an address or prefix to what the kernel does with it.
func (a *Agent) explainElsewhere(ctx context.Context, e *Explanation, subject netip.Prefix) {
	addr := within(subject)
	found, lookupErr := a.wirer.Lookup(ctx, addr)
	own := lookupErr == nil && !found.Ours && leadsOn(found) // the host has a way of its own, without BGP
	learned, steps := a.explainLearned(ctx, subject)
	if !own {
		a.explainSessions(ctx, e)
	} else if learned == nil {
		steps = append(steps, Step{"learned", OK, "the host needs none: it has a way of its own"})
	}
	e.group(steps...)
	if learned != nil {
		a.explainRoute(e, learned.Prefix)
	}
	switch {
	case lookupErr != nil:
		e.add("kernel", Unknown, "%v", lookupErr)
	case !leadsOn(found):
		e.add("kernel", Broken, "a lookup of %s finds %s", addr, nothingBut(found))
	case learned != nil && found.Prefix != learned.Prefix:
		e.add("kernel", OK, "a lookup of %s finds another route of the host, which wins: %s", addr, found)
	default:
		e.add("kernel", OK, "a lookup of %s finds %s", addr, found)
	}
}

// Examples of an address that only a default route leads to: of documentation (RFC 5737, RFC 3849), for 0.0.0.0 and :: are none.
var (
	anywhere4 = netip.AddrFrom4([4]byte{203, 0, 113, 1})
	anywhere6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
)

// within is an address of a prefix that the kernel can be asked about.
func within(p netip.Prefix) netip.Addr {
	switch {
	case p.Bits() > 0:
		return p.Addr()
	case p.Addr().Is4():
		return anywhere4
	}
	return anywhere6
}

// leadsOn says that packets go somewhere.
func leadsOn(f endpoint.Found) bool { return f.Kind == "unicast" || f.Kind == "local" }

func nothingBut(f endpoint.Found) string {
	if f.Kind == "none" {
		return "no route"
	}
	return f.String() + ", which drops its packets"
}

// explainSessions wants one session.
func (a *Agent) explainSessions(ctx context.Context, e *Explanation) {
	peers, err := a.speaker.Peers(ctx)
	if err != nil {
		e.add("session", Unknown, "%v", err)
		return
	}
	if d := a.DrainStatus(); d.Stage == Drained {
		e.add("session", Broken, "the host is drained: %s (hostfabric undrain)", d.Reason)
		return
	}
	if len(peers) == 0 {
		e.add("session", Broken, "no peer is configured")
	}
	steps := make([]Step, len(peers))
	for i, p := range peers {
		steps[i] = Step{"session", OK, peerName(p) + " is " + p.State}
		if p.State != bgp.StateEstablished {
			steps[i].Verdict = Broken
			steps[i].Text += because(p.LastDown)
		}
	}
	e.group(steps...)
}

// explainLearned returns the longest route that peers announce and that is accepted, nil if there is none, and what there is
// to tell: who announces that, and what is refused that would be as good or better.
func (a *Agent) explainLearned(ctx context.Context, subject netip.Prefix) (best *bgp.ReceivedRoute, steps []Step) {
	received, err := a.speaker.Received(ctx, subject)
	if err != nil {
		return nil, []Step{{"learned", Unknown, err.Error()}}
	}
	if i := slices.IndexFunc(received, func(r bgp.ReceivedRoute) bool { return r.Refusal == "" }); i >= 0 {
		best = &received[i]
	}
	for _, r := range received {
		text := fmt.Sprintf("%s from %s", r.Prefix, r.Peer)
		switch {
		case best != nil && r.Prefix.Bits() < best.Prefix.Bits():
		case r.Refusal != "":
			steps = append(steps, Step{"learned", Broken, text + " is refused: " + r.Refusal})
		default:
			steps = append(steps, Step{"learned", OK, text + " is accepted, next hop " + r.NextHop.String()})
		}
	}
	if len(steps) == 0 {
		steps = []Step{{"learned", Broken, "no peer announces a route to it"}}
	}
	return best, steps
}

// explainRoute says what became of a learned route on its way to the kernel.
func (a *Agent) explainRoute(e *Explanation, learned netip.Prefix) {
	for _, s := range a.table.Status(routes.Fabric) {
		if s.Route.Prefix != learned {
			continue
		}
		hops := make([]string, len(s.Route.NextHops))
		for i, h := range s.Route.NextHops {
			hops[i] = h.String()
		}
		if s.State == routes.Installed {
			e.add("route", OK, "%s is in the kernel, %s", learned, strings.Join(hops, ", "))
		} else {
			e.add("route", Broken, "%s, %s is %s: %v", learned, strings.Join(hops, ", "), s.State, s.Err)
		}
		return
	}
	e.add("route", Broken, "%s is not wanted in the kernel: it has just come, or gives way to a route of the host", learned)
}

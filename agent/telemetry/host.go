package telemetry

import (
	"math/big"
	"net/netip"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/blocks"
	"github.com/hostfabric/hostfabric/agent/sandbox"
)

var (
	buildFamily    = gauge("build_info", "1, with the version of the agent, and of the speaker and the BFD process where they are connected.", "component", "version")
	readyFamily    = gauge("ready", "1 while containers can be attached, as /readyz says.")
	problemsFamily = gauge("problems", "Things that are wrong; hostfabric status tells them.")
	drainedFamily  = gauge("drained", "1 while the host is drained, or on the way there or back.")

	endpointsFamily  = gauge("endpoints", "Attached container interfaces by the front-end that they came by.", "front_end")
	leasesFamily     = gauge("leases", "Addresses that containers and reservations have.")
	operationsFamily = counter("operations_total", "Attaches and detaches by front-end and result; repeated: there was nothing to do. The front-end of a detach of what was not attached is none.", "verb", "front_end", "result")
	attachFamily     = histogram("attach_duration_seconds", "How long attaches took, for the caller.", "front_end", "result")
	detachFamily     = histogram("detach_duration_seconds", "How long detaches took, for the caller: until nothing reaches the container any more.", "front_end", "result")
	reconcileFamily  = gauge("reconcile_seconds", "That the last comparison of all leases with the links took; 0 before the first.")

	addressesFamily = gauge("pool_addresses", "Addresses of this host's blocks by what they are: leased, quarantined (released, and at rest), free, reserved, in_use (by something else) or withheld (of a block that drains).", "pool", "family", "state")
	blocksFamily    = gauge("pool_blocks", "Blocks of this host: opening, open, draining (not needed), released (draining for good), leaving or lost (another host's).", "pool", "family", "state")

	sandboxesFamily = gauge("sandboxes", "Sandboxes by state.", "state")
	acquiredFamily  = counter("sandbox_acquisitions_total", "Sandboxes that were asked for: ready ones (warm), made on the spot (cold), refused (error).", "result")

	confinedFamily = gauge("firewall_up", "1 while containers are confined to their own addresses, or are not to be.")
	spoofedFamily  = counter("spoofed_packets_total", "Packets dropped because their source was not an address of the container that sent them.", "family")
	closedFamily   = counter("closed_port_packets_total", "Packets of containers to ports of the agent, dropped.")
)

func (e emitter) host(s *agent.Status) {
	e.set(buildFamily, 1, "agent", s.Version)
	if s.Speaker.Connected {
		e.set(buildFamily, 1, "speaker", s.Speaker.Version)
	}
	if s.BFD.Connected {
		e.set(buildFamily, 1, "bfd", s.BFD.Version)
	}
	e.set(problemsFamily, float64(len(s.Problems)))
	e.is(drainedFamily, s.Drain.Stage != agent.Serving)
	e.set(leasesFamily, float64(s.Leases))
	e.is(confinedFamily, s.Confined)
	e.set(spoofedFamily, float64(s.Dropped.SpoofedIPv4), "ipv4")
	e.set(spoofedFamily, float64(s.Dropped.SpoofedIPv6), "ipv6")
	e.set(closedFamily, float64(s.Dropped.Closed))
}

// frontEnd names one for a label.
func frontEnd(name string) string {
	if name == "" {
		return "none"
	}
	return name
}

var latencyBounds = func() []float64 {
	bounds := make([]float64, len(agent.LatencyBounds))
	for i, b := range agent.LatencyBounds {
		bounds[i] = b.Seconds()
	}
	return bounds
}()

func (e emitter) containers(a Agent) {
	for name, n := range a.CountEndpoints() {
		e.set(endpointsFamily, float64(n), frontEnd(name))
	}
	n := a.Counters()
	e.verbs("attach", attachFamily, n.Attach)
	e.verbs("detach", detachFamily, n.Detach)
	e.set(reconcileFamily, n.Reconcile.Seconds())
}

// verbs gives the counts of all that can be, and how long it took of what there was: most hosts have one front-end.
func (e emitter) verbs(verb string, latency *Family, all []agent.Verbs) {
	for _, v := range all {
		e.set(operationsFamily, float64(v.Latency.Count()), verb, frontEnd(v.FrontEnd), v.Result)
		if v.Latency.Count() > 0 {
			e.observed(latency, latencyBounds, v.Latency.Counts[:], v.Latency.Sum.Seconds(), frontEnd(v.FrontEnd), v.Result)
		}
	}
}

func familyOf(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// section is a pool of one family.
type section struct{ pool, family string }

// Names of the states that blocks and addresses are in.
var (
	blockStates   = []string{"opening", "open", "draining", "released", "leaving", "lost"}
	addressStates = []string{"leased", "quarantined", "free", "reserved", "in_use", "withheld"}
)

// pools sums the blocks up by pool and family, of which there are few, while blocks come and go.
func (e emitter) pools(all []blocks.View) {
	addresses, counts := make(map[section]map[string]float64), make(map[section]map[string]float64)
	for _, b := range all {
		s := section{b.Block.Pool, familyOf(b.Block.Prefix)}
		if counts[s] == nil {
			counts[s], addresses[s] = make(map[string]float64), make(map[string]float64)
		}
		counts[s][b.State]++
		a := addresses[s]
		a["leased"] += float64(b.Leased)
		a["quarantined"] += float64(b.Quarantined)
		a["free"] += float(b.Free)
		a["reserved"] += float(b.Reserved)
		a["in_use"] += float(b.InUse)
		a["withheld"] += float(b.Withheld)
	}
	for s := range counts {
		for _, state := range blockStates {
			e.set(blocksFamily, counts[s][state], s.pool, s.family, state)
		}
		for _, state := range addressStates {
			e.set(addressesFamily, addresses[s][state], s.pool, s.family, state)
		}
	}
}

func float(n *big.Int) float64 {
	if n == nil {
		return 0
	}
	f, _ := n.Float64()
	return f
}

func (e emitter) sandboxes(s sandbox.Status) {
	e.set(sandboxesFamily, float64(s.Ready), "ready")
	e.set(sandboxesFamily, float64(s.Acquired), "acquired")
	e.set(acquiredFamily, float64(s.Warm), "warm")
	e.set(acquiredFamily, float64(s.Cold), "cold")
	e.set(acquiredFamily, float64(s.Failed), "error")
}

func seconds(bounds []time.Duration) []float64 {
	out := make([]float64, len(bounds))
	for i, b := range bounds {
		out[i] = b.Seconds()
	}
	return out
}

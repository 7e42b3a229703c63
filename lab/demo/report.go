package demo

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Report is what a demo saw, in the form of its --json output.
type Report struct {
	Racks             int    `json:"racks"`
	Hosts             int    `json:"hosts"` // in all racks together
	Tor               string `json:"tor"`
	Containers        int    `json:"containers"`
	ContainersPerHost int    `json:"containers_per_host"`

	TorPrefixes          int              `json:"tor_prefixes"`        // in the container space, of the ToR with the most
	TorKernelPrefixes    int              `json:"tor_kernel_prefixes"` // the same in the kernel of a ToR's namespace
	PerContainerPrefixes int              `json:"per_container_prefixes"`
	Tables               map[string]Table `json:"tables"` // by ToR

	PingsSent   int     `json:"pings_sent"`
	PingsLost   int     `json:"pings_lost"`
	PingMedian  float64 `json:"ping_median_ms"`
	PingSeconds float64 `json:"ping_seconds"`

	Life *Life `json:"life"` // nil: there was no container to ask from

	Cycles       int     `json:"cycles"`
	CycleSeconds float64 `json:"cycle_seconds"`
	Updates      uint64  `json:"bgp_updates_during_cycles"` // received by all ToRs together

	KilledToRs        []string `json:"killed_tors"`
	FailoverSent      uint64   `json:"failover_packets_sent"`
	FailoverLost      uint64   `json:"failover_packets_lost"`
	FailoverMS        float64  `json:"failover_ms"` // longest run of lost packets in any flow
	FailoverFlows     int      `json:"failover_flows"`
	FailoverRate      int      `json:"failover_packets_per_second"` // of each flow
	AfterFailoverSent int      `json:"pings_after_failover_sent"`
	AfterFailoverLost int      `json:"pings_after_failover_lost"`

	UpSeconds float64  `json:"up_seconds"`
	Seconds   float64  `json:"seconds"`
	Failures  []string `json:"failures"` // what is not as it should be
	OK        bool     `json:"ok"`
}

// Table is a router's table for the container space.
type Table struct {
	RIB    []netip.Prefix `json:"rib"`    // the routing daemon's own
	Kernel []netip.Prefix `json:"kernel"` // of the router's namespace
}

// failoverBound is what a ToR's death may cost: its links go dark, so nobody waits for a timer.
const failoverBound = time.Second

// Judge fills Failures and OK.
func (r *Report) Judge() {
	fail := func(wrong bool, format string, args ...any) {
		if wrong {
			r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
		}
	}
	r.Failures = []string{}
	fail(r.TorPrefixes != r.Hosts, "a ToR holds %d prefixes in the container space, expected one a host: %d", r.TorPrefixes, r.Hosts)
	fail(r.TorKernelPrefixes != r.Hosts, "a ToR's kernel holds %d prefixes in the container space, expected one a host: %d", r.TorKernelPrefixes, r.Hosts)
	fail(r.PingsSent == 0 && r.Hosts > 1, "no container pinged another host's")
	fail(r.PingsLost > 0, "%d of %d pings were lost", r.PingsLost, r.PingsSent)
	fail(r.Life == nil && r.Containers > 0, "no container's name was asked for")
	if r.Life != nil {
		wrong := r.Life.wrong()
		fail(wrong != "", "%s", wrong)
	}
	fail(r.Updates > 0, "%d BGP UPDATEs reached the ToRs during %d attach/detach cycles", r.Updates, r.Cycles)
	fail(r.FailoverSent == 0 && r.Hosts > 1, "no traffic crossed the fabric while a ToR of each rack was killed")
	bound := float64(failoverBound.Milliseconds())
	fail(r.FailoverMS > bound, "traffic was silent for %.0f ms when a ToR of each rack was killed, more than %.0f", r.FailoverMS, bound)
	fail(r.AfterFailoverLost > 0, "%d of %d pings were lost after a ToR of each rack was killed", r.AfterFailoverLost, r.AfterFailoverSent)
	r.OK = len(r.Failures) == 0
}

// Print writes the report for people.
func (r *Report) Print(w io.Writer) {
	title := func(s string) { fmt.Fprintf(w, "\n%s\n%s\n", s, strings.Repeat("-", len(s))) }
	line := func(label, format string, args ...any) {
		fmt.Fprintf(w, "  %-44s %s\n", label, fmt.Sprintf(format, args...))
	}

	fmt.Fprintf(w, "\nHostfabric demo: %d racks, %d hosts, %d containers, %s ToRs\n", r.Racks, r.Hosts, r.Containers, r.Tor)

	title("ToR tables: prefixes in the container space")
	line("a route for every container would be", "%d", r.PerContainerPrefixes)
	line("the ToR's BGP table holds", "%d", r.TorPrefixes)
	line("the kernel of the ToR's namespace holds", "%d", r.TorKernelPrefixes)
	for _, name := range sortedKeys(r.Tables) {
		line(name, "%s", joinPrefixes(r.Tables[name].RIB))
	}

	title("Any container to any container on another host")
	line("pings sent", "%d", r.PingsSent)
	line("pings lost", "%d", r.PingsLost)
	line("round trip, median", "%.2f ms", r.PingMedian)

	if l := r.Life; l != nil {
		title("A container that lives for a moment: its name, and who it was")
		line("asked from "+l.AskedFrom+", while it lives", "%s: %s in %.2f ms", l.Name, l.Alive, l.AskMS)
		line("right after its detach", "%s", l.Afterward)
		line("hostfabric history "+l.Address+" --at THEN", "%s", l.Ledger)
	}

	title("Containers coming and going")
	line("attach/detach cycles", "%d in %.1f s", r.Cycles, r.CycleSeconds)
	line("BGP UPDATEs the ToRs received meanwhile", "%d", r.Updates)

	title("One ToR of each rack killed under traffic")
	line("killed", "%s", strings.Join(r.KilledToRs, ", "))
	line("packets sent", "%d (%d flows at %d/s)", r.FailoverSent, r.FailoverFlows, r.FailoverRate)
	line("packets lost", "%d", r.FailoverLost)
	line("time to recover", "%.0f ms", r.FailoverMS)
	line("pings afterwards, lost", "%d, %d", r.AfterFailoverSent, r.AfterFailoverLost)

	if r.OK {
		fmt.Fprintf(w, "\nOK: all as it should be, in %.1f s\n", r.Seconds)
		return
	}
	fmt.Fprintf(w, "\nNOT OK, after %.1f s:\n", r.Seconds)
	for _, f := range r.Failures {
		fmt.Fprintf(w, "  - %s\n", f)
	}
}

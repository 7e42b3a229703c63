// Package probe measures what a fabric carries, with sockets opened inside the namespaces of its containers: echo requests
// between many endpoints, and numbered UDP streams that show what a failure costs.
package probe

import (
	"net/netip"
	"time"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// Endpoint is an address inside a namespace.
type Endpoint struct {
	Name string
	NS   netns.NS
	Addr netip.Addr
}

// Pair is traffic from one endpoint to another of the same family.
type Pair struct {
	From, To Endpoint
}

// PingOptions tune Ping.
type PingOptions struct {
	Timeout time.Duration // after the last request, for the last replies; default 2 s
	Rate    int           // requests a second of all endpoints together; default 5000
}

// PingReport is what came of a Ping.
type PingReport struct {
	Sent, Lost int
	Failed     []Pair // those without a reply, in the order given
	Refused    error  // why the first request that was not sent was not; nil: all were
	Median     time.Duration
	P99        time.Duration
	Took       time.Duration
}

// StreamOptions tune StartStream.
type StreamOptions struct {
	Rate int // packets a second in each pair; default 1000
	Size int // bytes of payload; default 64, at least 16
}

// StreamReport is what became of one pair's packets.
type StreamReport struct {
	Pair       Pair
	Sent, Lost uint64
	Duplicates uint64
	// Outage is the longest time during which everything sent was lost, by the sender's clock: what the network did. It is 0
	// without loss, however busy the machine.
	Outage time.Duration
	// LongestGap is the longest time between two arrivals: what the receiver saw. On a busy machine it holds waits for a
	// processor too.
	LongestGap time.Duration
	GapAt      time.Time // when that gap began
}

// Package bgp is the agent's side of the speaker process: it holds the desired BGP state (configuration, policy and
// announced prefixes), makes the speaker follow it over a private unix socket, and delivers what the fabric announces.
// No type of the BGP library appears in its API.
package bgp

import (
	"net/netip"
	"time"
)

// Family is an address family a session carries; only unicast is spoken.
type Family uint8

// The two families of a fabric.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// What a zero field of Peer and GracefulRestart stands for.
const (
	DefaultHoldTime        = 9 * time.Second
	DefaultKeepalive       = 3 * time.Second
	DefaultConnectRetry    = time.Second
	DefaultRestartTime     = 120 * time.Second
	DefaultDeferral        = 8 * time.Second
	DefaultMultipath       = 16
	DefaultMaxPrefixes     = 10_000
	DefaultListenPort      = 179
	DefaultInitialDeadline = 10 * time.Second
)

// Config is the whole desired configuration of the speaker. Announcements are apart: they change more often.
type Config struct {
	ASN             uint32
	RouterID        netip.Addr // IPv4
	Listen          bool       // accept sessions; a host that only dials does not
	ListenPort      int        // 0: 179
	ListenAddresses []netip.Addr
	Peers           []Peer
	Policy          Policy
	GracefulRestart GracefulRestart
	Multipath       int // legs of an ECMP route: 0 means DefaultMultipath, 1 none
	Stations        []Station
	Dump            Dump
	// Shutdown is not empty while all peers are to be administratively down: it is the communication (RFC 9003) that goes
	// to them with the Cease, at most MaxCommunication bytes of UTF-8.
	Shutdown string
	Leave    Leave
}

// Leave is how far the host's routes are on their way out of the fabric, with HostPolicy. Each step is given time to spread
// before the next, up to LeaveAll, or down again to Stay.
//
// Why steps: a router that honours GRACEFUL_SHUTDOWN (RFC 8326) takes any other way, and where routers above both ToRs
// hand back what the one ToR has told them to the other, there is one: over these and the other ToR. If both ToRs
// hear the community at once, packets circle until the routers above know it too (50 ms of loss with FRR). So
// first the routers above are brought to use one ToR alone, by a longer AS path at the others.
type Leave uint8

// The steps.
const (
	Stay        Leave = iota
	LeaveLonger       // peers but the first hear of our routes with one AS number more in the path
	LeaveOthers       // and with GRACEFUL_SHUTDOWN
	LeaveAll          // so does the first
)

// Peer is a BGP neighbor.
type Peer struct {
	Address netip.Addr // link-local ones carry the interface as zone
	// Pending says why Address is not known yet, of a peer that is to be found on a link: the speaker does not get it, Peers lists
	// it with this reason. Address names the link then, as fe80::%eth0.
	Pending      string
	ASN          uint32 // 0: external, any but ours
	LocalAS      uint32 // ours towards this peer; 0: Config.ASN. It replaces that one in the AS path
	Description  string
	Password     string // TCP MD5 (RFC 2385); empty: none
	TTLSecurity  bool   // GTSM (RFC 5082): the peer is one hop away
	MultihopTTL  uint8  // eBGP over several hops; 0: directly connected
	Passive      bool   // wait for the peer to connect; needs Config.Listen
	Port         int    // of the peer; 0: 179
	HoldTime     time.Duration
	Keepalive    time.Duration
	ConnectRetry time.Duration // between attempts to connect; 0: 1 s
	MaxPrefixes  uint32        // a family; the session is shut when the peer announces more. 0: DefaultMaxPrefixes
	// MaxPrefixesRestart is when a session that was shut for its prefixes is started again. Each time that it is shut again
	// soon after doubles the wait, up to an hour (or this, if longer). 0: it stays shut until Enable.
	MaxPrefixesRestart time.Duration
	Communities        Communities
	Families           []Family // empty: both
	LocalAddress       netip.Addr
	Interface          string // bind the session's socket to this device
	// NextHop6 is announced as next hop of IPv6 prefixes on an IPv4 session, which has none of its own. Without it no
	// IPv6 prefix is announced there, except those whose Announcement names a next hop.
	NextHop6 netip.Addr
	// Subnets are the networks of the session's link, each as the address we have in it. The peer may name next hops in
	// them, but for our own addresses, besides itself and what is link-local; its routes with others are left out. Empty:
	// whatever it names is taken.
	Subnets []netip.Prefix
}

// Communities says which communities of an announcement a peer gets. The well-known ones (65535:x, RFC 1997), which tell
// it what to do with the route, are always sent.
type Communities string

// What can be sent. The zero value is all.
const (
	AllCommunities      Communities = "all"
	NoCommunities       Communities = "none"
	StandardCommunities Communities = "standard" // RFC 1997
	LargeCommunities    Communities = "large"    // RFC 8092
)

// GracefulRestart (RFC 4724) is on by default, for both families.
type GracefulRestart struct {
	Disabled bool
	// HelperOnly keeps the routes of peers that restart, but promises nothing for ourselves: peers drop our routes at
	// once when the session is lost. That suits a router whose death must move traffic away, not a host.
	HelperOnly  bool
	RestartTime time.Duration // peers keep our routes this long while the speaker is away; 0: 120 s
	Deferral    time.Duration // a restarted speaker waits at most this long for the peers' End-of-RIB; 0: 8 s
	// LongLived is for how long after RestartTime peers keep our routes as the last resort (RFC 9494), if they are set to. 0:
	// they drop them then.
	LongLived time.Duration
}

// Policy is what may cross the sessions: HostPolicy or TransitPolicy.
type Policy interface{ policy() }

// HostPolicy is a host's, closed both ways (RFC 8212): out go exactly the announced prefixes, in comes what Import lists
// and nothing else, the default route only where a rule with its length 0 lists it. Whatever equals, lies inside or covers
// OwnSpace is refused, whatever is listed; a listed default route, which covers everything, is not.
type HostPolicy struct {
	Import   []ImportRule
	OwnSpace []netip.Prefix
}

// ImportRule accepts the prefixes inside Prefix whose length is in [MinLength, MaxLength]; zeros mean the length of
// Prefix itself. (MinLength 0 with a MaxLength means from the length of Prefix on.)
type ImportRule struct {
	Prefix    netip.Prefix
	MinLength int
	MaxLength int
}

// TransitPolicy accepts and re-exports everything. A lab's embedded router uses it, a host must not.
type TransitPolicy struct{}

func (HostPolicy) policy()    {}
func (TransitPolicy) policy() {}

// Announcement is a prefix of ours.
type Announcement struct {
	Prefix           netip.Prefix
	NextHop          netip.Addr // zero: our own address on each session
	Communities      []uint32   // RFC 1997
	LargeCommunities []LargeCommunity
}

// GracefulShutdown is the well-known community (RFC 8326) of a route that is about to go: its receiver takes another one
// where it has one.
const GracefulShutdown uint32 = 0xffff0000

// NoAdvertise is the well-known community (RFC 1997) of a route that its receiver keeps to itself.
const NoAdvertise uint32 = 0xffffff02

// LargeCommunity is an RFC 8092 community.
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

// LearnedRoute is a prefix the fabric announces, with all its ECMP legs, sorted.
type LearnedRoute struct {
	Prefix   netip.Prefix
	NextHops []netip.Addr // link-local ones carry the interface as zone; shared between routes, not to be modified
}

// Events are the consumer's callbacks, called one at a time from Run; nil ones are skipped. They must return soon.
type Events struct {
	// Routes delivers changes: each upsert replaces the prefix's legs.
	Routes func(upserts []LearnedRoute, withdrawn []netip.Prefix)
	// Synced comes once after each (re)connection to a speaker: the routes delivered are complete, stale ones withdrawn.
	Synced func()
	// Announced reports a change of what the speaker announces, once the speaker has it. What the first speaker was found with, and what one
	// that replaces another is given again, is no change.
	Announced func(added, withdrawn []netip.Prefix)
	// Peer reports a session that changed its state.
	Peer func(PeerStatus)
	// Status reports a speaker found or lost, and each change of Status.Synced.
	Status func(Status)
}

// Session states, by their names in RFC 4271 section 8.
const (
	StateIdle        = "Idle"
	StateConnect     = "Connect"
	StateActive      = "Active"
	StateOpenSent    = "OpenSent"
	StateOpenConfirm = "OpenConfirm"
	StateEstablished = "Established"
	StateAdminDown   = "Idle (Admin)" // by Config.Shutdown
	StatePrefixLimit = "Idle (PfxCt)" // shut because the peer announced more than MaxPrefixes
	StateHeld        = "Held"         // not given to the speaker for a while: its messages crashed it
)

// PeerStatus is a neighbor as the speaker sees it.
type PeerStatus struct {
	Address         netip.Addr
	ASN             uint32
	Description     string
	State           string
	Since           time.Time // of Established, or of the last loss; zero when it was never up
	RouterID        netip.Addr
	HoldTime        time.Duration // negotiated
	Keepalive       time.Duration
	Flaps           uint32
	LastDown        string // why the session was last lost or refused; empty when it never was
	LastDownAt      time.Time
	Restart         time.Time // when a session that was shut is started again; zero: not by itself
	Families        []FamilyStatus
	Sent            MessageCount
	Received        MessageCount
	PeerRestarting  bool
	LocalRestarting bool
	// Refused are some of the prefixes that the peer announces and that are kept out, 16 a family and reason at most: our own
	// space first, then by prefix.
	Refused []Refusal
}

// FamilyStatus counts the prefixes of one family on a session.
type FamilyStatus struct {
	Family     Family
	Received   uint64
	Accepted   uint64 // of those received, what passed the import policy
	Unusable   uint64 // of those accepted, what has no next hop to forward to and is not delivered
	Refused    RefusedCount
	Advertised uint64 // to an established peer that speaks the family
	EndOfRIB   bool   // received on this session
	Spoken     bool   // by both sides of an established session
}

// MessageCount counts BGP messages of one direction.
type MessageCount struct {
	Open, Update, Keepalive, Notification, Refresh, Total uint64
}

// Status is the connection to the speaker process.
type Status struct {
	Connected bool
	Version   string // of the speaker's binary
	PID       int
	Since     time.Time // of the current Connected value
	Synced    bool      // the speaker has the whole desired state and the routes delivered are complete
	Crashes   uint64    // of speaker processes, by a panic or a fatal error, since the host booted
	Err       error     // why it is not connected, what it last refused, or that it does not answer; nil when all is well
}

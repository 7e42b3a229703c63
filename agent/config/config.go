// Package config turns the configuration file, the environment and the command line into one validated Config.
//
// A value is taken from the first of: a flag, an environment variable (HOSTFABRIC_LOG_LEVEL is log.level), the
// file, the default. Every mistake is reported at once, see Errors.
package config

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// Config is a host's whole configuration. It is valid as Load returns it and is not changed afterwards.
type Config struct {
	ASN      uint32
	RouterID netip.Addr // IPv4; zero: the agent finds one
	Host     string     // one DNS label

	Peers         []Peer
	Source        SourceKind
	Blocks        []Block        // disjoint, in the order of the file; with SourceEtcd, to be claimed there at start
	Reserved      []ipam.Range   // never for containers; may lie outside this host's blocks
	Etcd          Etcd           // with SourceStatic as the file has it, but without what is in other files
	Pools         []ipam.Pool    // with SourceEtcd and none in the file, one of Fabric
	Fabric        []netip.Prefix // the container space of all hosts together
	Import        []ImportRule   // beyond the default route and Fabric, see ImportRules
	ImportDefault bool           // accept 0.0.0.0/0 and ::/0
	Budget        Budget
	Announce      Announce

	Timers          Timers
	GracefulRestart GracefulRestart
	BGP             BGP
	BFD             BFD

	MTU           int // bytes; 0: the uplink's
	IPAM          IPAM
	Sandboxes     Sandboxes
	Health        Health
	Routes        Routes
	Firewall      Firewall
	Masquerade    Masquerade
	HostAddress   bool // the first address of a block of each family goes on lo, and the first of every block is no container's
	ManageSysctls bool // the agent turns forwarding on itself

	StateDir string // absolute
	RunDir   string // absolute
	API      API
	Docker   Docker
	DNS      DNS
	History  History
	Metrics  Metrics
	OTLP     OTLP
	Log      Log
}

// ImportRule accepts prefixes inside Prefix whose length is within [MinLength, MaxLength].
type ImportRule struct {
	Prefix               netip.Prefix
	MinLength, MaxLength int // bits
}

// Budget is how many prefixes a family may take in a ToR's table for this host.
type Budget struct{ IPv4, IPv6 int }

// Timers are BGP's, in whole seconds (RFC 4271 section 10).
type Timers struct{ Keepalive, Hold, ConnectRetry time.Duration }

// GracefulRestart is RFC 4724 as the restarting side.
type GracefulRestart struct {
	Enabled     bool
	RestartTime time.Duration // whole seconds, at most 4095: the field has 12 bits
	Deferral    time.Duration // how long to wait for End-of-RIB before choosing routes
	LongLived   time.Duration // for how long after RestartTime routes are the last resort (RFC 9494); 0: they go
}

// BGP is about the speaker process.
type BGP struct {
	Listen    bool // on Port; without it every session is opened from here
	Port      int
	Multipath int      // most next hops of one route
	Inspect   Listener // GoBGP's API, read only; loopback or unix
	BMP       []BMPStation
	MRT       MRT
}

// BFD is RFC 5880 in asynchronous mode.
type BFD struct {
	Enabled    bool
	Interval   time.Duration // between packets, both ways
	Multiplier int           // packets lost until the path is down
}

// IPAM is about the lease file, and how blocks come and go.
type IPAM struct {
	Quarantine  time.Duration // between release and reuse of an address
	Fsync       bool
	Reconcile   time.Duration // between comparisons of leases with live containers
	MaxBlocks   int           // most base blocks of this host in a pool and family
	ShrinkAfter time.Duration // how long a claimed block is not needed before it is given back; 0: never
	Settle      time.Duration // between a change of announcements and what relies on it, for the ToRs to follow
}

// Health is about what must be well for the blocks to be announced: forwarding, discard routes, the routes to containers.
type Health struct {
	FailAfter    time.Duration // of failure before they are withdrawn
	RecoverAfter time.Duration // without one before they are announced again; doubled, up to 5 min, if it fails again
}

// Sandboxes says how many network namespaces are kept ready, and with which addresses.
type Sandboxes struct {
	Low, High int         // when fewer than Low are ready, more are made until High are
	Pool      string      // empty: the default one
	Family    ipam.Family // none: all that the pool has
}

// maxSandboxes bounds how many are ready at a time: each has an address that nobody uses.
const maxSandboxes = 10000

// Routes is about the kernel's routes. They are in the main table.
type Routes struct {
	Metric uint32
	Resync time.Duration // between full listings
}

// Firewall is about the nftables table that confines containers to their own addresses and keeps them from this host's agent.
type Firewall struct {
	Enabled bool
	Open    []uint16 // ports of the agent's listeners that containers may reach all the same
}

// Masquerade is about packets from this host's blocks to destinations that do not know them.
type Masquerade struct {
	Enabled bool
	Except  []netip.Prefix // destinations that know them, besides this host's blocks and Fabric
}

// API is the agent's own.
type API struct {
	Group string // may use the socket besides root
}

// Docker is about the plugin for Docker.
type Docker struct {
	Enabled bool
	Socket  string // that Docker finds the plugin at; the file's name without .sock is the driver's
	API     string // socket that Docker's own API is at; empty: it is not asked
}

// Driver is the name that Docker knows the plugin by.
func (d Docker) Driver() string { return strings.TrimSuffix(filepath.Base(d.Socket), dockerSuffix) }

const dockerSuffix = ".sock"

// Metrics is about the HTTP listener for Prometheus.
type Metrics struct {
	Listen Listener
	Pprof  bool // profiles of the process are to be had there, too
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format LogFormat
}

// LogFormat is how a log line is written.
type LogFormat string

// The log formats there are.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// bfdSocket is where below RunDir the BFD process serves the agent.
const bfdSocket = "bfd/bfd.sock"

// speakerSocket is the longest socket path below RunDir.
const speakerSocket = "speaker/gobgp.sock"

// APISocket is where the agent serves hostfabric.v1.
func (c *Config) APISocket() string { return filepath.Join(c.RunDir, "hostfabric.sock") }

// CNISocket is where the agent serves hostfabric-cni.
func (c *Config) CNISocket() string { return filepath.Join(c.RunDir, "cni.sock") }

// SpeakerSocket is where the speaker serves the agent, with full rights.
func (c *Config) SpeakerSocket() string { return filepath.Join(c.RunDir, speakerSocket) }

// BFDSocket is where the BFD process serves the agent.
func (c *Config) BFDSocket() string { return filepath.Join(c.RunDir, bfdSocket) }

// LeaseFile is the record of every address in use.
func (c *Config) LeaseFile() string { return filepath.Join(c.StateDir, "leases") }

// BlockRecord is what this host remembers of the blocks it owns.
func (c *Config) BlockRecord() string { return filepath.Join(c.StateDir, "blocks.json") }

// CNISpool is the directory of the DELs that came while the agent was down.
func (c *Config) CNISpool() string { return filepath.Join(c.StateDir, "cni-spool") }

// ImportRules are all the prefixes to accept from peers: the default routes, everything inside Fabric, and Import.
func (c *Config) ImportRules() []ImportRule {
	var rules []ImportRule
	if c.ImportDefault {
		rules = append(rules,
			ImportRule{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)},
			ImportRule{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)})
	}
	for _, p := range c.Fabric {
		rules = append(rules, ImportRule{Prefix: p, MinLength: p.Bits(), MaxLength: p.Addr().BitLen()})
	}
	return append(rules, c.Import...)
}

// EndpointNotes keep what is said of endpoints.
func (c *Config) EndpointNotes() string { return filepath.Join(c.RunDir, "endpoints.jsonl") }

// ResolvConf is what containers are given to mount where nobody else writes it.
func (c *Config) ResolvConf() string { return filepath.Join(c.RunDir, "resolv.conf") }

// SandboxDir is the directory of the network namespaces that are made ahead of time.
func (c *Config) SandboxDir() string { return filepath.Join(c.RunDir, "sandboxes") }

// SandboxHolds keep who has which of them.
func (c *Config) SandboxHolds() string { return filepath.Join(c.RunDir, "sandboxes.jsonl") }

// DockerNetworks is the record of the networks that Docker made.
func (c *Config) DockerNetworks() string { return filepath.Join(c.StateDir, "docker-networks.json") }

// DrainFile remembers that this host has been taken out of the fabric.
func (c *Config) DrainFile() string { return filepath.Join(c.StateDir, "drain.json") }

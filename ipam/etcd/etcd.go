// Package etcd is the source of blocks that many hosts claim from the fabric's pools, through etcd.
//
// # What keeps blocks disjoint
//
// A claim is a key that names one base block, so that nobody can claim a part of it, and it is made only if the key does
// not exist. Base blocks of one length and place cannot overlap; that all hosts agree on the length and place is seen to
// by the registry of pools, one key which every claim compares with what its host has checked against its own pools.
// A claim has no lease of etcd's: it stays, whatever happens to the host, until this host or an operator releases it.
//
// # Transactions of unknown outcome
//
// When the connection breaks after a transaction was sent, it may have been made, or may yet be. The blocks are looked for
// under this host's ID before anything else is tried; if they are free, the same ones are claimed again, so that of the two
// transactions only one can succeed. What turns up even later is the host's: Watch hints at it, Blocks lists it, and the next
// Grow returns it rather than claim more.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// DefaultTimeout is that of one request.
const DefaultTimeout = 3 * time.Second

// Config says how to reach etcd.
type Config struct {
	Endpoints          []string      // http://HOST:PORT, https://HOST:PORT or unix:///PATH; all of one kind
	TLS                *tls.Config   // for https; nil trusts the system's authorities
	Username, Password string        // empty: none
	Prefix             string        // of all keys; empty means DefaultPrefix
	Timeout            time.Duration // of one request; 0 means DefaultTimeout
	Log                *slog.Logger  // nil discards
}

// Identity is who claims. Blocks are the ID's, a random one that a host keeps: hosts of one name never share claims.
type Identity struct{ ID, Host string }

// Name is what blocks of this source are labelled with.
const Name = "etcd"

// Source claims blocks in etcd. Its methods may be called from any goroutine.
type Source struct {
	*conn
	keys  keys
	id    Identity
	pools []ipam.Pool
	log   *slog.Logger

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	own       own
	changing  chan struct{}           // the right to change what this host has
	unsettled map[area][]netip.Prefix // by the last Grow, if it is not known whether they were claimed; guarded by changing

	mu      sync.Mutex // guards all below
	closed  bool
	watches sync.WaitGroup
	told    map[netip.Prefix]struct{} // blocks that a caller knows of
}

var (
	_ ipam.Grower = (*Source)(nil)
	_ ipam.Roster = (*Source)(nil)
)

// New returns a source. etcd need not be there yet.
func New(cfg Config, id Identity, pools []ipam.Pool) (*Source, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Prefix = strings.TrimRight(cfg.Prefix, "/"); cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if id.ID == "" || id.Host == "" {
		return nil, errors.New("etcd: a host needs an ID and a name to claim blocks")
	}
	if err := checkEndpoints(cfg); err != nil {
		return nil, err
	}
	if err := checkPools(pools); err != nil {
		return nil, err
	}
	c, err := dial(cfg)
	if err != nil {
		return nil, err
	}
	s := &Source{
		conn: c, keys: keys{cfg.Prefix}, id: id, pools: clonePools(pools), log: cfg.Log,
		own: own{changed: make(chan struct{}, 1)}, changing: make(chan struct{}, 1), unsettled: map[area][]netip.Prefix{}, told: map[netip.Prefix]struct{}{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// checkEndpoints wants one kind: the client would encrypt as the first endpoint says, and an http one among others would
// get the password in the clear.
func checkEndpoints(cfg Config) error {
	if len(cfg.Endpoints) == 0 {
		return errors.New("etcd: no endpoint is given")
	}
	var first string
	for i, e := range cfg.Endpoints {
		scheme, rest, ok := strings.Cut(e, "://")
		if !ok || rest == "" || scheme != "http" && scheme != "https" && scheme != "unix" {
			return fmt.Errorf("etcd endpoint %q: want http://HOST:PORT, https://HOST:PORT or unix:///PATH", e)
		}
		if i == 0 {
			first = scheme
		}
		switch {
		case scheme != first:
			return fmt.Errorf("etcd endpoints %s and %s are of two kinds: use one", cfg.Endpoints[0], e)
		case scheme == "unix" && !strings.HasPrefix(rest, "/"):
			return fmt.Errorf("etcd endpoint %q: want an absolute path, unix:///PATH", e)
		case cfg.TLS != nil && scheme != "https":
			return fmt.Errorf("etcd endpoint %s makes no use of TLS: use https", e)
		}
	}
	return nil
}

// Close ends the watches and the connection. The claims stay.
func (s *Source) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.stop()
	s.watches.Wait()
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd at %s: %w", s.endpoints, err)
	}
	return nil
}

// Name is how blocks of this source are labelled.
func (s *Source) Name() string { return Name }

// Pools are those this host is configured with.
func (s *Source) Pools() []ipam.Pool { return clonePools(s.pools) }

func clonePools(pools []ipam.Pool) []ipam.Pool {
	pools = slices.Clone(pools)
	for i := range pools {
		pools[i].Prefixes = slices.Clone(pools[i].Prefixes)
	}
	return pools
}

// pool finds a pool by its name.
func (s *Source) pool(name string) (ipam.Pool, error) {
	if name == "" {
		name = ipam.DefaultPool
	}
	i := slices.IndexFunc(s.pools, func(p ipam.Pool) bool { return p.Name == name })
	if i < 0 {
		return ipam.Pool{}, fmt.Errorf("%w: %s", ipam.ErrUnknownPool, name)
	}
	return s.pools[i], nil
}

// spaceOf returns the prefixes of one family of a pool, as few as they come to.
func spaceOf(p ipam.Pool, ipv6 bool) []netip.Prefix {
	var space []netip.Prefix
	for _, prefix := range p.Prefixes {
		if prefix.Addr().Is6() == ipv6 {
			space = append(space, prefix)
		}
	}
	return ipam.Cover(space)
}

// learn notes that a caller is told of blocks, and returns them as it should see them.
func (s *Source) learn(pool string, prefixes []netip.Prefix) []ipam.Block {
	s.mu.Lock()
	defer s.mu.Unlock()
	blocks := make([]ipam.Block, len(prefixes))
	for i, p := range prefixes {
		s.told[p] = struct{}{}
		blocks[i] = ipam.Block{Prefix: p, Pool: pool, Source: s.Name()}
	}
	return blocks
}

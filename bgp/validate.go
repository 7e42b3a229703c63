package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Bounds of the protocol and of the speaker.
const (
	minHoldTime    = 3 * time.Second        // RFC 4271 section 4.2
	maxRestartTime = 4095 * time.Second     // 12 bits, RFC 4724 section 3
	maxLongLived   = 16777215 * time.Second // 24 bits, RFC 9494 section 3.1
	maxPassword    = 80                     // TCP_MD5SIG_MAXKEYLEN
)

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ASN == 0 {
		bad("asn: must not be 0 (RFC 7607)")
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		bad("router id %q: must be an IPv4 address other than 0.0.0.0", c.RouterID)
	}
	switch c.Policy.(type) {
	case HostPolicy, TransitPolicy:
	default:
		bad("policy: must be HostPolicy or TransitPolicy, not %T", c.Policy)
	}
	if t := c.GracefulRestart.restartTime(); t < time.Second || t > maxRestartTime {
		bad("graceful restart time %s: must be 1s to %s", t, maxRestartTime)
	}
	if t := c.GracefulRestart.deferral(); t < time.Second || t > maxRestartTime {
		bad("graceful restart deferral %s: must be 1s to %s", t, maxRestartTime)
	}
	if t := c.GracefulRestart.LongLived; t < 0 || t > maxLongLived || t > 0 && t < time.Second {
		bad("long-lived graceful restart time %s: must be 1s to %s, or 0 for none", t, maxLongLived)
	}
	if p, ok := c.Policy.(HostPolicy); ok {
		errs = append(errs, p.validate())
	}
	if err := ValidCommunication(c.Shutdown); err != nil {
		bad("shutdown: %w", err)
	}
	seen := map[netip.Addr]bool{}
	for _, p := range c.Peers {
		if seen[p.Address] {
			bad("peer %s: configured twice", p.Address)
		}
		seen[p.Address] = true
		if p.Passive && !c.Listen {
			bad("peer %s: passive, but the speaker does not listen", p.Address)
		}
		if p.ASN != 0 && p.ASN == p.LocalAS {
			bad("peer %s: its AS number is the one we are to have towards it", p.Address)
		}
		errs = append(errs, p.validate())
	}
	for _, st := range c.Stations {
		errs = append(errs, st.validate())
	}
	return errors.Join(errs...)
}

func (p HostPolicy) validate() error {
	var errs []error
	for _, r := range p.Import {
		bits := r.Prefix.Addr().BitLen()
		lo, hi := r.lengths()
		if !r.Prefix.IsValid() || lo < r.Prefix.Bits() || hi < lo || hi > bits {
			errs = append(errs, fmt.Errorf("import rule %s, lengths %d to %d: must lie between the prefix's own and %d", r.Prefix, r.MinLength, r.MaxLength, bits))
		}
	}
	for _, o := range p.OwnSpace {
		if !o.IsValid() || o.Bits() == 0 {
			errs = append(errs, fmt.Errorf("own space %s: must be a prefix longer than /0", o))
		}
	}
	return errors.Join(errs...)
}

// lengths returns the accepted range with the zero values filled in.
func (r ImportRule) lengths() (lo, hi int) {
	lo, hi = r.MinLength, r.MaxLength
	if lo == 0 {
		lo = r.Prefix.Bits()
	}
	if hi == 0 {
		hi = lo
	}
	return lo, hi
}

func (p Peer) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("peer %s: "+format, append([]any{p.Address}, args...)...))
	}
	if !p.Address.IsValid() || p.Address.IsUnspecified() || p.Address.Is4In6() {
		bad("not a usable address")
	}
	if p.Address.IsLinkLocalUnicast() && p.Address.Is6() && p.Address.Zone() == "" {
		bad("a link-local address needs its interface, as in fe80::1%%eth0")
	}
	switch p.Communities {
	case "", AllCommunities, NoCommunities, StandardCommunities, LargeCommunities:
	default:
		bad("communities %q: must be all, none, standard or large", p.Communities)
	}
	if p.MaxPrefixesRestart < 0 {
		bad("prefix limit restart %s: must not be negative", p.MaxPrefixesRestart)
	}
	if p.Password != "" && p.Passive && p.Address.Zone() != "" {
		bad("a password over link-local addresses needs a session that is opened from here, not a passive one")
	}
	if len(p.Password) > maxPassword {
		bad("password longer than %d bytes", maxPassword)
	}
	if h := p.holdTime(); h < minHoldTime || h%time.Second != 0 {
		bad("hold time %s: must be whole seconds, at least %s", h, minHoldTime)
	}
	if k := p.keepalive(); k < time.Second || k > p.holdTime() || k%time.Second != 0 {
		bad("keepalive %s: must be whole seconds, at most the hold time", k)
	}
	if p.TTLSecurity && p.MultihopTTL != 0 {
		bad("TTL security and multihop exclude each other")
	}
	if p.NextHop6.IsValid() && (!p.NextHop6.Is6() || p.NextHop6.Is4In6() || p.NextHop6.IsUnspecified()) {
		bad("IPv6 next hop %s: must be an IPv6 address", p.NextHop6)
	}
	if p.LocalAddress.IsValid() && p.LocalAddress.Is4() != p.Address.Is4() {
		bad("local address %s: not of the peer's family", p.LocalAddress)
	}
	for _, f := range p.Families {
		if f != IPv4 && f != IPv6 {
			bad("unknown family %d", f)
		}
	}
	return errors.Join(errs...)
}

// found are the peers the speaker gets.
func (c Config) found() []Peer {
	found, _ := c.split()
	return found
}

// split tells the peers the speaker gets from those it does not get yet, which have a reason in Pending. Of two peers with
// one link-local address on two links the second waits: GoBGP does not tell their routes apart.
func (c Config) split() (found, waiting []Peer) {
	links := map[netip.Addr]string{}
	for _, p := range c.Peers {
		if plain := p.Address.WithZone(""); p.Pending == "" && p.Address.Zone() != "" {
			if first, shared := links[plain]; shared {
				p.Pending = fmt.Sprintf("the router on %s has the same link-local address", first)
			} else {
				links[plain] = p.Address.Zone()
			}
		}
		if p.Pending == "" {
			found = append(found, p)
		} else {
			waiting = append(waiting, p)
		}
	}
	return found, waiting
}

// numbers are the AS numbers that peers know us by.
func (c Config) numbers() []uint32 {
	var out []uint32
	for _, p := range c.Peers {
		out = append(out, p.localAS(c))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (p Peer) localAS(c Config) uint32 {
	if p.LocalAS == 0 {
		return c.ASN
	}
	return p.LocalAS
}

func (p Peer) holdTime() time.Duration {
	if p.HoldTime == 0 {
		return DefaultHoldTime
	}
	return p.HoldTime
}

func (p Peer) keepalive() time.Duration {
	if p.Keepalive == 0 {
		return max(p.holdTime()/3, time.Second).Truncate(time.Second)
	}
	return p.Keepalive
}

func (p Peer) connectRetry() time.Duration {
	if p.ConnectRetry == 0 {
		return DefaultConnectRetry
	}
	return p.ConnectRetry
}

func (p Peer) maxPrefixes() uint32 {
	if p.MaxPrefixes == 0 {
		return DefaultMaxPrefixes
	}
	return p.MaxPrefixes
}

func (p Peer) families() []Family {
	if len(p.Families) == 0 {
		return []Family{IPv4, IPv6}
	}
	return slices.Compact(slices.Sorted(slices.Values(p.Families)))
}

func (g GracefulRestart) restartTime() time.Duration {
	if g.RestartTime == 0 {
		return DefaultRestartTime
	}
	return g.RestartTime
}

// longLives says that peers are asked to keep our routes beyond the restart time.
func (g GracefulRestart) longLives() bool { return g.LongLived > 0 && !g.Disabled && !g.HelperOnly }

func (g GracefulRestart) deferral() time.Duration {
	if g.Deferral == 0 {
		return DefaultDeferral
	}
	return g.Deferral
}

// normalize checks a set of announcements and brings it into one form: masked, sorted, communities sorted.
func normalize(set []Announcement) ([]Announcement, error) {
	var errs []error
	out := make([]Announcement, 0, len(set))
	for _, a := range set {
		p := a.Prefix.Masked()
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("announcement %s: not a prefix", a.Prefix))
			continue
		case a.NextHop.IsValid() && FamilyOf(a.NextHop) != FamilyOf(p.Addr()):
			errs = append(errs, fmt.Errorf("announcement %s: next hop %s is of another family", p, a.NextHop))
			continue
		}
		if a.NextHop.IsValid() && a.NextHop.IsUnspecified() {
			a.NextHop = netip.Addr{}
		}
		a.Prefix = p
		a.Communities = slices.Compact(slices.Sorted(slices.Values(a.Communities)))
		a.LargeCommunities = slices.Clone(a.LargeCommunities)
		slices.SortFunc(a.LargeCommunities, LargeCommunity.compare)
		a.LargeCommunities = slices.Compact(a.LargeCommunities)
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Announcement) int { return a.Prefix.Compare(b.Prefix) })
	for i := 1; i < len(out); i++ {
		if out[i].Prefix == out[i-1].Prefix {
			errs = append(errs, fmt.Errorf("announcement %s: given twice", out[i].Prefix))
		}
	}
	return out, errors.Join(errs...)
}

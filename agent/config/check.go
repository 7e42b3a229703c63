package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// check compares values with each other. What did not parse is not compared.
func (d *draft) check(r *report) {
	d.checkPeers(r)
	d.checkBlocks(r)
	d.checkFabric(r)
	d.checkPools(r)
	d.checkClaims(r)
	d.checkEtcd(r)
	d.checkBudget(r)
	d.checkTimers(r)
	d.checkMTU(r)
	d.checkSandboxes(r)
	d.checkDirs(r)
	if r.good("firewall.enabled", "masquerade.enabled") && d.Masquerade.Enabled && !d.Firewall.Enabled {
		r.add("masquerade.enabled", "firewall.enabled is false", "it is a rule of that table")
	}
	if r.good("bgp.listen") && d.listen == listenOff && slices.ContainsFunc(d.peers, isPassive) {
		r.add("bgp.listen", "a passive peer needs a listener", "auto, or no passive peer")
	}
}

func (d *draft) listens() bool {
	return d.listen == listenOn || d.listen == listenAuto && slices.ContainsFunc(d.peers, isPassive)
}

// notForContainers is what no block may touch.
var notForContainers = []struct {
	prefix netip.Prefix
	name   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "\"this network\" (0.0.0.0/8)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback (127.0.0.0/8)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local (169.254.0.0/16)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast (224.0.0.0/4)"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved (240.0.0.0/4)"},
	{netip.MustParsePrefix("::/16"), "loopback and embedded IPv4 (::/16)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local (fe80::/10)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast (ff00::/8)"},
}

func (d *draft) checkBlocks(r *report) {
	if d.Source == SourceStatic && len(d.blocks) == 0 && r.good("blocks") && r.lines["blocks"] > 0 && r.lines["blocks[0]"] == 0 {
		r.add("blocks", "empty", "a host without a block has no address to give")
	}
	blocks := d.blockPrefixes()
	for i, b := range blocks {
		low, high := 8, 32
		if b.value.Addr().Is6() {
			low, high = 32, 128
		}
		if text, hint := unfit(b.value, low, high); text != "" {
			r.add(b.path, text, hint)
			continue
		}
		checkOverlap(b, blocks[:i], r)
		if text := d.foreign(b.value); text != "" {
			r.add(b.path, text, "a container would get that address")
		}
	}
	d.checkRoom(r)
}

func checkOverlap(p located[netip.Prefix], others []located[netip.Prefix], r *report) {
	for _, o := range others {
		if p.value.Overlaps(o.value) {
			r.add(p.path, fmt.Sprintf("%s overlaps %s, %s", p.value, o.path, o.value), "remove one")
			return
		}
	}
}

// checkRoom refuses a family whose only address is the host's own.
func (d *draft) checkRoom(r *report) {
	if !d.HostAddress {
		return
	}
	ipv4, ipv6 := split(d.blocks)
	for _, blocks := range [][]netip.Prefix{ipv4, ipv6} {
		if len(blocks) == 1 && blocks[0].IsSingleIP() {
			r.add("blocks", fmt.Sprintf("%s is one address, which the host takes for itself", blocks[0]),
				"a larger block, or host_address: false")
		}
	}
}

// unfit says why containers cannot have their addresses in a prefix, which may be /low to /high.
func unfit(p netip.Prefix, low, high int) (text, hint string) {
	switch {
	case p.Bits() < low:
		return fmt.Sprintf("%s is too large", p), fmt.Sprintf("/%d to /%d", low, high)
	case p.Bits() > high:
		return fmt.Sprintf("%s is too small", p), fmt.Sprintf("/%d to /%d", low, high)
	}
	for _, s := range notForContainers {
		if p.Overlaps(s.prefix) {
			return fmt.Sprintf("%s touches %s", p, s.name), "containers need unicast addresses that can be routed"
		}
	}
	return "", ""
}

// foreign names an address of the network around the host that lies in p; empty if there is none.
func (d *draft) foreign(p netip.Prefix) string {
	for _, peer := range d.peers {
		for _, a := range []located[netip.Addr]{
			{peer.path + ".address", peer.value.Address},
			{peer.path + ".local_address", peer.value.LocalAddress},
		} {
			if a.value.IsValid() && p.Contains(a.value.WithZone("")) {
				return fmt.Sprintf("%s contains %s, which is %s", p, a.value, a.path)
			}
		}
	}
	return ""
}

// checkFabric also wants the blocks inside: with the same fabric everywhere, other hosts refuse what is not.
func (d *draft) checkFabric(r *report) {
	for i, f := range d.fabric {
		if f.value.Bits() == 0 {
			r.add(f.path, f.value.String()+" is the default route", "that is import_default")
		}
		checkOverlap(f, d.fabric[:i], r)
	}
	for _, b := range d.blockPrefixes() {
		if r.good(b.path) {
			d.checkInFabric(b, r)
		}
	}
}

func (d *draft) checkInFabric(p located[netip.Prefix], r *report) {
	family := d.fabricOf(p.value)
	if len(family) > 0 && !slices.ContainsFunc(family, func(f netip.Prefix) bool { return within(p.value, f) }) {
		r.add(p.path, fmt.Sprintf("%s lies outside fabric", p.value), "other hosts would refuse it; extend fabric")
	}
}

func (d *draft) fabricOf(block netip.Prefix) []netip.Prefix {
	var family []netip.Prefix
	for _, f := range d.fabric {
		if f.value.Addr().Is4() == block.Addr().Is4() {
			family = append(family, f.value)
		}
	}
	return family
}

func (d *draft) checkTimers(r *report) {
	if r.good("timers.keepalive", "timers.hold") && d.Timers.Keepalive >= d.Timers.Hold {
		r.add("timers.keepalive", fmt.Sprintf("%s is not less than timers.hold, %s", short(d.Timers.Keepalive), short(d.Timers.Hold)),
			"a third of it is usual")
	}
	gr := d.GracefulRestart
	if r.good("graceful_restart.deferral", "graceful_restart.restart_time") && gr.Deferral > gr.RestartTime {
		r.add("graceful_restart.deferral", fmt.Sprintf("%s is longer than restart_time, %s", short(gr.Deferral), short(gr.RestartTime)),
			"peers would drop the routes before this host has chosen its own")
	}
}

func (d *draft) checkMTU(r *report) {
	if !r.good("mtu") || d.MTU == 0 {
		return
	}
	least, why := 576, "IPv4 needs it"
	if _, ipv6 := d.families(); ipv6 {
		least, why = 1280, "IPv6 needs it (RFC 8200 section 5)"
	}
	if d.MTU < least {
		r.add("mtu", fmt.Sprintf("%d is below %d", d.MTU, least), why+"; 0 takes the uplink's")
	}
}

func (d *draft) checkDirs(r *report) {
	if !r.good("run_dir") {
		return
	}
	if most := maxSocket - len("/"+speakerSocket); len(d.RunDir) > most {
		r.add("run_dir", fmt.Sprintf("%s has %d bytes", d.RunDir, len(d.RunDir)),
			fmt.Sprintf("at most %d, for a unix socket's path is short", most))
	}
}

func (d *draft) checkSandboxes(r *report) {
	if s := d.Sandboxes; r.good("sandboxes.low") && r.good("sandboxes.high") && s.Low > s.High {
		r.add("sandboxes.low", fmt.Sprintf("%d is above sandboxes.high, %d", s.Low, s.High), "the pool is refilled below low, up to high")
	}
}

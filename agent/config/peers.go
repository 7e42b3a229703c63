package config

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
)

// Peer is a router this host has a session with: the one at Address, or the one found on Interface.
type Peer struct {
	Address            netip.Addr    // with its zone if link-local; zero: the router on Interface
	Interface          string        // of the host; empty: by Address
	ASN                uint32        // 0: external, any but this host's (PeerASExternal in the file)
	LocalAS            uint32        // this host's AS towards the peer; 0: ASN of Config
	Name               string        // for people; the address or interface if the file gives none
	Password           Secret        // TCP MD5, RFC 2385; empty: none
	LocalAddress       netip.Addr    // zero: the kernel chooses
	TTLSecurity        bool          // RFC 5082
	Passive            bool          // wait for the peer to connect
	Timers             Timers        // those of Config where the file gives none
	BFD                BFD           // likewise
	SendCommunities    Communities   // which of an announcement's communities the peer gets
	MaxPrefixes        uint32        // per family
	MaxPrefixesRestart time.Duration // how long the session rests after more than MaxPrefixes; 0: until an operator resets it
}

// PeerASExternal is the word for any AS but this host's, as remote-as has it in FRR.
const PeerASExternal = "external"

// Communities says which kinds of communities are sent.
type Communities string

// What can be sent; standard ones are RFC 1997's, large ones RFC 8092's.
const (
	CommunitiesAll      Communities = "all"
	CommunitiesNone     Communities = "none"
	CommunitiesStandard Communities = "standard"
	CommunitiesLarge    Communities = "large"
)

// peerFields are the keys of an element of peers.
var peerFields = []field[peerDraft]{
	{"address", "", put(func(p *peerDraft) *netip.Addr { return &p.Address }, orZero(parseAddr))},
	{"interface", "", put(func(p *peerDraft) *string { return &p.Interface }, orZero(parseInterface))},
	{"asn", "", put(func(p *peerDraft) *uint32 { return &p.ASN }, needed(parsePeerASN, "the router's AS number, or "+PeerASExternal))},
	{"local_as", "", put(func(p *peerDraft) *uint32 { return &p.LocalAS }, orZero(parseASN))},
	{"name", "", put(func(p *peerDraft) *string { return &p.Name }, parseName)},
	{"password_file", "", put(func(p *peerDraft) *string { return &p.passwordFile }, asIs)},
	{"ttl_security", "false", put(func(p *peerDraft) *bool { return &p.TTLSecurity }, parseBool)},
	{"passive", "false", put(func(p *peerDraft) *bool { return &p.Passive }, parseBool)},
	{"local_address", "", put(func(p *peerDraft) *netip.Addr { return &p.LocalAddress }, orZero(parseAddr))},
	{"timers.keepalive", "", put(func(p *peerDraft) *time.Duration { return &p.Timers.Keepalive }, orZero(parseSeconds(time.Second, maxHold)))},
	{"timers.hold", "", put(func(p *peerDraft) *time.Duration { return &p.Timers.Hold }, orZero(parseSeconds(minHold, maxHold)))},
	{"timers.connect_retry", "", put(func(p *peerDraft) *time.Duration { return &p.Timers.ConnectRetry }, orZero(parseSeconds(time.Second, maxHold)))},
	{"bfd.enabled", "", put(func(p *peerDraft) *string { return &p.bfdEnabled }, orZero(parseChoice(bfdOn, bfdOff)))},
	{"bfd.interval", "", put(func(p *peerDraft) *time.Duration { return &p.BFD.Interval }, orZero(parseInterval))},
	{"bfd.multiplier", "", put(func(p *peerDraft) *int { return &p.BFD.Multiplier }, orZero(parseMultiplier))},
	{"send_communities", string(CommunitiesAll), put(func(p *peerDraft) *Communities { return &p.SendCommunities },
		parseChoice(CommunitiesAll, CommunitiesNone, CommunitiesStandard, CommunitiesLarge))},
	{"max_prefixes", "20000", put(func(p *peerDraft) *uint32 { return &p.MaxPrefixes }, parseUint32(1, math.MaxUint32))},
	{"max_prefixes_restart", "5m", put(func(p *peerDraft) *time.Duration { return &p.MaxPrefixesRestart }, parseRestart)},
}

type peerDraft struct {
	Peer
	passwordFile string
	bfdEnabled   string // bfdOn, bfdOff, or empty: as for all
}

const (
	bfdOn  = "true"
	bfdOff = "false"
)

// What BFD takes, see bgp/bfd.
var (
	parseInterval   = parseDuration(10*time.Millisecond, time.Minute)
	parseMultiplier = parseInt(1, 255)
)

func parsePeerASN(text string) (uint32, error) {
	if text == PeerASExternal {
		return 0, nil
	}
	return parseASN(text)
}

// maxInterface is IFNAMSIZ without the final zero, in bytes.
const maxInterface = 15

func parseInterface(text string) (string, error) {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == '%' }
	if len(text) > maxInterface || text == "." || text == ".." || strings.ContainsFunc(text, bad) {
		return "", &problem{fmt.Sprintf("%q is not the name of an interface", text), "such as eth0"}
	}
	return text, nil
}

// maxPrefixesNever is the word for a session that stays down.
const maxPrefixesNever = "never"

func parseRestart(text string) (time.Duration, error) {
	if text == maxPrefixesNever || text == "0" {
		return 0, nil
	}
	d, err := parseDuration(0, 24*time.Hour)(text)
	if err == nil && d > 0 && d < time.Second {
		return 0, &problem{text + " is less than 1s", "0s or " + maxPrefixesNever + " leaves the session down"}
	}
	return d, err
}

func (d *draft) addPeer(path string, values map[string]any, r *report, f files) {
	var p peerDraft
	setEntry(peerFields, &p, path, values, r)
	if p.passwordFile != "" {
		at := path + ".password_file"
		password, err := f.password(p.passwordFile)
		if err != nil {
			r.addErr(at, "", err)
		}
		p.Password = password
	}
	if r.good(path+".address", path+".interface") {
		p.checkPlace(path, r)
	}
	if p.Name == "" {
		p.Name = p.ID()
	}
	d.peers = append(d.peers, located[peerDraft]{path, p})
}

// checkPlace wants exactly one of address and interface.
func (p *peerDraft) checkPlace(path string, r *report) {
	switch {
	case !p.Address.IsValid() && p.Interface == "":
		r.add(path+".address", "missing", "the router's address, or the interface it is found on")
		if r.lines[path+".address"] == 0 {
			r.errs[len(r.errs)-1].Line = r.lines[path]
		}
	case p.Address.IsValid() && p.Interface != "":
		r.add(path+".interface", fmt.Sprintf("%s is set, and address is %s as well", p.Interface, p.Address), "one of the two")
	case p.Interface != "" && p.LocalAddress.IsValid():
		r.add(path+".local_address", "a session by interface has the interface's link-local address", "remove it")
	}
}

// peer is the finished Peer, with what it takes from the global timers. A hold time without a keepalive has one of its third.
func (p peerDraft) peer(global *Config) Peer {
	out := p.Peer
	out.Timers = p.timers(global.Timers)
	out.BFD.Enabled = p.bfdEnabled == bfdOn || p.bfdEnabled == "" && global.BFD.Enabled
	out.BFD.Interval = cmp.Or(out.BFD.Interval, global.BFD.Interval)
	out.BFD.Multiplier = cmp.Or(out.BFD.Multiplier, global.BFD.Multiplier)
	return out
}

func (p peerDraft) timers(global Timers) Timers {
	t := p.Timers
	if t.Keepalive == 0 {
		t.Keepalive = global.Keepalive
		if t.Hold != 0 {
			t.Keepalive = max(t.Hold/3, time.Second).Truncate(time.Second)
		}
	}
	if t.Hold == 0 {
		t.Hold = global.Hold
	}
	if t.ConnectRetry == 0 {
		t.ConnectRetry = global.ConnectRetry
	}
	return t
}

func isPassive(p located[peerDraft]) bool { return p.value.Passive }

func (d *draft) checkPeers(r *report) {
	seen, links := map[netip.Addr]string{}, map[string]string{}
	for _, p := range d.peers {
		d.checkPeerTimers(p, r)
		d.checkPeerAS(p, r)
		checkPeerPassword(p, r)
		if link := p.value.Interface; link != "" {
			if first, twice := links[link]; twice {
				r.add(p.path+".interface", fmt.Sprintf("%s is also the interface of %s", link, first), "one session with the router there")
			} else {
				links[link] = p.path
			}
			continue
		}
		address, local := p.value.Address, p.value.LocalAddress
		if !address.IsValid() {
			continue
		}
		if first, twice := seen[address]; twice {
			r.add(p.path+".address", fmt.Sprintf("%s is also %s", address, first), "one session with each address")
		} else {
			seen[address] = p.path
		}
		switch {
		case !local.IsValid():
		case local.Is4() != address.Is4():
			r.add(p.path+".local_address", fmt.Sprintf("%s and %s are of different families", local, address), "")
		case local == address:
			r.add(p.path+".local_address", fmt.Sprintf("%s is the peer's own address", local), "")
		}
		if r.good("router_id") && d.RouterID.IsValid() && address == d.RouterID {
			r.add("router_id", fmt.Sprintf("%s is the address of %s", address, p.path), "it must be this host's own")
		}
	}
	d.checkShared(links, r)
}

// checkShared refuses an address on the link of a session by interface: they could be one router.
func (d *draft) checkShared(links map[string]string, r *report) {
	for _, p := range d.peers {
		if first, shared := links[p.value.Address.Zone()]; shared && p.value.Address.Zone() != "" {
			r.add(p.path+".address", fmt.Sprintf("%s is on the interface of %s", p.value.Address, first), "one session with the router there")
		}
	}
}

func (d *draft) checkPeerTimers(p located[peerDraft], r *report) {
	keepalive, hold := p.path+".timers.keepalive", p.path+".timers.hold"
	own := p.value.Timers
	if own.Keepalive == 0 && own.Hold == 0 || !r.good(keepalive, hold, "timers.keepalive", "timers.hold") {
		return
	}
	if t := p.value.timers(d.Timers); t.Keepalive >= t.Hold {
		r.add(keepalive, fmt.Sprintf("%s is not less than the hold time, %s", short(t.Keepalive), short(t.Hold)), "a third of it is usual")
	}
}

// checkPeerPassword refuses what the speaker cannot do: it would accept any connection.
func checkPeerPassword(p located[peerDraft], r *report) {
	linkLocal := p.value.Interface != "" || p.value.Address.Zone() != ""
	if p.value.passwordFile != "" && p.value.Passive && linkLocal {
		r.add(p.path+".passive", "a password over link-local addresses needs a session that is opened from here", "false, and the router passive")
	}
}

// checkPeerAS refuses what would make an iBGP session of one that is meant to have two AS numbers.
func (d *draft) checkPeerAS(p located[peerDraft], r *report) {
	if local := p.value.LocalAS; local != 0 && local == p.value.ASN && r.good(p.path+".asn", p.path+".local_as") {
		r.add(p.path+".local_as", fmt.Sprintf("%d is the router's own AS number", local), "this host's towards it must be another")
	}
}

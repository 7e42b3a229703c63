package bgp

import (
	"net/netip"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/hostfabric/hostfabric/bgp/internal/meta"
)

// Timers of GoBGP that are not the operator's: its own defaults wait 120 to 240 s after a failed first connect, and
// 30 s after a reset.
const (
	idleHoldReset = 1 // seconds
)

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

// globalOf makes GoBGP's global configuration.
func globalOf(c Config) *api.Global {
	g := &api.Global{
		Asn: c.ASN, RouterId: c.RouterID.String(), ListenPort: -1, UseMultiplePaths: c.Multipath != 1,
		Families: nil,
	}
	if c.Listen {
		g.ListenPort = int32(c.ListenPort)
		if g.ListenPort == 0 {
			g.ListenPort = DefaultListenPort
		}
		for _, a := range c.ListenAddresses {
			g.ListenAddresses = append(g.ListenAddresses, a.String())
		}
	}
	return g
}

// sameGlobal compares what GetBgp tells with what we would start. GoBGP listens on all addresses when given none.
func sameGlobal(have, want *api.Global) bool {
	return have.GetAsn() == want.GetAsn() && have.GetRouterId() == want.GetRouterId() &&
		have.GetListenPort() == want.GetListenPort() && have.GetUseMultiplePaths() == want.GetUseMultiplePaths() &&
		(len(want.GetListenAddresses()) == 0 || slices.Equal(have.GetListenAddresses(), want.GetListenAddresses()))
}

// neighborOf makes GoBGP's peer. restarting sets the Restart State bit in our OPEN (RFC 4724 section 3): the peer then
// keeps our old routes until we sent the new ones.
func neighborOf(p Peer, c Config, restarting bool) *api.Peer {
	g := c.GracefulRestart
	out := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.name(), PeerAsn: p.ASN, LocalAsn: p.localAS(c), AuthPassword: p.Password},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: seconds(p.connectRetry()), HoldTime: seconds(p.holdTime()), KeepaliveInterval: seconds(p.keepalive()),
			IdleHoldTimeAfterReset: idleHoldReset,
		}},
		Transport: &api.Transport{
			PassiveMode: p.Passive, RemotePort: uint32(p.Port), BindInterface: p.device(),
		},
		EbgpMultihop:    &api.EbgpMultihop{Enabled: p.MultihopTTL != 0, MultihopTtl: uint32(p.MultihopTTL)},
		TtlSecurity:     &api.TtlSecurity{Enabled: p.TTLSecurity},
		GracefulRestart: &api.GracefulRestart{},
	}
	if p.TTLSecurity {
		out.TtlSecurity.TtlMin = 255
	}
	switch {
	case p.LocalAddress.IsValid():
		out.Transport.LocalAddress = p.LocalAddress.WithZone("").String()
	case p.Address.Is6():
		// Without it GoBGP picks the link-local address and advertises "::" as next hop on unnumbered sessions.
		out.Transport.LocalAddress = "::"
	}
	if !g.Disabled {
		out.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(g.restartTime())), DeferralTime: uint32(seconds(g.deferral())),
			NotificationEnabled: true, HelperOnly: g.HelperOnly, LocalRestarting: restarting && !g.HelperOnly, LonglivedEnabled: g.longLives(),
		}
	}
	for _, f := range p.families() {
		out.AfiSafis = append(out.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f.api(), Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: !g.Disabled}},
			PrefixLimits:      &api.PrefixLimit{Family: f.api(), MaxPrefixes: p.maxPrefixes()},
			LongLivedGracefulRestart: &api.LongLivedGracefulRestart{
				Config: &api.LongLivedGracefulRestartConfig{Enabled: g.longLives(), RestartTime: uint32(seconds(g.LongLived))},
			},
		})
	}
	return out
}

// neighborShape is what of a peer we set and GoBGP tells back. The local address is not in it: while a session is up
// GoBGP tells the one in use.
type neighborShape struct {
	address, password, device           string
	asn, localAS, port, ttl, ttlMin     uint32
	passive, multihop, gtsm             bool
	hold, keepalive, retry, idle        uint64
	restart, helper, notify             bool
	restartTime, deferral               uint32
	v4, v6, v4Restart, v6Restart, extra bool
	v4Max, v6Max                        uint32
}

func shapeOf(p *api.Peer) neighborShape {
	t, gr := p.GetTimers().GetConfig(), p.GetGracefulRestart()
	s := neighborShape{
		address: p.GetConf().GetNeighborAddress(), asn: p.GetConf().GetPeerAsn(), localAS: p.GetConf().GetLocalAsn(), password: p.GetConf().GetAuthPassword(),
		passive: p.GetTransport().GetPassiveMode(), port: p.GetTransport().GetRemotePort(), device: p.GetTransport().GetBindInterface(),
		multihop: p.GetEbgpMultihop().GetEnabled(), ttl: p.GetEbgpMultihop().GetMultihopTtl(),
		gtsm: p.GetTtlSecurity().GetEnabled(), ttlMin: p.GetTtlSecurity().GetTtlMin(),
		hold: t.GetHoldTime(), keepalive: t.GetKeepaliveInterval(), retry: t.GetConnectRetry(), idle: t.GetIdleHoldTimeAfterReset(),
		restart: gr.GetEnabled(), helper: gr.GetHelperOnly(), notify: gr.GetNotificationEnabled(), restartTime: gr.GetRestartTime(), deferral: gr.GetDeferralTime(),
	}
	for _, a := range p.GetAfiSafis() {
		gr, limit := a.GetMpGracefulRestart().GetConfig().GetEnabled(), a.GetPrefixLimits().GetMaxPrefixes()
		switch familyOf(a.GetConfig().GetFamily()) {
		case IPv4:
			s.v4, s.v4Restart, s.v4Max = true, gr, limit
		case IPv6:
			s.v6, s.v6Restart, s.v6Max = true, gr, limit
		default:
			s.extra = true
		}
	}
	return s
}

// dialsLink reports whether the session is opened by us to a link-local address. GoBGP v3 takes the address with its zone
// for "::" when it sets a TCP MD5 key, and sends unsigned segments: such a peer goes without the zone, bound to its link.
// A connection that comes in is looked up with the zone, so that a passive peer keeps it (and cannot have a password).
func (p Peer) dialsLink() bool {
	return p.Address.Is6() && p.Address.IsLinkLocalUnicast() && !p.Passive
}

// name is what GoBGP knows the peer by.
func (p Peer) name() string {
	if p.dialsLink() {
		return p.Address.WithZone("").String()
	}
	return p.Address.String()
}

// device is what the session's socket is bound to; empty: nothing.
func (p Peer) device() string {
	if p.dialsLink() {
		return p.Address.Zone()
	}
	return p.Interface
}

// nameOf is what GoBGP knows a neighbor by.
func nameOf(p *api.Peer) string {
	if s := p.GetConf().GetNeighborAddress(); s != "" {
		return s
	}
	return p.GetState().GetNeighborAddress()
}

// peerAddr reads a neighbor's address, with its link as zone where GoBGP tells it.
func peerAddr(p *api.Peer) (netip.Addr, bool) {
	a, err := netip.ParseAddr(nameOf(p))
	if err == nil && a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
		a = a.WithZone(p.GetTransport().GetBindInterface())
	}
	return a, err == nil
}

var stateNames = map[api.PeerState_SessionState]string{
	api.PeerState_IDLE:        StateIdle,
	api.PeerState_CONNECT:     StateConnect,
	api.PeerState_ACTIVE:      StateActive,
	api.PeerState_OPENSENT:    StateOpenSent,
	api.PeerState_OPENCONFIRM: StateOpenConfirm,
	api.PeerState_ESTABLISHED: StateEstablished,
}

func stateOf(s *api.PeerState) string {
	switch {
	case s.GetAdminState() == api.PeerState_DOWN:
		return StateAdminDown
	case s.GetAdminState() == api.PeerState_PFX_CT:
		return StatePrefixLimit
	}
	if n, ok := stateNames[s.GetSessionState()]; ok {
		return n
	}
	return StateIdle
}

func messagesOf(m *api.Message) MessageCount {
	return MessageCount{
		Open: m.GetOpen(), Update: m.GetUpdate(), Keepalive: m.GetKeepalive(),
		Notification: m.GetNotification(), Refresh: m.GetRefresh(), Total: m.GetTotal(),
	}
}

// statusOf turns GoBGP's account of a peer into ours, without the count of accepted prefixes: see tallies.
func statusOf(p *api.Peer, down meta.Down) PeerStatus {
	s, ts, gr := p.GetState(), p.GetTimers().GetState(), p.GetGracefulRestart()
	out := PeerStatus{
		ASN: s.GetPeerAsn(), State: stateOf(s), Flaps: s.GetFlops(),
		Sent: messagesOf(s.GetMessages().GetSent()), Received: messagesOf(s.GetMessages().GetReceived()),
		PeerRestarting: gr.GetPeerRestarting(), LocalRestarting: gr.GetLocalRestarting(),
		LastDown: down.Reason, LastDownAt: down.At,
	}
	if down.Reason == meta.OpenRefused && out.Received.Notification == 0 {
		out.LastDown = "the peer answered our OPEN with an unexpected message"
	}
	out.Address, _ = peerAddr(p)
	if id, err := netip.ParseAddr(s.GetRouterId()); err == nil {
		out.RouterID = id
	}
	if out.State == StateEstablished {
		out.HoldTime = time.Duration(ts.GetNegotiatedHoldTime()) * time.Second
		out.Keepalive = time.Duration(ts.GetKeepaliveInterval()) * time.Second
		if up := ts.GetUptime(); up != nil {
			out.Since = up.AsTime()
		}
	} else if d := ts.GetDowntime(); d != nil {
		out.Since = d.AsTime()
	}
	spoken, restart := remoteFamilies(p)
	for _, a := range p.GetAfiSafis() {
		f := familyOf(a.GetConfig().GetFamily())
		if f == 0 {
			continue
		}
		st := a.GetState()
		var advertised uint64
		if out.State == StateEstablished && spoken[f] { // GoBGP counts for the others too
			advertised = st.GetAdvertised()
			if gr.GetEnabled() && restart && advertised > 0 {
				advertised-- // the End-of-RIB, which GoBGP counts when both sides do graceful restart
			}
		}
		out.Families = append(out.Families, FamilyStatus{
			Family: f, Received: st.GetReceived(), Advertised: advertised, Spoken: out.State == StateEstablished && spoken[f],
			EndOfRIB: a.GetMpGracefulRestart().GetState().GetEndOfRibReceived(),
		})
	}
	return out
}

// remoteFamilies returns what an established peer speaks, and whether it sent the graceful restart capability.
func remoteFamilies(p *api.Peer) (spoken map[Family]bool, restart bool) {
	spoken = map[Family]bool{}
	for _, c := range p.GetState().GetRemoteCap() {
		var mp api.MultiProtocolCapability
		switch {
		case c.MessageIs((*api.GracefulRestartCapability)(nil)):
			restart = true
		case c.MessageIs(&mp) && c.UnmarshalTo(&mp) == nil:
			spoken[familyOf(mp.GetFamily())] = true
		}
	}
	if len(spoken) == 0 {
		spoken[IPv4] = true // RFC 4760 section 8: a peer without the capability speaks IPv4 unicast
	}
	return spoken, restart
}

// eorFamilies returns the families an established peer sends an End-of-RIB for: all that both sides speak, if it sent the
// graceful restart capability. Helpers, FRR and BIRD by default, send it without any family (RFC 4724 section 3).
func eorFamilies(p *api.Peer) []Family {
	spoken, restart := remoteFamilies(p)
	var out []Family
	for _, a := range p.GetAfiSafis() {
		if f := familyOf(a.GetConfig().GetFamily()); restart && spoken[f] {
			out = append(out, f)
		}
	}
	return out
}

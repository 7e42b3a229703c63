package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"time"
	"unicode"
	"unicode/utf8"

	api "github.com/osrg/gobgp/v3/api"
)

// MaxCommunication is how long a shutdown communication may be, in bytes (RFC 9003 section 2).
const MaxCommunication = 255

// ValidCommunication refuses what cannot be told to peers as the reason of a shutdown.
func ValidCommunication(text string) error {
	if len(text) > MaxCommunication {
		return fmt.Errorf("communication of %d bytes: at most %d (RFC 9003)", len(text), MaxCommunication)
	}
	if !utf8.ValidString(text) {
		return fmt.Errorf("communication %q: must be UTF-8 (RFC 9003)", text)
	}
	for _, r := range text {
		if unicode.IsControl(r) {
			return fmt.Errorf("communication %q: must be one line without control characters", text)
		}
	}
	return nil
}

// expected are the peers whose routes are waited for, those too that have to be found first.
func (c Config) expected() []Peer {
	if c.Shutdown != "" {
		return nil
	}
	return c.Peers
}

// downWait bounds the wait for GoBGP to take peers down: it queues the wish, and drops it while an earlier one is queued. It
// leaves room for plainWait.
const (
	downWait  = 8 * time.Second
	plainWait = 4 * time.Second
	downPoll  = 20 * time.Millisecond
)

// shutdown has every peer administratively down. Those that the speaker does not have yet are not added: a new speaker
// has no session to end.
func (r *reconciler) shutdown(ctx context.Context, c Config) error {
	r.warm = false // nothing of ours is at the peers when they come back
	r.peers = nil  // see revive
	wanted := make(map[netip.Addr]Peer, len(c.Peers))
	for _, p := range c.found() {
		wanted[p.Address] = p
	}
	for began := time.Now(); ; {
		have, _, err := r.conn.peers(ctx, false)
		if err != nil {
			return err
		}
		up := 0
		for a, cur := range have {
			p, ok := wanted[a]
			down := cur.GetState().GetAdminState() == api.PeerState_DOWN
			if !down {
				up++
			}
			if err := r.takeDown(ctx, cur, neighborOf(p, c, false), ok, time.Since(began), c.Shutdown); err != nil {
				return err
			}
		}
		switch {
		case up == 0:
			clear(r.given) // they say nothing any more
			return nil
		case time.Since(began) > downWait:
			return fmt.Errorf("speaker: %d peers not down within %s", up, downWait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(downPoll):
		}
	}
}

// takeDown does the next step with one peer, after so much time. To one that has the N bit (RFC 8538) GoBGP v3 sends a Hard
// Reset, but without the encapsulated code and subcode: FRR then reads the text as an unknown error. So the
// session is opened anew without the bit, for a moment, and then shut down.
func (r *reconciler) takeDown(ctx context.Context, cur, want *api.Peer, wanted bool, after time.Duration, communication string) error {
	a, _ := peerAddr(cur) // it is the key of a listing
	state := cur.GetState()
	down := state.GetAdminState() == api.PeerState_DOWN
	want.GracefulRestart.NotificationEnabled = false
	shaped := shapeOf(cur) == shapeOf(want)
	established := state.GetSessionState() == api.PeerState_ESTABLISHED
	switch {
	case !wanted:
		return r.deletePeer(ctx, a, nameOf(cur))
	case down:
		return nil
	case established && hardResets(cur) && !shaped:
		return r.call(ctx, "open the session with "+a.String()+" anew", func(ctx context.Context) error {
			_, err := r.api.UpdatePeer(ctx, &api.UpdatePeerRequest{Peer: want})
			return err
		})
	case !established && shaped && want.GetGracefulRestart().GetEnabled() && after < plainWait: // on its way back
		return nil
	}
	return r.disable(ctx, nameOf(cur), cut(communication, gobgpCommunication))
}

// hardResets says that GoBGP ends the established session with a Hard Reset: both sides have the N bit.
func hardResets(p *api.Peer) bool {
	const bitN = 0x4 // in the flags, RFC 8538 section 2
	for _, c := range p.GetState().GetRemoteCap() {
		var gr api.GracefulRestartCapability
		if c.MessageIs(&gr) && c.UnmarshalTo(&gr) == nil {
			return p.GetGracefulRestart().GetNotificationEnabled() && gr.GetFlags()&bitN != 0
		}
	}
	return false
}

// gobgpCommunication is how much of a communication GoBGP sends, in bytes: as much as RFC 8203 had, before RFC 9003.
const gobgpCommunication = 128

// cut shortens a text to so many bytes, between two characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

func (r *reconciler) disable(ctx context.Context, name, communication string) error {
	return r.call(ctx, "shut down peer "+name, func(ctx context.Context) error {
		_, err := r.api.DisablePeer(ctx, &api.DisablePeerRequest{Address: name, Communication: communication})
		return err
	})
}

// revive takes out the peers that a shutdown left down, by this client or an earlier one, for neighbors to add them anew:
// EnablePeer would first wait through an idle hold time of 5 s, and with no session there is nothing to lose. Later, a
// peer that is down is so for another reason.
func (r *reconciler) revive(ctx context.Context, have map[netip.Addr]*api.Peer) error {
	for a, p := range have {
		if p.GetState().GetAdminState() != api.PeerState_DOWN {
			continue
		}
		if err := r.deletePeer(ctx, a, nameOf(p)); err != nil {
			return err
		}
		delete(have, a)
	}
	return nil
}

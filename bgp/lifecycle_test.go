package bgp_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/bgp"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
)

// pair is a host and a router that helps it restart but does not ask for the same.
func pair(t *testing.T, change func(host, tor *bgp.Peer)) (host, tor *node, hostConf, torConf bgp.Config) {
	t.Helper()
	h, r := nstest.New(t, "host"), nstest.New(t, "tor")
	cable(t, h, r, 1)
	tor, host = newNode(t, r, "tor"), newNode(t, h, "host")
	atTor := bgp.Peer{Address: addr("10.0.1.1"), ASN: 65001, Passive: true}
	atHost := bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}
	change(&atHost, &atTor)
	hostConf, torConf = hostConfig(atHost), torConfig(atTor)
	torConf.GracefulRestart.HelperOnly = true
	tor.configure(t, torConf, "0.0.0.0/0", "10.64.2.0/26")
	host.configure(t, hostConf, "10.64.1.0/26")
	return host, tor, hostConf, torConf
}

func TestHelperOnlyRouter(t *testing.T) {
	t.Parallel()
	host, tor, _, _ := pair(t, func(_, _ *bgp.Peer) {})
	host.fabric.want(t, 10*time.Second, "0.0.0.0/0 via [10.0.1.0]; 10.64.2.0/26 via [10.0.1.0]")
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	host.fabric.waitSynced(t, 1)

	host.respawn(t)
	host.fabric.waitSynced(t, 2)
	if got := host.fabric.told(); got != "found synced lost found synced" {
		t.Errorf("told of the speaker: %q", got)
	}
	host.established(t, "10.0.1.0")
	tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	tor.fabric.mu.Lock()
	if len(tor.fabric.gone) > 0 {
		t.Errorf("withdrawn at the router while the host's speaker restarted: %v", tor.fabric.gone)
	}
	tor.fabric.mu.Unlock()

	start := time.Now()
	tor.proc.signal(syscall.SIGKILL)
	host.fabric.want(t, 5*time.Second, "")
	t.Logf("routes of a killed router gone after %s", time.Since(start).Round(time.Millisecond))
	if p := host.peer(t, "10.0.1.0"); p.LastDown == "" || p.LastDownAt.Before(start.Add(-time.Second)) {
		t.Errorf("last down %q at %s", p.LastDown, p.LastDownAt)
	}
}

// Agent and speaker both gone, as in an upgrade of everything: only the caller knows that peers still have our routes.
func TestWarmRestartOfBoth(t *testing.T) {
	r := newRack(t)
	r.host.stop()
	stop := r.watch(t)
	r.host.respawn(t)
	r.host.warm = true
	r.host.connect(t)
	if err := r.host.Configure(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"10.0.1.0", "10.0.2.0"} {
		if st := r.host.peer(t, p); st.LocalRestarting || st.State != bgp.StateIdle || !st.Since.IsZero() {
			t.Errorf("peer given to the speaker before the first announcement: %+v", st)
		}
	}
	r.host.announce(t, "10.64.1.0/26", "fd64:0:1::/64")
	r.host.fabric.waitSynced(t, 1)
	r.host.fabric.want(t, 15*time.Second, atHost)
	stop()
}

func TestSpeakerComesLater(t *testing.T) {
	t.Parallel()
	n := &node{ns: nstest.New(t, "host"), socket: filepath.Join(t.TempDir(), "host", "gobgp.sock")}
	n.Speaker = bgp.New(bgp.Options{Socket: n.socket})
	if _, err := n.Peers(t.Context()); !errors.Is(err, bgp.ErrDisconnected) {
		t.Errorf("Peers without a speaker: %v", err)
	}
	n.configure(t, hostConfig(bgp.Peer{Address: addr("10.0.1.0"), ASN: 65100}), "10.64.1.0/26")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.proc = startSpeaker(t, n.ns, n.socket)
	eventually(t, 10*time.Second, func() error {
		own, err := n.Announced(t.Context())
		if err == nil && fmt.Sprint(own) != "[10.64.1.0/26]" {
			err = fmt.Errorf("announced %v", own)
		}
		return err
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := n.Status(); st.Connected {
		t.Errorf("status after Run: %+v", st)
	}
}

func TestRefusedConfigurations(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(_, _ *bgp.Peer) {})
	host.established(t, "10.0.1.0")
	if err := host.Configure(t.Context(), bgp.Config{}); err == nil {
		t.Error("an empty configuration is accepted")
	}
	if p := host.peer(t, "10.0.1.0"); p.State != bgp.StateEstablished {
		t.Errorf("a refused configuration changed the session: %s", p.State)
	}

	// The port is taken: an error now, and success once it is free.
	var busy net.Listener
	err := host.ns.Do(func() (err error) {
		busy, err = net.Listen("tcp", "10.0.1.1:179")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	conf.Listen = true
	if err := host.Configure(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("listening on a taken port: %v", err)
	}
	if st := host.Status(); st.Err == nil || !st.Connected {
		t.Errorf("status %+v", st)
	}
	busy.Close()
	tor.fabric.want(t, 15*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	eventually(t, 5*time.Second, func() error { return host.Status().Err })
}

func TestMaxPrefixes(t *testing.T) {
	t.Parallel()
	host, tor, conf, _ := pair(t, func(h, _ *bgp.Peer) { h.MaxPrefixes = 3 })
	host.established(t, "10.0.1.0")
	tor.announce(t, "0.0.0.0/0", "10.64.2.0/26", "10.64.3.0/26", "10.64.5.0/26", "10.64.6.0/26")
	eventually(t, 10*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); p.State != bgp.StatePrefixLimit {
			return fmt.Errorf("state %s", p.State)
		}
		return nil
	})
	host.fabric.want(t, 5*time.Second, "")
	if p := host.peer(t, "10.0.1.0"); !strings.Contains(p.LastDown, "prefix limit reached: more ipv4-unicast prefixes") {
		t.Errorf("last down: %q", p.LastDown)
	}
	conf.Peers[0].MaxPrefixes = 100
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	host.established(t, "10.0.1.0")
}

func TestWhyASessionIsDown(t *testing.T) {
	t.Parallel()
	host, tor, conf, torConf := pair(t, func(h, _ *bgp.Peer) { h.ASN = 65199 })
	eventually(t, 10*time.Second, func() error {
		if p := host.peer(t, "10.0.1.0"); !strings.Contains(p.LastDown, "expected 65199, received 65100") {
			return fmt.Errorf("state %s, last down %q", p.State, p.LastDown)
		}
		return nil
	})
	conf.Peers[0].ASN = 65100
	if err := host.Configure(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	host.established(t, "10.0.1.0")

	// A password on both sides, then on none: the listener must forget the key.
	for _, pw := range []string{password, "", password} {
		conf.Peers[0].Password, torConf.Peers[0].Password = pw, pw
		if err := tor.Configure(t.Context(), torConf); err != nil {
			t.Fatal(err)
		}
		if err := host.Configure(t.Context(), conf); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, func() error {
			if p := host.peer(t, "10.0.1.0"); p.State == bgp.StateEstablished && time.Since(p.Since) > 4*time.Second {
				return fmt.Errorf("still the old session of %s", p.Since)
			}
			return nil
		})
		host.established(t, "10.0.1.0")
		tor.fabric.want(t, 10*time.Second, "10.64.1.0/26 via [10.0.1.1]")
	}
}

func TestIPv6Session(t *testing.T) {
	t.Parallel()
	host, tor, _, _ := pair(t, func(h, r *bgp.Peer) {
		h.Address, r.Address = addr("fd00:1::"), addr("fd00:1::1")
	})
	host.announce(t, "fd64:0:1::/64")
	tor.fabric.want(t, 15*time.Second, "fd64:0:1::/64 via [fd00:1::1]")
	host.fabric.want(t, 5*time.Second, "0.0.0.0/0 via [fd00:1::]; 10.64.2.0/26 via [fd00:1::]")
}

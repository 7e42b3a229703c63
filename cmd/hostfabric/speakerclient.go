package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/uplink"
	"github.com/hostfabric/hostfabric/bgp"
)

// newSpeaker is the client of the speaker process; what it learns goes into the table.
func newSpeaker(cfg *config.Config, table agent.RouteTable, log *slog.Logger) *bgp.Speaker {
	events := agent.Learner{Table: table, Metric: cfg.Routes.Metric, HostAddresses: cfg.HostAddresses()}.Events()
	marker := warmMarker(filepath.Join(cfg.RunDir, "announced"))
	events.Status = func(s bgp.Status) { marker.set(s, log) }
	return bgp.New(bgp.Options{Socket: cfg.SpeakerSocket(), Log: log.With("room", "bgp"), Events: events, WarmRestart: marker.warm})
}

// speakerConfig is the BGP state this host wants.
func speakerConfig(cfg *config.Config) (bgp.Config, error) {
	routerID := cfg.RouterID
	if !routerID.IsValid() {
		var err error
		if routerID, err = uplink.RouterID(peerAddresses(cfg), cfg.Blocks); err != nil {
			return bgp.Config{}, err
		}
	}
	out := bgp.Config{
		ASN: cfg.ASN, RouterID: routerID, Listen: cfg.BGP.Listen, ListenPort: cfg.BGP.Port, Multipath: cfg.BGP.Multipath,
		GracefulRestart: bgp.GracefulRestart{
			Disabled: !cfg.GracefulRestart.Enabled, RestartTime: cfg.GracefulRestart.RestartTime, Deferral: cfg.GracefulRestart.Deferral,
		},
	}
	policy := bgp.HostPolicy{OwnSpace: cfg.Blocks}
	for _, r := range cfg.ImportRules() {
		policy.Import = append(policy.Import, bgp.ImportRule(r))
	}
	out.Policy = policy
	for _, p := range cfg.Peers {
		peer := bgp.Peer{
			Address: p.Address, ASN: p.ASN, Description: p.Name, Password: string(p.Password), TTLSecurity: p.TTLSecurity, Passive: p.Passive,
			HoldTime: cfg.Timers.Hold, Keepalive: cfg.Timers.Keepalive, ConnectRetry: cfg.Timers.ConnectRetry, MaxPrefixes: p.MaxPrefixes, LocalAddress: p.LocalAddress,
		}
		if link, err := uplink.To(p.Address); err == nil && p.Address.Is4() {
			peer.NextHop6 = link.GlobalIPv6()
		}
		out.Peers = append(out.Peers, peer)
	}
	return out, nil
}

func speakerArgv(cfg *config.Config) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find our own binary to start the speaker with: %w", err)
	}
	argv := []string{filepath.Clean(exe), "speaker", "--socket", cfg.SpeakerSocket(), "--log-level", cfg.Log.Level.String()}
	inspect := "" // no listener
	if l := cfg.BGP.Inspect; !l.IsZero() {
		inspect = l.String()
	}
	return append(argv, "--inspect", inspect), nil
}

// replaceOldSpeaker ends a speaker of another version once it is connected: the supervisor starts ours, and graceful
// restart keeps the routes meanwhile.
func replaceOldSpeaker(ctx context.Context, speaker *bgp.Speaker, log *slog.Logger) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s := speaker.Status()
		if !s.Connected || !s.Synced || s.Version == version {
			continue
		}
		log.Info("replacing a speaker of another version", "pid", s.PID, "its_version", s.Version, "our_version", version)
		if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end speaker process %d: %w", s.PID, err)
		}
	}
}

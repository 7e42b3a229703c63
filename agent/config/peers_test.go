package config

import (
	"strings"
	"testing"
	"time"
)

// TestPassivePassword: the speaker would set no key for a link-local peer that connects to it.
func TestPassivePassword(t *testing.T) {
	const want = "peers[0].passive: a password over link-local addresses needs a session that is opened from here (false, and the router passive)"
	for peer, refused := range map[string]bool{
		"{interface: eth0, asn: 1, passive: true, password_file: x}":           true,
		"{address: 'fe80::1%eth0', asn: 1, passive: true, password_file: x}":   true,
		"{interface: eth0, asn: 1, password_file: x}":                          false,
		"{interface: eth0, asn: 1, passive: true}":                             false,
		"{address: 10.0.0.1, asn: 1, passive: true, password_file: x}":         false,
		"{address: 'fe80::1%eth0', asn: external, ttl_security: true}":         false,
		"{address: 10.0.0.1, asn: 1, timers: {keepalive: 1s, hold: 3s}}":       false,
		"{address: 10.0.0.1, asn: 1, local_as: 2, send_communities: standard}": false,
	} {
		_, err := LoadWithoutSecrets(write(t, "asn: 65000\nhost: h\nblocks: [10.64.0.0/26]\npeers: ["+peer+"]\n"), nil)
		if got := err != nil; got != refused || refused && err.Error() != want {
			t.Errorf("%s: %v", peer, err)
		}
	}
}

func TestPeerTimers(t *testing.T) {
	for own, want := range map[string]Timers{
		"{}":                            {4 * time.Second, 12 * time.Second, 2 * time.Second},
		"{hold: 30s}":                   {10 * time.Second, 30 * time.Second, 2 * time.Second},
		"{hold: 3s}":                    {time.Second, 3 * time.Second, 2 * time.Second},
		"{keepalive: 1s}":               {time.Second, 12 * time.Second, 2 * time.Second},
		"{connect_retry: 7s}":           {4 * time.Second, 12 * time.Second, 7 * time.Second},
		"{keepalive: 5s, hold: 1m}":     {5 * time.Second, time.Minute, 2 * time.Second},
		"{hold: 4s, connect_retry: 1s}": {time.Second, 4 * time.Second, time.Second},
	} {
		text := strings.Replace(small, "{address: 10.0.0.0, asn: 4200100001}", "{address: 10.0.0.0, asn: 4200100001, timers: "+own+"}", 1)
		c := mustLoad(t, text+"timers: {keepalive: 4s, hold: 12s, connect_retry: 2s}\n", nil)
		if got := c.Peers[0].Timers; got != want {
			t.Errorf("%s: %+v, want %+v", own, got, want)
		}
		if got := c.Peers[1].Timers; got != c.Timers {
			t.Errorf("%s: the other peer has %+v", own, got)
		}
	}
}

func TestMaxPrefixesRestart(t *testing.T) {
	for text, want := range map[string]time.Duration{"never": 0, "0": 0, "0s": 0, "1s": time.Second, "24h": 24 * time.Hour} {
		if got, err := parseRestart(text); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1s", "999ms", "25h", "Never", "5"} {
		if got, err := parseRestart(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

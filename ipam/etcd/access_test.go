package etcd

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
	"github.com/hostfabric/hostfabric/ipam/etcd/etcdtest"
)

func wantError(t testing.TB, err, kind error, text string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %v with %q", err, kind, text)
	}
}

func TestNewRefuses(t *testing.T) {
	endpoint := []string{"http://127.0.0.1:2379"}
	id := Identity{"id", "host"}
	for _, tc := range []struct {
		cfg   Config
		id    Identity
		pools []ipam.Pool
		want  string
	}{
		{Config{}, id, nil, "no endpoint"},
		{Config{Endpoints: endpoint}, Identity{Host: "h"}, nil, "needs an ID and a name"},
		{Config{Endpoints: []string{"127.0.0.1:2379"}}, id, nil, "want http://"},
		{Config{Endpoints: []string{"unix://localhost:2379"}}, id, nil, "absolute path"},
		{Config{Endpoints: []string{"https://a:1", "http://b:1"}}, id, nil, "two kinds"},
		{Config{Endpoints: endpoint, TLS: &tls.Config{}}, id, nil, "use https"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a/b"}}, `pool "a/b": want at most 32 lower-case letters`},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "Web_1"}}, `pool "Web_1": want`},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a"}, {Name: "a"}}, "twice"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a", Prefixes: prefixes("10.0.0.0/24")}}, "no length"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a", Prefixes: prefixes("10.0.0.0/24"), BaseIPv4: 23}}, "a block of /23 is not in 10.0.0.0/24"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a", Prefixes: prefixes("10.0.0.1/24"), BaseIPv4: 26}}, "not the prefix"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{{Name: "a", Prefixes: prefixes("10.0.0.0/24", "10.0.0.0/25"), BaseIPv4: 26}}, "overlaps"},
		{Config{Endpoints: endpoint}, id, []ipam.Pool{
			{Name: "a", Prefixes: prefixes("10.0.0.0/24"), BaseIPv4: 26}, {Name: "b", Prefixes: prefixes("10.0.0.0/25"), BaseIPv4: 26}}, "overlaps"},
	} {
		s, err := New(tc.cfg, tc.id, tc.pools)
		if err == nil {
			s.Close()
			t.Errorf("no error, want %q", tc.want)
		} else if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v, want %q", err, tc.want)
		}
	}
}

func TestEtcdIsAwayAndComes(t *testing.T) {
	f := newFabric(t)
	f.Kill()
	const timeout = 500 * time.Millisecond
	h := newSource(t, Config{Endpoints: []string{f.Endpoint()}, Timeout: timeout}, "a", small)
	hints, err := h.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = h.Blocks(t.Context())
	wantError(t, err, ipam.ErrSourceAway, f.Endpoint())
	wantError(t, err, ipam.ErrSourceAway, "connection refused")
	if took := time.Since(start); took > 10*timeout {
		t.Errorf("it took %s to say so", took)
	}
	_, err = h.Grow(t.Context(), ipam.Growth{})
	wantError(t, err, ipam.ErrSourceAway, f.Endpoint())
	_, err = h.Claim(t.Context(), "", prefixes("10.64.0.0/26"))
	wantError(t, err, ipam.ErrSourceAway, f.Endpoint())
	wantError(t, h.Release(t.Context(), prefixes("10.64.0.0/26")), ipam.ErrSourceAway, f.Endpoint())
	f.Restart()
	awaitHint(t, hints)
	eventually(t, 20*time.Second, func() error {
		_, err := h.Grow(t.Context(), ipam.Growth{})
		return err
	})
}

func TestUnixSocket(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Options{Unix: true})
	h := newSource(t, Config{Endpoints: []string{s.Endpoint()}}, "a", small)
	hints := mustWatch(t, h)
	have := mustGrow(t, h)
	awaitHint(t, hints)
	s.Kill()
	s.Restart()
	awaitHint(t, hints)
	wantPrefixes(t, mustBlocks(t, h), have[0].String())
}

func TestTLS(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Options{TLS: true})
	cfg := Config{Endpoints: []string{s.Endpoint()}, TLS: s.Authority.ClientTLS(), Timeout: 10 * time.Second}
	h := newSource(t, cfg, "a", small)
	mustWatch(t, h)
	mustGrow(t, h)

	cfg.Timeout = 500 * time.Millisecond
	cfg.TLS = etcdtest.NewAuthority(t).ClientTLS()
	_, err := newSource(t, cfg, "b", small).Blocks(t.Context())
	wantError(t, err, ipam.ErrSourceAway, "certificate signed by unknown authority")
	cfg.TLS = s.Authority.Trust()
	_, err = newSource(t, cfg, "b", small).Blocks(t.Context())
	wantError(t, err, ipam.ErrSourceAway, s.Endpoint()) // the reason may be lost with the connection
}

// TestUserBesideACertificate: the user who is configured counts, not the name in the certificate, also if etcd asks for users
// only later.
func TestUserBesideACertificate(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Options{TLS: true})
	cfg := Config{Endpoints: []string{s.Endpoint()}, TLS: s.Authority.ClientTLS(), Timeout: 10 * time.Second, Username: "allowed", Password: "one"}
	before := newSource(t, cfg, "a", small)
	have := mustGrow(t, before)
	s.EnableAuth(DefaultPrefix)
	mustGrow(t, before, have...)
	mustGrow(t, newSource(t, cfg, "b", small))
}

func TestUsers(t *testing.T) {
	s := etcdtest.Start(t, etcdtest.Options{})
	plain := Config{Endpoints: []string{s.Endpoint()}, Timeout: 10 * time.Second}
	as := func(u etcdtest.User) Config {
		cfg := plain
		cfg.Username, cfg.Password = u.Name, u.Password
		return cfg
	}
	// A user and a password do no harm before etcd asks for them, nor does it once etcd does.
	h := newSource(t, as(etcdtest.User{Name: "allowed", Password: "one"}), "a", small)
	have := mustGrow(t, h)
	allowed, nobody := s.EnableAuth(DefaultPrefix)
	have = append(have, mustGrow(t, h, have...)...)
	hints := mustWatch(t, h)

	wrong := allowed
	wrong.Password = "wrong"
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{as(wrong), "the name or the password of user allowed is wrong"},
		{as(nobody), "grant its user readwrite on the keys that begin with /hostfabric/v1/"},
		{plain, "it wants a user and a password"},
	} {
		h := newSource(t, tc.cfg, "b", small)
		_, err := h.Blocks(t.Context())
		wantError(t, err, ErrDenied, tc.want)
		_, err = h.Grow(t.Context(), ipam.Growth{})
		wantError(t, err, ErrDenied, tc.want)
		if errors.Is(err, ipam.ErrSourceAway) {
			t.Errorf("%v is said to be away", err)
		}
		err = h.stream(t.Context(), h.hints(make(chan struct{}, 1)), func() { t.Error("it stands") })
		wantError(t, err, ErrDenied, "")
	}

	// etcd forgets its tokens when it restarts.
	s.Kill()
	s.Restart()
	awaitHint(t, hints)
	have = append(have, mustGrow(t, h, have...)...)
	awaitHint(t, hints)
	if len(have) != 3 {
		t.Errorf("has %v", have)
	}
}

package config

import (
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/hostfabric/hostfabric/ipam"
)

const small = `
asn: 4200000001
host: r1h1
peers:
  - {address: 10.0.0.0, asn: 4200100001}
  - {address: 10.0.0.2, asn: 4200100002}
blocks: [10.64.0.0/26, "fd00:64::/64"]
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostfabric.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, text string, flags *pflag.FlagSet) *Config {
	t.Helper()
	c, err := Load(write(t, text), flags)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

var sameNetip = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

// defaultPeer fills in what a peer has that says nothing else.
func defaultPeer(p Peer) Peer {
	p.BFD = BFD{Interval: 300 * time.Millisecond, Multiplier: 3}
	p.Timers = Timers{3 * time.Second, 9 * time.Second, time.Second}
	p.SendCommunities, p.MaxPrefixes, p.MaxPrefixesRestart = CommunitiesAll, 20000, 5*time.Minute
	return p
}

func TestLoadFillsDefaults(t *testing.T) {
	want := &Config{
		ASN:  4200000001,
		Host: "r1h1",
		Peers: []Peer{
			defaultPeer(Peer{Address: addr("10.0.0.0"), ASN: 4200100001, Name: "10.0.0.0"}),
			defaultPeer(Peer{Address: addr("10.0.0.2"), ASN: 4200100002, Name: "10.0.0.2"}),
		},
		Source:          SourceStatic,
		Blocks:          []Block{{pfx("10.64.0.0/26"), "default"}, {pfx("fd00:64::/64"), "default"}},
		Etcd:            Etcd{Prefix: "/hostfabric/v1", Timeout: 3 * time.Second},
		ImportDefault:   true,
		Budget:          Budget{4, 4},
		Timers:          Timers{3 * time.Second, 9 * time.Second, time.Second},
		GracefulRestart: GracefulRestart{true, 2 * time.Minute, 5 * time.Second, 0},
		BGP:             BGP{Port: 179, Multipath: 64, Inspect: Listener{"tcp", "127.0.0.1:50051"}, MRT: MRT{Interval: time.Hour}},
		BFD:             BFD{Interval: 300 * time.Millisecond, Multiplier: 3},
		IPAM:            IPAM{Quarantine: 10 * time.Second, Reconcile: 30 * time.Second, MaxBlocks: 64, ShrinkAfter: 10 * time.Minute, Settle: 500 * time.Millisecond},
		Health:          Health{FailAfter: 3 * time.Second, RecoverAfter: 10 * time.Second},
		Routes:          Routes{Metric: 2048, Resync: 30 * time.Second},
		Firewall:        Firewall{Enabled: true},
		HostAddress:     true,
		ManageSysctls:   true,
		StateDir:        "/var/lib/hostfabric",
		RunDir:          "/run/hostfabric",
		API:             API{Group: "hostfabric"},
		Docker:          Docker{Socket: "/run/docker/plugins/hostfabric.sock", API: "/var/run/docker.sock"},
		DNS:             DNS{Enabled: true, Zone: "fabric.internal", Forward: true, Timeout: 2 * time.Second, Cache: 10000, Rate: 1000},
		History:         History{Enabled: true, MaxSize: 1 << 30, MaxAge: 720 * time.Hour, Flush: 100 * time.Millisecond, Sync: 5 * time.Second},
		Log:             Log{Level: slog.LevelInfo, Format: LogText},
	}
	if diff := cmp.Diff(want, mustLoad(t, small, nil), sameNetip); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLoadReadsEveryKey(t *testing.T) {
	path := write(t, `
asn: 64086.59904
router_id: 10.255.0.1
host: R1H1
peers:
  - address: fe80::1%tor1
    asn: 65001
    name: tor1
    password_file: tor.key
    ttl_security: true
    local_address: fe80::2%tor1
    max_prefixes: 100
  - interface: eth0
    asn: external
    local_as: 65000.1
    passive: true
    timers: {hold: 60s, connect_retry: 5s}
    bfd: {enabled: false, interval: 1s, multiplier: 2}
    send_communities: large
    max_prefixes_restart: never
source: static
blocks: [10.64.0.0/26, {prefix: 10.64.1.0/26, pool: web}]
reserved: [10.64.0.5, 10.64.0.8/29, 10.64.0.20-10.64.0.29, "fd00:64::/126"]
etcd:
  endpoints: ["https://192.0.2.1:2379/", "https://etcd2.example.net:2379"]
  ca_file: not-read-unless-the-source-is-etcd
  cert_file: host.pem
  key_file: host-key.pem
  username: host1
  password_file: etcd-password
  prefix: /fabrics/a.b
  timeout: 100ms
  host_id: R1-h1
pools:
  - {name: default, prefixes: [10.64.0.0/13, "fd00:64::/48"], block_ipv4: 24, block_ipv6: 60}
  - {name: web, prefixes: [10.72.0.0/13]}
fabric: [10.64.0.0/12]
import: [192.0.2.0/24, {prefix: 10.0.0.0/8, le: 24}, {prefix: 10.0.0.0/8, ge: 16}, {prefix: "fd00::/8", ge: 32, le: 64}]
import_default: false
budget: {ipv4: 2, ipv6: 1}
announce: {communities: ["65001:100", "1:0"], large_communities: ["4200000000:1:4294967295"]}
timers: {keepalive: 10s, hold: 30s, connect_retry: 2s}
graceful_restart: {enabled: false, restart_time: 60s, deferral: 10s, long_lived: 1h}
bgp:
  listen: auto
  port: 1179
  multipath: 8
  inspect: "unix:///run/x.sock"
  bmp: ["192.0.2.9:5000", {address: "fd00::9", policy: all}]
  mrt: {file: /var/lib/mrt/table.mrt, interval: 10m}
bfd: {enabled: true, interval: 100ms, multiplier: 5}
mtu: 9000
ipam: {quarantine: 1m, reconcile: 10s, fsync: true, max_blocks: 8, shrink_after: 0s, settle: 1s}
sandboxes: {low: 8, high: 32, pool: web, family: ipv6}
firewall: {open: [9179]}
masquerade: {enabled: true, except: [10.0.0.0/8, "fd00::/8"]}
health: {fail_after: 500ms, recover_after: 1m}
routes: {metric: 100, resync: 1m}
host_address: false
manage_sysctls: false
state_dir: /srv/hf/
run_dir: /run/hf
api: {group: wheel}
docker: {enabled: true, socket: /run/d/fabric.sock, api: off}
dns:
  enabled: false
  zone: Containers.Example.NET.
  forward: false
  upstreams: [192.0.2.53, "[fd00::53]:5353"]
  listen: [127.0.0.1, "::1"]
  timeout: 500ms
  cache: 0
  rate: 50
history: {enabled: false, dir: /srv/ledger/, max_size: 512 MiB, max_age: 24h, flush: 1s, sync: 0s}
metrics: {listen: ":9179"}
log: {level: debug, format: json}
`)
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "tor.key"), []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := &Config{
		ASN:      4200000000,
		RouterID: addr("10.255.0.1"),
		Host:     "r1h1",
		Peers: []Peer{{
			Address: addr("fe80::1%tor1"), ASN: 65001, Name: "tor1", Password: "s3cret", TTLSecurity: true,
			LocalAddress: addr("fe80::2%tor1"), MaxPrefixes: 100, MaxPrefixesRestart: 5 * time.Minute, SendCommunities: CommunitiesAll,
			Timers: Timers{10 * time.Second, 30 * time.Second, 2 * time.Second}, BFD: BFD{true, 100 * time.Millisecond, 5},
		}, {
			Interface: "eth0", LocalAS: 4259840001, Name: "eth0", Passive: true, MaxPrefixes: 20000, SendCommunities: CommunitiesLarge,
			Timers: Timers{20 * time.Second, time.Minute, 5 * time.Second}, BFD: BFD{false, time.Second, 2},
		}},
		Source: SourceStatic,
		Blocks: []Block{{pfx("10.64.0.0/26"), "default"}, {pfx("10.64.1.0/26"), "web"}},
		Reserved: []ipam.Range{
			{First: addr("10.64.0.5"), Last: addr("10.64.0.5")}, {First: addr("10.64.0.8"), Last: addr("10.64.0.15")},
			{First: addr("10.64.0.20"), Last: addr("10.64.0.29")}, {First: addr("fd00:64::"), Last: addr("fd00:64::3")},
		},
		Etcd: Etcd{
			Endpoints: []string{"https://192.0.2.1:2379", "https://etcd2.example.net:2379"},
			Username:  "host1", Prefix: "/fabrics/a.b", Timeout: 100 * time.Millisecond, HostID: "R1-h1",
		},
		Pools: []ipam.Pool{
			{Name: "default", Prefixes: []netip.Prefix{pfx("10.64.0.0/13"), pfx("fd00:64::/48")}, BaseIPv4: 24, BaseIPv6: 60},
			{Name: "web", Prefixes: []netip.Prefix{pfx("10.72.0.0/13")}, BaseIPv4: 26},
		},
		Fabric: []netip.Prefix{pfx("10.64.0.0/12")},
		Import: []ImportRule{
			{pfx("192.0.2.0/24"), 24, 24}, {pfx("10.0.0.0/8"), 8, 24}, {pfx("10.0.0.0/8"), 16, 32}, {pfx("fd00::/8"), 32, 64},
		},
		Budget:          Budget{2, 1},
		Announce:        Announce{[]uint32{65001<<16 | 100, 1 << 16}, []LargeCommunity{{4200000000, 1, 4294967295}}},
		Timers:          Timers{10 * time.Second, 30 * time.Second, 2 * time.Second},
		GracefulRestart: GracefulRestart{false, time.Minute, 10 * time.Second, time.Hour},
		BGP: BGP{
			Listen: true, Port: 1179, Multipath: 8, Inspect: Listener{"unix", "/run/x.sock"},
			BMP: []BMPStation{{netip.MustParseAddrPort("192.0.2.9:5000"), BMPPre}, {netip.MustParseAddrPort("[fd00::9]:11019"), BMPAll}},
			MRT: MRT{"/var/lib/mrt/table.mrt", 10 * time.Minute},
		},
		BFD:      BFD{Enabled: true, Interval: 100 * time.Millisecond, Multiplier: 5},
		MTU:      9000,
		IPAM:     IPAM{Quarantine: time.Minute, Reconcile: 10 * time.Second, Fsync: true, MaxBlocks: 8, Settle: time.Second},
		Firewall: Firewall{Enabled: true, Open: []uint16{9179}}, Masquerade: Masquerade{Enabled: true, Except: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}},
		Sandboxes: Sandboxes{Low: 8, High: 32, Pool: "web", Family: ipam.OnlyIPv6},
		Health:    Health{FailAfter: 500 * time.Millisecond, RecoverAfter: time.Minute},
		Routes:    Routes{Metric: 100, Resync: time.Minute},
		StateDir:  "/srv/hf",
		RunDir:    "/run/hf",
		API:       API{Group: "wheel"},
		Docker:    Docker{Enabled: true, Socket: "/run/d/fabric.sock"},
		DNS: DNS{
			Zone: "containers.example.net", Timeout: 500 * time.Millisecond, Rate: 50,
			Upstreams: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53"), netip.MustParseAddrPort("[fd00::53]:5353")},
			Listen:    []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:53")},
		},
		History: History{Dir: "/srv/ledger", MaxSize: 512 << 20, MaxAge: 24 * time.Hour, Flush: time.Second},
		Metrics: Metrics{Listener{"tcp", ":9179"}},
		Log:     Log{Level: slog.LevelDebug, Format: LogJSON},
	}
	got, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, sameNetip); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDerived(t *testing.T) {
	c := mustLoad(t, small+"fabric: [10.64.0.0/12]\nimport: [192.0.2.0/24]\nrun_dir: /run/h1\nstate_dir: /var/h1\n", nil)
	wantRules := []ImportRule{
		{pfx("0.0.0.0/0"), 0, 0}, {pfx("::/0"), 0, 0}, {pfx("10.64.0.0/12"), 12, 32}, {pfx("192.0.2.0/24"), 24, 24},
	}
	if diff := cmp.Diff(wantRules, c.ImportRules(), sameNetip); diff != "" {
		t.Errorf("ImportRules, -want +got:\n%s", diff)
	}
	if diff := cmp.Diff(c.BlockPrefixes(), c.ContainerSpace(), sameNetip); diff != "" || len(c.BlockPrefixes()) != 2 {
		t.Errorf("ContainerSpace, -blocks +got:\n%s", diff)
	}
	if ipv4, ipv6 := c.Families(); !ipv4 || !ipv6 {
		t.Errorf("Families: %t, %t", ipv4, ipv6)
	}
	paths := []string{c.APISocket(), c.CNISocket(), c.SpeakerSocket(), c.LeaseFile(), c.CNISpool(), c.EndpointNotes(), c.SandboxDir(), c.SandboxHolds()}
	want := []string{"/run/h1/hostfabric.sock", "/run/h1/cni.sock", "/run/h1/speaker/gobgp.sock", "/var/h1/leases", "/var/h1/cni-spool",
		"/run/h1/endpoints.jsonl", "/run/h1/sandboxes", "/run/h1/sandboxes.jsonl"}
	if diff := cmp.Diff(want, paths); diff != "" {
		t.Errorf("paths, -want +got:\n%s", diff)
	}
}

// TestPrecedence checks flag over environment over file over default.
func TestPrecedence(t *testing.T) {
	flags := func(args ...string) *pflag.FlagSet {
		f := pflag.NewFlagSet("agent", pflag.ContinueOnError)
		f.String("log-level", "error", "")
		f.Bool("ipam-fsync", false, "")
		f.Duration("timers-hold", time.Hour, "")
		f.String("config", "", "")
		if err := f.Parse(args); err != nil {
			t.Fatal(err)
		}
		return f
	}
	inFile := small + "log: {level: warn}\n"
	for _, tc := range []struct {
		name, file, env string
		flags           *pflag.FlagSet
		want            slog.Level
	}{
		{"default", small, "", nil, slog.LevelInfo},
		{"a flag's own default does not count", small, "", flags(), slog.LevelInfo},
		{"file", inFile, "", flags(), slog.LevelWarn},
		{"environment", inFile, "debug", flags(), slog.LevelDebug},
		{"flag", inFile, "debug", flags("--log-level=error"), slog.LevelError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("HOSTFABRIC_LOG_LEVEL", tc.env)
			if got := mustLoad(t, tc.file, tc.flags).Log.Level; got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	c := mustLoad(t, small, flags("--ipam-fsync", "--timers-hold=30s", "--config=x"))
	if !c.IPAM.Fsync || c.Timers.Hold != 30*time.Second {
		t.Errorf("typed flags: %+v, %+v", c.IPAM, c.Timers)
	}
}

// TestForeignEnvironment has what Kubernetes sets for services called hostfabric and hostfabric-bgp.
func TestForeignEnvironment(t *testing.T) {
	t.Setenv("HOSTFABRIC_SERVICE_HOST", "10.96.0.7")
	t.Setenv("HOSTFABRIC_PORT", "tcp://10.96.0.7:179")
	t.Setenv("HOSTFABRIC_PORT_179_TCP_ADDR", "10.96.0.7")
	t.Setenv("HOSTFABRIC_BGP_PORT", "tcp://10.96.0.7:179")
	if c := mustLoad(t, small, nil); c.BGP.Port != 179 {
		t.Errorf("bgp.port is %d", c.BGP.Port)
	}
}

func TestEnvironmentIsNamedInErrors(t *testing.T) {
	t.Setenv("HOSTFABRIC_LOG_LEVEL", "loud")
	flags := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	flags.String("mtu", "", "")
	if err := flags.Parse([]string{"--mtu=big"}); err != nil {
		t.Fatal(err)
	}
	_, err := Load(write(t, small), flags)
	want := `log.level: "loud" is not one of debug, info, warn, error, set by HOSTFABRIC_LOG_LEVEL
mtu: "big" is not a number from 0 to 65535, set by --mtu`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// TestNamesAreUnique: two keys of one variable or flag could not be told apart.
func TestNamesAreUnique(t *testing.T) {
	seen := map[string]string{}
	for key := range Keys() {
		for _, name := range []string{EnvName(key), "--" + FlagName(key)} {
			if seen[name] != "" {
				t.Errorf("%s and %s are both %s", seen[name], key, name)
			}
			seen[name] = key
		}
	}
	if got := EnvName("graceful_restart.restart_time"); got != "HOSTFABRIC_GRACEFUL_RESTART_RESTART_TIME" {
		t.Errorf("got %s", got)
	}
}

func TestNoFile(t *testing.T) {
	_, err := Load("/nonexistent/hostfabric.yaml", nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "--config") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(t.TempDir(), nil); err == nil {
		t.Error("a directory was read as a file")
	}
	if _, err := Load("/dev/zero", nil); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("an endless file: got %v", err)
	}
}

func TestHostDefaultsToTheMachine(t *testing.T) {
	parse := hostOr(func() (string, error) { return "R1H1.rack1.example.net", nil })
	if got, err := parse(""); got != "r1h1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	parse = hostOr(func() (string, error) { return "my_host", nil })
	if _, err := parse(""); err == nil || err.Error() != `this machine's name, "my_host", is not a DNS label` {
		t.Errorf("got %v", err)
	}
}

func TestSecretIsHidden(t *testing.T) {
	var out strings.Builder
	s := Secret("s3cret")
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "a", s, "b", Peer{Password: s}, "c", []Secret{s})
	if strings.Contains(out.String(), "s3cret") {
		t.Errorf("shown: %s", out.String())
	}
	if string(s) != "s3cret" {
		t.Error("the conversion hides it as well")
	}
}

package config

import (
	"log/slog"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hostfabric/hostfabric/ipam"
)

// field is a key of a T that has a single value: its name, its default as one would write it in the file, and
// what to do with the text.
type field[T any] struct {
	key   string
	value string
	access[T]
}

// access is how a field's value is set from text, read back, and taken over from another T.
type access[T any] struct {
	set  func(*T, string) error
	get  func(*T) any
	keep func(to, from *T)
}

// put is a field's access: parse, then store where at says.
func put[T, V any](at func(*T) *V, parse func(string) (V, error)) access[T] {
	return access[T]{
		set: func(t *T, text string) error {
			v, err := parse(text)
			if err != nil {
				return err
			}
			*at(t) = v
			return nil
		},
		get:  func(t *T) any { return *at(t) },
		keep: func(to, from *T) { *at(to) = *at(from) },
	}
}

// fields are all keys outside lists.
var fields = []field[draft]{
	{"asn", "", put(func(d *draft) *uint32 { return &d.ASN }, needed(parseASN, "this host's own AS number"))},
	{"router_id", "", put(func(d *draft) *netip.Addr { return &d.RouterID }, parseRouterID)},
	{"host", "", put(func(d *draft) *string { return &d.Host }, hostOr(os.Hostname))},
	{"source", string(SourceStatic), put(func(d *draft) *SourceKind { return &d.Source }, parseChoice(SourceStatic, SourceEtcd))},
	{"import_default", "true", put(func(d *draft) *bool { return &d.ImportDefault }, parseBool)},
	{"budget.ipv4", "4", put(func(d *draft) *int { return &d.Budget.IPv4 }, parseInt(0, 256))},
	{"budget.ipv6", "4", put(func(d *draft) *int { return &d.Budget.IPv6 }, parseInt(0, 256))},

	{"timers.keepalive", "3s", put(func(d *draft) *time.Duration { return &d.Timers.Keepalive }, parseSeconds(time.Second, maxHold))},
	{"timers.hold", "9s", put(func(d *draft) *time.Duration { return &d.Timers.Hold }, parseSeconds(minHold, maxHold))},
	{"timers.connect_retry", "1s", put(func(d *draft) *time.Duration { return &d.Timers.ConnectRetry }, parseSeconds(time.Second, maxHold))},
	{"graceful_restart.enabled", "true", put(func(d *draft) *bool { return &d.GracefulRestart.Enabled }, parseBool)},
	{"graceful_restart.restart_time", "120s", put(func(d *draft) *time.Duration { return &d.GracefulRestart.RestartTime },
		parseSeconds(time.Second, 4095*time.Second))},
	{"graceful_restart.deferral", "5s", put(func(d *draft) *time.Duration { return &d.GracefulRestart.Deferral },
		parseSeconds(time.Second, 4095*time.Second))},
	{"graceful_restart.long_lived", "0s", put(func(d *draft) *time.Duration { return &d.GracefulRestart.LongLived },
		parseSeconds(0, 16777215*time.Second))},

	{"bgp.listen", string(listenAuto), put(func(d *draft) *listen { return &d.listen }, parseChoice(listenAuto, listenOn, listenOff))},
	{"bgp.port", "179", put(func(d *draft) *int { return &d.BGP.Port }, parseInt(1, 65535))},
	{"bgp.multipath", "64", put(func(d *draft) *int { return &d.BGP.Multipath }, parseInt(1, 256))},
	{"bgp.inspect", "127.0.0.1:50051", put(func(d *draft) *Listener { return &d.BGP.Inspect }, parseLocal)},
	{"bgp.mrt.file", "", put(func(d *draft) *string { return &d.BGP.MRT.File }, orZero(parseDir))},
	{"bgp.mrt.interval", "1h", put(func(d *draft) *time.Duration { return &d.BGP.MRT.Interval }, parseDuration(time.Minute, 7*24*time.Hour))},
	{"bfd.enabled", "false", put(func(d *draft) *bool { return &d.BFD.Enabled }, parseBool)},
	{"bfd.interval", "300ms", put(func(d *draft) *time.Duration { return &d.BFD.Interval }, parseInterval)},
	{"bfd.multiplier", "3", put(func(d *draft) *int { return &d.BFD.Multiplier }, parseMultiplier)},

	{"mtu", "0", put(func(d *draft) *int { return &d.MTU }, parseInt(0, 65535))},
	{"ipam.quarantine", "10s", put(func(d *draft) *time.Duration { return &d.IPAM.Quarantine }, parseDuration(0, 24*time.Hour))},
	{"ipam.reconcile", "30s", put(func(d *draft) *time.Duration { return &d.IPAM.Reconcile }, parseDuration(time.Second, time.Hour))},
	{"ipam.fsync", "false", put(func(d *draft) *bool { return &d.IPAM.Fsync }, parseBool)},
	{"ipam.max_blocks", "64", put(func(d *draft) *int { return &d.IPAM.MaxBlocks }, parseInt(1, 1024))},
	{"ipam.shrink_after", "10m", put(func(d *draft) *time.Duration { return &d.IPAM.ShrinkAfter }, parseDuration(0, 7*24*time.Hour))},
	{"ipam.settle", "500ms", put(func(d *draft) *time.Duration { return &d.IPAM.Settle }, parseDuration(0, time.Minute))},
	{"etcd.ca_file", "", put(func(d *draft) *string { return &d.etcd.caFile }, asIs)},
	{"etcd.cert_file", "", put(func(d *draft) *string { return &d.etcd.certFile }, asIs)},
	{"etcd.key_file", "", put(func(d *draft) *string { return &d.etcd.keyFile }, asIs)},
	{"etcd.username", "", put(func(d *draft) *string { return &d.Etcd.Username }, parseName)},
	{"etcd.password_file", "", put(func(d *draft) *string { return &d.etcd.passwordFile }, asIs)},
	{"etcd.prefix", "/hostfabric/v1", put(func(d *draft) *string { return &d.Etcd.Prefix }, parseKeyPrefix)},
	{"etcd.timeout", "3s", put(func(d *draft) *time.Duration { return &d.Etcd.Timeout }, parseDuration(100*time.Millisecond, time.Minute))},
	{"etcd.host_id", "", put(func(d *draft) *string { return &d.Etcd.HostID }, orZero(parseHostID))},

	{"sandboxes.low", "0", put(func(d *draft) *int { return &d.Sandboxes.Low }, parseInt(0, maxSandboxes))},
	{"sandboxes.high", "0", put(func(d *draft) *int { return &d.Sandboxes.High }, parseInt(0, maxSandboxes))},
	{"sandboxes.pool", "", put(func(d *draft) *string { return &d.Sandboxes.Pool }, orZero(parsePool))},
	{"sandboxes.family", "", put(func(d *draft) *ipam.Family { return &d.Sandboxes.Family }, orZero(parseChoice(ipam.OnlyIPv4, ipam.OnlyIPv6)))},

	{"health.fail_after", "3s", put(func(d *draft) *time.Duration { return &d.Health.FailAfter }, parseDuration(0, 10*time.Minute))},
	{"health.recover_after", "10s", put(func(d *draft) *time.Duration { return &d.Health.RecoverAfter }, parseDuration(0, 5*time.Minute))},

	{"routes.metric", "2048", put(func(d *draft) *uint32 { return &d.Routes.Metric }, parseUint32(1, math.MaxUint32))},
	{"routes.resync", "30s", put(func(d *draft) *time.Duration { return &d.Routes.Resync }, parseDuration(time.Second, time.Hour))},
	{"firewall.enabled", "true", put(func(d *draft) *bool { return &d.Firewall.Enabled }, parseBool)},
	{"masquerade.enabled", "false", put(func(d *draft) *bool { return &d.Masquerade.Enabled }, parseBool)},
	{"host_address", "true", put(func(d *draft) *bool { return &d.HostAddress }, parseBool)},
	{"manage_sysctls", "true", put(func(d *draft) *bool { return &d.ManageSysctls }, parseBool)},

	{"state_dir", "/var/lib/hostfabric", put(func(d *draft) *string { return &d.StateDir }, parseDir)},
	{"run_dir", "/run/hostfabric", put(func(d *draft) *string { return &d.RunDir }, parseDir)},
	{"api.group", "hostfabric", put(func(d *draft) *string { return &d.API.Group }, parseGroup)},
	{"docker.enabled", "false", put(func(d *draft) *bool { return &d.Docker.Enabled }, parseBool)},
	{"docker.socket", "/run/docker/plugins/hostfabric.sock", put(func(d *draft) *string { return &d.Docker.Socket }, parsePluginSocket)},
	{"docker.api", "unix:///var/run/docker.sock", put(func(d *draft) *string { return &d.Docker.API }, parseDockerAPI)},
	{"dns.enabled", "true", put(func(d *draft) *bool { return &d.DNS.Enabled }, parseBool)},
	{"dns.zone", "fabric.internal", put(func(d *draft) *string { return &d.DNS.Zone }, parseZone)},
	{"dns.forward", "true", put(func(d *draft) *bool { return &d.DNS.Forward }, parseBool)},
	{"dns.timeout", "2s", put(func(d *draft) *time.Duration { return &d.DNS.Timeout }, parseDuration(100*time.Millisecond, 30*time.Second))},
	{"dns.cache", "10000", put(func(d *draft) *int { return &d.DNS.Cache }, parseInt(0, 1_000_000))},
	{"dns.rate", "1000", put(func(d *draft) *int { return &d.DNS.Rate }, parseInt(0, 1_000_000))},
	{"history.enabled", "true", put(func(d *draft) *bool { return &d.History.Enabled }, parseBool)},
	{"history.dir", "", put(func(d *draft) *string { return &d.History.Dir }, orZero(parseDir))},
	{"history.max_size", "1GiB", put(func(d *draft) *Size { return &d.History.MaxSize }, parseSize(16<<20, 16<<40))},
	{"history.max_age", "720h", put(func(d *draft) *time.Duration { return &d.History.MaxAge }, parseDuration(time.Hour, 20*365*24*time.Hour))},
	{"history.flush", "100ms", put(func(d *draft) *time.Duration { return &d.History.Flush }, parseDuration(time.Millisecond, time.Minute))},
	{"history.sync", "5s", put(func(d *draft) *time.Duration { return &d.History.Sync }, parseDuration(0, time.Hour))},
	{"metrics.listen", "", put(func(d *draft) *Listener { return &d.Metrics.Listen }, parseListener)},
	{"log.level", "info", put(func(d *draft) *slog.Level { return &d.Log.Level }, parseLevel)},
	{"log.format", string(LogText), put(func(d *draft) *LogFormat { return &d.Log.Format }, parseChoice(LogText, LogJSON))},
}

// blockFields are the keys of an element of blocks.
var blockFields = []field[Block]{
	{"prefix", "", put(func(b *Block) *netip.Prefix { return &b.Prefix }, needed(parsePrefix, "such as 10.64.0.0/26"))},
	{"pool", "", put(func(b *Block) *string { return &b.Pool }, orZero(parsePool))},
}

// The lengths of base blocks where nothing else is said, in bits.
const (
	defaultBaseIPv4 = 26
	defaultBaseIPv6 = 64
)

// poolFields are the keys of an element of pools besides its prefixes.
var poolFields = []field[poolDraft]{
	{"name", "", put(func(p *poolDraft) *string { return &p.name }, needed(parsePool, "such as default"))},
	{"block_ipv4", strconv.Itoa(defaultBaseIPv4), put(func(p *poolDraft) *int { return &p.base4 }, parseInt(minBaseIPv4, maxBaseIPv4))},
	{"block_ipv6", strconv.Itoa(defaultBaseIPv6), put(func(p *poolDraft) *int { return &p.base6 }, parseInt(minBaseIPv6, maxBaseIPv6))},
}

// importFields are the keys of an element of import. ge and le are what prefix lists call them.
var importFields = []field[importDraft]{
	{"prefix", "", put(func(i *importDraft) *netip.Prefix { return &i.prefix }, needed(parsePrefix, "such as 10.0.0.0/8"))},
	{"ge", "", put(func(i *importDraft) *int { return &i.ge }, orUnset(parseInt(0, 128)))},
	{"le", "", put(func(i *importDraft) *int { return &i.le }, orUnset(parseInt(0, 128)))},
}

// root is the shape of the whole file.
var root = func() *shape {
	top := mappingOf(fields)
	word := &shape{scalar: true}
	top.keys["peers"] = &shape{each: mappingOf(peerFields)}
	station := mappingOf(stationFields)
	station.scalar = true
	top.keys["bgp"].keys["bmp"] = &shape{each: station}
	block := mappingOf(blockFields)
	block.scalar = true
	top.keys["blocks"] = &shape{each: block}
	top.keys["reserved"] = &shape{each: word}
	top.keys["etcd"].keys["endpoints"] = &shape{each: word}
	pool := mappingOf(poolFields)
	pool.keys["prefixes"] = &shape{each: word}
	top.keys["pools"] = &shape{each: pool}
	top.keys["fabric"] = &shape{each: word}
	top.keys["announce"] = &shape{keys: map[string]*shape{"communities": {each: word}, "large_communities": {each: word}}}
	top.keys["firewall"].keys["open"] = &shape{each: word}
	top.keys["masquerade"].keys["except"] = &shape{each: word}
	top.keys["dns"].keys["upstreams"] = &shape{each: word}
	top.keys["dns"].keys["listen"] = &shape{each: word}
	rule := mappingOf(importFields)
	rule.scalar = true
	top.keys["import"] = &shape{each: rule}
	return top
}()

func mappingOf[T any](fields []field[T]) *shape {
	top := &shape{keys: map[string]*shape{}}
	for _, f := range fields {
		at := top
		names := strings.Split(f.key, ".")
		for _, section := range names[:len(names)-1] {
			if at.keys[section] == nil {
				at.keys[section] = &shape{keys: map[string]*shape{}}
			}
			at = at.keys[section]
		}
		at.keys[names[len(names)-1]] = &shape{scalar: true}
	}
	return top
}

// needed refuses the empty text, which is what a key without a default has when nobody sets it.
func needed[V any](parse func(string) (V, error), what string) func(string) (V, error) {
	return func(text string) (V, error) {
		if text == "" {
			var none V
			return none, &problem{"missing", what}
		}
		return parse(text)
	}
}

func orZero[V any](parse func(string) (V, error)) func(string) (V, error) {
	return func(text string) (V, error) {
		if text == "" {
			var none V
			return none, nil
		}
		return parse(text)
	}
}

const unset = -1

func orUnset(parse func(string) (int, error)) func(string) (int, error) {
	return func(text string) (int, error) {
		if text == "" {
			return unset, nil
		}
		return parse(text)
	}
}

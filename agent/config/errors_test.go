package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestMistakes has one mistake each; the text is all that the user sees.
func TestMistakes(t *testing.T) {
	const peer = "peers: [{address: 10.0.0.1, asn: 65001}]\n"
	const block = "blocks: [10.64.0.0/26]\n"
	const asn = "asn: 65000\n"
	with := func(line string) string { return asn + peer + block + line + "\n" }
	blocks := func(list string) string { return asn + peer + "blocks: [" + list + "]\n" }
	peers := func(list string) string { return asn + block + "peers: [" + list + "]\n" }

	for _, tc := range []struct{ name, file, want string }{
		// What YAML is.
		{"tab", "asn: 1\npeers:\n\t- x\n", "hostfabric.yaml: line 3: found character that cannot start any token (indent with spaces, not tabs; quote text that begins with @, ` or %)"},
		{"bracket", asn + "blocks: [10.64.0.0/26\nmtu: 0\n", "hostfabric.yaml: line 2: did not find expected ',' or ']' (look at the indentation, quotes and brackets from this line on)"},
		{"indentation", "asn: 1\npeers:\n  - address: 10.0.0.1\n   asn: 5\n", "hostfabric.yaml: line 3: did not find expected '-' indicator (look at the indentation, quotes and brackets from this line on)"},
		{"colon", asn + "host: a: b\n", "hostfabric.yaml: line 2: mapping values are not allowed in this context (look at the indentation, colons and quotes of this line and the one before)"},
		{"quote", asn + "host: \"a\nmtu: 0\n", "hostfabric.yaml: line 2: found unexpected end of stream (a quote that begins there has no end)"},
		{"no mapping", "- asn\n", `hostfabric.yaml: line 1: not a mapping (write lines such as "asn: 4200000001")`},
		{"two documents", with("---\nasn: 1"), "hostfabric.yaml: line 4: a second document begins (keep one, without ---)"},
		{"alias", with("mtu: &a 1500\nhost: *a"), "host: YAML aliases are not understood (write the value out)"},
		{"merge key", with("mtu: 0\n<<: {mtu: 3}"), "<<: line 5: unknown key (keys here: announce, api, asn, bfd, bgp, blocks, budget, dns, docker, etcd, fabric, firewall, graceful_restart, health, history, host, host_address, import, import_default, ipam, log, manage_sysctls, masquerade, metrics, mtu, peers, pools, reserved, router_id, routes, run_dir, sandboxes, source, state_dir, timers)"},
		{"odd key", with("? [a]\n: b"), "?: line 4: a key must be a word"},
		{"odd text in a key", with(`"a\nb": 1`), `"a\nb": line 4: unknown key (did you mean api?)`},

		// Keys.
		{"misspelt key", with("mut: 1500"), "mut: line 4: unknown key (did you mean mtu?)"},
		{"upper case key", with("MTU: 1500"), "MTU: line 4: unknown key (did you mean mtu?)"},
		{"key of a section", with("hold: 9s"), "hold: line 4: unknown key (did you mean timers.hold?)"},
		{"dotted key", with("timers.hold: 9s"), "timers.hold: line 4: unknown key (did you mean timers.hold?)"},
		{"unknown key in a peer", peers("{address: 10.0.0.1, asn: 1, pasword_file: x}"), "peers[0].pasword_file: line 3: unknown key (did you mean peers[0].password_file?)"},
		{"duplicate key", with("asn: 1"), "asn: line 4: already set on line 1 (keep one of the two)"},
		{"duplicate key in a section", with("log: {level: info, level: warn}"), "log.level: line 4: already set on line 4 (keep one of the two)"},
		{"value for a section", with("log: debug"), "log: this is a single value, not a mapping (keys: format, level)"},
		{"list for a value", with("mtu: [1500]"), "mtu: this is a list, not a single value"},
		{"value for a list", asn + peer + "blocks: 10.64.0.0/26\n", "blocks: this is a single value, not a list (write blocks: [...])"},
		{"mapping for a list", asn + block + "peers: {address: 10.0.0.1}\n", "peers: this is a mapping, not a list (write each element below it, beginning with -)"},
		{"empty element", asn + peer + "blocks:\n  - 10.64.0.0/26\n  -\n", "blocks[1]: empty element (remove it)"},

		// What a host needs.
		{"no asn", peer + block, "asn: missing (this host's own AS number)"},
		{"empty asn", "asn:\n" + peer + block, "asn: missing (this host's own AS number)"},
		{"no peers", asn + block, "peers: missing (the routers this host connects to; [] for none)"},
		{"no blocks", asn + peer, "blocks: missing (the address blocks of this host)"},
		{"empty blocks", blocks(""), "blocks: empty (a host without a block has no address to give)"},
		{"no peer asn", peers("{address: 10.0.0.1}"), "peers[0].asn: missing (the router's AS number, or external)"},
		{"no peer address", peers("{asn: 1}"), "peers[0].address: missing (the router's address, or the interface it is found on)"},

		// AS numbers and identity.
		{"asn 0", "asn: 0\n" + peer + block, "asn: AS number 0 is reserved (RFC 7607) (private ones are 64512 to 65534 and 4200000000 to 4294967294)"},
		{"asn 23456", "asn: 23456\n" + peer + block, "asn: AS number 23456 is reserved (AS_TRANS, RFC 6793) (private ones are 64512 to 65534 and 4200000000 to 4294967294)"},
		{"asn 65535", "asn: 65535\n" + peer + block, "asn: AS number 65535 is reserved (RFC 7300) (private ones are 64512 to 65534 and 4200000000 to 4294967294)"},
		{"asn 4294967295", "asn: 65535.65535\n" + peer + block, "asn: AS number 4294967295 is reserved (RFC 7300) (private ones are 64512 to 65534 and 4200000000 to 4294967294)"},
		{"asn too large", "asn: 4294967296\n" + peer + block, `asn: "4294967296" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"asn negative", "asn: -1\n" + peer + block, `asn: "-1" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"asn word", "asn: AS65000\n" + peer + block, `asn: "AS65000" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"asn asdot", "asn: 1.65536\n" + peer + block, `asn: "1.65536" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"router id", with("router_id: fd00::1"), `router_id: "fd00::1" is not a router id (it looks like an IPv4 address, such as 10.0.0.1, also on a host with IPv6 only)`},
		{"router id of a peer", with("router_id: 10.0.0.1"), "router_id: 10.0.0.1 is the address of peers[0] (it must be this host's own)"},
		{"host", with("host: a.b"), `host: "a.b" is not a host name (letters, digits and inner hyphens, at most 63, no dots)`},

		// DNS.
		{"zone", with("dns: {zone: a..b}"), `dns.zone: "a..b" is not the name of a zone (labels of letters, digits and inner hyphens joined by dots, such as fabric.internal)`},
		{"no zone", with("dns: {zone: ''}"), `dns.zone: "" is not the name of a zone (labels of letters, digits and inner hyphens joined by dots, such as fabric.internal)`},
		{"long zone", with("dns: {zone: " + strings.Repeat("a.", 30) + "b}"), `dns.zone: "` + strings.Repeat("a.", 30) + `b" has 61 bytes (at most 60, for the names of host and container come before it)`},
		{"zone of addresses", with("dns: {zone: 10.in-addr.arpa}"), `dns.zone: "10.in-addr.arpa" is where the names of addresses are (such as fabric.internal)`},
		{"listener everywhere", with("dns: {listen: [0.0.0.0]}"), "dns.listen[0]: 0.0.0.0 is not the address of one host"},
		{"listeners", with("dns: {listen: [127.0.0.1, '127.0.0.1:53', ':53']}"), "dns.listen[1]: 127.0.0.1:53 is there twice (remove one)\ndns.listen[2]: \":53\" is not an address and port (such as 127.0.0.1:53)"},
		{"resolver", with("dns: {upstreams: [ns.example.net]}"), `dns.upstreams[0]: "ns.example.net" is not an address and port (such as 192.0.2.53 or '[fd00::53]:5353')`},
		{"patience", with("dns: {timeout: 1m}"), "dns.timeout: 1m is not from 100ms to 30s"},

		// Peers.
		{"duplicate peers", peers("{address: 10.0.0.1, asn: 1}, {address: 10.0.0.1, asn: 2}"), "peers[1].address: 10.0.0.1 is also peers[0] (one session with each address)"},
		{"duplicate IPv6 peers", peers("{address: 'fd00::1', asn: 1}, {address: 'fd00:0::1', asn: 2}"), "peers[1].address: fd00::1 is also peers[0] (one session with each address)"},
		{"address", peers("{address: tor1, asn: 1}"), `peers[0].address: "tor1" is not an IP address (such as 10.0.0.1 or fd00::1)`},
		{"address with length", peers("{address: 10.0.0.1/31, asn: 1}"), `peers[0].address: "10.0.0.1/31" is not an IP address (write 10.0.0.1, without the length)`},
		{"multicast address", peers("{address: 224.0.0.5, asn: 1}"), "peers[0].address: 224.0.0.5 is not the address of one host"},
		{"mapped address", peers("{address: '::ffff:10.0.0.1', asn: 1}"), "peers[0].address: ::ffff:10.0.0.1 is an IPv4 address written as IPv6 (write 10.0.0.1)"},
		{"link-local address", peers("{address: 'fe80::1', asn: 1}"), "peers[0].address: fe80::1 is link-local and needs its interface (write fe80::1%eth0)"},
		{"local address family", peers("{address: 10.0.0.1, asn: 1, local_address: 'fd00::1'}"), "peers[0].local_address: fd00::1 and 10.0.0.1 are of different families"},
		{"local address of the peer", peers("{address: 10.0.0.1, asn: 1, local_address: 10.0.0.1}"), "peers[0].local_address: 10.0.0.1 is the peer's own address"},
		{"boolean", peers("{address: 10.0.0.1, asn: 1, passive: yes}"), `peers[0].passive: "yes" is neither true nor false`},
		{"max prefixes", peers("{address: 10.0.0.1, asn: 1, max_prefixes: 0}"), `peers[0].max_prefixes: "0" is not a number from 1 to 4294967295`},
		{"passive without listener", peers("{address: 10.0.0.1, asn: 1, passive: true}") + "bgp: {listen: false}\n", "bgp.listen: a passive peer needs a listener (auto, or no passive peer)"},

		{"interface and address", peers("{address: 10.0.0.1, interface: eth0, asn: 1}"), "peers[0].interface: eth0 is set, and address is 10.0.0.1 as well (one of the two)"},
		{"interface name", peers("{interface: an-interface-too-long, asn: 1}"), `peers[0].interface: "an-interface-too-long" is not the name of an interface (such as eth0)`},
		{"duplicate interfaces", peers("{interface: eth0, asn: 1}, {interface: eth0, asn: external}"), "peers[1].interface: eth0 is also the interface of peers[0] (one session with the router there)"},
		{"address on an interface", peers("{address: 'fe80::1%eth0', asn: 1}, {interface: eth0, asn: 2}"), "peers[0].address: fe80::1%eth0 is on the interface of peers[1] (one session with the router there)"},
		{"local address of an interface", peers("{interface: eth0, asn: 1, local_address: 'fe80::1%eth0'}"), "peers[0].local_address: a session by interface has the interface's link-local address (remove it)"},
		{"internal", peers("{interface: eth0, asn: internal}"), `peers[0].asn: "internal" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"our own AS external", "asn: external\n" + peer + block, `asn: "external" is not an AS number (1 to 4294967294, or as 64086.59904)`},
		{"local_as of the router", peers("{address: 10.0.0.1, asn: 1, local_as: 1}"), "peers[0].local_as: 1 is the router's own AS number (this host's towards it must be another)"},
		{"local_as reserved", peers("{address: 10.0.0.1, asn: 1, local_as: 23456}"), "peers[0].local_as: AS number 23456 is reserved (AS_TRANS, RFC 6793) (private ones are 64512 to 65534 and 4200000000 to 4294967294)"},
		{"hold time of a peer", peers("{address: 10.0.0.1, asn: 1, timers: {hold: 2s}}"), "peers[0].timers.hold: 2s is not from 3s to 18h12m15s"},
		{"keepalive of a peer", peers("{address: 10.0.0.1, asn: 1, timers: {keepalive: 9s}}"), "peers[0].timers.keepalive: 9s is not less than the hold time, 9s (a third of it is usual)"},
		{"timer of a peer", peers("{address: 10.0.0.1, asn: 1, timers: {holdtime: 9s}}"), "peers[0].timers.holdtime: line 3: unknown key (keys here: connect_retry, hold, keepalive)"},
		{"communities", peers("{address: 10.0.0.1, asn: 1, send_communities: extended}"), `peers[0].send_communities: "extended" is not one of all, none, standard, large`},
		{"restart", peers("{address: 10.0.0.1, asn: 1, max_prefixes_restart: 500ms}"), "peers[0].max_prefixes_restart: 500ms is less than 1s (0s or never leaves the session down)"},
		{"restart number", peers("{address: 10.0.0.1, asn: 1, max_prefixes_restart: 5}"), `peers[0].max_prefixes_restart: "5" is not a duration (write 5s for seconds)`},

		// Monitoring.
		{"station", with("bgp: {bmp: [stations.example]}"), `bgp.bmp[0].address: "stations.example" is not an address and port (such as 192.0.2.9:11019 or '[fd00::9]:11019')`},
		{"station without address", with("bgp: {bmp: [{policy: pre}]}"), "bgp.bmp[0].address: missing (such as 192.0.2.9:11019)"},
		{"station multicast", with("bgp: {bmp: ['224.0.0.1:5000']}"), "bgp.bmp[0].address: 224.0.0.1 is not the address of one host"},
		{"station twice", with("bgp: {bmp: [192.0.2.9, {address: '192.0.2.9:11019', policy: all}]}"), "bgp.bmp[1].address: 192.0.2.9:11019 is also bgp.bmp[0] (one connection to each station)"},
		{"station policy", with("bgp: {bmp: [{address: 192.0.2.9, policy: both}]}"), `bgp.bmp[0].policy: "both" is not one of pre, post, local, all`},
		{"mrt file", with("bgp: {mrt: {file: table.mrt}}"), `bgp.mrt.file: "table.mrt" is not an absolute path (begin with /)`},
		{"mrt interval", with("bgp: {mrt: {interval: 10s}}"), "bgp.mrt.interval: 10s is not from 1m to 168h"},

		// Blocks.
		{"host bits", blocks("10.64.0.1/26"), "blocks[0]: 10.64.0.1/26 has host bits set (write 10.64.0.0/26)"},
		{"no length", blocks("10.64.0.1"), `blocks[0]: "10.64.0.1" is not a prefix (write 10.64.0.1/32 for this one address)`},
		{"no prefix", blocks("all"), `blocks[0]: "all" is not a prefix (such as 10.64.0.0/26 or fd00:64::/64)`},
		{"overlap", blocks("10.64.0.0/24, 10.64.1.0/24, 10.64.0.64/26"), "blocks[2]: 10.64.0.64/26 overlaps blocks[0], 10.64.0.0/24 (remove one)"},
		{"overlap by equality", blocks("'fd00::/64', 'fd00:0::/64'"), "blocks[1]: fd00::/64 overlaps blocks[0], fd00::/64 (remove one)"},
		{"block with a peer", blocks("10.0.0.0/24"), "blocks[0]: 10.0.0.0/24 contains 10.0.0.1, which is peers[0].address (a container would get that address)"},
		{"block equal to a peer", blocks("10.0.0.1/32") + "host_address: false\n", "blocks[0]: 10.0.0.1/32 contains 10.0.0.1, which is peers[0].address (a container would get that address)"},
		{"block of the host alone", blocks("10.64.0.1/32"), "blocks: 10.64.0.1/32 is one address, which the host takes for itself (a larger block, or host_address: false)"},
		{"block with a local address", asn + block + "peers: [{address: 10.0.0.1, asn: 1, local_address: 10.64.0.5}]\n", "blocks[0]: 10.64.0.0/26 contains 10.64.0.5, which is peers[0].local_address (a container would get that address)"},
		{"default route", blocks("0.0.0.0/0"), "blocks[0]: 0.0.0.0/0 is too large (/8 to /32)"},
		{"large IPv6", blocks("'fd00::/16'"), "blocks[0]: fd00::/16 is too large (/32 to /128)"},
		{"loopback", blocks("127.0.1.0/24"), "blocks[0]: 127.0.1.0/24 touches loopback (127.0.0.0/8) (containers need unicast addresses that can be routed)"},
		{"multicast", blocks("'ff02::/32'"), "blocks[0]: ff02::/32 touches multicast (ff00::/8) (containers need unicast addresses that can be routed)"},
		{"link-local", blocks("169.254.1.0/24"), "blocks[0]: 169.254.1.0/24 touches link-local (169.254.0.0/16) (containers need unicast addresses that can be routed)"},
		{"mapped block", blocks("'::ffff:10.0.0.0/120'"), "blocks[0]: ::ffff:10.0.0.0/120 is an IPv4 prefix written as IPv6 (write it as IPv4)"},
		{"outside fabric", blocks("10.128.0.0/26") + "fabric: [10.64.0.0/12]\n", "blocks[0]: 10.128.0.0/26 lies outside fabric (other hosts would refuse it; extend fabric)"},
		{"fabric of everything", with("fabric: [0.0.0.0/0]"), "fabric[0]: 0.0.0.0/0 is the default route (that is import_default)"},
		{"masquerade without the table", with("firewall: {enabled: false}\nmasquerade: {enabled: true}"), "masquerade.enabled: firewall.enabled is false (it is a rule of that table)"},
		{"masquerade except an address", with("masquerade: {except: [10.0.0.1]}"), `masquerade.except[0]: "10.0.0.1" is not a prefix (write 10.0.0.1/32 for this one address)`},
		{"open port", with("firewall: {open: [22, 0]}"), `firewall.open[1]: "0" is not a number from 1 to 65535`},
		{"sandboxes", with("sandboxes: {low: 3, high: 2}"), "sandboxes.low: 3 is above sandboxes.high, 2 (the pool is refilled below low, up to high)"},
		{"sandboxes of no family", with("sandboxes: {family: ipx}"), `sandboxes.family: "ipx" is not one of ipv4, ipv6`},
		{"budget", blocks("10.64.0.0/26, 10.64.1.0/26, 10.64.2.0/26") + "budget: {ipv4: 2}\n", "blocks: they take 3 prefixes in a ToR's table, and budget.ipv4 is 2 (use fewer or adjacent blocks, or raise budget.ipv4 if the ToR's table has room for that on every host)"},

		{"block without prefix", blocks("{pool: web}"), "blocks[0].prefix: missing (such as 10.64.0.0/26)"},
		{"block with a wrong pool", blocks("{prefix: 10.64.0.0/26, pool: Web}"), `blocks[0].pool: "Web" is not the name of a pool (lower-case letters, digits and inner hyphens, at most 32)`},
		{"block with host bits", blocks("{prefix: 10.64.0.1/26}"), "blocks[0].prefix: 10.64.0.1/26 has host bits set (write 10.64.0.0/26)"},
		{"block with an unknown key", blocks("{prefix: 10.64.0.0/26, pol: web}"), "blocks[0].pol: line 3: unknown key (did you mean blocks[0].pool?)"},
		{"overlap in another pool", blocks("10.64.0.0/26, {prefix: 10.64.0.0/27, pool: web}"), "blocks[1]: 10.64.0.0/27 overlaps blocks[0], 10.64.0.0/26 (remove one)"},
		{"list for a block", blocks("[10.64.0.0/26]"), "blocks[0]: this is a list, not a single value or a mapping (keys: pool, prefix)"},

		// Reserved addresses.
		{"reserved word", with("reserved: [gateway]"), `reserved[0]: "gateway" is not an address, a prefix or a range (such as 10.64.0.5, 10.64.0.8/29 or 10.64.0.20-10.64.0.29)`},
		{"reserved short range", with("reserved: [10.64.0.20-29]"), `reserved[0]: "10.64.0.20-29" is not an address, a prefix or a range (such as 10.64.0.5, 10.64.0.8/29 or 10.64.0.20-10.64.0.29)`},
		{"reserved zone", with("reserved: ['fe80::1%eth0']"), `reserved[0]: "fe80::1%eth0" is not an address, a prefix or a range (such as 10.64.0.5, 10.64.0.8/29 or 10.64.0.20-10.64.0.29)`},
		{"reserved host bits", with("reserved: [10.64.0.5, 10.64.0.9/29]"), "reserved[1]: 10.64.0.9/29 has host bits set (write 10.64.0.8/29)"},
		{"reserved backwards", with("reserved: [10.64.0.29-10.64.0.20]"), "reserved[0]: 10.64.0.29-10.64.0.20 ends before it begins (write 10.64.0.20-10.64.0.29)"},
		{"reserved families", with("reserved: ['10.64.0.1-fd00::1']"), "reserved[0]: 10.64.0.1 and fd00::1 are of different families"},
		{"reserved mapped", with("reserved: ['::ffff:10.64.0.1']"), "reserved[0]: ::ffff:10.64.0.1 has an IPv4 address written as IPv6 (write it as IPv4)"},
		{"reserved mapping", with("reserved: [{first: 10.64.0.1}]"), "reserved[0]: this is a mapping, not a single value"},

		// Import.
		{"import word", with("import: [any]"), `import[0]: "any" is not a prefix (such as 10.64.0.0/26 or fd00:64::/64)`},
		{"import le", with("import: [{prefix: 10.0.0.0/8, le: 7}]"), "import[0]: lengths 8 to 7 do not fit 10.0.0.0/8 (8 <= ge <= le <= 32)"},
		{"import ge", with("import: [{prefix: 10.0.0.0/8, ge: 24, le: 16}]"), "import[0]: lengths 24 to 16 do not fit 10.0.0.0/8 (8 <= ge <= le <= 32)"},
		{"import family", with("import: [{prefix: 10.0.0.0/8, le: 64}]"), "import[0]: lengths 8 to 64 do not fit 10.0.0.0/8 (8 <= ge <= le <= 32)"},
		{"import le word", with("import: [{prefix: 10.0.0.0/8, le: x}]"), `import[0].le: "x" is not a number from 0 to 128`},
		{"import without prefix", with("import: [{le: 32}]"), "import[0].prefix: missing (such as 10.0.0.0/8)"},

		// Numbers and times.
		{"no unit", with("timers: {hold: 9}"), `timers.hold: "9" is not a duration (write 9s for seconds)`},
		{"odd unit", with("timers: {hold: 9 seconds}"), `timers.hold: "9 seconds" is not a duration (write it with a unit, such as 500ms, 3s or 2m)`},
		{"hold 0", with("timers: {hold: 0s}"), "timers.hold: 0s is not from 3s to 18h12m15s"},
		{"hold fraction", with("timers: {hold: 3500ms}"), "timers.hold: 3500ms is not a whole number of seconds"},
		{"keepalive", with("timers: {keepalive: 9s}"), "timers.keepalive: 9s is not less than timers.hold, 9s (a third of it is usual)"},
		{"restart time", with("graceful_restart: {restart_time: 4096s}"), "graceful_restart.restart_time: 4096s is not from 1s to 1h8m15s"},
		{"long-lived", with("graceful_restart: {long_lived: 16777216s}"), "graceful_restart.long_lived: 16777216s is not from 0s to 4660h20m15s"},
		{"deferral", with("graceful_restart: {restart_time: 10s, deferral: 2m}"), "graceful_restart.deferral: 2m is longer than restart_time, 10s (peers would drop the routes before this host has chosen its own)"},
		{"port", with("bgp: {port: 0}"), `bgp.port: "0" is not a number from 1 to 65535`},
		{"octal", with("bgp: {multipath: 0o10}"), `bgp.multipath: "0o10" is not a number from 1 to 256`},
		{"mtu", with("mtu: 500"), "mtu: 500 is below 576 (IPv4 needs it; 0 takes the uplink's)"},
		{"mtu of IPv6", blocks("10.64.0.0/26, 'fd00::/64'") + "mtu: 1279\n", "mtu: 1279 is below 1280 (IPv6 needs it (RFC 8200 section 5); 0 takes the uplink's)"},
		{"bfd", with("bfd: {interval: 1ms, multiplier: 0}"), "bfd.interval: 1ms is not from 10ms to 1m\nbfd.multiplier: \"0\" is not a number from 1 to 255"},

		{"max_blocks", with("ipam: {max_blocks: 1025}"), `ipam.max_blocks: "1025" is not a number from 1 to 1024`},
		{"shrink_after", with("ipam: {shrink_after: 169h}"), "ipam.shrink_after: 169h is not from 0s to 168h"},
		{"fail_after", with("health: {fail_after: 11m}"), "health.fail_after: 11m is not from 0s to 10m"},
		{"recover_after", with("health: {recover_after: 301s}"), "health.recover_after: 301s is not from 0s to 5m"},
		{"settle", with("ipam: {settle: 61s}"), "ipam.settle: 61s is not from 0s to 1m"},

		// Places.
		{"inspect by name", with("bgp: {inspect: 'localhost:50051'}"), `bgp.inspect: "localhost:50051" is not an address and port (write 127.0.0.1:50051)`},
		{"inspect for everybody", with("bgp: {inspect: ':50051'}"), "bgp.inspect: :50051 is open to the network (it has no authentication; use a loopback address or unix:///path)"},
		{"state_dir", with("state_dir: lib"), `state_dir: "lib" is not an absolute path (begin with /)`},
		{"run_dir", with("run_dir: /" + strings.Repeat("x", 88)), "run_dir: /" + strings.Repeat("x", 88) + " has 89 bytes (at most 88, for a unix socket's path is short)"},
		{"plugin's path", with("docker: {socket: hostfabric.sock}"), `docker.socket: "hostfabric.sock" is not an absolute path (begin with /)`},
		{"plugin's name", with("docker: {socket: /run/docker/plugins/Host Fabric.sock}"), `docker.socket: "/run/docker/plugins/Host Fabric.sock" does not name a plugin (such as /run/docker/plugins/hostfabric.sock, for docker network create -d hostfabric)`},
		{"plugin's suffix", with("docker: {socket: /run/docker/plugins/hostfabric}"), `docker.socket: "/run/docker/plugins/hostfabric" does not name a plugin (such as /run/docker/plugins/hostfabric.sock, for docker network create -d hostfabric)`},
		{"Docker's API", with("docker: {api: '127.0.0.1:2375'}"), `docker.api: "127.0.0.1:2375" is not a unix socket (such as unix:///var/run/docker.sock; off for none)`},
		{"ledger's size", with("history: {max_size: 1 gig}"), `history.max_size: "1 gig" is not a size (such as 512MiB or 1GiB)`},
		{"ledger too small", with("history: {max_size: 1024KiB}"), `history.max_size: 1024KiB is not from 16MiB to 16TiB`},
		{"ledger too large", with("history: {max_size: 9223372036854775807GiB}"), `history.max_size: "9223372036854775807GiB" is not a size (such as 512MiB or 1GiB)`},
		{"ledger's place", with("history: {dir: ledger}"), `history.dir: "ledger" is not an absolute path (begin with /)`},
		{"group", with("api: {group: 'a b'}"), `api.group: "a b" is not the name of a group`},
		{"log level", with("log: {level: verbose}"), `log.level: "verbose" is not one of debug, info, warn, error`},
	} {
		t.Run(tc.name, func(t *testing.T) { refused(t, tc.file, tc.want) })
	}
}

// refused wants just these mistakes.
func refused(t *testing.T, file, want string) {
	t.Helper()
	if !strings.Contains(file, "host: ") {
		t.Setenv("HOSTFABRIC_HOST", "h") // the machine that runs the test may be called anything
	}
	c, err := Load(write(t, file), nil)
	if c != nil || err == nil {
		t.Fatalf("accepted: %+v", c)
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAllMistakesAtOnce also holds the order and the lines that editors jump to.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Load(write(t, `asn: 65535
host: h
peerz: []
peers:
  - {address: 10.0.0.1, asn: 65001}
  - {address: 10.0.0.1}
  - {}
blocks: [10.64.0.1/26, 10.64.0.0/24, 10.64.0.0/26]
timers: {hold: 9, keepalive: 1s}
log: {level: loud, format: xml}
bfd: {enabled: perhaps}
`), nil)
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatalf("not Errors: %v", err)
	}
	type place struct {
		Path string
		Line int
	}
	var got []place
	for _, e := range errs {
		got = append(got, place{e.Path, e.Line})
	}
	want := []place{
		{"asn", 1}, {"bfd.enabled", 11}, {"blocks[0]", 8}, {"blocks[2]", 8}, {"log.format", 10}, {"log.level", 10},
		{"peers[1].address", 6}, {"peers[1].asn", 6}, {"peers[2].address", 7}, {"peers[2].asn", 7}, {"peerz", 3}, {"timers.hold", 9},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s\n%v", diff, err)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != len(want) {
		t.Errorf("%d lines for %d mistakes", n, len(want))
	}
}

func TestPasswordFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tc := range []struct{ path, want, problem string }{
		{file("good", "s3cret\n", 0o600), "s3cret", ""},
		{file("crlf", "s3cret\r\n", 0o640), "s3cret", ""},
		{file("spaces", " a b ", 0o400), " a b ", ""},
		{file("longest", strings.Repeat("x", 80), 0o600), strings.Repeat("x", 80), ""},
		{file("long", strings.Repeat("x", 81), 0o600), "", " does not hold a password (one line of 1 to 80 bytes)"},
		{file("empty", "\n", 0o600), "", " does not hold a password (one line of 1 to 80 bytes)"},
		{file("lines", "a\nb\n", 0o600), "", " does not hold a password (one line of 1 to 80 bytes)"},
		{file("open", "s3cret\n", 0o644), "", " is open to everybody (mode 0644) (chmod 0600 " + filepath.Join(dir, "open") + ")"},
		{filepath.Join(dir, "missing"), "", " cannot be read: no such file or directory"},
		{dir, "", " is not a regular file"},
	} {
		path := write(t, "asn: 65000\nhost: h\nblocks: [10.64.0.0/26]\npeers: [{address: 10.0.0.1, asn: 1, password_file: "+tc.path+"}]\n")
		c, err := Load(path, nil)
		if tc.problem != "" {
			if want := "peers[0].password_file: " + tc.path + tc.problem; err == nil || err.Error() != want {
				t.Errorf("%s:\ngot  %v\nwant %s", tc.path, err, want)
			}
		} else if err != nil || string(c.Peers[0].Password) != tc.want {
			t.Errorf("%s: %v, %v", tc.path, c, err)
		}
		if c, err := LoadWithoutSecrets(path, nil); err != nil || c.Peers[0].Password != "" {
			t.Errorf("%s without secrets: %v, %v", tc.path, c, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("asn: 65000.10\nimport: [10.0.0.0/8, {prefix: 10.0.0.0/8, le: 24}]\nlog: {level: debug}\n"))
	f.Add([]byte(small + "source: etcd\nfabric: [10.64.0.0/12, 'fd00:64::/48']\netcd: {endpoints: ['https://192.0.2.1:2379'], ca_file: a, username: b, password_file: c}\n"))
	f.Add([]byte(small + "reserved: [10.64.0.5, 10.64.0.8/29, 'fd00::1-fd00::2']\npools: [{name: default, prefixes: [10.64.0.0/12, 'fd00:64::/48'], block_ipv4: 24, block_ipv6: 60}]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("---\n---\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse("x.yaml", data, nil, files{unread: true})
		if (c == nil) == (err == nil) {
			t.Fatalf("%v and %v", c, err)
		}
		if c == nil {
			return
		}
		disjoint(t, c.BlockPrefixes())
		for _, b := range c.Blocks {
			if b.Pool == "" {
				t.Errorf("block %s has no pool", b.Prefix)
			}
		}
		var pooled []netip.Prefix
		for _, p := range c.Pools {
			pooled = append(pooled, p.Prefixes...)
			for _, prefix := range p.Prefixes {
				base := p.BaseIPv6
				if prefix.Addr().Is4() {
					base = p.BaseIPv4
				}
				if base < prefix.Bits() || base > prefix.Addr().BitLen() {
					t.Errorf("pool %s: /%d of %s", p.Name, base, prefix)
				}
			}
		}
		disjoint(t, pooled)
		for _, x := range c.Reserved {
			if x.Last.Less(x.First) || x.First.Is4() != x.Last.Is4() {
				t.Errorf("reserved: %v", x)
			}
		}
		if c.Source == SourceEtcd && (len(c.Etcd.Endpoints) == 0 || len(c.Pools) == 0) {
			t.Errorf("etcd without endpoints or pools: %+v", c)
		}
		if c.ASN == 0 || c.Timers.Hold <= c.Timers.Keepalive || len(c.SpeakerSocket()) > maxSocket {
			t.Errorf("invalid: %+v", c)
		}
	})
}

func disjoint(t *testing.T, prefixes []netip.Prefix) {
	t.Helper()
	for i, p := range prefixes {
		if p != p.Masked() {
			t.Errorf("%s is not masked", p)
		}
		for _, o := range prefixes[:i] {
			if p.Overlaps(o) {
				t.Errorf("%s overlaps %s", p, o)
			}
		}
	}
}

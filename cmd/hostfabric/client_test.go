package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// clientCase is a command, what the agent answers, and what a person sees. Ages are AGE, for they change.
type clientCase struct {
	name   string
	args   []string
	asked  proto.Message
	answer proto.Message
	table  string
}

func clientCases() []clientCase {
	hoursAgo := timestamppb.New(time.Now().Add(-3 * time.Hour))
	return []clientCase{
		{
			name: "status", args: []string{"status"}, asked: &apiv1.GetStatusRequest{},
			answer: &apiv1.GetStatusResponse{
				Host: "r1h1", Version: "v1.2.3", Started: hoursAgo, Ready: true, Asn: 4200000101, RouterId: "10.0.1.1",
				Speaker:          &apiv1.SpeakerStatus{Connected: true, Version: "v1.2.3", Pid: 42, Since: hoursAgo},
				PeersEstablished: 2, PeersTotal: 2, Endpoints: 3, Leases: 6, Announced: []string{"10.64.0.0/26", "fd00:64::/64"},
				BudgetIpv4: 4, BudgetIpv6: 4, RoutesInstalled: 12, Mtu: 9000,
				Dns: &apiv1.DNSStatus{
					Origin: "r1h1.fabric.internal.", Listeners: []string{"10.64.0.0:53", "127.0.0.1:53"}, Names: 3, Forwards: true, Upstreams: []string{"192.0.2.53:53"},
				},
			},
			table: `
Host           r1h1
State          ready
Agent          v1.2.3, up AGE
Speaker        v1.2.3, pid 42, connected AGE
AS, router ID  4200000101, 10.0.1.1
Peers          2 of 2 established
Announced      10.64.0.0/26 fd00:64::/64 (budget 4 IPv4, 4 IPv6)
Endpoints      3, 6 leases, MTU 9000
DNS            r1h1.fabric.internal on 10.64.0.0:53 127.0.0.1:53, forwards to 192.0.2.53:53
Routes         12 installed, 0 failed
`,
		},
		{
			name: "status of a degraded agent", args: []string{"status"}, asked: &apiv1.GetStatusRequest{},
			answer: &apiv1.GetStatusResponse{
				Host: "r1h1", Version: "v1.2.3", Started: hoursAgo, Asn: 65000, RouterId: "10.0.1.1", PeersTotal: 1, RoutesFailed: 1,
				Dns:      &apiv1.DNSStatus{Origin: "r1h1.fabric.internal."},
				Problems: []string{"the speaker process is not connected", "route 10.64.0.0/26 failed"},
			},
			table: `
Host           r1h1
State          degraded
Agent          v1.2.3, up AGE
Speaker        not connected
AS, router ID  65000, 10.0.1.1
Peers          0 of 1 established
Announced      - (budget 0 IPv4, 0 IPv6)
Endpoints      0, 0 leases, MTU 0
DNS            r1h1.fabric.internal on -, forwards nothing
Routes         0 installed, 1 failed
Problem        the speaker process is not connected
Problem        route 10.64.0.0/26 failed
`,
		},
		{
			name: "peers", args: []string{"peers"}, asked: &apiv1.ListPeersRequest{},
			answer: &apiv1.ListPeersResponse{Peers: []*apiv1.Peer{
				{Address: "10.0.1.0", Description: "tor1", Asn: 4200000001, State: "established", Uptime: durationpb.New(90 * time.Second),
					PrefixesReceived: 12, PrefixesAccepted: 10, PrefixesAdvertised: 2, PrefixesRefused: 2,
					RefusedCounts: []*apiv1.RefusedCount{{Family: "ipv4", Reason: "not_listed", Prefixes: 2}},
					Bfd:           &apiv1.BFDSession{State: "Up"}},
				{Address: "10.0.2.0", Description: "tor2", Asn: 4200000002, State: "established", Uptime: durationpb.New(90 * time.Second),
					PrefixesReceived: 11, PrefixesAccepted: 10, PrefixesAdvertised: 2, PrefixesRefused: 1,
					RefusedCounts: []*apiv1.RefusedCount{{Family: "ipv4", Reason: "own_space", Prefixes: 1}},
					Bfd:           &apiv1.BFDSession{State: "Down"}},
				{Address: "fe80::1", Interface: "eth0", Asn: 65001, State: "active", Reason: "hold timer expired"},
			}},
			table: `
PEER          NAME  AS          STATE        UPTIME  BFD   RECEIVED  ACCEPTED  REFUSED        ADVERTISED  REASON
10.0.1.0      tor1  4200000001  established  1m30s   Up    12        10        2              2           -
10.0.2.0      tor2  4200000002  established  1m30s   Down  11        10        1, own space!  2           -
fe80::1%eth0  -     65001       active       -       -     0         0         0              0           hold timer expired
`,
		},
		{
			name: "reset of a peer", args: []string{"peers", "reset", "10.0.1.0", "--reason", "new policy"}, asked: &apiv1.ResetPeerRequest{Peer: "10.0.1.0", Reason: "new policy"},
			answer: &apiv1.ResetPeerResponse{Peer: "10.0.1.0", Effect: "ended"}, table: "\n10.0.1.0: the session is ended, and comes back by itself\n",
		},
		{
			name: "reset of a peer held down", args: []string{"peers", "reset", "eth0"}, asked: &apiv1.ResetPeerRequest{Peer: "eth0"},
			answer: &apiv1.ResetPeerResponse{Peer: "fe80::1%eth0", Effect: "released"}, table: "\nfe80::1%eth0: no longer held down\n",
		},
		{
			name: "blocks", args: []string{"blocks"}, asked: &apiv1.ListBlocksRequest{},
			answer: &apiv1.ListBlocksResponse{Blocks: []*apiv1.Block{
				{Prefix: "10.64.0.0/26", Source: "etcd", Pool: "default", State: "open", Size: "64", Leased: 3, Quarantined: 1, Reserved: "1", InUse: "0", Free: "59",
					Announced: true, Cover: "10.64.0.0/26", Sibling: "10.64.0.64/26", SiblingState: "taken", SiblingHost: "r1h2"},
				{Prefix: "10.64.9.0/26", Source: "etcd", Pool: "web", State: "lost", Size: "64", Reserved: "0", InUse: "0", Free: "0",
					Sibling: "10.64.9.64/26", SiblingState: "outside"},
				{Prefix: "fd00:64::/64", Source: "static", Pool: "default", State: "opening", Size: "18446744073709551615", Reserved: "0", InUse: "0", Free: "0",
					Sibling: "fd00:64:0:1::/64", SiblingState: "free"},
			}, Budgets: []*apiv1.Budget{{Family: "ipv4", Prefixes: 1, Limit: 4}, {Family: "ipv6", Limit: 4}}},
			table: `
BLOCK         POOL     SOURCE  STATE    SIZE                  LEASED  QUARANTINED  RESERVED  IN-USE  FREE  SIBLING                COVER         ANNOUNCED
10.64.0.0/26  default  etcd    open     64                    3       1            1         0       59    10.64.0.64/26:r1h2     10.64.0.0/26  yes
10.64.9.0/26  web      etcd    lost     64                    0       0            0         0       0     outside                -             no
fd00:64::/64  default  static  opening  18446744073709551615  0       0            0         0       0     fd00:64:0:1::/64:free  -             no

FAMILY  PREFIXES  BUDGET
ipv4    1         4
ipv6    0         4
`,
		},
		{
			name: "release of a block", args: []string{"blocks", "release", "10.64.0.0/26"}, asked: &apiv1.ReleaseBlocksRequest{Prefixes: []string{"10.64.0.0/26"}},
			answer: &apiv1.ReleaseBlocksResponse{Released: []string{"10.64.0.0/26"}},
			table:  "\nRELEASED\n10.64.0.0/26\n",
		},
		{
			name: "release of all blocks", args: []string{"blocks", "release", "--all"}, asked: &apiv1.ReleaseBlocksRequest{All: true},
			answer: &apiv1.ReleaseBlocksResponse{}, table: "\nRELEASED\n",
		},
		{
			name: "release of a dead host", args: []string{"blocks", "release", "--host", "r1h7"}, asked: &apiv1.ReleaseHostRequest{Host: "r1h7"},
			answer: &apiv1.ReleaseHostResponse{Released: []*apiv1.Claim{{Prefix: "10.64.0.0/26", Pool: "default", Host: "r1h7", Id: "a1"}}},
			table: `
BLOCK         POOL     HOST  ID  AGE
10.64.0.0/26  default  r1h7  a1  -
`,
		},
		{
			name: "claims", args: []string{"blocks", "claims", "--host", "r1h7"}, asked: &apiv1.ListClaimsRequest{Host: "r1h7"},
			answer: &apiv1.ListClaimsResponse{Claims: []*apiv1.Claim{{Prefix: "10.64.0.0/26", Pool: "default", Host: "r1h7", Id: "a1", Claimed: hoursAgo}}},
			table: `
BLOCK         POOL     HOST  ID  AGE
10.64.0.0/26  default  r1h7  a1  AGE
`,
		},
		{
			name: "leases by pool and age", args: []string{"leases", "--pool", "web", "--min-age", "24h", "--max-age", "48h"},
			asked:  &apiv1.ListLeasesRequest{Pool: "web", MinAge: durationpb.New(24 * time.Hour), MaxAge: durationpb.New(48 * time.Hour)},
			answer: &apiv1.ListLeasesResponse{}, table: "\nADDRESS  CONTAINER  INTERFACE  STATE  LINK  AGE  POOL  BLOCK\n",
		},
		{
			name: "leases", args: []string{"leases", "--container", "web", "--address", "10.64.0.1"},
			asked: &apiv1.ListLeasesRequest{ContainerId: "web", Address: "10.64.0.1"},
			answer: &apiv1.ListLeasesResponse{Leases: []*apiv1.Lease{
				{Address: "10.64.0.1", ContainerId: "web", Interface: "eth0", Block: "10.64.0.0/26", Pool: "default", State: "leased", HostInterface: "hfabc"},
				{Address: "10.64.0.12", Block: "10.64.0.0/26", Pool: "default", State: "quarantined"},
			}},
			table: `
ADDRESS     CONTAINER  INTERFACE  STATE        LINK   AGE  POOL     BLOCK
10.64.0.1   web        eth0       leased       hfabc  -    default  10.64.0.0/26
10.64.0.12  -          -          quarantined  -      -    default  10.64.0.0/26
`,
		},
		{
			name: "no leases", args: []string{"leases"}, asked: &apiv1.ListLeasesRequest{}, answer: &apiv1.ListLeasesResponse{},
			table: "\nADDRESS  CONTAINER  INTERFACE  STATE  LINK  AGE  POOL  BLOCK\n",
		},
		{
			name: "routes", args: []string{"routes", "--owner", "fabric"}, asked: &apiv1.ListRoutesRequest{Owner: "fabric"},
			answer: &apiv1.ListRoutesResponse{Routes: []*apiv1.Route{
				{Prefix: "0.0.0.0/0", Owner: "fabric", Kind: "unicast", State: "installed",
					NextHops: []*apiv1.NextHop{{Address: "10.0.1.0", Interface: "eth0"}, {Address: "10.0.2.0"}}},
				{Prefix: "10.64.0.1/32", Owner: "endpoints", Kind: "unicast", State: "failed", Error: "no such device", NextHops: []*apiv1.NextHop{{Interface: "hfabc"}}},
				{Prefix: "10.64.0.0/26", Owner: "blocks", Kind: "blackhole", State: "pending"},
			}},
			table: `
PREFIX        OWNER      KIND       NEXT HOPS                            STATE      ERROR
0.0.0.0/0     fabric     unicast    via 10.0.1.0 dev eth0, via 10.0.2.0  installed  -
10.64.0.1/32  endpoints  unicast    dev hfabc                            failed     no such device
10.64.0.0/26  blocks     blackhole  -                                    pending    -
`,
		},
		{
			name:  "attach",
			args:  []string{"attach", "web", "/run/netns/web", "--interface", "net1", "--mtu", "9000", "--address", "10.64.0.7,fd00:64::7"},
			asked: &apiv1.AttachRequest{ContainerId: "web", Netns: "/run/netns/web", Interface: "net1", Mtu: 9000, Addresses: []string{"10.64.0.7", "fd00:64::7"}},
			answer: &apiv1.AttachResponse{Endpoint: &apiv1.Endpoint{ContainerId: "web", Interface: "net1", HostInterface: "hfabc", Mtu: 9000,
				Addresses: []string{"10.64.0.7", "fd00:64::7"}, Gateways: []string{"169.254.1.1", "fe80::1"}}},
			table: `
CONTAINER  INTERFACE  ADDRESSES             GATEWAYS             LINK   MTU   RESOLV-CONF
web        net1       10.64.0.7,fd00:64::7  169.254.1.1,fe80::1  hfabc  9000  -
`,
		},
		{
			name: "attach with a description",
			args: []string{"attach", "web", "/run/netns/web", "--name", "web-1", "--label", "app=shop,tier=front", "--label", "a=b", "--family", "ipv6"},
			asked: &apiv1.AttachRequest{ContainerId: "web", Netns: "/run/netns/web", Interface: "eth0", Name: "web-1", Family: "ipv6",
				Labels: map[string]string{"app": "shop", "tier": "front", "a": "b"}},
			answer: &apiv1.AttachResponse{Endpoint: &apiv1.Endpoint{ContainerId: "web", Interface: "eth0", HostInterface: "hfabc", Mtu: 1500,
				Addresses: []string{"fd00:64::7"}, Gateways: []string{"fe80::1"}}, ResolvConf: "/run/hostfabric/resolv.conf"},
			table: `
CONTAINER  INTERFACE  ADDRESSES   GATEWAYS  LINK   MTU   RESOLV-CONF
web        eth0       fd00:64::7  fe80::1   hfabc  1500  /run/hostfabric/resolv.conf
`,
		},
		{
			name: "endpoints", args: []string{"endpoints", "--label", "app=shop", "--owner", "cni/pods", "--name", "web-1", "--container", "web"},
			asked: &apiv1.ListEndpointsRequest{Labels: map[string]string{"app": "shop"}, Owner: "cni/pods", Name: "web-1", ContainerId: "web"},
			answer: &apiv1.ListEndpointsResponse{Endpoints: []*apiv1.Endpoint{
				{ContainerId: "web", Interface: "eth0", Name: "web-1", Aliases: []string{"web", "www"}, HostInterface: "hfabc", Mtu: 1500, Addresses: []string{"10.64.0.7", "fd00:64::7"},
					Owner: "cni/pods", Labels: map[string]string{"tier": "front", "app": "shop"}},
				{ContainerId: "job", Interface: "eth0", HostInterface: "hfdef", Mtu: 1500, Addresses: []string{"10.64.0.8"}, Owner: "api"},
			}},
			table: `
CONTAINER  INTERFACE  NAME   ALIASES  ADDRESSES             LINK   MTU   OWNER     LABELS
web        eth0       web-1  web,www  10.64.0.7,fd00:64::7  hfabc  1500  cni/pods  app=shop,tier=front
job        eth0       -      -        10.64.0.8             hfdef  1500  api       -
`,
		},
		{
			name: "sandbox acquire", args: []string{"sandbox", "acquire", "job7", "--name", "job", "--label", "a=b"},
			asked: &apiv1.AcquireSandboxRequest{Holder: "job7", Name: "job", Labels: map[string]string{"a": "b"}},
			answer: &apiv1.AcquireSandboxResponse{Sandbox: &apiv1.Sandbox{Id: "sandbox-01", State: "acquired", Holder: "job7", Since: hoursAgo,
				Endpoint:   &apiv1.Endpoint{Addresses: []string{"10.64.0.7"}, Name: "job", Netns: "/run/hostfabric/sandboxes/sandbox-01"},
				ResolvConf: "/run/hostfabric/resolv.conf"}},
			table: `
SANDBOX     STATE     HOLDER  ADDRESSES  NAME  NAMESPACE                             RESOLV-CONF                  AGE
sandbox-01  acquired  job7    10.64.0.7  job   /run/hostfabric/sandboxes/sandbox-01  /run/hostfabric/resolv.conf  AGE
`,
		},
		{
			name: "sandbox list", args: []string{"sandbox", "list"}, asked: &apiv1.ListSandboxesRequest{},
			answer: &apiv1.ListSandboxesResponse{Low: 1, High: 2, Sandboxes: []*apiv1.Sandbox{{Id: "sandbox-02", State: "ready", Since: hoursAgo,
				Endpoint: &apiv1.Endpoint{Addresses: []string{"10.64.0.8", "fd00::8"}, Netns: "/run/hostfabric/sandboxes/sandbox-02"}}}},
			table: `
SANDBOX     STATE  HOLDER  ADDRESSES          NAME  NAMESPACE                             RESOLV-CONF  AGE
sandbox-02  ready  -       10.64.0.8,fd00::8  -     /run/hostfabric/sandboxes/sandbox-02  -            AGE
`,
		},
		{
			name: "sandbox release", args: []string{"sandbox", "release", "job7"}, asked: &apiv1.ReleaseSandboxRequest{Holder: "job7"},
			answer: &apiv1.ReleaseSandboxResponse{Found: true}, table: "\nreleased\n",
		},
		{
			name: "sandbox release by ID", args: []string{"sandbox", "release", "--id", "sandbox-02"}, asked: &apiv1.ReleaseSandboxRequest{Id: "sandbox-02"},
			answer: &apiv1.ReleaseSandboxResponse{}, table: "\nthere is no such sandbox\n",
		},
		{
			name: "explain", args: []string{"explain", "10.64.0.7"}, asked: &apiv1.ExplainRequest{Subject: "10.64.0.7"},
			answer: &apiv1.ExplainResponse{Subject: "10.64.0.7", Steps: []*apiv1.ExplainStep{
				{Link: "block", Verdict: "ok", Text: "10.64.0.0/26 is open"}, {Link: "announced", Verdict: "unknown", Text: "no answer"},
				{Link: "peer", Verdict: "broken", Text: "10.0.1.0: the session is Active"},
			}},
			table: `
ok       block      10.64.0.0/26 is open
unknown  announced  no answer
broken   peer       10.0.1.0: the session is Active
`,
		},
		{
			name: "detach", args: []string{"detach", "web"}, asked: &apiv1.DetachRequest{ContainerId: "web", Interface: "eth0"},
			answer: &apiv1.DetachResponse{Found: true}, table: "\nweb/eth0 detached\n",
		},
		{
			name: "detach of nothing", args: []string{"detach", "web"}, asked: &apiv1.DetachRequest{ContainerId: "web", Interface: "eth0"},
			answer: &apiv1.DetachResponse{}, table: "\nweb/eth0 was not attached\n",
		},
	}
}

var age3h = regexp.MustCompile(`\b3h\d+m\d+s`)

func TestClientCommands(t *testing.T) {
	for _, tc := range clientCases() {
		t.Run(tc.name, func(t *testing.T) {
			f := &fakeAgent{answer: tc.answer}
			args := append(tc.args, "--socket", serveFake(t, f))
			out, err := execute(t, args...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.TrimPrefix(tc.table, "\n"), age3h.ReplaceAllString(out, "AGE")); diff != "" {
				t.Errorf("table (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.asked, f.asked, protocmp.Transform()); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			for _, format := range []string{"json", "yaml"} {
				checkMachineReadable(t, format, tc.answer, append(args, "-o", format))
			}
		})
	}
}

// checkMachineReadable wants the whole answer back from what the command prints.
func checkMachineReadable(t *testing.T, format string, want proto.Message, args []string) {
	t.Helper()
	out, err := execute(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(out)
	if format == "yaml" {
		if text, err = yaml.YAMLToJSONStrict(text); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	got := want.ProtoReflect().New().Interface()
	if err := protojson.Unmarshal(text, got); err != nil {
		t.Fatalf("-o %s: %v: %s", format, err, out)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-o %s (-want +got):\n%s", format, diff)
	}
	if strings.Contains(out, "\x1b") || !strings.HasSuffix(out, "\n") || strings.HasSuffix(out, "\n\n") {
		t.Errorf("-o %s prints %q: want no colour and one newline at the end", format, out)
	}
}

func TestLeaseAge(t *testing.T) {
	lease := &apiv1.Lease{Address: "10.64.0.1", State: "leased", Allocated: timestamppb.New(time.Now().Add(-3 * time.Hour))}
	out, err := execute(t, "leases", "--socket", serveFake(t, &fakeAgent{answer: &apiv1.ListLeasesResponse{Leases: []*apiv1.Lease{lease}}}))
	if err != nil || !age3h.MatchString(out) {
		t.Errorf("a lease of three hours is shown as %q, %v", out, err)
	}
}

// TestAgentsOwnFailureToConnect: what the agent says of its etcd is not taken for an agent that does not answer.
func TestAgentsOwnFailureToConnect(t *testing.T) {
	says := "attach web/eth0: no free address: etcd: connection error: desc = refused"
	_, err := execute(t, "status", "--socket", serveFake(t, &fakeAgent{err: status.Error(codes.Unavailable, says)}))
	if err == nil || err.Error() != says {
		t.Errorf("%v, want %s", err, says)
	}
}

func TestClientErrors(t *testing.T) {
	nobody := filepath.Join(shortDir(t), "api.sock")
	stale := filepath.Join(shortDir(t), "api.sock")
	leaveSocket(t, stale)
	for _, tc := range []struct {
		name   string
		socket string // empty: the fake's
		fake   fakeAgent
		want   []string
	}{
		{name: "no socket", socket: nobody, want: []string{"no agent answers on " + nobody, "is `hostfabric agent` running"}},
		{name: "nobody listens", socket: stale, want: []string{"no agent answers on " + stale, "is `hostfabric agent` running"}},
		{name: "agent not ready", fake: fakeAgent{err: status.Error(codes.Unavailable, "leases are being restored")}, want: []string{"leases are being restored"}},
		{name: "agent refuses", fake: fakeAgent{err: status.Error(codes.ResourceExhausted, "no free address")}, want: []string{"no free address"}},
		{name: "agent hangs", fake: fakeAgent{hang: true}, want: []string{"did not answer in time", "--timeout"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			socket, fake := tc.socket, tc.fake.err != nil || tc.fake.hang
			if fake {
				socket = serveFake(t, &tc.fake)
			}
			timeout := "10s"
			if tc.fake.hang {
				timeout = "100ms"
			}
			out, err := execute(t, "status", "--socket", socket, "--timeout", timeout)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error is %v, want %q in it", err, want)
				}
			}
			if err != nil && (strings.Contains(err.Error(), "rpc error") || fake == strings.Contains(err.Error(), "no agent answers")) {
				t.Errorf("error is %q", err)
			}
			if out != "" {
				t.Errorf("prints %q", out)
			}
		})
	}
}

// TestColour: only a terminal gets it, and the columns stay where they are.
func TestColour(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	all := clientCases()
	peers := all[slices.IndexFunc(all, func(tc clientCase) bool { return tc.name == "peers" })]
	if isTerminal(file) || isTerminal(&strings.Builder{}) {
		t.Error("a file or a buffer is taken for a terminal")
	}
	var coloured strings.Builder
	p := &printer{w: &coloured, color: true}
	printPeers(peers.answer.(*apiv1.ListPeersResponse), p)
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(coloured.String(), string(good)+"established"+reset) || !strings.Contains(coloured.String(), string(bad)+"active"+reset) {
		t.Errorf("states have no colour: %q", coloured.String())
	}
	bare := regexp.MustCompile("\x1b\\[[0-9]+m").ReplaceAllString(coloured.String(), "")
	if diff := cmp.Diff(strings.TrimPrefix(peers.table, "\n"), bare); diff != "" {
		t.Errorf("colours move the columns (-plain +coloured):\n%s", diff)
	}
}

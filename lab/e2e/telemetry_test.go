package e2e

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	logs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/tor/tortest"
)

// observed is a host beside an FRR at 10.0.1.0, whose agent is scraped and sends its events.
type observed struct {
	*host
	boxes  []netns.NS
	events *events
}

func newObserved(t *testing.T) *observed {
	o := &observed{events: &events{}}
	tor := nstest.New(t, "teltor")
	o.host = startHost(t, "telhost", func(h *host) {
		if err := netns.Cable(netns.End{NS: h.ns, Link: "up1", Addresses: []string{"10.0.1.1/31"}}, netns.End{NS: tor, Link: "down", Addresses: []string{"10.0.1.0/31"}}); err != nil {
			t.Fatal(err)
		}
		tortest.StartFRR(t, tor, "bgpd", `router bgp 65101
 bgp router-id 192.0.2.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.0.1.1 remote-as 65001
 neighbor 10.0.1.1 passive
 neighbor 10.0.1.1 timers connect 1
 address-family ipv4 unicast
  network 10.65.0.0/26
  network 10.66.0.0/26
 exit-address-family
exit
ip route 10.65.0.0/26 blackhole
ip route 10.66.0.0/26 blackhole
`)
		o.events.listen(t, h.ns)
		text := fmt.Sprintf(`
asn: 65001
router_id: 192.0.2.101
peers: [{name: tor1, address: 10.0.1.0, asn: 65101}]
blocks: [10.64.0.0/24]
fabric: [10.64.0.0/12]
host: telhost
bgp: {inspect: "off"}
ipam: {settle: 0s, quarantine: 0s}
metrics: {listen: "unix://%[1]s/run/metrics.sock"}
otlp: {endpoint: "http://127.0.0.1:4318"}
state_dir: %[1]s/state
run_dir: %[1]s/run
`, h.dir)
		if err := os.WriteFile(h.config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	for i := range 4 {
		o.boxes = append(o.boxes, nstest.New(t, fmt.Sprint("telbox", i)))
	}
	o.eventually("the session is up, and its routes are learned", func() error {
		return o.lacks(`hostfabric_peer_established{peer="10.0.1.0"} 1`, `hostfabric_routes_wanted{owner="fabric"} 2`)
	})
	return o
}

// lacks names a metric that there is not.
func (o *observed) lacks(lines ...string) error {
	have := o.metrics()
	for _, l := range lines {
		if !slices.Contains(have, l) {
			return fmt.Errorf("no metric %q", l)
		}
	}
	return nil
}

func (o *observed) attach(from, to int) {
	o.t.Helper()
	for i := from; i < to; i++ {
		_, err := o.client.Attach(o.t.Context(), &apiv1.AttachRequest{
			ContainerId: fmt.Sprintf("telcontainer%d", i), Interface: fmt.Sprintf("eth%d", i), Netns: o.boxes[i%len(o.boxes)].Path(),
			Name: fmt.Sprintf("telname-%d", i), Labels: map[string]string{"tellabel": fmt.Sprint("value", i)},
		})
		if err != nil {
			o.t.Fatal(err)
		}
	}
}

// series are the names and labels of all metrics, without their values.
func (o *observed) series() []string {
	var all []string
	for _, line := range o.metrics() {
		if name, _, ok := strings.Cut(line, " "); ok && !strings.HasPrefix(line, "#") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// TestTelemetry watches a host from outside: by its metrics, which are as many with 200 containers as with two, and by its events.
func TestTelemetry(t *testing.T) {
	o := newObserved(t)
	o.attach(0, 2)
	few := o.series()
	o.attach(2, 200)
	began := time.Now()
	many := o.series()
	t.Logf("%d series, scraped in %s", len(many), time.Since(began))
	if !slices.Equal(few, many) {
		t.Errorf("with two containers there are the series\n%s\nand with 200\n%s", strings.Join(few, "\n"), strings.Join(many, "\n"))
	}
	personal := regexp.MustCompile(`tel(container|name|label|box)|10\.64\.0\.\d+"`)
	for _, name := range many {
		if personal.MatchString(name) {
			t.Errorf("a container's own series: %s", name)
		}
	}
	o.wantMetrics(
		`hostfabric_endpoints{front_end="api"} 200`, `hostfabric_leases 200`,
		`hostfabric_operations_total{front_end="api",result="ok",verb="attach"} 200`, `hostfabric_operations_total{front_end="api",result="error",verb="attach"} 0`,
		`hostfabric_attach_duration_seconds_count{front_end="api",result="ok"} 200`,
		`hostfabric_pool_addresses{family="ipv4",pool="default",state="leased"} 200`, `hostfabric_pool_addresses{family="ipv4",pool="default",state="free"} 55`,
		`hostfabric_pool_blocks{family="ipv4",pool="default",state="open"} 1`,
		`hostfabric_announced_prefixes{family="ipv4"} 1`, `hostfabric_budget_prefixes{family="ipv4"} 4`, `hostfabric_announcing 1`, `hostfabric_ready 1`, `hostfabric_problems 0`,
		`hostfabric_peer_info{asn="65101",name="tor1",peer="10.0.1.0"} 1`,
		`hostfabric_peer_prefixes{direction="accepted",family="ipv4",peer="10.0.1.0"} 2`, `hostfabric_peer_prefixes{direction="advertised",family="ipv4",peer="10.0.1.0"} 1`,
		`hostfabric_routes_wanted{owner="endpoints"} 200`, `hostfabric_routes{state="installed"} 203`, `hostfabric_routes{state="failed"} 0`, `hostfabric_fib_errors_total 0`,
		`hostfabric_dead_routers 0`, `hostfabric_firewall_up 1`, `hostfabric_drained 0`,
	)
	for i := range 200 {
		if _, err := o.client.Detach(t.Context(), &apiv1.DetachRequest{ContainerId: fmt.Sprintf("telcontainer%d", i), Interface: fmt.Sprintf("eth%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	o.eventually("all leases have ended", func() error {
		return o.lacks(`hostfabric_leases 0`, `hostfabric_pool_addresses{family="ipv4",pool="default",state="free"} 255`)
	})
	o.story()
}

// story has the host live through what a host does, and looks at what was told of it.
func (o *observed) story() {
	t := o.t
	o.eventually("the containers' events have arrived", func() error {
		if n := len(o.events.of("telcontainer")); n != 800 {
			return fmt.Errorf("%d events", n)
		}
		return nil
	})
	for i := range 200 {
		id := fmt.Sprintf("telcontainer%d/eth%d", i, i)
		if got, want := o.events.of(id), []string{"allocate " + id, "attach " + id, "detach " + id, "release " + id}; !slices.Equal(got, want) {
			t.Errorf("of %s was told %q", id, got)
		}
	}
	o.kill()
	o.start() // which is no news to anybody but of the agent
	drain := func(undo bool) {
		t.Helper()
		command := []string{"drain", "--reason", "new cables", "--deadline", "0s"}
		if undo {
			command = []string{"undrain"}
		}
		output(t, o.ns, bin+"/hostfabric", append(command, "--socket", o.run("hostfabric.sock"))...)
	}
	drain(false)
	drain(true)
	o.stop()
	var got []string
	for _, e := range o.events.of("") {
		if !strings.Contains(e, "telcontainer") {
			got = append(got, e)
		}
	}
	// What the host and what its session does goes on side by side.
	first := func(a, b string) { t.Helper(); inOrder(t, got, a, b) }
	want := []string{
		"start", "block-claim 10.64.0.0/24", "announce 10.64.0.0/24", "session-up 10.0.1.0", "start", "drain", "withdraw 10.64.0.0/24", "session-down 10.0.1.0", "undrain",
		"session-up 10.0.1.0", "announce 10.64.0.0/24", "stop",
	}
	if sorted, all := slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want)); !slices.Equal(sorted, all) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	first("start", "block-claim 10.64.0.0/24")
	first("drain", "withdraw 10.64.0.0/24")
	first("withdraw 10.64.0.0/24", "session-down 10.0.1.0")
	first("session-down 10.0.1.0", "undrain")
	if len(got) > 0 && got[len(got)-1] != "stop" {
		t.Errorf("the last that was told is %s", got[len(got)-1])
	}
}

func inOrder(t testing.TB, all []string, a, b string) {
	t.Helper()
	if i, j := slices.Index(all, a), slices.Index(all, b); i < 0 || j < 0 || i > j {
		t.Errorf("%q does not come before %q in %q", a, b, all)
	}
}

// events is an OTLP receiver. It keeps the bodies of the records, in order.
type events struct {
	mu  sync.Mutex
	all []string
}

// listen serves in a namespace, at OTLP's port.
func (e *events) listen(t testing.TB, ns netns.NS) {
	t.Helper()
	var l net.Listener
	err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:4318")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: e, ReadHeaderTimeout: patience}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}

func (e *events) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req logs.ExportLogsServiceRequest
	body, err := gzip.NewReader(r.Body)
	if err == nil {
		var data []byte
		if data, err = io.ReadAll(body); err == nil {
			err = proto.Unmarshal(data, &req)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, of := range req.ResourceLogs {
		for _, scope := range of.ScopeLogs {
			for _, record := range scope.LogRecords {
				e.all = append(e.all, record.Body.GetStringValue())
			}
		}
	}
}

// of are the events with a text in them.
func (e *events) of(text string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []string
	for _, body := range e.all {
		if text == "" || strings.HasSuffix(body, " "+text) || strings.Contains(body, text) && !strings.Contains(text, "/") {
			all = append(all, body)
		}
	}
	return all
}

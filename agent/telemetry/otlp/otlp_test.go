package otlp

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	service "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/hostfabric/hostfabric/agent/history"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// receiver takes log records by OTLP, over gRPC or HTTP.
type receiver struct {
	service.UnimplementedLogsServiceServer
	listener net.Listener
	close    func()

	mu       sync.Mutex
	resource string
	records  []*logs.LogRecord
	headers  []string        // of the header authorization
	codes    []int           // HTTP's, answered in turn instead of taking anything
	reject   int64           // of each request
	block    <-chan struct{} // requests wait for its close; nil: they do not
}

func (r *receiver) take(ctx context.Context, authorization string, req *service.ExportLogsServiceRequest) (*service.ExportLogsServiceResponse, int) {
	r.mu.Lock()
	block := r.block
	r.mu.Unlock()
	if block != nil {
		select {
		case <-block:
		case <-ctx.Done():
			return nil, http.StatusServiceUnavailable
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.codes) > 0 {
		code := r.codes[0]
		r.codes = r.codes[1:]
		return nil, code
	}
	r.headers = append(r.headers, authorization)
	for _, of := range req.ResourceLogs {
		r.resource = attributes(of.Resource.Attributes)
		for _, scope := range of.ScopeLogs {
			r.records = append(r.records, scope.LogRecords...)
		}
	}
	resp := &service.ExportLogsServiceResponse{}
	if r.reject > 0 {
		resp.PartialSuccess = &service.ExportLogsPartialSuccess{RejectedLogRecords: r.reject, ErrorMessage: "too old"}
	}
	return resp, http.StatusOK
}

// Export is gRPC's.
func (r *receiver) Export(ctx context.Context, req *service.ExportLogsServiceRequest) (*service.ExportLogsServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	resp, code := r.take(ctx, strings.Join(md.Get("authorization"), ","), req)
	switch code {
	case http.StatusOK:
		return resp, nil
	case http.StatusServiceUnavailable:
		return nil, status.Error(codes.Unavailable, "busy")
	}
	return nil, status.Error(codes.InvalidArgument, "not for us")
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := gzip.NewReader(req.Body)
	if err != nil || req.URL.Path != "/v1/logs" {
		http.Error(w, fmt.Sprint(req.URL, err), http.StatusNotFound)
		return
	}
	data, err := io.ReadAll(body)
	var msg service.ExportLogsServiceRequest
	if err != nil || proto.Unmarshal(data, &msg) != nil {
		http.Error(w, "no request", http.StatusBadRequest)
		return
	}
	resp, code := r.take(req.Context(), req.Header.Get("Authorization"), &msg)
	if code != http.StatusOK {
		http.Error(w, "not for us", code)
		return
	}
	out, err := proto.Marshal(resp)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(out)
}

// listen opens a receiver at an address, such as 127.0.0.1:0, until the test ends or it is closed.
func (r *receiver) listen(t *testing.T, overGRPC bool, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	r.listener = l
	if overGRPC {
		s := grpc.NewServer()
		service.RegisterLogsServiceServer(s, r)
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		r.close = sync.OnceFunc(func() { s.Stop(); <-done })
	} else {
		s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		r.close = sync.OnceFunc(func() { s.Close(); <-done })
	}
	t.Cleanup(func() { r.close() })
}

func (r *receiver) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

func (r *receiver) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.records)
}

func attributes(all []*common.KeyValue) string {
	var texts []string
	for _, kv := range all {
		texts = append(texts, kv.Key+"="+value(kv.Value))
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

func value(v *common.AnyValue) string {
	switch v := v.Value.(type) {
	case *common.AnyValue_StringValue:
		return v.StringValue
	case *common.AnyValue_DoubleValue:
		return fmt.Sprint(v.DoubleValue)
	case *common.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *common.AnyValue_ArrayValue:
		var all []string
		for _, e := range v.ArrayValue.Values {
			all = append(all, value(e))
		}
		return strings.Join(all, ",")
	}
	return fmt.Sprint(v)
}

// text is a record as a line.
func text(r *logs.LogRecord) string {
	return fmt.Sprintf("%s %s %q at %s: %s", r.EventName, r.SeverityText, value(r.Body), time.Unix(0, int64(r.TimeUnixNano)).UTC().Format(time.RFC3339Nano), attributes(r.Attributes))
}

// run has an exporter send to a receiver; the function ends it.
func run(t *testing.T, o Options) (*Exporter, func()) {
	t.Helper()
	if o.Path == "" {
		o.Path = "/v1/logs"
	}
	o.Host, o.Version, o.Log = "h1", "v1.0.0", slog.New(slog.NewTextHandler(t.Output(), nil))
	if o.Interval == 0 {
		o.Interval = 5 * time.Millisecond
	}
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return e, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not so within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

// overBoth runs a test over both protocols.
func overBoth(t *testing.T, test func(t *testing.T, overGRPC bool)) {
	for _, overGRPC := range []bool{false, true} {
		t.Run(map[bool]string{false: "http", true: "grpc"}[overGRPC], func(t *testing.T) { test(t, overGRPC) })
	}
}

var when = time.Date(2026, 5, 4, 3, 2, 1, 999_000_000, time.UTC)

func TestEventsArrive(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		r := &receiver{}
		r.listen(t, overGRPC, "127.0.0.1:0")
		e, stop := run(t, Options{GRPC: overGRPC, Address: r.listener.Addr().String(), Headers: map[string]string{"Authorization": "Bearer s3cret"}})
		e.Record(history.Event{
			Time: when, Kind: history.Attach, Container: "web", Interface: "eth0", Owner: "cni/pods", Name: "web-1", Aliases: []string{"www"}, Duration: 2 * time.Millisecond,
			Addresses: []netip.Addr{netip.MustParseAddr("10.64.0.7"), netip.MustParseAddr("fd00::7")},
			Labels:    map[string]string{"app": "shop", "io.kubernetes.pod.name": "web-1", "io.kubernetes.pod.namespace": "shop"},
		})
		e.Record(history.Event{Time: when, Kind: history.Refuse, Container: "db", Interface: "eth0", Pool: "gold", Error: "no free address", Count: 3})
		e.Record(history.Event{Time: when, Kind: history.Withdraw, Prefix: netip.MustParsePrefix("10.64.0.0/26"), Detail: "drain"})
		e.Record(history.Event{Time: when, Kind: history.SessionUp, Peer: "10.0.1.0"})
		eventually(t, "four events have arrived", func() bool { return r.count() == 4 })
		stop()
		var got []string
		for _, record := range r.records {
			got = append(got, text(record))
		}
		want := []string{
			`hostfabric.attach INFO "attach web/eth0" at 2026-05-04T03:02:01.999Z: container.id=web container.label.app=shop container.name=web-1 hostfabric.addresses=10.64.0.7,fd00::7 hostfabric.aliases=www hostfabric.duration=0.002 hostfabric.owner=cni/pods k8s.namespace.name=shop k8s.pod.name=web-1 network.interface.name=eth0`,
			`hostfabric.refuse WARN "refuse db/eth0: no free address" at 2026-05-04T03:02:01.999Z: container.id=db error.message=no free address hostfabric.count=3 hostfabric.pool=gold network.interface.name=eth0`,
			`hostfabric.withdraw WARN "withdraw 10.64.0.0/26" at 2026-05-04T03:02:01.999Z: hostfabric.detail=drain hostfabric.prefix=10.64.0.0/26`,
			`hostfabric.session-up INFO "session-up 10.0.1.0" at 2026-05-04T03:02:01.999Z: network.peer.address=10.0.1.0`,
		}
		if !slices.Equal(got, want) {
			t.Errorf("arrived\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if r.resource != "host.name=h1 service.name=hostfabric service.version=v1.0.0" {
			t.Errorf("resource %s", r.resource)
		}
		if slices.ContainsFunc(r.headers, func(h string) bool { return h != "Bearer s3cret" }) {
			t.Errorf("authorization %q", r.headers)
		}
		if s := e.Stats(); s != (Stats{Exported: 4}) {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestReceiverAway: what is recorded meanwhile arrives when it is back, once.
func TestReceiverAway(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		r := &receiver{}
		r.listen(t, overGRPC, "127.0.0.1:0")
		address := r.listener.Addr().String()
		r.close()
		e, _ := run(t, Options{GRPC: overGRPC, Address: address})
		e.Record(history.Event{Time: when, Kind: history.Start})
		eventually(t, "it was tried", func() bool { return e.Stats().Errors > 0 })
		e.Record(history.Event{Time: when, Kind: history.Stop})
		r.listen(t, overGRPC, address)
		eventually(t, "both have arrived", func() bool { return r.count() == 2 && e.Stats().Exported == 2 })
		if s := e.Stats(); s.Refused+s.Expired+s.Overflow != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestReceiverThatDoesNotComeBack(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		r := &receiver{}
		r.listen(t, overGRPC, "127.0.0.1:0")
		r.close()
		e, stop := run(t, Options{GRPC: overGRPC, Address: r.listener.Addr().String(), Patience: 50 * time.Millisecond, Timeout: time.Second})
		for range 3 {
			e.Record(history.Event{Time: when, Kind: history.Start})
		}
		eventually(t, "they are given up", func() bool { return e.Stats().Expired == 3 })
		e.Record(history.Event{Time: when, Kind: history.Stop})
		stop()
		if s := e.Stats(); s.Expired != 4 || s.Exported+s.Refused+s.Overflow != 0 || s.Queued != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestSlowReceiver: who records never waits, and each event is sent or counted.
func TestSlowReceiver(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		block := make(chan struct{})
		r := &receiver{block: block}
		r.listen(t, overGRPC, "127.0.0.1:0")
		e, stop := run(t, Options{GRPC: overGRPC, Address: r.listener.Addr().String(), Queue: 100, Batch: 10})
		const n = 50_000
		began := time.Now()
		for range n {
			e.Record(history.Event{Time: when, Kind: history.Attach, Container: "web"})
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("to record %d events took %s", n, took)
		}
		if s := e.Stats(); s.Overflow < n-200 || s.Queued > 100 {
			t.Errorf("while nothing is taken: %+v", s)
		}
		close(block)
		eventually(t, "the rest is sent", func() bool { s := e.Stats(); return s.Exported+s.Overflow == n })
		stop()
		if s := e.Stats(); uint64(r.count()) != s.Exported || s.Queued != 0 {
			t.Errorf("%d arrived: %+v", r.count(), s)
		}
	})
}

func TestRefusals(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		r := &receiver{codes: []int{http.StatusServiceUnavailable, http.StatusServiceUnavailable}}
		r.listen(t, overGRPC, "127.0.0.1:0")
		e, _ := run(t, Options{GRPC: overGRPC, Address: r.listener.Addr().String()})
		e.Record(history.Event{Time: when, Kind: history.Start})
		eventually(t, "it is taken by a receiver that was busy", func() bool { return e.Stats().Exported == 1 })
		r.set(func() { r.codes = []int{http.StatusBadRequest} })
		e.Record(history.Event{Time: when, Kind: history.Start})
		eventually(t, "it is refused", func() bool { return e.Stats().Refused == 1 })
		r.set(func() { r.reject = 1 })
		e.Record(history.Event{Time: when, Kind: history.Start})
		e.Record(history.Event{Time: when, Kind: history.Stop})
		eventually(t, "one of them is rejected, or each by itself", func() bool { s := e.Stats(); return s.Refused+s.Exported == 4 })
		if s := e.Stats(); s.Errors < 4 || s.Refused < 2 || s.Refused > 3 || s.Expired+s.Overflow != 0 {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestEndSendsWhatIsLeft also when a batch is on its way, or waits to be full.
func TestEndSendsWhatIsLeft(t *testing.T) {
	overBoth(t, func(t *testing.T, overGRPC bool) {
		r := &receiver{}
		r.listen(t, overGRPC, "127.0.0.1:0")
		e, stop := run(t, Options{GRPC: overGRPC, Address: r.listener.Addr().String(), Interval: time.Hour, Batch: 7})
		for range 40 {
			e.Record(history.Event{Time: when, Kind: history.Stop})
		}
		stop()
		if r.count() != 40 || e.Stats().Exported != 40 {
			t.Errorf("%d arrived: %+v", r.count(), e.Stats())
		}
	})
}

func TestTLS(t *testing.T) {
	r := &receiver{}
	s := httptest.NewTLSServer(r)
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	for _, trusted := range []bool{true, false} {
		c := &tls.Config{MinVersion: tls.VersionTLS12}
		if trusted {
			c.RootCAs = pool
		}
		e, stop := run(t, Options{Address: s.Listener.Addr().String(), TLS: c, Patience: time.Millisecond})
		e.Record(history.Event{Time: when, Kind: history.Start})
		eventually(t, "it is taken, or not", func() bool { s := e.Stats(); return s.Exported+s.Expired == 1 })
		stop()
		if s := e.Stats(); (s.Exported == 1) != trusted {
			t.Errorf("trusted %v: %+v", trusted, s)
		}
	}
}

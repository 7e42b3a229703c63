// Package docker is the agent's Docker front-end: a libnetwork remote driver for networks and for IPAM, which turns the plugin
// protocol's JSON into calls of the agent. Of its own it keeps a record of networks; which endpoints there are, the agent and the
// kernel know. Names and labels, which the protocol does not carry, come from Docker's API, some time after the attach.
package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hostfabric/hostfabric/agent"
)

// Endpoints is what the front-end needs of the agent.
type Endpoints interface {
	// Reserve leases an address ahead of the Attach that takes it over; one that nobody takes ends by itself.
	Reserve(context.Context, agent.ReserveRequest) (netip.Addr, error)
	// Unreserve gives back what Reserve gave, but not what an attachment has by now.
	Unreserve(context.Context, netip.Addr) (found bool, err error)
	// Attach is idempotent by key and all or nothing.
	Attach(context.Context, agent.AttachRequest) (agent.Endpoint, error)
	// Detach is idempotent; found tells whether there was anything to detach.
	Detach(context.Context, agent.Key) (found bool, err error)
	// Lookup fails with agent.ErrNotFound.
	Lookup(context.Context, agent.Key) (agent.Endpoint, error)
	Endpoints() []agent.Endpoint
	Describe(context.Context, agent.Key, agent.Description) error
	// Own are the blocks that this host has.
	Own() []netip.Prefix
}

// Options of Serve.
type Options struct {
	Endpoints Endpoints
	Driver    string          // the name that Docker knows the plugin by, which is that of its socket
	Record    string          // file that keeps the networks
	API       string          // Docker's API socket; empty: names, labels and what Docker has forgotten stay unknown
	Ready     <-chan struct{} // closed once the agent knows what an earlier run left
	Log       *slog.Logger    // default discards
	Look      time.Duration   // between comparisons with Docker's API; default 30 s
}

// Bounds of a request. Its work is bounded because Docker waits for ever.
const (
	maxBody     = 1 << 20
	readTimeout = 10 * time.Second
	workTimeout = 30 * time.Second
	endTimeout  = 5 * time.Second // for requests under way when the agent ends
)

// contentType is what Docker asks for.
const contentType = "application/vnd.docker.plugins.v1.2+json"

type server struct {
	endpoints Endpoints
	networks  *networks
	driver    string
	sandboxes sandboxes
	joined    func() // told of every container that has been connected
	log       *slog.Logger
}

// Serve answers Docker until ctx ends; it closes l.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	defer l.Close()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Look <= 0 {
		o.Look = defaultLook
	}
	known, err := loadNetworks(o.Record)
	if err != nil {
		return err
	}
	s := &server{endpoints: o.Endpoints, networks: known, driver: o.Driver, log: o.Log, joined: func() {}}
	g, ctx := errgroup.WithContext(ctx)
	if o.API != "" {
		f := newFollower(s, o)
		s.joined = f.wake
		g.Go(func() error { return f.run(ctx) })
	}
	h := &http.Server{
		Handler: s.handler(), ReadTimeout: readTimeout, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) }, // a request under way is finished
		ErrorLog:    slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	g.Go(func() error {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("docker: serve: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		if err := h.Shutdown(end); err != nil {
			o.Log.Warn("docker: requests cut short", "err", err)
			return h.Close()
		}
		return nil
	})
	return g.Wait()
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	for path, h := range map[string]http.HandlerFunc{
		"/Plugin.Activate": s.answer(map[string]any{"Implements": []string{"NetworkDriver", "IpamDriver"}}),

		"/IpamDriver.GetCapabilities":         s.answer(map[string]any{"RequiresMACAddress": false, "RequiresRequestReplay": false}),
		"/IpamDriver.GetDefaultAddressSpaces": s.answer(map[string]any{"LocalDefaultAddressSpace": addressSpace, "GlobalDefaultAddressSpace": addressSpace}),
		"/IpamDriver.RequestPool":             serve(s, s.requestPool),
		"/IpamDriver.ReleasePool":             serve(s, s.releasePool),
		"/IpamDriver.RequestAddress":          serve(s, s.requestAddress),
		"/IpamDriver.ReleaseAddress":          serve(s, s.releaseAddress),

		// Containers of one network reach each other on all hosts, but each host's Docker has its networks for itself.
		"/NetworkDriver.GetCapabilities":             s.answer(map[string]any{"Scope": "local", "ConnectivityScope": "global"}),
		"/NetworkDriver.CreateNetwork":               serve(s, s.createNetwork),
		"/NetworkDriver.DeleteNetwork":               serve(s, s.deleteNetwork),
		"/NetworkDriver.CreateEndpoint":              serve(s, s.createEndpoint),
		"/NetworkDriver.EndpointOperInfo":            serve(s, s.endpointInfo),
		"/NetworkDriver.DeleteEndpoint":              serve(s, s.deleteEndpoint),
		"/NetworkDriver.Join":                        serve(s, s.join),
		"/NetworkDriver.Leave":                       serve(s, s.leave),
		"/NetworkDriver.DiscoverNew":                 s.answer(struct{}{}),
		"/NetworkDriver.DiscoverDelete":              s.answer(struct{}{}),
		"/NetworkDriver.ProgramExternalConnectivity": serve(s, s.publish),
		"/NetworkDriver.RevokeExternalConnectivity":  s.answer(struct{}{}),
	} {
		mux.Handle(path, h)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &problem{http.StatusNotFound, fmt.Sprintf("no method %.128q", r.URL.Path)})
	})
	return mux
}

// answer is a method that says the same whatever it is asked.
func (s *server) answer(value any) http.HandlerFunc {
	type anything struct{}
	return serve(s, func(context.Context, anything) (any, error) { return value, nil })
}

// serve is a method of the plugin protocol. What the request has beside Q is of another version's Docker and ignored.
func serve[Q, A any](s *server, do func(context.Context, Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		err := decode(w, r, &q)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		// Docker that dies in the middle does not take the request back: what it has asked for is found by reconciliation.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), workTimeout)
		defer cancel()
		began := time.Now()
		a, err := do(ctx, q)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.log.Debug("docker: request served", "method", r.URL.Path, "took", time.Since(began))
		s.reply(w, http.StatusOK, a)
	}
}

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	if r.Method != http.MethodPost {
		return &problem{http.StatusMethodNotAllowed, r.Method + " " + r.URL.Path + ": want POST"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("request has more than %d bytes", maxBody)}
	}
	if err != nil {
		return &problem{http.StatusBadRequest, "read the request: " + err.Error()}
	}
	if len(body) == 0 {
		return nil // as Docker asks for capabilities; who needs a field will miss it
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &problem{http.StatusBadRequest, "request is not understood: " + err.Error()}
	}
	return nil
}

func (s *server) reply(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"Err":"answer not encoded"}`)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	if _, err := w.Write(append(body, '\n')); err != nil {
		s.log.Warn("docker: answer not delivered", "err", err)
	}
}

// fail answers with the protocol's error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.log.Warn("docker: request failed", "method", r.URL.Path, "err", err)
	s.reply(w, status(err), struct{ Err string }{err.Error()})
}

// problem is an error that is about the request.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

func invalid(format string, args ...any) error {
	return &problem{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// status is HTTP's word for an error. Not Found is none of them: it is what Docker takes for a method that there is not.
func status(err error) int {
	if p := (*problem)(nil); errors.As(err, &p) {
		return p.status
	}
	for _, c := range []struct {
		sentinel error
		status   int
	}{
		{agent.ErrInvalid, http.StatusBadRequest},
		{agent.ErrNotInBlock, http.StatusBadRequest},
		{agent.ErrNotReserved, http.StatusBadRequest},
		{agent.ErrNotFound, http.StatusBadRequest},
		{agent.ErrMismatch, http.StatusConflict},
		{agent.ErrLinkExists, http.StatusConflict},
		{agent.ErrAddressInUse, http.StatusConflict},
		{agent.ErrExhausted, http.StatusServiceUnavailable},
		{agent.ErrNotReady, http.StatusServiceUnavailable},
		{agent.ErrDraining, http.StatusServiceUnavailable},
		{agent.ErrSourceAway, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, c.sentinel) {
			return c.status
		}
	}
	return http.StatusInternalServerError
}

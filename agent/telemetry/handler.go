package telemetry

import (
	"fmt"
	"html/template"
	"net/http"
	"net/http/pprof"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// maxScrapes is how many scrapes go on at a time: two servers, and somebody who looks.
const maxScrapes = 4

// Handler answers
//   - /metrics in the Prometheus text format,
//   - /healthz with 200, as long as the process lives,
//   - /readyz with 200 while containers can be attached, or with 503; the problems that there are follow, either way,
//   - /debug/pprof/ if that is asked for.
func Handler(o Options, src Sources) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collector{src}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { ready(w, r, src.Agent) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { land(w, r, o, src.Agent) })
	if o.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func ready(w http.ResponseWriter, r *http.Request, a Agent) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	problems := a.Status(r.Context()).Problems
	if err := a.Ready(r.Context()); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready:", err)
		problems = slices.DeleteFunc(problems, func(p string) bool { return p == err.Error() })
	} else {
		fmt.Fprintln(w, "ready")
	}
	for _, p := range problems {
		fmt.Fprintln(w, p)
	}
}

var landing = template.Must(template.New("landing").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Hostfabric: {{.Host}}</title></head>
<body><h1>Hostfabric on {{.Host}}</h1>
<p>{{.Version}}, {{if .Problems}}{{len .Problems}} problems{{else}}all is well{{end}}</p>
<ul>{{range .Problems}}<li>{{.}}</li>{{end}}</ul>
<p><a href="/metrics">/metrics</a> <a href="/healthz">/healthz</a> <a href="/readyz">/readyz</a>{{if .Pprof}} <a href="/debug/pprof/">/debug/pprof/</a>{{end}}</p>
</body></html>
`))

func land(w http.ResponseWriter, r *http.Request, o Options, a Agent) {
	s := a.Status(r.Context())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// Nobody is left to tell if the client is gone.
	_ = landing.Execute(w, struct {
		Host, Version string
		Problems      []string
		Pprof         bool
	}{s.Host, s.Version, s.Problems, o.Pprof})
}

package otlp

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// The exporters try nothing again: they do so with a receiver that answers that it is busy, but not with one that is not there.

func (e *Exporter) overGRPC() error {
	opts := []otlploggrpc.Option{
		otlploggrpc.WithEndpoint(e.opts.Address), otlploggrpc.WithHeaders(e.opts.Headers), otlploggrpc.WithTimeout(e.opts.Timeout),
		otlploggrpc.WithCompressor("gzip"), otlploggrpc.WithRetry(otlploggrpc.RetryConfig{}),
		otlploggrpc.WithDialOption(grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minRetry, Multiplier: 2, Jitter: 0.2, MaxDelay: maxRetry}, // gRPC's own goes up to two minutes
			MinConnectTimeout: e.opts.Timeout,
		})),
	}
	if e.opts.TLS != nil {
		opts = append(opts, otlploggrpc.WithTLSCredentials(credentials.NewTLS(e.opts.TLS)))
	} else {
		opts = append(opts, otlploggrpc.WithInsecure())
	}
	exporter, err := otlploggrpc.New(context.Background(), opts...)
	e.exporter, e.taken = exporter, grpcVerdict
	return err
}

// grpcVerdict goes by what OTLP says of the codes (OTLP specification 1.x, "OTLP/gRPC Response").
func grpcVerdict(err error) verdict {
	if err == nil {
		return verdict{}
	}
	if n, ok := rejectedOf(err); ok {
		return verdict{rejected: n}
	}
	switch status.Code(err) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Aborted, codes.OutOfRange, codes.Unavailable, codes.DataLoss, codes.ResourceExhausted:
		return verdict{again: true}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return verdict{again: true}
	}
	return verdict{rejected: all}
}

// all events of a batch.
const all = ^uint64(0)

func (e *Exporter) overHTTP() error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, transport.MaxIdleConnsPerHost, transport.IdleConnTimeout = e.opts.TLS, 1, time.Minute
	watched := &statusWatch{RoundTripper: transport}
	opts := []otlploghttp.Option{
		otlploghttp.WithEndpoint(e.opts.Address), otlploghttp.WithURLPath(e.opts.Path), otlploghttp.WithHeaders(e.opts.Headers),
		otlploghttp.WithHTTPClient(&http.Client{Transport: watched, Timeout: e.opts.Timeout}),
		otlploghttp.WithCompression(otlploghttp.GzipCompression), otlploghttp.WithRetry(otlploghttp.RetryConfig{}),
	}
	if e.opts.TLS == nil {
		opts = append(opts, otlploghttp.WithInsecure())
	}
	exporter, err := otlploghttp.New(context.Background(), opts...)
	e.exporter, e.taken, e.idle = exporter, watched.verdict, transport.CloseIdleConnections
	return err
}

// statusWatch remembers the status of the last answer: the exporter's errors do not tell apart whether there was one. Requests are
// made one at a time.
type statusWatch struct {
	http.RoundTripper
	status int // 0: none
}

// RoundTrip implements http.RoundTripper.
func (w *statusWatch) RoundTrip(req *http.Request) (*http.Response, error) {
	w.status = 0
	resp, err := w.RoundTripper.RoundTrip(req)
	if err == nil {
		w.status = resp.StatusCode
	}
	return resp, err
}

// verdict goes by what OTLP says of the codes (OTLP specification 1.x, "Retryable Response Codes"). Without an answer nobody has refused.
func (w *statusWatch) verdict(err error) verdict {
	if err == nil {
		return verdict{}
	}
	if n, ok := rejectedOf(err); ok {
		return verdict{rejected: n}
	}
	switch w.status {
	case 0, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return verdict{again: true}
	}
	return verdict{rejected: all}
}

// partial is how both exporters word that a receiver has taken some. They have no other way to say it.
var partial = regexp.MustCompile(`OTLP partial success: .*\((\d+) logs rejected\)`)

// rejectedOf is how many events a receiver has rejected that has taken the others.
func rejectedOf(err error) (uint64, bool) {
	m := partial.FindStringSubmatch(err.Error())
	if m == nil {
		return 0, false
	}
	n, parseErr := strconv.ParseUint(m[1], 10, 64)
	return n, parseErr == nil
}

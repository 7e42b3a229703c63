// Package telemetry serves the agent's metrics and health over HTTP. Every metric is of the host, a room, a pool or a peer:
// none grows with containers.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// Options of a server.
type Options struct {
	Network, Address string // as net.Listen takes them
	Pprof            bool   // profiles of the process, too
	Log              *slog.Logger
}

// retryListen is how often a listener that could not be opened is tried again.
const retryListen = 5 * time.Second

// Run answers Handler's paths until ctx ends. An address that is taken is tried again: containers do not wait for metrics.
func Run(ctx context.Context, o Options, src Sources) error {
	tick := time.NewTicker(retryListen)
	defer tick.Stop()
	for {
		l, err := listen(o.Network, o.Address)
		if err == nil {
			return serve(ctx, l, o, src)
		}
		o.Log.Error("no metrics, will be retried", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listen opens the listener. A unix socket left by a dead agent is replaced.
func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("metrics.listen: %w", err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, fmt.Errorf("metrics.listen: %w", err)
	}
	return l, nil
}

// How long a client has. A profile is written when it has been taken, which is for 30 s unless something else is asked for.
const (
	readTimeout    = 5 * time.Second
	writeTimeout   = 30 * time.Second
	profileTimeout = 2 * time.Minute
	idleTimeout    = 2 * time.Minute
	maxHeader      = 16 << 10 // bytes
)

func serve(ctx context.Context, l net.Listener, o Options, src Sources) error {
	s := &http.Server{
		Handler: Handler(o, src), ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelWarn),
	}
	if o.Pprof {
		s.WriteTimeout = profileTimeout
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics.listen: %w", err)
	}
	return nil
}

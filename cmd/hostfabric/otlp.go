package main

import (
	"context"
	"log/slog"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/telemetry/otlp"
)

// export sends events to an OpenTelemetry receiver for as long as anybody records some: until it is closed, which is after the last one.
type export struct {
	*otlp.Exporter
	cancel context.CancelFunc
	done   chan error
}

// startExport is nil where nothing is to be sent.
func startExport(cfg *config.Config, log *slog.Logger) (*export, error) {
	to := cfg.OTLP.Endpoint
	if to.IsZero() {
		return nil, nil
	}
	headers := make(map[string]string, len(cfg.OTLP.Headers))
	for key, value := range cfg.OTLP.Headers {
		headers[key] = string(value)
	}
	exporter, err := otlp.New(otlp.Options{
		GRPC: to.GRPC, Address: to.Address, Path: to.Path, TLS: cfg.OTLP.TLS, Headers: headers, Host: cfg.Host, Version: version, Log: log.With("room", "otlp"),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &export{Exporter: exporter, cancel: cancel, done: make(chan error, 1)}
	go func() { e.done <- exporter.Run(ctx) }()
	return e, nil
}

// close sends what there still is.
func (e *export) close() error {
	e.cancel()
	return <-e.done
}

// ledgers are told of each event in turn.
type ledgers []agent.Ledger

// Record implements agent.Ledger.
func (all ledgers) Record(e history.Event) {
	for _, l := range all {
		l.Record(e)
	}
}

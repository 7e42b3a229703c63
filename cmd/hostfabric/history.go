package main

import (
	"log/slog"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/rpc"
)

// openLedger opens the ledger that the configuration asks for; nil if it asks for none.
func openLedger(cfg *config.Config, log *slog.Logger) (*history.Ledger, error) {
	if !cfg.History.Enabled {
		return nil, nil
	}
	return history.Open(history.Options{
		Dir: cfg.HistoryDir(), Host: cfg.Host, Limits: ledgerLimits(cfg), Flush: cfg.History.Flush, Sync: cfg.History.Sync,
		Log: log.With("room", "history"),
	})
}

func ledgerLimits(cfg *config.Config) history.Limits {
	return history.Limits{MaxSize: int64(cfg.History.MaxSize), MaxAge: cfg.History.MaxAge}
}

// told is the ledger as those know it who tell it what happens. A nil *history.Ledger in an interface would not be nil.
func (r *rooms) told() agent.Ledger {
	if r.kept == nil {
		return nil
	}
	return r.kept
}

// served is the ledger as the API knows it.
func (r *rooms) served() rpc.Ledger {
	if r.kept == nil {
		return nil
	}
	return r.kept
}

package main

import "github.com/hostfabric/hostfabric/agent/telemetry"

// metrics are what the metrics are read from.
func (r *rooms) metrics() telemetry.Sources {
	src := telemetry.Sources{Agent: r.agent, Sandboxes: r.sandboxes.Status, Routes: r.table.Stats, Failovers: r.over.Count, DNS: r.dns.Stats}
	if r.kept != nil {
		src.Ledger = r.kept.Stats
	}
	if r.export != nil {
		src.OTLP = r.export.Stats
	}
	return src
}

package otlp

import (
	"context"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdk "go.opentelemetry.io/otel/sdk/log"

	"github.com/hostfabric/hostfabric/agent/history"
)

// severities are those of events that are not merely to be known.
var severities = map[history.Kind]log.Severity{
	history.Refuse: log.SeverityWarn, history.BlockLost: log.SeverityError, history.Withdraw: log.SeverityWarn,
	history.SessionDown: log.SeverityWarn, history.BFDDown: log.SeverityWarn, history.HostDrain: log.SeverityWarn, history.Dropped: log.SeverityWarn,
}

// conventional are labels of ours that OpenTelemetry has names for.
var conventional = map[string]string{
	"io.kubernetes.pod.name": "k8s.pod.name", "io.kubernetes.pod.namespace": "k8s.namespace.name", "io.kubernetes.pod.uid": "k8s.pod.uid",
}

// convert makes the records of a batch. Its caller is the only one.
func (e *Exporter) convert(batch []history.Event) []sdk.Record {
	now := time.Now()
	for i := range batch {
		r := record(&batch[i])
		r.SetObservedTimestamp(now)
		e.logger.Emit(context.Background(), r)
	}
	return e.records.take()
}

// record has an event's fields under the names of OpenTelemetry's semantic conventions, where there are such.
func record(e *history.Event) log.Record {
	var r log.Record
	r.SetTimestamp(e.Time)
	r.SetEventName("hostfabric." + string(e.Kind))
	severity, ok := severities[e.Kind]
	if !ok {
		severity = log.SeverityInfo
	}
	r.SetSeverity(severity)
	r.SetSeverityText(severity.String())
	r.SetBody(attribute.StringValue(body(e)))
	text := func(key, value string) {
		if value != "" {
			r.AddAttributes(attribute.String(key, value))
		}
	}
	text("container.id", e.Container)
	text("container.name", e.Name)
	text("network.interface.name", e.Interface)
	text("network.peer.address", e.Peer)
	text("error.message", e.Error)
	text("hostfabric.owner", e.Owner)
	text("hostfabric.pool", e.Pool)
	text("hostfabric.detail", e.Detail)
	if e.Prefix.IsValid() {
		text("hostfabric.prefix", e.Prefix.String())
	}
	if len(e.Addresses) > 0 {
		addrs := make([]string, len(e.Addresses))
		for i, a := range e.Addresses {
			addrs[i] = a.String()
		}
		r.AddAttributes(attribute.StringSlice("hostfabric.addresses", addrs))
	}
	if len(e.Aliases) > 0 {
		r.AddAttributes(attribute.StringSlice("hostfabric.aliases", e.Aliases))
	}
	if e.Duration > 0 {
		r.AddAttributes(attribute.Float64("hostfabric.duration", e.Duration.Seconds()))
	}
	if e.Count > 0 {
		r.AddAttributes(attribute.Int64("hostfabric.count", int64(e.Count)))
	}
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		name, ok := conventional[key]
		if !ok {
			name = "container.label." + key
		}
		text(name, e.Labels[key])
	}
	return r
}

// body is an event in a few words.
func body(e *history.Event) string {
	text := string(e.Kind)
	switch {
	case e.Container != "":
		text += " " + e.Container + "/" + e.Interface
	case e.Prefix.IsValid():
		text += " " + e.Prefix.String()
	case e.Peer != "":
		text += " " + e.Peer
	}
	if e.Error != "" {
		text += ": " + e.Error
	}
	return text
}

package telemetry

import (
	"time"

	"github.com/hostfabric/hostfabric/agent/history"
	"github.com/hostfabric/hostfabric/agent/telemetry/otlp"
)

var (
	ledgerEventsFamily  = counter("ledger_events_total", "Events for the ledger: recorded, or dropped because they came faster than they could be written.", "result")
	ledgerBufferFamily  = gauge("ledger_buffered_events", "Events that wait to be written to the ledger.")
	ledgerBytesFamily   = counter("ledger_written_bytes_total", "Bytes written to the ledger, compressed.")
	ledgerWritesFamily  = counter("ledger_writes_total", "Writes to the ledger.")
	ledgerSecondsFamily = counter("ledger_write_seconds_total", "That writes to the ledger took, compression and syncing included.")
	ledgerErrorsFamily  = counter("ledger_write_errors_total", "Writes to the ledger that failed.")
	ledgerFailingFamily = gauge("ledger_failing", "1 while nothing can be written to the ledger.")
	ledgerSizeFamily    = gauge("ledger_size_bytes", "Size of the ledger on disk.")
	ledgerStoredFamily  = gauge("ledger_stored_events", "Events in the ledger.")
	ledgerSegmentFamily = gauge("ledger_segments", "Files of the ledger.")
	ledgerOldestFamily  = gauge("ledger_oldest_event_timestamp_seconds", "Time of the oldest event in the ledger; 0: there is none.")

	otlpEventsFamily = counter("otlp_events_total", "Events for the OTLP receiver: exported, or dropped because the queue was full (overflow), the receiver does not want them (refused) or could not be reached for too long (expired).", "result")
	otlpErrorsFamily = counter("otlp_errors_total", "Requests to the OTLP receiver that failed.")
	otlpQueueFamily  = gauge("otlp_queued_events", "Events that wait to be sent to the OTLP receiver.")
)

func (e emitter) ledger(s history.Stats) {
	e.set(ledgerEventsFamily, float64(s.Recorded), "recorded")
	e.set(ledgerEventsFamily, float64(s.Dropped), "dropped")
	e.set(ledgerBufferFamily, float64(s.Buffered))
	e.set(ledgerBytesFamily, float64(s.Written))
	e.set(ledgerWritesFamily, float64(s.Writes))
	e.set(ledgerSecondsFamily, s.WriteTime.Seconds())
	e.set(ledgerErrorsFamily, float64(s.WriteErrors))
	e.is(ledgerFailingFamily, s.Failing != "")
	e.set(ledgerSizeFamily, float64(s.Size))
	e.set(ledgerStoredFamily, float64(s.Events))
	e.set(ledgerSegmentFamily, float64(s.Segments))
	e.set(ledgerOldestFamily, timestamp(s.Oldest))
}

func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func (e emitter) otlp(s otlp.Stats) {
	e.set(otlpEventsFamily, float64(s.Exported), "exported")
	e.set(otlpEventsFamily, float64(s.Overflow), "overflow")
	e.set(otlpEventsFamily, float64(s.Refused), "refused")
	e.set(otlpEventsFamily, float64(s.Expired), "expired")
	e.set(otlpErrorsFamily, float64(s.Errors))
	e.set(otlpQueueFamily, float64(s.Queued))
}

package telemetry

import "github.com/hostfabric/hostfabric/agent/dns"

var (
	dnsAnswersFamily  = counter("dns_answers_total", "Answers to DNS queries by who had them (own, other: another host of the fabric, forwarded, rejected: nobody) and code.", "kind", "rcode")
	dnsDurationFamily = histogram("dns_duration_seconds", "From the arrival of a DNS query to its answer.", "kind")
	dnsDroppedFamily  = counter("dns_dropped_total", "DNS queries without an answer: their sender asks too often (limited), too much is under way (busy), or they are no query (ignored).", "reason")
	dnsCacheFamily    = counter("dns_cache_lookups_total", "Queries to be forwarded by whether their answer was remembered.", "result")
	dnsEntriesFamily  = gauge("dns_cache_entries", "Answers that are remembered.")
	dnsBytesFamily    = gauge("dns_cache_bytes", "Size of the answers that are remembered.")
	dnsNamesFamily    = gauge("dns_names", "Endpoints that have a name.")
	dnsWaitingFamily  = gauge("dns_waiting_queries", "Queries that others have to answer.")
	dnsTCPFamily      = gauge("dns_tcp_connections", "Connections of DNS over TCP.")
)

func (e emitter) dns(s dns.Stats) {
	for outcome, n := range s.Answers {
		e.set(dnsAnswersFamily, float64(n), string(outcome.Kind), outcome.Rcode)
	}
	for kind, h := range s.Durations {
		e.observed(dnsDurationFamily, dns.Bounds, h.Counts, h.Sum, string(kind))
	}
	e.set(dnsDroppedFamily, float64(s.Limited), "limited")
	e.set(dnsDroppedFamily, float64(s.Busy), "busy")
	e.set(dnsDroppedFamily, float64(s.Ignored), "ignored")
	e.set(dnsCacheFamily, float64(s.CacheHits), "hit")
	e.set(dnsCacheFamily, float64(s.CacheMisses), "miss")
	e.set(dnsEntriesFamily, float64(s.CacheEntries))
	e.set(dnsBytesFamily, float64(s.CacheBytes))
	e.set(dnsNamesFamily, float64(s.Names))
	e.set(dnsWaitingFamily, float64(s.Waiting))
	e.set(dnsTCPFamily, float64(s.Connections))
}

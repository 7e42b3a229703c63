package telemetry

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Family is a metric that the agent exports. What its labels can be is bounded by the configuration or by the code; none grows with
// containers.
type Family struct {
	Name   string
	Type   string // gauge, counter or histogram
	Labels []string
	Help   string

	desc *prometheus.Desc
}

// catalog has every family, so that what is described, documented and alerted on is what there is.
var catalog []*Family

// Families are the metrics of the agent's own, by name. Those of the Go runtime and of the process come besides.
func Families() []Family {
	list := make([]Family, len(catalog))
	for i, f := range catalog {
		list[i] = *f
	}
	slices.SortFunc(list, func(a, b Family) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func family(kind, name, help string, labels []string) *Family {
	f := &Family{Name: "hostfabric_" + name, Type: kind, Labels: labels, Help: help}
	f.desc = prometheus.NewDesc(f.Name, help, labels, nil)
	catalog = append(catalog, f)
	return f
}

func gauge(name, help string, labels ...string) *Family {
	return family("gauge", name, help, labels)
}

func counter(name, help string, labels ...string) *Family {
	return family("counter", name, help, labels)
}

func histogram(name, help string, labels ...string) *Family {
	return family("histogram", name, help, labels)
}

// emitter takes the samples of one scrape.
type emitter chan<- prometheus.Metric

// set gives a gauge's or counter's value.
func (e emitter) set(f *Family, v float64, labels ...string) {
	kind := prometheus.GaugeValue
	if f.Type == "counter" {
		kind = prometheus.CounterValue
	}
	e <- prometheus.MustNewConstMetric(f.desc, kind, v, labels...)
}

// is gives a gauge that is 1 or 0.
func (e emitter) is(f *Family, v bool, labels ...string) {
	n := 0.0
	if v {
		n = 1
	}
	e.set(f, n, labels...)
}

// observed gives a histogram: counts has one for each bound, of its own bucket only, and one for what lies above the last.
func (e emitter) observed(f *Family, bounds []float64, counts []uint64, sum float64, labels ...string) {
	buckets := make(map[float64]uint64, len(bounds))
	total := uint64(0)
	for i, n := range counts {
		total += n
		if i < len(bounds) {
			buckets[bounds[i]] = total
		}
	}
	e <- prometheus.MustNewConstHistogram(f.desc, total, sum, buckets, labels...)
}

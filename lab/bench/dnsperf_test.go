package bench

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const dnsperfSays = `DNS Performance Testing Tool
Version 2.10.0

[Status] Command line: dnsperf -s 127.0.0.1 -p 5301 -d q2 -n 1 -v
> NOERROR a.r1h1.fabric.internal AAAA 0.000118
> SERVFAIL b.r1h1.fabric.internal A 0.000060
[Status] Testing complete (end of file)

Statistics:

  Queries sent:         4
  Queries completed:    3 (75.00%)
  Queries lost:         1 (25.00%)

  Response codes:       NOERROR 1 (33.33%), SERVFAIL 1 (33.33%), NXDOMAIN 1 (33.33%)
  Average packet size:  request 40, response 80
  Run time (s):         0.001390
  Queries per second:   2158.273381

  Average Latency (s):  0.000112 (min 0.000060, max 0.000159)
`

func TestParseDNSPerf(t *testing.T) {
	got, err := parseDNSPerf([]byte(dnsperfSays))
	want := generated{answers: tally{sent: 4, lost: 1, failed: 2}, rate: 2158.273381, took: []float64{0.118, 0.06}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(generated{}, tally{}), cmpopts.EquateApprox(1e-9, 0)); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if _, err := parseDNSPerf([]byte(strings.Replace(dnsperfSays, "Queries lost", "Queries gone", 1))); err == nil {
		t.Error("no error where a figure is missing")
	}
	if _, err := parseDNSPerf([]byte(strings.Replace(dnsperfSays, "SERVFAIL 1", "SERVFAIL x", 1))); err == nil {
		t.Error("no error where a figure is none")
	}
}

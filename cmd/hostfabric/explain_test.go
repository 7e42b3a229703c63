package main

import (
	"strings"
	"testing"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

// TestExplainFails: what a script sees of a broken chain, whatever the form of the output.
func TestExplainFails(t *testing.T) {
	answer := &apiv1.ExplainResponse{Subject: "10.64.0.7", Broken: "lease: it is free", Steps: []*apiv1.ExplainStep{{Link: "lease", Verdict: "broken", Text: "it is free"}}}
	for _, format := range []string{"table", "json", "yaml"} {
		out, err := execute(t, "explain", "10.64.0.7", "-o", format, "--socket", serveFake(t, &fakeAgent{answer: answer}))
		if err == nil || err.Error() != "broken at lease: it is free" {
			t.Errorf("%s: error %v", format, err)
		}
		if !strings.Contains(out, "it is free") {
			t.Errorf("%s: it prints %q", format, out)
		}
	}
}

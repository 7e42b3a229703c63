package main

import (
	"strings"
	"testing"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
)

func TestSandboxPathIsForScripts(t *testing.T) {
	const path = "/run/hostfabric/sandboxes/sandbox-01"
	answer := &apiv1.AcquireSandboxResponse{Sandbox: &apiv1.Sandbox{Endpoint: &apiv1.Endpoint{Netns: path}}}
	socket := serveFake(t, &fakeAgent{answer: answer})
	if out, err := execute(t, "sandbox", "acquire", "job7", "--path", "--socket", socket); err != nil || out != path+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := execute(t, "sandbox", "acquire", "job7", "--path", "-o", "json", "--socket", socket); err == nil || !strings.Contains(err.Error(), "--path") {
		t.Errorf("with two forms of the answer: %v", err)
	}
	for _, args := range [][]string{{}, {"a", "b"}} {
		if _, err := execute(t, append([]string{"sandbox", "acquire"}, args...)...); err == nil || !strings.Contains(err.Error(), "HOLDER") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

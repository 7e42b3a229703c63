package cni

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// FuzzConfig takes a network config and CNI_ARGS through every reader of them: none may panic, each fails in CNI's
// terms, and a result made with them can be read again.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","mtu":1400,"dns":{"domain":"x"}}`), "IP=10.0.0.1;IgnoreUnknown=1")
	f.Add([]byte(`{"cniVersion":"0.4.0","name":"n","prevResult":{"interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"version":"4","address":"10.0.0.1/8","interface":0}],"routes":[{"dst":"::/0"}]}}`), "")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}],"runtimeConfig":{"ips":["fd00::1/64"]},"args":{"cni":{"ips":["x"]}}}`), ";a")
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"n","family":"dual","labels":{"a":"b"},"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"hostfabric.io/labels":"a=b","hostfabric.io/mtu":"1400"}}}`), "K8S_POD_NAME=p")
	f.Fuzz(func(t *testing.T, data []byte, args string) {
		inCNITerms := func(err error) {
			if _, ok := errors.AsType[*relay.Error](err); err != nil && !ok {
				t.Errorf("%T: %v", err, err)
			}
		}
		conf, err := parseConfig(data)
		inCNITerms(err)
		if err != nil {
			return
		}
		inCNITerms(conf.allows(relay.Check))
		_, _, err = conf.validAttachments()
		inCNITerms(err)
		p, err := conf.plugin(relay.DefaultSpool)
		inCNITerms(err)
		_, err = p.request(args)
		inCNITerms(err)
		if err := conf.allows(relay.Add); err != nil {
			return
		}
		prev, err := conf.prevResult()
		inCNITerms(err)
		if err != nil {
			return
		}
		out, err := encodeResult(conf.version, merge(prev, endpointResult(sample, "/run/netns/x", p.DNS)))
		inCNITerms(err)
		if err == nil && !json.Valid(out) {
			t.Errorf("result %q", out)
		}
	})
}

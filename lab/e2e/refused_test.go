package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/lab/netns/nstest"
	"github.com/hostfabric/hostfabric/lab/workload"
)

// agrees wants the host's accounts to name these containers and nobody else.
func (h *host) agrees(containers ...string) {
	h.t.Helper()
	h.eventually("accounts agree", func() error { return workload.Agree(h.t.Context(), h.client, h.ns, containers...) })
}

// TestDuplicateEndpoint asks for what is attached already, otherwise than it is. It stays as it is.
func TestDuplicateEndpoint(t *testing.T) {
	h := newHost(t, block4, block6)
	box, other := nstest.New(t, "box"), nstest.New(t, "other")
	addrs := h.add("twice", "eth0", box, nil)
	before := h.census(box, other)
	for name, c := range map[string]struct {
		netns string
		args  string
		conf  map[string]any
		api   *apiv1.AttachRequest
	}{
		"namespace":    {netns: other.Path(), api: &apiv1.AttachRequest{Netns: other.Path()}},
		"IPv4 address": {args: "IP=10.64.0.9", api: &apiv1.AttachRequest{Addresses: []string{"10.64.0.9"}}},
		"IPv6 address": {args: "IP=fd00:64::9", api: &apiv1.AttachRequest{Addresses: []string{"fd00:64::9"}}},
		"MTU":          {conf: map[string]any{"mtu": 1400}, api: &apiv1.AttachRequest{Mtu: 1400}},
		"pool":         {conf: map[string]any{"pool": "other"}, api: &apiv1.AttachRequest{Pool: "other"}},
		"family":       {conf: map[string]any{"family": "ipv6"}, api: &apiv1.AttachRequest{Family: "ipv6"}},
		"front-end":    {conf: map[string]any{"name": "other"}, api: &apiv1.AttachRequest{}},
	} {
		if c.netns == "" {
			c.netns = box.Path()
		}
		if _, err := h.try(request{verb: relay.Add, id: "twice", netns: c.netns, args: c.args, conf: h.single(c.conf)}); err == nil || err.Code != relay.CodeMismatch {
			t.Errorf("ADD with another %s: %v, want code %d", name, err, relay.CodeMismatch)
		}
		c.api.ContainerId, c.api.Interface = "twice", "eth0"
		if c.api.Netns == "" {
			c.api.Netns = box.Path()
		}
		if _, err := h.client.Attach(t.Context(), c.api); status.Code(err) != codes.AlreadyExists {
			t.Errorf("Attach with another %s: %v, want %s", name, err, codes.AlreadyExists)
		}
	}
	h.unchanged(before, box, other)
	h.agrees("twice")
	h.reach(box, addrs...)
}

// TestBadBytes sends both front-ends what is too large and what is no message at all.
func TestBadBytes(t *testing.T) {
	h := newHost(t, block4, block6)
	box := nstest.New(t, "box")
	addrs := h.add("staying", "eth0", box, nil)
	before := h.census(box)

	for name, c := range map[string]struct {
		request
		code uint
	}{
		"cut off":       {request{stdin: []byte(`{"cniVersion":"1.1.0","name":`)}, relay.CodeDecode},
		"no JSON":       {request{stdin: []byte("\x00\xff")}, relay.CodeDecode},
		"a list":        {request{stdin: []byte("[]")}, relay.CodeDecode},
		"too large":     {request{stdin: []byte(`{"cniVersion":"1.1.0","x":"` + strings.Repeat("x", relay.MaxConfig) + `"}`)}, relay.CodeDecode},
		"args too long": {request{args: "IgnoreUnknown=1;X=" + strings.Repeat("x", 65<<10)}, relay.CodeInvalidEnvironment},
	} {
		c.verb, c.id, c.netns = relay.Add, "bad", box.Path()
		if _, err := h.try(c.request); err == nil || err.Code != c.code || len(err.Error()) > 1000 {
			t.Errorf("ADD, %s: %.1000v, want code %d", name, err, c.code)
		}
	}
	h.badMessages(box.Path())
	h.badProtocol()

	h.unchanged(before, box)
	h.agrees("staying")
	h.reach(box, addrs...)
}

// badMessages go to the API.
func (h *host) badMessages(netns string) {
	h.t.Helper()
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprint(i)] = ""
	}
	for name, c := range map[string]struct {
		req  *apiv1.AttachRequest
		code codes.Code
	}{
		"more than gRPC takes": {&apiv1.AttachRequest{ContainerId: strings.Repeat("x", 5<<20)}, codes.ResourceExhausted},
		"a long container ID":  {&apiv1.AttachRequest{ContainerId: strings.Repeat("x", 1<<20), Interface: "eth0", Netns: netns}, codes.InvalidArgument},
		"a huge MTU":           {&apiv1.AttachRequest{ContainerId: "bad", Interface: "eth0", Netns: netns, Mtu: 1<<32 - 1}, codes.InvalidArgument},
		"too many labels":      {&apiv1.AttachRequest{ContainerId: "bad", Interface: "eth0", Netns: netns, Labels: many}, codes.InvalidArgument},
		"three addresses": {&apiv1.AttachRequest{ContainerId: "bad", Interface: "eth0", Netns: netns,
			Addresses: []string{"10.64.0.7", "10.64.0.8", "fd00:64::7"}}, codes.InvalidArgument},
		"nothing": {&apiv1.AttachRequest{}, codes.InvalidArgument},
	} {
		if _, err := h.client.Attach(h.t.Context(), c.req); status.Code(err) != c.code || len(err.Error()) > 1000 {
			h.t.Errorf("Attach, %s: %.1000v, want %s", name, err, c.code)
		}
	}
}

// garbage is a codec that sends bytes as they are.
type garbage struct{}

func (garbage) Name() string                  { return "proto" }
func (garbage) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (garbage) Unmarshal([]byte, any) error   { return errors.New("an answer to garbage") }

// badProtocol speaks to the API what is not its protocol.
func (h *host) badProtocol() {
	h.t.Helper()
	conn, err := grpc.NewClient("unix://"+h.run("hostfabric.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	defer conn.Close()
	for method, code := range map[string]codes.Code{
		apiv1.Hostfabric_Attach_FullMethodName: codes.Internal, "/hostfabric.v1.Hostfabric/Format": codes.Unimplemented,
	} {
		err := conn.Invoke(h.t.Context(), method, []byte("\xff\xff\xff"), new([]byte), grpc.ForceCodec(garbage{}))
		if status.Code(err) != code {
			h.t.Errorf("garbage for %s: %v, want %s", method, err, code)
		}
	}
	for _, socket := range []string{"hostfabric.sock", "cni.sock"} {
		c, err := net.Dial("unix", h.run(socket))
		if err != nil {
			h.t.Fatal(err)
		}
		_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		if err = errors.Join(err, c.Close()); err != nil {
			h.t.Errorf("%s: %v", socket, err)
		}
	}
}

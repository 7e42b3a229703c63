package storm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/hostfabric/hostfabric/agent/api/v1"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
	"github.com/hostfabric/hostfabric/agent/endpoint"
	"github.com/hostfabric/hostfabric/lab/netns"
)

const iface = "eth0"

// attachment is what a caller was told.
type attachment struct {
	container string // as the agent knows it
	ns        netns.NS
	hostLink  string
	addrs     []netip.Addr
}

// way is a front-end of the agent, as its users see it.
type way interface {
	name() string
	// attach connects the container, which has a namespace unless the way brings its own.
	attach(ctx context.Context, id string, ns netns.NS) (attachment, error)
	detach(ctx context.Context, id string, ns netns.NS) error
	// brings reports whether namespaces are the agent's.
	brings() bool
	// later reports whether a detach that succeeded may be done only when the agent is back.
	later() bool
	// outcome names the error. expected is false for one that nobody can make sense of: an agent that dies is no reason for it.
	outcome(err error) (name string, expected bool)
}

// grpcOutcome is what an API call can end with when the agent dies, or is not there.
func grpcOutcome(err error) (string, bool) {
	code := status.Code(err)
	return code.String(), code == codes.Unavailable
}

// api is the gRPC API.
type api struct{ client apiv1.HostfabricClient }

func (api) name() string                     { return "api" }
func (api) brings() bool                     { return false }
func (api) later() bool                      { return false }
func (api) outcome(err error) (string, bool) { return grpcOutcome(err) }

func (a api) attach(ctx context.Context, id string, ns netns.NS) (attachment, error) {
	resp, err := a.client.Attach(ctx, &apiv1.AttachRequest{ContainerId: id, Interface: iface, Netns: ns.Path()})
	if err != nil {
		return attachment{}, err
	}
	return told(resp.GetEndpoint(), ns)
}

func (a api) detach(ctx context.Context, id string, _ netns.NS) error {
	_, err := a.client.Detach(ctx, &apiv1.DetachRequest{ContainerId: id, Interface: iface})
	return err
}

func told(ep *apiv1.Endpoint, ns netns.NS) (attachment, error) {
	t := attachment{container: ep.GetContainerId(), ns: ns, hostLink: ep.GetHostInterface()}
	for _, text := range ep.GetAddresses() {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return t, fmt.Errorf("answer: %w", err)
		}
		t.addrs = append(t.addrs, addr)
	}
	return t, nil
}

// sandboxes are namespaces from the agent's pool.
type sandboxes struct{ client apiv1.HostfabricClient }

func (sandboxes) name() string                     { return "sandbox" }
func (sandboxes) brings() bool                     { return true }
func (sandboxes) later() bool                      { return false }
func (sandboxes) outcome(err error) (string, bool) { return grpcOutcome(err) }

func (s sandboxes) attach(ctx context.Context, id string, _ netns.NS) (attachment, error) {
	resp, err := s.client.AcquireSandbox(ctx, &apiv1.AcquireSandboxRequest{Holder: id})
	if err != nil {
		return attachment{}, err
	}
	ep := resp.GetSandbox().GetEndpoint()
	path, err := filepath.Rel(netns.Dir, ep.GetNetns())
	if err != nil {
		return attachment{}, fmt.Errorf("answer: %w", err)
	}
	return told(ep, netns.NS{Name: path})
}

func (s sandboxes) detach(ctx context.Context, id string, _ netns.NS) error {
	_, err := s.client.ReleaseSandbox(ctx, &apiv1.ReleaseSandboxRequest{Holder: id})
	return err
}

// cni runs the shim as a container runtime does.
type cni struct {
	host   netns.NS
	config string
}

func newCNI(host netns.NS, socket, spool string) cni {
	return cni{host: host, config: fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"storm","type":"hostfabric-cni","socket":%q,"spool":%q,"timeout":"2s"}`, socket, spool)}
}

func (cni) name() string { return "cni" }
func (cni) brings() bool { return false }
func (cni) later() bool  { return true } // a DEL is spooled while there is no agent

// failure is the shim's error.
type failure struct {
	Code         int
	Msg, Details string
}

func (f *failure) Error() string { return fmt.Sprintf("%d: %s: %s", f.Code, f.Msg, f.Details) }

func (cni) outcome(err error) (string, bool) {
	f := (*failure)(nil)
	if !errors.As(err, &f) {
		return "no CNI error", false
	}
	return fmt.Sprint(f.Code), f.Code == relay.CodeTryAgain
}

func (c cni) run(ctx context.Context, verb, id string, ns netns.NS) ([]byte, error) {
	cmd := exec.CommandContext(ctx, programs.shim)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns.Path(), "CNI_IFNAME=" + iface, "CNI_PATH=" + filepath.Dir(programs.shim),
	}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader([]byte(c.config)), &out, &out
	if err := c.host.Start(cmd); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	if err == nil {
		return out.Bytes(), nil
	}
	f := &failure{}
	if jsonErr := json.Unmarshal(out.Bytes(), f); jsonErr != nil || f.Code == 0 {
		return nil, fmt.Errorf("%s: %w: %q", verb, err, out.Bytes())
	}
	return nil, f
}

func (c cni) attach(ctx context.Context, id string, ns netns.NS) (attachment, error) {
	out, err := c.run(ctx, relay.Add, id, ns)
	if err != nil {
		return attachment{}, err
	}
	r, err := types100.NewResult(out)
	if err != nil {
		return attachment{}, fmt.Errorf("answer: %w: %s", err, out)
	}
	t := attachment{container: id, ns: ns, hostLink: endpoint.HostLink(id, iface)}
	for _, ip := range r.(*types100.Result).IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return t, fmt.Errorf("answer: %s", out)
		}
		t.addrs = append(t.addrs, addr.Unmap())
	}
	return t, nil
}

func (c cni) detach(ctx context.Context, id string, ns netns.NS) error {
	_, err := c.run(ctx, relay.Del, id, ns)
	return err
}

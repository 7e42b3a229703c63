package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// Pod is a pod sandbox.
type Pod struct {
	ID        string
	NS        netns.NS
	Addresses []netip.Addr // the first is the pod's IP
}

// PodConfig is a pod of this name with these annotations, as the kubelet describes one.
func PodConfig(name string, annotations map[string]string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: name, Namespace: "lab", Uid: "uid-" + name},
		Annotations: annotations,
		Linux:       &cri.LinuxPodSandboxConfig{},
	}
}

// RunPod runs a pod's sandbox.
func (c *Containerd) RunPod(ctx context.Context, name string, annotations map[string]string) (Pod, error) {
	resp, err := c.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: PodConfig(name, annotations)})
	if err != nil {
		return Pod{}, c.wrap("pod "+name, err)
	}
	return c.Pod(ctx, resp.GetPodSandboxId())
}

// Pod asks for a pod's addresses and its namespace.
func (c *Containerd) Pod(ctx context.Context, id string) (Pod, error) {
	resp, err := c.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return Pod{}, c.wrap("status of pod "+id, err)
	}
	pod := Pod{ID: id}
	ips := []string{resp.GetStatus().GetNetwork().GetIp()}
	for _, ip := range resp.GetStatus().GetNetwork().GetAdditionalIps() {
		ips = append(ips, ip.GetIp())
	}
	for _, ip := range ips {
		a, err := netip.ParseAddr(ip)
		if err != nil {
			return pod, c.wrap("status of pod "+id, fmt.Errorf("addresses %q: %w", ips, err))
		}
		pod.Addresses = append(pod.Addresses, a)
	}
	var info struct {
		RuntimeSpec struct {
			Linux struct{ Namespaces []struct{ Type, Path string } }
		}
	}
	if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
		return pod, c.wrap("status of pod "+id, err)
	}
	for _, n := range info.RuntimeSpec.Linux.Namespaces {
		if n.Type != "network" {
			continue
		}
		rel, err := filepath.Rel(netns.Dir, n.Path) // it is below containerd's directory, and goes with it
		if err != nil {
			return pod, c.wrap("status of pod "+id, err)
		}
		pod.NS = netns.NS{Name: rel}
	}
	return pod, nil
}

// StopPod ends a pod: the first of two DELs.
func (c *Containerd) StopPod(ctx context.Context, id string) error {
	_, err := c.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	return c.wrap("stop pod "+id, err)
}

// RemovePod removes a pod, running or not.
func (c *Containerd) RemovePod(ctx context.Context, id string) error {
	_, err := c.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return c.wrap("remove pod "+id, err)
}

// Pods lists the sandboxes there are, running or not.
func (c *Containerd) Pods(ctx context.Context) ([]*cri.PodSandbox, error) {
	resp, err := c.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	return resp.GetItems(), c.wrap("list pods", err)
}

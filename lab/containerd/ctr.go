package containerd

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// ctr knows one place for network configs and one for plugins, which are made where there are none. Ours are put there in a mount
// namespace of its own: it is the client that runs the plugins, not containerd.
const inPlace = `set -e
mkdir -p /etc/cni/net.d /opt/cni/bin
mount --bind "$1/net.d" /etc/cni/net.d
mount --bind "$1/bin" /opt/cni/bin
shift
exec "$@"`

// ctr runs the client on the host, in one of containerd's namespaces, and returns what it printed.
func (c *Containerd) ctr(ctx context.Context, namespace string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "unshare", append([]string{
		"--mount", "sh", "-c", inPlace, "ctr", c.spec.Dir, "ctr", "--address", c.socket(), "--namespace", namespace}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := c.spec.NS.Start(cmd); err != nil {
		return "", c.wrap("ctr", err)
	}
	if err := cmd.Wait(); err != nil {
		return stdout.String(), c.wrap("ctr "+strings.Join(args, " "), fmt.Errorf("%w: %s", err, bytes.TrimSpace(stderr.Bytes())))
	}
	return stdout.String(), nil
}

// Run runs a command in a new container on the CNI network, waits for it and removes both. It returns what it printed.
func (c *Containerd) Run(ctx context.Context, id string, command ...string) (string, error) {
	return c.ctr(ctx, c.ctrNamespace(), append([]string{"run", "--snapshotter", "native", "--cni", "--rm", Image, id}, command...)...)
}

// RunDetached starts a container on the CNI network that does nothing.
func (c *Containerd) RunDetached(ctx context.Context, id string) error {
	_, err := c.ctr(ctx, c.ctrNamespace(), "run", "--snapshotter", "native", "--cni", "--detach", Image, id)
	return err
}

// RunInNamespace starts a container that does nothing in an existing network namespace, with a resolv.conf.
func (c *Containerd) RunInNamespace(ctx context.Context, id, netns, resolvConf string) error {
	_, err := c.ctr(ctx, c.ctrNamespace(), "run", "--snapshotter", "native", "--with-ns", "network:"+netns,
		"--mount", "type=bind,src="+resolvConf+",dst=/etc/resolv.conf,options=rbind:ro", "--detach", Image, id)
	return err
}

// Exec runs a command in a container that runs.
func (c *Containerd) Exec(ctx context.Context, id string, command ...string) (string, error) {
	return c.ctr(ctx, c.ctrNamespace(), append([]string{"task", "exec", "--exec-id", "x", id}, command...)...)
}

// RemoveTask kills a container of RunDetached and forgets it. No CNI DEL comes of that.
func (c *Containerd) RemoveTask(ctx context.Context, id string) error {
	if _, err := c.ctr(ctx, c.ctrNamespace(), "task", "rm", "--force", id); err != nil {
		return err
	}
	_, err := c.ctr(ctx, c.ctrNamespace(), "container", "rm", id)
	return err
}

// ContainerID is what ctr calls a container towards the plugin.
func (c *Containerd) ContainerID(id string) string { return c.ctrNamespace() + "-" + id }

// Package containerd runs containerd on the hosts of a lab, each with the plugin and the agent of its host, and drives it as
// people and the kubelet do: with ctr, and through the CRI.
package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// Spec says where a containerd runs and what it is given.
type Spec struct {
	Host    string // for messages
	NS      netns.NS
	Dir     string   // for its data and sockets; a short path, unix sockets live below it
	Plugins []string // binaries: hostfabric-cni, and loopback, which the CRI runs for every pod
	Network string   // name of the network, the lab's alone: what runtimes keep of it is by its name, in a place that all share
	Config  []byte   // its config list
}

// Containerd is a running one. Runtime is its CRI.
type Containerd struct {
	spec    Spec
	process daemon.Process
	conn    *grpc.ClientConn
	Runtime cri.RuntimeServiceClient
}

// name is that of the record and the log in Dir.
const name = "containerd"

// Image is the reference of the one image there is: a static busybox.
const Image = "hostfabric.test/box:1"

// criNamespace is that of containerd's in which pods are.
const criNamespace = "k8s.io"

// ctrNamespace is that of containerd's in which ctr works. The kernel's control groups and runc's records are by its name, and all
// hosts' are in one place.
func (c *Containerd) ctrNamespace() string { return c.spec.NS.Name }

// The native snapshotter copies: this machine's root may itself be an overlay. oom_score_adj cannot be lowered without
// CAP_SYS_RESOURCE.
var configFile = template.Must(template.New("config").Parse(`version = 2
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{{.Dir}}/c.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{{.Image}}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{{.Dir}}/bin"
    conf_dir = "{{.Dir}}/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
`))

// Start starts containerd on a host, with the image, and waits until it is ready for pods.
func Start(ctx context.Context, s Spec) (*Containerd, error) {
	c := &Containerd{spec: s}
	if err := c.prepare(); err != nil {
		return nil, c.wrap("prepare", err)
	}
	conn, err := grpc.NewClient("unix://"+c.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, c.wrap("connect", err)
	}
	c.conn, c.Runtime = conn, cri.NewRuntimeServiceClient(conn)
	if err = c.Restart(ctx); err == nil {
		err = c.loadImage(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func (c *Containerd) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("containerd on %s: %s: %w", c.spec.Host, what, err)
}

func (c *Containerd) socket() string { return c.path("c.sock") }

func (c *Containerd) path(name string) string { return filepath.Join(c.spec.Dir, name) }

func (c *Containerd) prepare() error {
	for _, d := range []string{"bin", "net.d"} {
		if err := os.MkdirAll(c.path(d), 0o755); err != nil {
			return err
		}
	}
	for _, plugin := range c.spec.Plugins {
		if err := os.Symlink(plugin, filepath.Join(c.path("bin"), filepath.Base(plugin))); err != nil {
			return err
		}
	}
	var conf strings.Builder
	if err := configFile.Execute(&conf, struct{ Dir, Image string }{c.spec.Dir, Image}); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(c.path("config.toml"), []byte(conf.String()), 0o644),
		c.writeNetwork(c.spec.Config))
}

// SetNetwork replaces the network config list, and waits until the CRI plugin, which watches the file, has it. ctr reads it at
// every run.
func (c *Containerd) SetNetwork(ctx context.Context, list []byte) error {
	if err := c.writeNetwork(list); err != nil {
		return c.wrap("network config", err)
	}
	return c.await(ctx, "network config", func() error {
		resp, err := c.Runtime.Status(ctx, &cri.StatusRequest{Verbose: true})
		if err != nil {
			return err
		}
		var loaded struct {
			Networks []struct{ Config struct{ Source string } }
		}
		if err := json.Unmarshal([]byte(resp.GetInfo()["cniconfig"]), &loaded); err != nil {
			return err
		}
		for _, n := range loaded.Networks {
			if n.Config.Source == string(list) {
				return nil
			}
		}
		return errors.New("the CRI plugin has not read it")
	})
}

// writeNetwork replaces the file at once: its watcher meets no half of it. The watcher of containerd 1.6 takes no notice of a file that
// comes into its directory, only of a name that leaves it or is written to.
func (c *Containerd) writeNetwork(list []byte) error {
	tmp := c.path("net.d/new")
	if err := os.WriteFile(tmp, list, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, c.path("net.d/10-hostfabric.conflist"))
}

// Restart starts a containerd that was killed, with all that it had, and waits until it is ready.
func (c *Containerd) Restart(ctx context.Context) error {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return fmt.Errorf("containerd is not installed: `apt-get install containerd runc`: %w", err)
	}
	c.process, err = daemon.Start(daemon.Spec{
		Name: name, Dir: c.spec.Dir, NS: c.spec.NS, Env: []string{c.mark()}, Path: binary, Args: []string{"--config", c.path("config.toml")},
	})
	if err != nil {
		return c.wrap("start", err)
	}
	return c.await(ctx, "not ready", func() error { return c.ready(ctx) })
}

const (
	readyPoll     = 20 * time.Millisecond
	readyPatience = 30 * time.Second
)

// await polls until check is content, for as long as containerd lives.
func (c *Containerd) await(ctx context.Context, what string, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !c.process.Alive() {
			return c.wrap(what+": it has ended", errors.New(daemon.Tail(c.path(name+".log"), 8)))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c.wrap(what, errors.Join(err, errors.New(daemon.Tail(c.path(name+".log"), 8))))
		}
	}
}

// ready asks whether the runtime and its network say that they are ready, as the kubelet does.
func (c *Containerd) ready(ctx context.Context) error {
	s, err := c.Runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return err
	}
	for _, condition := range s.GetStatus().GetConditions() {
		if !condition.GetStatus() {
			return fmt.Errorf("%s: %s: %s", condition.GetType(), condition.GetReason(), condition.GetMessage())
		}
	}
	return nil
}

// Kill ends containerd as a crash does. Its containers go on.
func (c *Containerd) Kill(ctx context.Context) error {
	return c.wrap("kill", daemon.Stop(ctx, []daemon.Process{c.process}, 0))
}

// Close ends containerd and all containers, whatever state they are in, and what they have mounted.
func (c *Containerd) Close(ctx context.Context) error {
	ours := daemon.WithEnv(c.mark())
	return c.wrap("close", errors.Join(
		c.conn.Close(), c.Kill(ctx),
		daemon.End(ctx, func() ([]daemon.Process, error) { return daemon.Find(ours) }, 0),
		unmountBelow(c.spec.Dir), c.forget()))
}

// resultsDir is where libcni keeps the results of ADDs until their DELs.
const resultsDir = "/var/lib/cni/results/"

// ForgetPod removes what libcni keeps of a pod's ADDs.
func (c *Containerd) ForgetPod(id string) error {
	return c.wrap("forget pod "+id, errors.Join(
		os.RemoveAll(resultsDir+c.spec.Network+"-"+id+"-eth0"), os.RemoveAll(resultsDir+"cni-loopback-"+id+"-lo")))
}

// forget removes the results of containers that never had their DEL.
func (c *Containerd) forget() error {
	left, err := filepath.Glob(resultsDir + c.spec.Network + "-*")
	for _, file := range left {
		if e := os.Remove(file); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// mark is in the environment of everything that this containerd starts, its containers among them.
func (c *Containerd) mark() string { return "HOSTFABRIC_LAB_CONTAINERD=" + c.spec.Dir }

// unmountBelow takes off every mount of this namespace below a directory, the last one first.
func unmountBelow(dir string) error {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		fields := strings.Fields(lines[i])
		const mountPoint = 4 // proc_pid_mountinfo(5)
		if len(fields) <= mountPoint || !strings.HasPrefix(fields[mountPoint], dir+"/") {
			continue
		}
		if err := unix.Unmount(fields[mountPoint], unix.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", fields[mountPoint], err))
		}
	}
	return errors.Join(errs...)
}

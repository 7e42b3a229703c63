// Package docker runs real Docker daemons on the hosts of a lab: each in its host's network namespace and a mount namespace of its
// own, with a containerd apart, so that it can be killed as it is in life, and find the agent's plugin where Docker looks for it.
package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// Image is what the daemons have: a busybox.
const Image = "lab/busybox"

// Docker is the daemon of a host, and the containerd behind it.
type Docker struct {
	Host   fabric.Host
	Plugin string // socket of the agent's plugin
	API    string // socket of the daemon
	// Forgetful has the daemon take containers that outlived the one before it down when it starts.
	Forgetful bool

	dir        string
	containerd daemon.Process
	dockerd    daemon.Process
}

// pluginDir is where Docker looks for plugins. What is mounted there is each daemon's own.
const pluginDir = "/run/docker/plugins"

const (
	startPatience = 30 * time.Second
	endGrace      = 10 * time.Second
)

// Start starts the daemon of a host and gives it its image. The caller closes it, also after an error.
func Start(ctx context.Context, plan fabric.Plan, host fabric.Host) (*Docker, error) {
	d := &Docker{Host: host, Plugin: plan.DockerPlugin(host.Name), API: plan.DockerAPI(host.Name), dir: filepath.Join(plan.NodeDir(host.Name), "docker")}
	err := errors.Join(os.MkdirAll(d.dir, 0o755), os.MkdirAll(pluginDir, 0o755))
	if err == nil {
		err = d.startContainerd(ctx)
	}
	if err == nil {
		err = d.StartDaemon(ctx)
	}
	if err == nil {
		err = d.importImage(ctx)
	}
	if err != nil {
		return d, fmt.Errorf("docker of %s: %w", host.Name, err)
	}
	return d, nil
}

const containerdConf = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
`

func (d *Docker) containerdSocket() string { return filepath.Join(d.dir, "containerd.sock") }

// startContainerd makes the mount namespace that the daemon and its containers live in.
func (d *Docker) startContainerd(ctx context.Context) error {
	conf := filepath.Join(d.dir, "containerd.toml")
	text := fmt.Sprintf(containerdConf, filepath.Join(d.dir, "containerd"), filepath.Join(d.dir, "run"), d.containerdSocket())
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	script := `mount --bind "$1" ` + pluginDir + ` && exec containerd --config "$2"`
	var err error
	d.containerd, err = daemon.Start(daemon.Spec{
		Name: "containerd", Dir: d.dir, NS: d.Host.NS,
		Path: "unshare", Args: []string{"--mount", "--propagation", "private", "sh", "-c", script, "sh", filepath.Dir(d.Plugin), conf},
	})
	if err != nil {
		return err
	}
	return d.await(ctx, d.containerd, "containerd serves", func() bool {
		info, err := os.Stat(d.containerdSocket())
		return err == nil && info.Mode()&fs.ModeSocket != 0
	})
}

// StartDaemon starts the daemon, again if it has ended, and waits until it serves. Containers live through its death.
func (d *Docker) StartDaemon(ctx context.Context) error {
	var err error
	d.dockerd, err = daemon.Start(daemon.Spec{
		Name: "dockerd", Dir: d.dir, NS: d.Host.NS, Path: "nsenter",
		Args: []string{
			fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.containerd.PID), "dockerd",
			"--host", "unix://" + d.API, "--containerd", d.containerdSocket(), fmt.Sprintf("--live-restore=%t", !d.Forgetful),
			"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"), "--pidfile", filepath.Join(d.dir, "dockerd.id"),
			"--oom-score-adjust", "0", "--exec-opt", "native.cgroupdriver=cgroupfs",
		},
	})
	if err != nil {
		return err
	}
	return d.await(ctx, d.dockerd, "dockerd serves", func() bool {
		_, err := d.Run(ctx, "version")
		return err == nil
	})
}

// KillDaemon kills the daemon alone.
func (d *Docker) KillDaemon(ctx context.Context) error {
	if err := d.dockerd.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	return d.end(ctx, d.dockerd, endGrace)
}

// Run runs a docker command and returns what it says.
func (d *Docker) Run(ctx context.Context, args ...string) (string, error) {
	return d.run(ctx, nil, args...)
}

func (d *Docker) run(ctx context.Context, in []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "/usr/bin/docker", append([]string{"--host", "unix://" + d.API}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+d.dir)
	cmd.Stdin = bytes.NewReader(in)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(diag.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// Pin gives the namespace of a running container a name, by which probes find it. The caller deletes it.
func (d *Docker) Pin(ctx context.Context, container, name string) (netns.NS, error) {
	out, err := d.Run(ctx, "inspect", "--format", "{{.State.Pid}}", container)
	if err != nil {
		return netns.NS{}, err
	}
	pid, err := strconv.Atoi(out)
	if err != nil || pid == 0 {
		return netns.NS{}, fmt.Errorf("container %s does not run", container)
	}
	return netns.Attach(name, pid)
}

// importImage makes the image of the machine's own busybox.
func (d *Docker) importImage(ctx context.Context) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(busybox)
	}
	for _, name := range []string{"sh", "sleep", "ping", "ip", "cat"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "bin/" + name, Linkname: "busybox", Typeflag: tar.TypeSymlink}))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("make an image: %w", err)
	}
	_, err = d.run(ctx, layer.Bytes(), "import", "-", Image)
	return err
}

// Close removes the containers and ends the daemons. It starts a daemon that is dead: nobody else ends its containers.
func (d *Docker) Close(ctx context.Context) error {
	var err error
	if d.containerd.PID != 0 && !d.dockerd.Alive() {
		err = d.StartDaemon(ctx)
	}
	if d.dockerd.PID != 0 {
		var ids string
		ids, listErr := d.Run(ctx, "ps", "--all", "--quiet")
		if err = errors.Join(err, listErr); ids != "" {
			_, rmErr := d.Run(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
			err = errors.Join(err, rmErr)
		}
	}
	for _, p := range []daemon.Process{d.dockerd, d.containerd} {
		if p.PID != 0 {
			err = errors.Join(err, p.Signal(syscall.SIGTERM), d.end(ctx, p, endGrace))
		}
	}
	return err
}

// end waits for a process that was sent a signal, and kills it if that was not enough.
func (d *Docker) end(ctx context.Context, p daemon.Process, grace time.Duration) error {
	within, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if poll(within, func() bool { return !p.Alive() }) == nil {
		return nil
	}
	return p.Signal(syscall.SIGKILL)
}

func (d *Docker) await(ctx context.Context, p daemon.Process, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	ended := false
	err := poll(ctx, func() bool { ended = !p.Alive(); return ended || ok() })
	if err != nil || ended {
		return fmt.Errorf("not so: %s; its log ends:\n%s", what, daemon.Tail(filepath.Join(d.dir, p.Command+".log"), 10))
	}
	return nil
}

func poll(ctx context.Context, ok func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

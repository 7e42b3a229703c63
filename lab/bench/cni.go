package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/netns"
)

// containerLink is the interface that every side makes.
const containerLink = "eth0"

// plugin is a CNI plugin as a runtime runs it.
type plugin struct {
	binary string
	path   string // CNI_PATH, where it finds its delegates
	config string
}

// run executes one verb inside the host's namespace and returns how long it took, from exec to exit.
func (p plugin) run(ctx context.Context, host netns.NS, verb, id string, container netns.NS) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, p.binary)
	cmd.Env = []string{
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + container.Path(), "CNI_IFNAME=" + containerLink, "CNI_PATH=" + p.path,
		"PATH=" + os.Getenv("PATH"),
	}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader([]byte(p.config)), &out, &out
	var took time.Duration
	err := host.Do(func() error {
		began := time.Now()
		if err := cmd.Start(); err != nil {
			return err
		}
		err := cmd.Wait()
		took = time.Since(began)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("CNI %s by %s: %w: %s", verb, filepath.Base(p.binary), err, out.Bytes())
	}
	return took, nil
}

// side is the plugin as one who takes turns.
func (p plugin) side(name string, host netns.NS) *side {
	verb := func(verb string) func(context.Context, fabric.Container) (time.Duration, error) {
		return func(ctx context.Context, c fabric.Container) (time.Duration, error) {
			return p.run(ctx, host, verb, c.Name, c.NS)
		}
	}
	return &side{name: name, attach: verb("ADD"), detach: verb("DEL")}
}

// shim is Hostfabric's plugin for a host of the lab.
func (o Options) shim(lab *fabric.Lab, host fabric.Host) plugin {
	return plugin{binary: o.Shim, config: fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"bench","type":"hostfabric-cni","socket":%q,"spool":%q}`,
		lab.Plan.SocketPath(host.Name, "cni.sock"), filepath.Join(lab.Plan.NodeDir(host.Name), "state", "cni-spool"))}
}

const ptpName = "ptp + host-local v1.7.1"

// ptp is the baseline; it keeps its addresses in dir.
func (o Options) ptp(dir string) plugin {
	return plugin{binary: filepath.Join(o.Plugins, "ptp"), path: o.Plugins, config: fmt.Sprintf(
		`{"cniVersion":"1.0.0","name":"bench-ptp","type":"ptp","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.99.0.0/16"}}`, dir)}
}

// awaitNoLink waits until a detached interface has left the container, so that the next one finds its name free.
func awaitNoLink(ctx context.Context, ns netns.NS, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if !ns.HasLink(name) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("link %s in %s is still there", name, ns.Name), ctx.Err())
		}
	}
}

// quantile of the values, which it sorts; the nearest rank. Of no values it is 0.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	i := int(q*float64(len(values))+0.5) - 1
	return values[max(0, min(i, len(values)-1))]
}

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
	"github.com/hostfabric/hostfabric/lab/workload"
)

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
		"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + container.Path(), "CNI_IFNAME=eth0", "CNI_PATH=" + p.path,
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

// attachCNISerial times CNI ADD, one at a time, beside ptp with host-local through the same driver, in turns.
func attachCNISerial(ctx context.Context, o Options) (Result, error) {
	var r Result
	err := inFabric(ctx, o, 1, o.Iterations, func(lab *fabric.Lab, _ *workload.Hosts) error {
		host := lab.Plan.AllHosts()[0]
		scratch, err := os.MkdirTemp("", "hostfabric-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(scratch)
		ours := plugin{binary: o.Shim, config: fmt.Sprintf(
			`{"cniVersion":"1.0.0","name":"bench","type":"hostfabric-cni","socket":%q,"spool":%q}`,
			lab.Plan.SocketPath(host.Name, "cni.sock"), filepath.Join(lab.Plan.NodeDir(host.Name), "state", "cni-spool"))}
		ptp := plugin{binary: filepath.Join(o.Plugins, "ptp"), path: o.Plugins, config: fmt.Sprintf(
			`{"cniVersion":"1.0.0","name":"bench-ptp","type":"ptp","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.99.0.0/16"}}`, scratch)}
		var mine, theirs []float64
		for i, c := range host.Containers {
			for _, side := range []struct {
				p     plugin
				times *[]float64
			}{{ours, &mine}, {ptp, &theirs}} {
				took, err := side.p.run(ctx, host.NS, "ADD", c.Name, c.NS)
				if err != nil {
					return err
				}
				*side.times = append(*side.times, float64(took.Microseconds())/1000)
				if _, err := side.p.run(ctx, host.NS, "DEL", c.Name, c.NS); err != nil {
					return err
				}
				if err := awaitNoLink(ctx, c.NS, "eth0"); err != nil {
					return err
				}
			}
			o.step("CNI ADD, in turns with ptp")(i+1, len(host.Containers))
		}
		p99 := quantile(mine, 0.99)
		r = Result{
			Name: "attach.cni.serial", Unit: "ms", Value: quantile(mine, 0.5), P99: &p99, Target: "ratio <= 0.2",
			Conditions: fmt.Sprintf("p50 of %d CNI ADDs, exec to exit, one at a time, in turns with the baseline", len(mine)),
		}.against("ptp + host-local v1.7.1, p50", quantile(theirs, 0.5))
		return nil
	})
	return r, err
}

// awaitNoLink waits until a detached interface has left the container, so that the next plugin finds its name free.
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

// quantile of the values, which it sorts; the nearest rank.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	i := int(q*float64(len(values))+0.5) - 1
	return values[max(0, min(i, len(values)-1))]
}

package bench

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// corefile has the fastest of CoreDNS's ways to serve fixed names, a table in memory (its plugin file took twice the time here), and nothing
// that costs an answer anything.
const corefile = `.:%d {
  bind %s
  hosts %s {
    ttl 1
    no_reverse
    reload 0
  }
}
`

// moduleVersion is that of a Go program.
func moduleVersion(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("%w: `make bench` installs it", err)
	}
	return info.Main.Version, nil
}

// startCoreDNS starts it beside the agent and waits until it answers. It is ended by what is returned.
func (r *dnsRace) startCoreDNS(ctx context.Context) (end func() error, err error) {
	var hosts bytes.Buffer
	for _, n := range r.names {
		for _, a := range n.addresses {
			fmt.Fprintf(&hosts, "%s %s\n", a, n.name)
		}
	}
	table, conf := filepath.Join(r.dir, "hosts"), filepath.Join(r.dir, "Corefile")
	if err := errors.Join(
		os.WriteFile(table, hosts.Bytes(), 0o644),
		os.WriteFile(conf, fmt.Appendf(nil, corefile, r.coreDNS.at.Port(), r.coreDNS.at.Addr(), table), 0o644),
	); err != nil {
		return nil, err
	}
	program, err := r.pinned(r.o.CoreDNS)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-conf", conf)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := r.host.NS.Start(cmd); err != nil {
		return nil, fmt.Errorf("start CoreDNS: %w", err)
	}
	r.coreDNS.pid = cmd.Process.Pid // the script's is the program's
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // ends with the process, which end ends
	end = func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		<-ended
		return err
	}
	err = await(ctx, "CoreDNS answers", 20*time.Millisecond, func() (bool, error) {
		select {
		case <-ended:
			return false, fmt.Errorf("CoreDNS has ended: %s", log.Bytes())
		default:
			return r.coreDNS.verify(ctx, r.host.NS, r.names[:1]) == nil, nil
		}
	})
	if err != nil {
		return nil, errors.Join(err, end())
	}
	return end, nil
}

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// fibRounds is how often each receiver is measured, in turns.
const fibRounds = 3

// fib100k times a table of routes from one sender into the kernel, beside FRR and BIRD fed by the same sender, in turns.
func fib100k(ctx context.Context, o Options) ([]Result, error) {
	receivers := []struct {
		name  string
		start func(*feed) func(context.Context) error
	}{
		{"hostfabric", func(f *feed) func(context.Context) error {
			return func(context.Context) error { return f.hostfabric(o.Agent) }
		}},
		{"FRR", func(f *feed) func(context.Context) error { return f.other(tor.FRR) }},
		{"BIRD", func(f *feed) func(context.Context) error { return f.other(tor.BIRD) }},
	}
	seconds, cpu, mb := make(map[string][]float64), make(map[string][]float64), make(map[string][]float64)
	for i := range fibRounds {
		for j, r := range receivers {
			err := inFeed(ctx, o.Prefixes, func(f *feed) error {
				got, err := f.receive(ctx, r.start(f))
				seconds[r.name] = append(seconds[r.name], got.took.Seconds())
				cpu[r.name] = append(cpu[r.name], got.cpu.Seconds())
				mb[r.name] = append(mb[r.name], got.mb)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			o.step("tables into the kernel")(i*len(receivers)+j+1, fibRounds*len(receivers))
		}
	}
	conditions := fmt.Sprintf("%d /32 from one BIRD over one session, median of %d, in turns", o.Prefixes, fibRounds)
	var results []Result
	for _, unit := range []struct {
		name, unit, what string
		of               map[string][]float64
	}{
		{"fib.100k", "s", "first UPDATE on the cable to last kernel route", seconds},
		{"fib.100k.cpu", "s", "processor time of all processes, start included", cpu},
		{"fib.100k.memory", "MB", "peak (VmHWM) of agent and speaker, of zebra and bgpd, of bird", mb},
	} {
		ours := Result{Name: unit.name, Unit: unit.unit, Value: quantile(unit.of["hostfabric"], 0.5), Target: "ratio <= 1", Conditions: unit.what + "; " + conditions}
		bird := ours
		bird.Name += ".bird"
		results = append(results, ours.against("FRR", quantile(unit.of["FRR"], 0.5)), bird.against("BIRD", quantile(unit.of["BIRD"], 0.5)))
	}
	return results, nil
}

func (f *feed) other(kind tor.Kind) func(context.Context) error {
	return func(ctx context.Context) error {
		return f.router(ctx, kind, f.node("receiver", f.receiver, receiverASN, receiverAddr, tor.Neighbor{Name: "sender", Address: senderAddr, ASN: senderASN}))
	}
}

// hostfabric starts an agent as the receiver.
func (f *feed) hostfabric(binary string) error {
	dir := filepath.Join(f.dir, "receiver")
	for _, d := range []string{dir, filepath.Join(dir, "state"), filepath.Join(dir, "run")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("receiver: %w", err)
		}
	}
	conf := fmt.Sprintf(`asn: %d
router_id: %s
host: receiver
peers:
  - {address: %s, asn: %d, name: sender, max_prefixes: 2000000}
blocks: ["10.64.0.0/26"]
fabric: [%q, 10.64.0.0/12]
state_dir: %s/state
run_dir: %s/run
`, uint32(receiverASN), receiverAddr, senderAddr, senderASN, feedSpace, dir, dir)
	file := filepath.Join(dir, "hostfabric.yaml")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	_, err := daemon.Start(daemon.Spec{Name: "agent", Dir: dir, NS: f.receiver, Path: binary, Args: []string{"agent", "--config", file}})
	return err
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/bench"
	"github.com/hostfabric/hostfabric/lab/binaries"
	"github.com/hostfabric/hostfabric/lab/fabric"
)

func newBenchCommand() *cobra.Command {
	var o bench.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:       "bench [NAME ...]",
		Short:     "Measure Hostfabric's numbers beside their peers",
		Long:      "Measure the named benchmarks, or all, each beside a peer or a floor in the same run. Nothing is judged.",
		ValidArgs: bench.Names(),
		RunE: func(cmd *cobra.Command, names []string) error {
			chosen, err := bench.Select(names)
			if err != nil {
				return err
			}
			if err := fabric.EnsurePrivileges(); err != nil {
				return err
			}
			cleanup, err := findBinaries(cmd, &o)
			if err != nil {
				return err
			}
			defer cleanup()
			o.Progress = progressPrinter(cmd.ErrOrStderr())
			results := []bench.Result{}
			for _, b := range chosen {
				fmt.Fprintf(cmd.ErrOrStderr(), "%s\n", b.Name)
				measured, err := b.Run(cmd.Context(), o)
				if err != nil {
					return fmt.Errorf("benchmark %s: %w", b.Name, err)
				}
				results = append(results, measured...)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(results)
			}
			return bench.Print(cmd.OutOrStdout(), results)
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&o.Hosts, "hosts", 40, "hosts of tor.table")
	fs.IntVar(&o.Containers, "containers", 200, "containers on each of them")
	fs.IntVar(&o.Cycles, "cycles", 100_000, "attach/detach cycles of tor.churn")
	fs.IntVar(&o.Iterations, "iterations", 200, "attaches of attach.*, each side")
	fs.IntVar(&o.Endpoints, "endpoints", 5000, "endpoints of attach.cni.loaded, memory.5000 and dns.answers")
	fs.IntVar(&o.Detaches, "detaches", 1000, "endpoints of detach.1000")
	fs.DurationVar(&o.Churn, "churn", time.Minute, "how long a rate of churn.sustained has to last")
	fs.IntVar(&o.Namespaces, "namespaces", 4000, "namespaces of churn.sustained, two for each container a second")
	fs.IntVar(&o.Rounds, "rounds", 9, "rounds of ipam.durable, of some 4 s each, and of dns.answers")
	fs.DurationVar(&o.Turn, "turn", 2*time.Second, "how long dns.answers asks a server at a time")
	fs.IntVar(&o.LedgerRounds, "ledger-rounds", 40, "rounds of ledger.ingest")
	fs.IntVar(&o.LedgerEvents, "ledger-events", 10_000_000, "events of ledger.query; ledger.size takes a tenth")
	fs.IntVar(&o.Prefixes, "prefixes", 100_000, "prefixes of fib.100k and failover.100k")
	fs.BoolVar(&o.BFD, "bfd", true, "failover.* and restart.* with BFD, 3 x 100 ms")
	fs.StringVar(&o.Plugins, "plugins", "build/tools", "directory with the CNI plugins ptp and host-local; make deps installs them")
	fs.StringVar(&o.CoreDNS, "coredns", "", "CoreDNS, to compare dns.answers with; make bench installs it")
	fs.BoolVar(&asJSON, "json", false, "print one JSON array on stdout")
	return cmd
}

func findBinaries(cmd *cobra.Command, o *bench.Options) (cleanup func(), err error) {
	if o.Lab, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find our own binary: %w", err)
	}
	if o.Plugins, err = filepath.Abs(o.Plugins); err != nil {
		return nil, err
	}
	if o.CoreDNS != "" { // it is started in another directory
		if o.CoreDNS, err = filepath.Abs(o.CoreDNS); err != nil {
			return nil, err
		}
	}
	agent, cleanAgent, err := binaries.Find(cmd.Context(), "hostfabric")
	if err != nil {
		return nil, err
	}
	shim, cleanShim, err := binaries.Find(cmd.Context(), "hostfabric-cni")
	if err != nil {
		cleanAgent()
		return nil, err
	}
	o.Agent, o.Shim = agent, shim
	return func() { cleanAgent(); cleanShim() }, nil
}

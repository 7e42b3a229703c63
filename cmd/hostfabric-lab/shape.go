package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostfabric/hostfabric/lab/binaries"
	"github.com/hostfabric/hostfabric/lab/fabric"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// shapeOptions say how large a fabric to build, of what.
type shapeOptions struct {
	shape fabric.Shape
	tor   string
}

func (o *shapeOptions) AddFlags(cmd *cobra.Command) {
	fs := cmd.Flags()
	kinds := make([]string, len(tor.Kinds))
	for i, k := range tor.Kinds {
		kinds[i] = string(k)
	}
	addNameFlag(cmd, &o.shape)
	fs.IntVar(&o.shape.Racks, "racks", 2, "racks, two ToRs each")
	fs.IntVar(&o.shape.Hosts, "hosts", 2, "hosts in each rack")
	fs.IntVar(&o.shape.Containers, "containers", 20, "containers on each host")
	fs.StringVar(&o.tor, "tor", string(tor.Embedded), "ToRs and spine: "+strings.Join(kinds, ", "))
	fs.BoolVar(&o.shape.IPv6, "ipv6", false, "dual stack")
	fs.BoolVar(&o.shape.Unnumbered, "unnumbered", false, "sessions by interface between hosts and ToRs (frr, bird)")
	fs.BoolVar(&o.shape.BFD, "bfd", false, "BFD between hosts and ToRs, 3 x 100 ms (frr, bird)")
}

func addNameFlag(cmd *cobra.Command, shape *fabric.Shape) {
	cmd.Flags().StringVar(&shape.Name, "name", "hf", "name of the lab: first part of every namespace's name")
}

// options resolves the programs to run; cleanup removes what had to be built.
func (o *shapeOptions) options(ctx context.Context) (opts fabric.Options, cleanup func(), err error) {
	o.shape.Tor = tor.Kind(o.tor)
	for name, value := range map[string]int{"racks": o.shape.Racks, "hosts": o.shape.Hosts, "containers": o.shape.Containers} {
		if value < 1 {
			return opts, nil, fmt.Errorf("--%s %d: want at least 1", name, value)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return opts, nil, fmt.Errorf("find our own binary: %w", err)
	}
	agent, cleanup, err := binaries.Find(ctx, "hostfabric")
	if err != nil {
		return opts, nil, err
	}
	return fabric.Options{Shape: o.shape, Agent: agent, Binary: self}, cleanup, nil
}

package fabric

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/hostfabric/hostfabric/lab/tor"
	"go.uber.org/goleak"
)

// The test binary stands in for hostfabric-lab where a test needs a process of its own: `tor --config FILE` runs an
// embedded router, `up OPTIONS` and `down SHAPE` build and remove a lab, with JSON as argument.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if err := role(ctx, os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	goleak.VerifyTestMain(m)
}

var roles = map[string]func(ctx context.Context, args []string) error{
	"tor": func(ctx context.Context, args []string) error { return tor.RunEmbedded(ctx, args[1]) },
	"up": func(ctx context.Context, args []string) error {
		var opts Options
		if err := json.Unmarshal([]byte(args[0]), &opts); err != nil {
			return err
		}
		if err := EnsurePrivileges(); err != nil {
			return err
		}
		lab, err := Up(ctx, opts, func(p Progress) { fmt.Printf("%s %d/%d\n", p.Step, p.Done, p.Total) })
		if err != nil {
			return err
		}
		status, err := lab.Status(ctx)
		if err != nil {
			return err
		}
		for _, s := range status {
			fmt.Printf("node %s running=%t up=%d\n", s.Name, s.Running, s.Up)
		}
		return nil
	},
	"down": func(ctx context.Context, args []string) error {
		var s Shape
		if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
			return err
		}
		if err := EnsurePrivileges(); err != nil {
			return err
		}
		lab, err := Open(s)
		if err == nil {
			fmt.Printf("found %s with %d racks\n", lab.Plan.Name, lab.Plan.Shape.Racks)
		}
		return Down(ctx, s)
	},
}

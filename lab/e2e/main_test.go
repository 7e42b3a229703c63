// Package e2e runs the real binaries in network namespaces, as a host does: an agent with the speaker it starts, the CNI
// shim under cnitool and in chains with other people's plugins, and the client commands.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// bin is the directory of the binaries under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hf-e2e-")
	if err == nil {
		bin = dir
		err = build(context.Background(), dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}))
}

func build(ctx context.Context, dir string) error {
	const cmds = "github.com/hostfabric/hostfabric/cmd/"
	cmd := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", cmds+"hostfabric", cmds+"hostfabric-cni")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("build the binaries under test: %w: %s", err, out), os.RemoveAll(dir))
	}
	return nil
}

// toolsDir is where `make deps` puts cnitool and the plugins of others.
func toolsDir(t testing.TB, names ...string) string {
	t.Helper()
	dir := os.Getenv("CNI_TOOLS")
	if dir == "" {
		dir = filepath.Join("..", "..", "build", "tools")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%v: run `make deps`, or set CNI_TOOLS", err)
		}
	}
	return dir
}

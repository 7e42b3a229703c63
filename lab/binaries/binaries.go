// Package binaries finds the programs a lab runs: beside the lab's own binary, or built from the module one stands in.
package binaries

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const module = "github.com/hostfabric/hostfabric"

// Find returns the path of one of Hostfabric's programs. Where it is not beside this executable, as under `go run`, it
// is built into a temporary directory, which cleanup removes.
func Find(ctx context.Context, name string) (path string, cleanup func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("find %s: %w", name, err)
	}
	beside := filepath.Join(filepath.Dir(self), name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
		return beside, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "hostfabric-lab-")
	if err != nil {
		return "", nil, fmt.Errorf("build %s: %w", name, err)
	}
	cleanup = func() { _ = os.RemoveAll(dir) } // a temporary directory: what stays is the system's to clear
	path = filepath.Join(dir, name)
	build := exec.CommandContext(ctx, "go", "build", "-o", path, module+"/cmd/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		cleanup()
		return "", nil, errors.Join(fmt.Errorf("%s is not beside %s, and building it failed: %w", name, self, err), errors.New(string(out)))
	}
	return path, cleanup, nil
}

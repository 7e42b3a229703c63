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
	path, cleanup, err = Build(ctx, name, "")
	if err != nil {
		return "", nil, fmt.Errorf("%s is not beside %s: %w", name, self, err)
	}
	return path, cleanup, nil
}

// Build builds one of Hostfabric's programs into a temporary directory, which cleanup removes. version is what it takes itself
// for; empty leaves the default.
func Build(ctx context.Context, name, version string) (path string, cleanup func(), err error) {
	dir, err := os.MkdirTemp("", "hostfabric-lab-")
	if err != nil {
		return "", nil, fmt.Errorf("build %s: %w", name, err)
	}
	cleanup = func() { _ = os.RemoveAll(dir) } // a temporary directory: what stays is the system's to clear
	path = filepath.Join(dir, name)
	args := []string{"build", "-o", path}
	if version != "" {
		args = append(args, "-ldflags", "-X main.version="+version)
	}
	build := exec.CommandContext(ctx, "go", append(args, module+"/cmd/"+name)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		cleanup()
		return "", nil, errors.Join(fmt.Errorf("build %s: %w", name, err), errors.New(string(out)))
	}
	return path, cleanup, nil
}

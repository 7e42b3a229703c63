package containerd_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
)

var programs struct{ agent, lab, plugin string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab, "hostfabric-cni": &programs.plugin})
}

// tool is one of the programs that `make deps` builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CNI_TOOLS")
	if dir == "" {
		dir = filepath.Join("..", "..", "build", "tools")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: run `make deps`, or set CNI_TOOLS", err)
	}
	return path
}

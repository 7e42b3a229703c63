// Package storm has containers come and go from all sides while the agent is killed again and again, and holds every answer
// that anybody got against what is true.
package storm

import (
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
)

var programs struct{ agent, shim, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-cni": &programs.shim, "hostfabric-lab": &programs.lab})
}

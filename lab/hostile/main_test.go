package hostile_test

import (
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries/binariestest"
)

var programs struct{ agent, lab string }

func TestMain(m *testing.M) {
	binariestest.Main(m, map[string]*string{"hostfabric": &programs.agent, "hostfabric-lab": &programs.lab})
}

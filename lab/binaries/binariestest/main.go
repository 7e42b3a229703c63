// Package binariestest gives test packages the programs that their labs run.
package binariestest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hostfabric/hostfabric/lab/binaries"
)

// Main is a TestMain: it finds or builds the named programs, sets where they are, runs the tests and exits.
func Main(m *testing.M, programs map[string]*string) {
	os.Exit(run(m, programs))
}

func run(m *testing.M, programs map[string]*string) int {
	for name, path := range programs {
		found, cleanup, err := binaries.Find(context.Background(), name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer cleanup()
		*path = found
	}
	return m.Run()
}

// Package nstest gives kernel tests throwaway network namespaces named after the test, and patience with what goes on in them.
package nstest

import (
	"fmt"
	"hash/fnv"
	"os"
	"strings"
	"testing"

	"github.com/hostfabric/hostfabric/lab/netns"
)

// RequireRoot fails the test when it cannot create namespaces. Kernel tests are never skipped.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test creates network namespaces: run it as root or inside `unshare -Urnm` with a writable /run")
	}
}

// New creates a namespace named after the test and role, and removes it with the test.
func New(t testing.TB, role string) netns.NS {
	t.Helper()
	RequireRoot(t)
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", t.Name(), os.Getpid())
	base := strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r == ':' {
			return '-'
		}
		return r
	}, t.Name())
	if len(base) > 40 {
		base = base[:40]
	}
	ns, err := netns.Create(fmt.Sprintf("%s-%08x-%s", base, h.Sum32(), role))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

package ipam

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Each step is a look: which keys hold leases, which are alive, and which must be found dead.
func TestOrphans(t *testing.T) {
	for _, tc := range []struct {
		name  string
		looks []string // "held/alive/dead", a letter each
	}{
		{"two looks", []string{"ab/b/", "ab/b/a", "b/b/"}},
		{"alive in between", []string{"a//", "a/a/", "a//", "a//a"}},
		{"released in between", []string{"a//", "//", "a//", "a//a"}},
		{"dead until released", []string{"a//", "a//a", "a//a", "//", "a//"}},
		{"alive again after being found", []string{"a//", "a//a", "a/a/", "a//", "a//a"}},
		{"several", []string{"abc/c/", "abcd/a/b", "acd//cd"}},
		{"nobody", []string{"//", "//"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var o Orphans
			for i, look := range tc.looks {
				part := strings.Split(look, "/")
				var held []Key
				for _, c := range part[0] {
					held = append(held, testKey(string(c)))
				}
				dead := o.Look(held, func(k Key) bool { return strings.Contains(part[1], k.ContainerID) })
				var got string
				for _, k := range dead {
					got += k.ContainerID
				}
				if got != part[2] {
					t.Errorf("look %d: %q are dead, want %q", i+1, got, part[2])
				}
			}
		})
	}
	var o Orphans
	twice := []Key{testKey("a"), testKey("a")} // as from a list of dual-stack leases
	never := func(Key) bool { return false }
	if dead := o.Look(twice, never); len(dead) != 0 {
		t.Errorf("dead at the first look: %v", dead)
	}
	if dead := o.Look(twice, never); fmt.Sprint(slices.Compact(dead)) != "[a/eth0]" {
		t.Errorf("dead at the second look: %v", dead)
	}
}

package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// KeyError is one mistake.
type KeyError struct {
	Path    string // of the key, such as peers[1].asn
	Line    int    // in the file; 0 where there is none to point at
	Problem string
	Hint    string // what to do about it; may be empty
}

func (e *KeyError) Error() string {
	text := e.Path + ": " + e.Problem
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

// Errors is every mistake found, sorted by Path. errors.As finds it in what Load returns.
type Errors []*KeyError

// Error has one mistake a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each mistake visible to errors.As.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

func (e Errors) sort() {
	slices.SortStableFunc(e, func(a, b *KeyError) int { return comparePaths(a.Path, b.Path) })
}

// comparePaths orders list elements by number: peers[2] is before peers[10].
func comparePaths(a, b string) int {
	as, bs := strings.FieldsFunc(a, isPathMark), strings.FieldsFunc(b, isPathMark)
	return slices.CompareFunc(as, bs, func(x, y string) int {
		nx, errX := strconv.Atoi(x)
		ny, errY := strconv.Atoi(y)
		if errX == nil && errY == nil {
			return cmp.Compare(nx, ny)
		}
		return cmp.Compare(x, y)
	})
}

func isPathMark(r rune) bool { return r == '.' || r == '[' || r == ']' }

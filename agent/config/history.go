package config

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// History is about the ledger: what happened on this host.
type History struct {
	Enabled bool
	Dir     string        // absolute; empty: below StateDir, see HistoryDir
	MaxSize Size          // of all of it
	MaxAge  time.Duration // of an event
	Flush   time.Duration // that an event may wait to be written
	Sync    time.Duration // that what is written may wait to be on the disk itself; 0: until the kernel does it
}

// HistoryDir is where the ledger is.
func (c *Config) HistoryDir() string {
	if c.History.Dir != "" {
		return c.History.Dir
	}
	return filepath.Join(c.StateDir, "history")
}

// Size is a number of bytes.
type Size int64

var sizeUnits = []struct {
	name  string
	shift int
}{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// String is the form that the file has.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s > 0 && s%(1<<u.shift) == 0 {
			return fmt.Sprintf("%d%s", s>>u.shift, u.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// parseSize accepts bytes, or a number of KiB, MiB, GiB or TiB.
func parseSize(low, high Size) func(string) (Size, error) {
	return func(text string) (Size, error) {
		digits, shift := text, 0
		for _, u := range sizeUnits {
			if n, ok := strings.CutSuffix(text, u.name); ok {
				digits, shift = strings.TrimSpace(n), u.shift
			}
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64>>shift {
			return 0, &problem{fmt.Sprintf("%q is not a size", text), "such as 512MiB or 1GiB"}
		}
		if s := Size(n << shift); s >= low && s <= high {
			return s, nil
		}
		return 0, &problem{text + " is not from " + low.String() + " to " + high.String(), ""}
	}
}

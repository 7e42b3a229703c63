package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/hostfabric/hostfabric/lab/fabric"
)

// progressPrinter shows a line a step: rewritten while it moves on a terminal, printed once when it is done elsewhere.
func progressPrinter(w io.Writer) func(fabric.Progress) {
	f, ok := w.(*os.File)
	live := ok && term.IsTerminal(int(f.Fd()))
	began, step := time.Now(), ""
	return func(p fabric.Progress) {
		if p.Step != step {
			began, step = time.Now(), p.Step
		}
		finished := p.Done == p.Total
		if live {
			fmt.Fprintf(w, "\r\x1b[K  %s %d/%d", p.Step, p.Done, p.Total)
		} else if finished {
			fmt.Fprintf(w, "  %s %d/%d", p.Step, p.Done, p.Total)
		}
		if finished {
			fmt.Fprintf(w, "  (%.1f s)\n", time.Since(began).Seconds())
		}
	}
}

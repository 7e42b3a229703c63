package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// writeQueries writes dnsperf's input: each name's A and AAAA, in an order that is the same every time.
func writeQueries(path string, names []named) error {
	var lines []string
	for _, n := range names {
		lines = append(lines, n.name+" A\n", n.name+" AAAA\n")
	}
	order := rand.New(rand.NewPCG(1, 2))
	order.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	return os.WriteFile(path, []byte(strings.Join(lines, "")), 0o644)
}

// tally counts answers.
type tally struct{ sent, lost, failed int }

func (t *tally) add(o tally) {
	t.sent += o.sent
	t.lost += o.lost
	t.failed += o.failed
}

func (t tally) String() string {
	return fmt.Sprintf("%d queries, %d lost, %d with an error", t.sent, t.lost, t.failed)
}

// generated is what dnsperf tells of a turn.
type generated struct {
	answers tally
	rate    float64   // answers a second
	took    []float64 // ms; with -v only
}

// generate has dnsperf ask a server for a turn, from the host's own address.
func (r *dnsRace) generate(ctx context.Context, server netip.AddrPort, more ...string) (generated, error) {
	args := append([]string{
		"-c", fmt.Sprint(r.generating), "dnsperf", "-s", server.Addr().String(), "-p", fmt.Sprint(server.Port()),
		"-d", r.queries, "-l", fmt.Sprint(r.o.Turn.Seconds()), "-c", "8",
	}, more...)
	out, err := r.host.NS.Output(ctx, "taskset", args...)
	if err != nil {
		return generated{}, err
	}
	return parseDNSPerf(out)
}

// parseDNSPerf reads lines of answers, such as "> NOERROR NAME A 0.000127", and the figures at the end.
func parseDNSPerf(out []byte) (g generated, err error) {
	lines, figures := bufio.NewScanner(bytes.NewReader(out)), 0
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) == 5 && fields[0] == ">" {
			seconds, err := strconv.ParseFloat(fields[4], 64)
			if err != nil {
				return g, fmt.Errorf("dnsperf: %q: %w", lines.Text(), err)
			}
			g.took = append(g.took, seconds*1000)
			continue
		}
		what, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), ":")
		fields = strings.Fields(value)
		switch {
		case len(fields) == 0:
			continue
		case what == "Queries sent":
			g.answers.sent, err = strconv.Atoi(fields[0])
		case what == "Queries lost":
			g.answers.lost, err = strconv.Atoi(fields[0])
		case what == "Queries per second":
			g.rate, err = strconv.ParseFloat(fields[0], 64)
		case what == "Response codes":
			g.answers.failed, err = countFailed(fields)
		default:
			continue
		}
		if err != nil {
			return g, fmt.Errorf("dnsperf: %q: %w", lines.Text(), err)
		}
		figures++
	}
	if figures != 4 {
		return g, fmt.Errorf("dnsperf tells of %d figures, want 4:\n%s", figures, out)
	}
	return g, lines.Err()
}

// countFailed reads response codes with their numbers, such as "NOERROR 9 (90.00%), SERVFAIL 1 (10.00%)".
func countFailed(fields []string) (failed int, err error) {
	for i := 0; i+1 < len(fields); i += 3 {
		n, err := strconv.Atoi(fields[i+1])
		if err != nil {
			return 0, err
		}
		if fields[i] != "NOERROR" {
			failed += n
		}
	}
	return failed, nil
}

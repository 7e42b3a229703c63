package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// scrape reads the agent's metrics; they are empty as long as nobody listens.
func (a *arena) scrape(ctx context.Context) (string, error) {
	socket := a.lab.Plan.SocketPath(a.host.Name, "metrics.sock")
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("metrics of %s: %w", a.host.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// reconcileTime reads hostfabric_reconcile_seconds; it is 0 as long as nobody listens.
func (a *arena) reconcileTime(ctx context.Context) (time.Duration, error) {
	const metric = "hostfabric_reconcile_seconds "
	body, err := a.scrape(ctx)
	if body == "" || err != nil {
		return 0, err
	}
	for line := range strings.Lines(body) {
		if text, ok := strings.CutPrefix(line, metric); ok {
			seconds, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			return time.Duration(seconds * float64(time.Second)), err
		}
	}
	return 0, fmt.Errorf("metrics of %s: no %s", a.host.Name, metric)
}

const scrapes = 20

// scrapeTime is how long a scrape takes mostly, in milliseconds.
func (a *arena) scrapeTime(ctx context.Context) (float64, error) {
	took := make([]float64, scrapes)
	for i := range took {
		began := time.Now()
		if _, err := a.scrape(ctx); err != nil {
			return 0, err
		}
		took[i] = milliseconds(time.Since(began))
	}
	return quantile(took, 0.5), nil
}

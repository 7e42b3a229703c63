// Package etcd runs one etcd for a lab or a benchmark. Clients reach it through a unix socket, so that it needs neither a free
// port nor a link to the namespaces of its clients; it keeps to etcd's own defaults otherwise, its fsync among them.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// etcd 3.4 wants a host and a numeric port in a unix URL, and makes a socket of that name in its working directory.
const (
	clientSocket = "localhost:2379"
	peerSocket   = "localhost:2380"
	member       = "lab"
)

// Server is an etcd of one member with its data and sockets in Dir, which must be its working directory. The path of its
// socket, 15 bytes longer than Dir, must not exceed the 107 that the kernel takes (unix(7)).
type Server struct{ Dir string }

// Binary finds etcd, or says how to get it.
func Binary() (string, error) {
	path, err := exec.LookPath("etcd")
	if err != nil {
		return "", fmt.Errorf("etcd is not installed: `apt-get install etcd-server`: %w", err)
	}
	return path, nil
}

// Clear removes the sockets that a killed server left, which would keep the next from listening.
func (s Server) Clear() error {
	for _, name := range []string{clientSocket, peerSocket} {
		if err := os.Remove(filepath.Join(s.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("socket of a killed etcd: %w", err)
		}
	}
	return nil
}

// Args start the server.
func (s Server) Args() []string {
	client, peer := "unix://"+clientSocket, "unix://"+peerSocket
	return []string{
		"--name", member, "--data-dir", "data",
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", member + "=" + peer,
	}
}

// Endpoint is the server's address for clients.
func (s Server) Endpoint() string { return "unix://" + s.socket() }

func (s Server) socket() string { return filepath.Join(s.Dir, clientSocket) }

const readyPoll = 20 * time.Millisecond

// AwaitReady waits until the server has a leader and commits. ended tells of a server that never will.
func (s Server) AwaitReady(ctx context.Context, ended func() error) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.socket())
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Second}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := healthy(ctx, client)
		if err == nil {
			return nil
		}
		if err := ended(); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("etcd in %s is not ready: %w: %w", s.Dir, context.Cause(ctx), err)
		}
	}
}

// healthy asks for what etcd answers with 200 only after a read that its quorum agreed to.
func healthy(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://etcd/health", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("its health is %s", resp.Status)
	}
	return nil
}

package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostfabric/hostfabric/lab/etcd"
)

// hostLocalCycle runs the host-local plugin as a CNI plugin does that delegates to it. It enters no namespace, so it is given its
// own.
func hostLocalCycle(binary, dataDir string) func(context.Context, int) error {
	config := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"bench","type":"host-local","ipam":{"type":"host-local","dataDir":%q,"subnet":"10.64.0.0/22"}}`, dataDir)
	return func(ctx context.Context, caller int) error {
		for _, verb := range []string{"ADD", "DEL"} {
			cmd := exec.CommandContext(ctx, binary)
			cmd.Env = []string{
				"CNI_COMMAND=" + verb, fmt.Sprintf("CNI_CONTAINERID=%064x", caller), "CNI_IFNAME=eth0", "CNI_NETNS=/proc/self/ns/net",
				"CNI_NETNS_OVERRIDE=1", "CNI_PATH=" + filepath.Dir(binary),
			}
			cmd.Stdin = bytes.NewReader([]byte(config))
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("CNI %s by %s: %w: %s", verb, binary, err, out)
			}
		}
		return nil
	}
}

const (
	etcdStart  = 20 * time.Second
	etcdAnswer = 10 * time.Second // of one request, with 64 waiting for the same disk
)

// openEtcd starts an etcd in dir. A cycle claims a key of the caller, as an allocator would whose record is etcd, and which
// knows already what address is free.
func (r *ipamRace) openEtcd(ctx context.Context, dir string) (func(context.Context, int) error, error) {
	server := etcd.Server{Dir: dir}
	if err := r.startEtcd(ctx, server); err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}})
	if err != nil {
		return nil, fmt.Errorf("client of etcd in %s: %w", dir, err)
	}
	r.closers = append(r.closers, client.Close)
	return func(ctx context.Context, caller int) error {
		ctx, cancel := context.WithTimeout(ctx, etcdAnswer)
		defer cancel()
		key := fmt.Sprintf("/leases/10.64.0.%d", caller)
		resp, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, fmt.Sprintf("%064x/eth0", caller))).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			return fmt.Errorf("etcd: %s is there already", key)
		}
		_, err = client.Delete(ctx, key)
		return err
	}, nil
}

func (r *ipamRace) startEtcd(ctx context.Context, server etcd.Server) error {
	path, err := etcd.Binary()
	if err != nil {
		return err
	}
	if err := os.Mkdir(server.Dir, 0o700); err != nil {
		return err
	}
	cmd := exec.Command(path, server.Args()...)
	cmd.Dir = server.Dir
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }() // ends with the process, which close ends
	r.closers = append(r.closers, func() error {
		err := cmd.Process.Signal(syscall.SIGTERM)
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		<-ended
		return err
	})
	ctx, cancel := context.WithTimeout(ctx, etcdStart)
	defer cancel()
	return server.AwaitReady(ctx, func() error {
		select {
		case <-ended:
			return fmt.Errorf("etcd has ended: %s", log.Bytes())
		default:
			return nil
		}
	})
}

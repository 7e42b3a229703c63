// Package etcdtest runs a real etcd for tests: one member on loopback or on a unix socket, which can be killed and
// started again.
package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Binary is Debian's etcd-server.
const Binary = "/usr/bin/etcd"

const startTime = 20 * time.Second

// Options of Start. The zero value is plain HTTP on loopback.
type Options struct {
	TLS  bool // and a client must show a certificate of Server.Authority
	Unix bool // a unix socket instead of a port
}

// Server is a running etcd, or one that was killed.
type Server struct {
	Authority *Authority // with Options.TLS

	t        testing.TB
	opts     Options
	dir      string
	args     []string
	endpoint string
	password string // of root, once authentication is enabled
	process  *os.Process
	ended    chan struct{} // is closed when process has ended
}

// Start runs an etcd that ends with the test.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	// Not t.TempDir, whose path may be too long for a socket; and in memory, which survives a SIGKILL as well as a disk does and
	// does not make tests wait for a busy one.
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "etcd")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, opts: opts, dir: dir}
	t.Cleanup(func() {
		s.Kill()
		if log, err := os.ReadFile(s.logFile()); t.Failed() && err == nil {
			t.Logf("etcd said:\n%s", log[max(0, len(log)-4000):])
		}
		os.RemoveAll(dir)
	})
	if opts.TLS {
		s.Authority = NewAuthority(t)
	}
	// Somebody else may take a port between its choice and etcd's start.
	for range 3 {
		s.configure()
		if err = s.run(); err == nil {
			return s
		}
		s.Kill()
	}
	t.Fatal(err)
	return nil
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

func (s *Server) configure() {
	scheme, client, peer := "http", freePort(s.t), freePort(s.t)
	if s.opts.TLS {
		scheme = "https"
	}
	listen, peers := scheme+"://"+client, "http://"+peer
	s.endpoint = listen
	if s.opts.Unix {
		// etcd 3.4 wants a host and a port, and makes a socket of that name in its working directory.
		listen, peers = "unix://localhost:1", "unix://localhost:2"
		s.endpoint = "unix://" + filepath.Join(s.dir, "localhost:1")
	}
	s.args = []string{
		"--name", "test", "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", listen, "--advertise-client-urls", listen,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "test=" + peers,
	}
	if s.opts.TLS {
		cert, key := s.Authority.Files(s.dir, "server")
		s.args = append(s.args, "--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", s.Authority.File(s.dir))
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// run starts the process and waits until it answers.
func (s *Server) run() error {
	for _, socket := range []string{"localhost:1", "localhost:2"} {
		if err := os.Remove(filepath.Join(s.dir, socket)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(Binary, s.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // if the test is killed
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		runtime.LockOSThread() // whose end would be the death that the signal is for
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its error is that it was killed
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("apt-get install etcd-server: %w", err)
	}
	s.process, s.ended = cmd.Process, ended
	client, err := s.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Get(ctx, "/"); err != nil {
		return fmt.Errorf("etcd on %s does not answer: %w", s.endpoint, err)
	}
	return nil
}

// Kill ends etcd by SIGKILL. Its data stay.
func (s *Server) Kill() {
	s.t.Helper()
	if s.process == nil {
		return
	}
	if err := s.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Errorf("kill etcd: %v", err)
	}
	<-s.ended
	s.process = nil
}

// Restart starts etcd again after Kill, with the same data and endpoint, and waits until it answers.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.run(); err != nil {
		s.t.Fatal(err)
	}
}

// Endpoint is etcd's address for clients.
func (s *Server) Endpoint() string { return s.endpoint }

// Client returns a client of an operator, which may do anything. It is closed with the test.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	client, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { client.Close() })
	return client
}

func (s *Server) dial() (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{s.endpoint}, Logger: zap.NewNop(), DialTimeout: startTime}
	if s.opts.TLS {
		cfg.TLS = s.Authority.ClientTLS()
	}
	if s.password != "" {
		cfg.Username, cfg.Password = "root", s.password
	}
	return clientv3.New(cfg)
}

// User is a user of etcd.
type User struct{ Name, Password string }

// EnableAuth enables authentication, with two users: one who may read and write all keys under prefix, and one who may
// nothing.
func (s *Server) EnableAuth(prefix string) (allowed, nobody User) {
	s.t.Helper()
	client := s.Client()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	allowed, nobody = User{"allowed", "one"}, User{"nobody", "two"}
	s.password = "root"
	var errs []error
	do := func(_ any, err error) { errs = append(errs, err) }
	do(client.RoleAdd(ctx, "fabric"))
	do(client.RoleGrantPermission(ctx, "fabric", prefix+"/", clientv3.GetPrefixRangeEnd(prefix+"/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	for _, u := range []User{{"root", s.password}, allowed, nobody} {
		do(client.UserAdd(ctx, u.Name, u.Password))
	}
	do(client.RoleAdd(ctx, "root"))
	do(client.UserGrantRole(ctx, "root", "root"))
	do(client.UserGrantRole(ctx, allowed.Name, "fabric"))
	do(client.AuthEnable(ctx))
	if err := errors.Join(errs...); err != nil {
		s.t.Fatal(err)
	}
	return allowed, nobody
}

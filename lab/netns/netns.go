// Package netns creates, enters and removes the named network namespaces that stand for hosts, routers and
// containers in labs and kernel tests, and cables them with veth pairs. It needs root, or a user namespace that
// owns the network namespaces it touches.
package netns

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dir is where iproute2 looks for named namespaces; those made here are visible to `ip netns`.
const Dir = "/run/netns"

// NS is a network namespace bound to a name below Dir.
type NS struct {
	Name string
}

// Path returns the file the namespace is bound to.
func (n NS) Path() string { return filepath.Join(Dir, n.Name) }

// Create makes a new namespace with its loopback up. A name already in use is an error.
func Create(name string) (NS, error) {
	n := NS{Name: name}
	if err := n.reserve(); err != nil {
		return n, fmt.Errorf("create namespace %s: %w", name, err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w (root, or `unshare -Urnm`, is needed)", err)
		}
		if err := unix.Mount(threadNS(), n.Path(), "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind namespace to %s: %w", n.Path(), err)
		}
		return loopbackUp()
	})
	if err != nil {
		return n, errors.Join(fmt.Errorf("create namespace %s: %w", name, err), n.Delete())
	}
	return n, nil
}

// Attach gives the namespace of a process a name. Unlike `ip netns attach` it does not mount Dir on itself, which would hide the
// namespaces that have been bound there from those who want to remove them.
func Attach(name string, pid int) (NS, error) {
	n := NS{Name: name}
	if err := n.reserve(); err != nil {
		return n, fmt.Errorf("attach namespace %s: %w", name, err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/net", pid), n.Path(), "none", unix.MS_BIND, ""); err != nil {
		return n, errors.Join(fmt.Errorf("attach namespace %s to process %d: %w", name, pid, err), n.Delete())
	}
	return n, nil
}

// reserve makes the file that a namespace is bound to.
func (n NS) reserve() error {
	if err := os.MkdirAll(Dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(n.Path(), os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	return f.Close()
}

// Exists reports whether the name is taken.
func (n NS) Exists() bool {
	_, err := os.Lstat(n.Path())
	return err == nil
}

// Delete removes the name; the kernel destroys the namespace once nothing lives in it. A missing one is no error.
func (n NS) Delete() error {
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount namespace %s: %w", n.Name, err)
	}
	if err := os.Remove(n.Path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", n.Name, err)
	}
	return nil
}

// Do runs fn on a thread inside the namespace. Goroutines that fn starts are outside it.
func (n NS) Do(fn func() error) error {
	f, err := os.Open(n.Path())
	if err != nil {
		return fmt.Errorf("enter namespace %s: %w", n.Name, err)
	}
	defer f.Close()
	return onThread(func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return fn()
	})
}

// Start starts cmd inside the namespace, in the caller's mount namespace: unlike `ip netns exec`, /sys stays as it is.
func (n NS) Start(cmd *exec.Cmd) error {
	return n.Do(cmd.Start)
}

// Output runs a command inside the namespace and returns what it printed on stdout; an error carries its stderr.
func (n NS) Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out []byte
	err := n.Do(func() error {
		var err error
		out, err = cmd.Output()
		return err
	})
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		return out, fmt.Errorf("%s in namespace %s: %w: %s", filepath.Base(name), n.Name, err, ee.Stderr)
	}
	return out, err
}

// End is one end of a cable: an interface name in a namespace, with its addresses ("10.0.0.1/31").
type End struct {
	NS        NS
	Link      string
	Addresses []string
	MTU       int // 0 leaves the kernel's default
}

// Cable joins two namespaces with a veth pair, addressed and up. IPv6 duplicate address detection is left out.
//
// The kernel tells of a carrier's loss at once where the ends of a pair have different interface indexes, and takes it for a
// link of another sort and waits for up to a second where they are equal by chance, each in its namespace
// (linkwatch_urgent_event in net/core/link_watch.c). So the first end gets an index that the kernel would not have chosen.
func Cable(a, b End) error {
	peer, err := os.Open(b.NS.Path())
	if err != nil {
		return fmt.Errorf("cable %s/%s - %s/%s: %w", a.NS.Name, a.Link, b.NS.Name, b.Link, err)
	}
	defer peer.Close()
	err = a.NS.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = a.Link, a.MTU
		attrs.Index = chosenIndex(a, b)
		for {
			err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b.Link, PeerMTU: uint32(b.MTU), PeerNamespace: netlink.NsFd(int(peer.Fd()))})
			if !errors.Is(err, unix.EBUSY) || attrs.Index == maxIndex {
				return err
			}
			attrs.Index++ // the index is taken
		}
	})
	if err != nil {
		return fmt.Errorf("cable %s/%s - %s/%s: %w", a.NS.Name, a.Link, b.NS.Name, b.Link, err)
	}
	return errors.Join(a.setup(), b.setup())
}

const maxIndex = 1_000_000

// chosenIndex is a number that is hardly ever taken and that the kernel, which counts from 1, does not come to.
func chosenIndex(a, b End) int {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%s-%s/%s", a.NS.Name, a.Link, b.NS.Name, b.Link)
	return 10_000 + int(h.Sum32()%900_000)
}

func (e End) setup() error {
	return e.NS.Do(func() error {
		link, err := netlink.LinkByName(e.Link)
		if err != nil {
			return fmt.Errorf("%s in namespace %s: %w", e.Link, e.NS.Name, err)
		}
		for _, s := range e.Addresses {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return fmt.Errorf("%s in namespace %s: address %q: %w", e.Link, e.NS.Name, s, err)
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("%s in namespace %s: add address %s: %w", e.Link, e.NS.Name, s, err)
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("%s in namespace %s: set up: %w", e.Link, e.NS.Name, err)
		}
		return nil
	})
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

func threadNS() string { return fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()) }

// onThread runs fn on an OS thread of its own, which ends with it: a thread whose namespace was changed is never
// handed back to the scheduler.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		done <- fn()
	}()
	return <-done
}

// HasLink reports whether the namespace has an interface of this name.
func (n NS) HasLink(name string) bool {
	err := n.Do(func() error {
		_, err := netlink.LinkByName(name)
		return err
	})
	return err == nil
}

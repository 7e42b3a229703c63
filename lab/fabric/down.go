package fabric

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
	"github.com/hostfabric/hostfabric/lab/netns"
	"github.com/hostfabric/hostfabric/lab/tor"
)

// downGrace is from SIGTERM to SIGKILL.
const downGrace = 2 * time.Second

// Down removes a lab and everything that lives in its namespaces: processes, namespaces with their links, and files. Only
// Name and Dir of the shape matter. It needs no state file, so it also clears what an interrupted Up left; a lab that does
// not exist is no error. A lab that another process is building is left alone.
func Down(ctx context.Context, s Shape) error {
	s.setDefaults()
	if !labName.MatchString(s.Name) {
		return fmt.Errorf("lab name %q is not valid", s.Name)
	}
	if st, err := loadState(s); err == nil && st.Builder.PID != os.Getpid() && st.Builder.Alive() {
		return fmt.Errorf("lab %s is being built by process %d: stop that first", s.Name, st.Builder.PID)
	}
	names, err := s.namespaces()
	if err != nil {
		return fmt.Errorf("remove lab %s: %w", s.Name, err)
	}
	if err := s.endProcesses(ctx, names); err != nil {
		return fmt.Errorf("remove lab %s: %w", s.Name, err)
	}
	for _, ns := range names {
		err = errors.Join(err, ns.Delete())
	}
	err = errors.Join(err, s.unmountSandboxes())
	if err != nil {
		return fmt.Errorf("remove lab %s: %w", s.Name, err)
	}
	if err := os.RemoveAll(s.StateDir()); err != nil {
		return fmt.Errorf("remove lab %s: %w", s.Name, err)
	}
	removeIfEmpty(s.Dir)
	return nil
}

// unmountSandboxes takes away the namespaces that the hosts' agents have made themselves.
func (s Shape) unmountSandboxes() error {
	mounts, err := filepath.Glob(filepath.Join(s.StateDir(), "*", "run", "sandboxes", "*"))
	if err != nil {
		return err
	}
	for _, path := range mounts {
		if umountErr := unix.Unmount(path, unix.MNT_DETACH); umountErr != nil && !errors.Is(umountErr, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("unmount sandbox %s: %w", path, umountErr))
		}
	}
	return err
}

// namespaces are those that bear the lab's name, whether or not a state file tells of them.
func (s Shape) namespaces() ([]netns.NS, error) {
	pattern := regexp.MustCompile(`^` + s.Name + `-(spine|etcd|r\d+t\d+|r\d+h\d+(-c\d+)?)$`)
	entries, err := os.ReadDir(netns.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []netns.NS
	for _, e := range entries {
		if pattern.MatchString(e.Name()) {
			found = append(found, netns.NS{Name: e.Name()})
		}
	}
	return found, nil
}

// endProcesses ends what lives in the namespaces, and what was started for the lab and left them.
func (s Shape) endProcesses(ctx context.Context, names []netns.NS) error {
	paths := make([]string, len(names))
	for i, ns := range names {
		paths[i] = ns.Path()
	}
	inside, marked := daemon.InNamespace(paths), daemon.WithEnv(s.mark()[0])
	var seen []daemon.Process
	find := func() ([]daemon.Process, error) {
		procs, err := daemon.Find(func(proc string) bool { return inside(proc) || marked(proc) })
		seen = append(seen, procs...)
		return procs, err
	}
	if err := daemon.End(ctx, find, downGrace); err != nil {
		return err
	}
	for _, p := range seen {
		tor.Forget(p)
	}
	return nil
}

// removeIfEmpty removes a directory that nobody uses any more.
func removeIfEmpty(dir string) {
	_ = os.Remove(filepath.Clean(dir)) // refused by the kernel while there is something in it
}

package bench

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// fileSystems are names for the magic numbers of statfs(2).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs",
}

// machine says what a figure that hangs on cores, kernel and the file system of dir was measured on.
func machine(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("file system of %s: %w", dir, err)
	}
	name, known := fileSystems[fs.Type]
	if !known {
		name = fmt.Sprintf("file system %#x", fs.Type)
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return "", fmt.Errorf("kernel release: %w", err)
	}
	return fmt.Sprintf("%d cores, %s, Linux %s", runtime.NumCPU(), name, unix.ByteSliceToString(kernel.Release[:])), nil
}

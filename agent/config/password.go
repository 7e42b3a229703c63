package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// maxPassword is TCP_MD5SIG_MAXKEYLEN, in bytes.
const maxPassword = 80

// readPassword reads a file that only its owner and group may read. The whole file, without the newline at its
// end, is the password.
func readPassword(path string) (Secret, error) {
	// Without O_NONBLOCK, opening a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", &problem{fmt.Sprintf("%s cannot be read: %v", path, reason(err)), ""}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", &problem{fmt.Sprintf("%s cannot be read: %v", path, reason(err)), ""}
	}
	if !info.Mode().IsRegular() {
		return "", &problem{path + " is not a regular file", ""}
	}
	if info.Mode().Perm()&0o007 != 0 {
		return "", &problem{fmt.Sprintf("%s is open to everybody (mode %04o)", path, info.Mode().Perm()), "chmod 0600 " + path}
	}
	data, err := io.ReadAll(io.LimitReader(f, 4*maxPassword))
	if err != nil {
		return "", &problem{fmt.Sprintf("%s cannot be read: %v", path, reason(err)), ""}
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" || len(password) > maxPassword || strings.ContainsAny(password, "\n\x00") {
		return "", &problem{path + " does not hold a password", fmt.Sprintf("one line of 1 to %d bytes", maxPassword)}
	}
	return Secret(password), nil
}

// reason is what the kernel said, without the path that the message has already.
func reason(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

package config

import (
	"fmt"
	"strings"
)

// maxPassword is TCP_MD5SIG_MAXKEYLEN, in bytes.
const maxPassword = 80

// password reads a file that only its owner and group may read. The whole file, without the newline at its end, is
// the password.
func (f files) password(name string) (Secret, error) {
	if f.unread {
		return "", nil
	}
	path := f.path(name)
	data, err := readRegular(path, private, 4*maxPassword)
	if err != nil {
		return "", err
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if password == "" || len(password) > maxPassword || strings.ContainsAny(password, "\n\x00") {
		return "", &problem{path + " does not hold a password", fmt.Sprintf("one line of 1 to %d bytes", maxPassword)}
	}
	return Secret(password), nil
}

package bgp

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// dialer connects to a unix socket by its directory's descriptor: the path may be longer than a socket address.
func dialer(path string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("open the speaker's socket directory: %w", err)
		}
		defer dir.Close()
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	}
}

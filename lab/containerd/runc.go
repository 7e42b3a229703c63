package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// Runc runs a command by runc alone in a container that has an existing network namespace and resolv.conf, and returns what it printed. dir is
// for the bundle; the container is gone when Runc returns.
func Runc(ctx context.Context, dir, id, netns, resolvConf string, command ...string) (string, error) {
	if err := bundle(ctx, dir, netns, resolvConf, command); err != nil {
		return "", fmt.Errorf("bundle of %s: %w", id, err)
	}
	cmd := exec.CommandContext(ctx, "runc", "--root", filepath.Join(dir, "state"), "run", "--bundle", dir, id)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("runc run %s: %w: %s", id, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// bundle makes a root file system of the image, and a config.json of what runc proposes.
func bundle(ctx context.Context, dir, netns, resolvConf string, command []string) error {
	layer, err := imageLayer()
	if err != nil {
		return err
	}
	if err := unpack(layer, filepath.Join(dir, "rootfs")); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "runc", "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		return err
	}
	process, linux := spec["process"].(map[string]any), spec["linux"].(map[string]any)
	process["terminal"], process["args"] = false, command
	for set, list := range process["capabilities"].(map[string]any) {
		process["capabilities"].(map[string]any)[set] = append(list.([]any), "CAP_NET_RAW") // for ping
	}
	for _, ns := range linux["namespaces"].([]any) {
		if ns := ns.(map[string]any); ns["type"] == "network" {
			ns["path"] = netns
		}
	}
	spec["mounts"] = append(spec["mounts"].([]any), map[string]any{
		"type": "bind", "source": resolvConf, "destination": "/etc/resolv.conf", "options": []string{"bind", "ro"},
	})
	if text, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

// unpack writes the files and links of imageLayer.
func unpack(layer []byte, dir string) error {
	r := tar.NewReader(bytes.NewReader(layer))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeSymlink {
			err = os.Symlink(h.Linkname, path)
		} else {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, data, 0o755)
			}
		}
		if err != nil {
			return err
		}
	}
}

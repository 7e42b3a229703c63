package containerd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
)

// busybox is Debian's static one; deps.sh installs it.
const busybox = "/bin/busybox"

// applets of busybox that containers call by name.
var applets = []string{"sh", "ip", "ping", "sleep", "true"}

// loadImage imports the image into both namespaces. It serves as the pods' pause image too: what it runs by itself sleeps.
func (c *Containerd) loadImage(ctx context.Context) error {
	archive, err := imageArchive(Image, []string{c.mark()})
	if err != nil {
		return c.wrap("image", err)
	}
	file := c.path("image.tar")
	if err := os.WriteFile(file, archive, 0o644); err != nil {
		return c.wrap("image", err)
	}
	for _, ns := range []string{c.ctrNamespace(), criNamespace} {
		if _, err := c.ctr(ctx, ns, "images", "import", "--snapshotter", "native", file); err != nil {
			return err
		}
	}
	return nil
}

// imageArchive is an image of one layer in the form of `docker save`.
func imageArchive(ref string, env []string) ([]byte, error) {
	layer, err := imageLayer()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Env": append([]string{"PATH=/bin"}, env...), "Cmd": []string{"/bin/sleep", "1000000"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": digest(config) + ".json", "RepoTags": []string{ref}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return tarball([]entry{{name: "layer.tar", data: layer}, {name: digest(config) + ".json", data: config}, {name: "manifest.json", data: manifest}})
}

func imageLayer() ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("%w: `apt-get install busybox-static`", err)
	}
	entries := []entry{{name: "bin/busybox", data: program}}
	for _, a := range applets {
		entries = append(entries, entry{name: "bin/" + a, link: "busybox"})
	}
	return tarball(entries)
}

// entry is a file, or a symbolic link, of a tarball.
type entry struct {
	name, link string
	data       []byte
}

func tarball(entries []entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o755, Size: int64(len(e.data)), Typeflag: tar.TypeReg}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

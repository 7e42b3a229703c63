package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestBlockRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blocks.json")
	if got, err := LoadBlocks(path); err != nil || got != nil {
		t.Fatalf("no file: %v, %v", got, err)
	}
	want := []RecordedBlock{
		{Prefix: netip.MustParsePrefix("10.1.0.64/26"), Pool: "default", Source: "etcd"},
		{Prefix: netip.MustParsePrefix("fd00:1::/64"), Pool: "web", Source: "static", Released: true},
	}
	for range 2 {
		if err := SaveBlocks(path, want); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadBlocks(path); err != nil || !slices.Equal(got, want) {
			t.Fatalf("%v, %v, want %v", got, err, want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBlockRecordNotUnderstood(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":        "blocks",
		"cut off":         `{"version": 1, "blocks": [{"prefix": "10.1.0.0/26"`,
		"another version": `{"version": 2, "blocks": []}`,
		"no prefix":       `{"version": 1, "blocks": [{"pool": "default"}]}`,
		"overlap":         `{"version": 1, "blocks": [{"prefix": "10.1.0.0/26"}, {"prefix": "10.1.0.32/27"}]}`,
		"host bits":       `{"version": 1, "blocks": [{"prefix": "10.1.0.1/26"}]}`,
	} {
		path := filepath.Join(t.TempDir(), "blocks.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadBlocks(path); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != text {
			t.Errorf("%s: the file was changed to %q, %v", name, after, err)
		}
	}
}

func TestBlockRecordNotWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "blocks.json")
	if err := SaveBlocks(path, nil); !errors.Is(err, ErrStorage) {
		t.Errorf("%v, want ErrStorage", err)
	}
}

func FuzzBlockRecord(f *testing.F) {
	f.Add([]byte(`{"version": 1, "blocks": [{"prefix": "10.1.0.0/26", "pool": "default", "source": "etcd"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		blocks, err := decodeBlocks(data)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "blocks.json")
		if err := SaveBlocks(path, blocks); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadBlocks(path); err != nil || !slices.Equal(again, blocks) {
			t.Fatalf("%v, %v, want %v", again, err, blocks)
		}
	})
}

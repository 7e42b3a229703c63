package ipam

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blocks.json")
	if got, err := LoadRecord(path); err != nil || !got.Equal(Record{}) {
		t.Fatalf("no file: %v, %v", got, err)
	}
	want := Record{Retired: true, Blocks: []RecordedBlock{
		{Prefix: netip.MustParsePrefix("10.1.0.64/26"), Pool: "default", Source: "etcd"},
		{Prefix: netip.MustParsePrefix("10.1.0.0/25"), Pool: "default", Source: "etcd", Opening: true},
		{Prefix: netip.MustParsePrefix("fd00:1::/64"), Pool: "web", Source: "static", Released: true},
	}}
	for range 2 {
		if err := want.Save(path); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadRecord(path); err != nil || !got.Equal(want) {
			t.Fatalf("%v, %v, want %v", got, err, want)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRecordNotUnderstood(t *testing.T) {
	for name, text := range map[string]string{
		"not JSON":        "blocks",
		"cut off":         `{"version": 1, "blocks": [{"prefix": "10.1.0.0/26"`,
		"another version": `{"version": 2, "blocks": []}`,
		"no prefix":       `{"version": 1, "blocks": [{"pool": "default"}]}`,
		"host bits":       `{"version": 1, "blocks": [{"prefix": "10.1.0.1/26"}]}`,
		"loopback":        `{"version": 1, "blocks": [{"prefix": "127.0.0.0/26"}]}`,
	} {
		path := filepath.Join(t.TempDir(), "blocks.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadRecord(path); !errors.Is(err, ErrUnreadable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != text {
			t.Errorf("%s: the file was changed to %q, %v", name, after, err)
		}
	}
}

func TestRecordNotWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "blocks.json")
	if err := (Record{}).Save(path); !errors.Is(err, ErrStorage) {
		t.Errorf("%v, want ErrStorage", err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version": 1, "blocks": [{"prefix": "10.1.0.0/26", "pool": "default", "source": "etcd", "opening": true}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "blocks.json")
		if err := r.Save(path); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadRecord(path); err != nil || !again.Equal(r) {
			t.Fatalf("%v, %v, want %v", again, err, r)
		}
	})
}

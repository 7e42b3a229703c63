package relay

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	good := Request{Command: Add, ContainerID: "c-1_2.3", Netns: "/run/netns/x", IfName: "eth0"}
	for name, c := range map[string]struct {
		change func(*Request)
		want   string // in the error; "" is none
	}{
		"good":                   {func(*Request) {}, ""},
		"DEL without netns":      {func(r *Request) { r.Command, r.Netns = Del, "" }, ""},
		"GC needs none":          {func(r *Request) { *r = Request{Command: GC} }, ""},
		"longest names":          {func(r *Request) { r.ContainerID, r.IfName = strings.Repeat("c", 128), strings.Repeat("i", 15) }, ""},
		"no command":             {func(r *Request) { r.Command = "" }, "CNI_COMMAND missing"},
		"unknown command":        {func(r *Request) { r.Command = "add" }, "CNI_COMMAND"},
		"all missing":            {func(r *Request) { *r = Request{Command: Add} }, "CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS missing"},
		"DEL without ID":         {func(r *Request) { r.Command, r.ContainerID = Del, "" }, "CNI_CONTAINERID missing"},
		"CHECK without netns":    {func(r *Request) { r.Command, r.Netns = Check, "" }, "CNI_NETNS missing"},
		"ID with slash":          {func(r *Request) { r.ContainerID = "../x" }, "CNI_CONTAINERID"},
		"ID starts with dash":    {func(r *Request) { r.ContainerID = "-x" }, "CNI_CONTAINERID"},
		"ID with at":             {func(r *Request) { r.ContainerID = "a@b" }, "CNI_CONTAINERID"},
		"ID too long":            {func(r *Request) { r.ContainerID = strings.Repeat("c", 129) }, "CNI_CONTAINERID"},
		"interface of 16":        {func(r *Request) { r.IfName = strings.Repeat("i", 16) }, "CNI_IFNAME"},
		"interface dot":          {func(r *Request) { r.IfName = "." }, "CNI_IFNAME"},
		"interface lo":           {func(r *Request) { r.IfName = "lo" }, "CNI_IFNAME"},
		"interface dots":         {func(r *Request) { r.IfName = ".." }, "CNI_IFNAME"},
		"interface slash":        {func(r *Request) { r.IfName = "a/b" }, "CNI_IFNAME"},
		"interface colon":        {func(r *Request) { r.IfName = "eth0:1" }, "CNI_IFNAME"},
		"interface space":        {func(r *Request) { r.IfName = "a b" }, "CNI_IFNAME"},
		"interface is a pattern": {func(r *Request) { r.IfName = "eth%d" }, "CNI_IFNAME"},
		"interface not ASCII":    {func(r *Request) { r.IfName = "ethé" }, "CNI_IFNAME"},
		"relative netns":         {func(r *Request) { r.Netns = "x" }, "CNI_NETNS"},
		"netns too long":         {func(r *Request) { r.Netns = "/" + strings.Repeat("x", 5000) }, "CNI_NETNS"},
		"netns with NUL":         {func(r *Request) { r.Netns = "/x\x00" }, "CNI_NETNS"},
		"args too long":          {func(r *Request) { r.Args = strings.Repeat("x", 70000) }, "CNI_ARGS"},
	} {
		r := good
		c.change(&r)
		err := r.Validate()
		e, ok := errors.AsType[*Error](err)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if !ok || e.Code != CodeInvalidEnvironment || !strings.Contains(e.Msg, c.want) {
			t.Errorf("%s: got %v, want %q in the message", name, err, c.want)
		}
	}
}

func TestSpool(t *testing.T) {
	s := Spool(filepath.Join(t.TempDir(), "a", "spool"))
	if keys, err := s.List(); err != nil || len(keys) > 0 {
		t.Fatalf("a spool that is not there: %v, %v", keys, err)
	}
	want := []Key{{"c1", "eth0"}, {"c1", "eth@1"}, {"c2.x", "eth0"}}
	for _, k := range append(want, want[0]) {
		if err := s.Add(k); err != nil {
			t.Fatal(err)
		}
	}
	for _, junk := range []string{"noat", "@eth0", "c@", "c3@eth0:1", ".c@eth0"} {
		if err := os.WriteFile(filepath.Join(string(s), junk), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(string(s), "dir@eth0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := s.List(); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	for range 2 {
		if err := s.Remove(want[0]); err != nil {
			t.Fatal(err)
		}
		if has, err := s.Has(want[0]); has || err != nil {
			t.Errorf("removed key: %v, %v", has, err)
		}
	}
	if has, err := s.Has(want[1]); !has || err != nil {
		t.Errorf("waiting key: %v, %v", has, err)
	}
	if fi, err := os.Stat(string(s)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("spool directory: %v, %v", fi.Mode(), err)
	}
}

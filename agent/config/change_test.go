package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestChangesSeesEveryField changes every field of a Config by itself, those of its peers too: a key that Changes does not
// know would be reloaded without a word.
func TestChangesSeesEveryField(t *testing.T) {
	base := func() *Config {
		return mustLoad(t, small+"fabric: [10.64.0.0/12, \"fd00:64::/48\"]\n", nil)
	}
	paths := 0
	for _, path := range leaves(reflect.TypeFor[Config](), nil) {
		before, after := base(), base()
		v := reflect.ValueOf(after).Elem()
		for _, i := range path {
			v = v.Field(i)
			if v.Type() == reflect.TypeFor[[]Peer]() {
				v = v.Index(0)
			}
		}
		different(t, v)
		paths++
		if changes := Changes(before, after); len(changes) == 0 {
			t.Errorf("field %v of Config: a change to %v is not seen", name(path), v)
		}
	}
	if paths < 40 {
		t.Errorf("only %d fields were tried", paths)
	}
	if changes := Changes(base(), base()); len(changes) != 0 {
		t.Errorf("nothing differs, and yet %v", changes)
	}
}

// leaves are the paths of field indexes to what is no section.
func leaves(t reflect.Type, at []int) (paths [][]int) {
	for i := range t.NumField() {
		f := t.Field(i).Type
		path := append(slices.Clone(at), i)
		if f == reflect.TypeFor[[]Peer]() {
			f = f.Elem()
		}
		switch f {
		case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix]():
		default:
			if f.Kind() == reflect.Struct {
				paths = append(paths, leaves(f, path)...)
				continue
			}
		}
		paths = append(paths, path)
	}
	return paths
}

func name(path []int) string {
	t, names := reflect.TypeFor[Config](), []string{}
	for _, i := range path {
		if t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		names, t = append(names, t.Field(i).Name), t.Field(i).Type
	}
	return strings.Join(names, ".")
}

func different(t *testing.T, v reflect.Value) {
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.MustParseAddr("192.0.2.99")))
		return
	case *tls.Config:
		v.Set(reflect.ValueOf(&tls.Config{}))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Uint8, reflect.Uint32:
		v.SetUint(v.Uint() + 1)
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Slice:
		v.Set(reflect.Append(v, reflect.New(v.Type().Elem()).Elem()))
	default:
		t.Fatalf("no other value of %s known", v.Type())
	}
}

func TestChanges(t *testing.T) {
	before := mustLoad(t, small+"fabric: [10.64.0.0/12, \"fd00:64::/48\"]\nimport: [192.0.2.0/24]\n", nil)
	after := mustLoad(t, strings.Replace(small, "10.0.0.2, asn: 4200100002", "10.0.0.4, asn: 4200100002, max_prefixes: 7", 1)+
		"fabric: [\"fd00:64::/48\", 10.64.0.0/12]\nimport: [{prefix: 192.0.2.0/24, le: 32}]\nlog: {level: debug, format: json}\ntimers: {hold: 90s}\n", nil)
	var got []string
	for _, c := range Changes(before, after) {
		got = append(got, fmt.Sprintf("%s: %q -> %q %v", c.Key, c.Old, c.New, c.Restart))
	}
	want := []string{
		`timers.hold: "9s" -> "1m30s" false`, `log.level: "INFO" -> "DEBUG" false`, `log.format: "text" -> "json" true`,
		`peers: "10.0.0.2 (AS4200100002)" -> "" false`,
		`peers[10.0.0.0].timers.hold: "9s" -> "1m30s" false`, `peers: "" -> "10.0.0.4 (AS4200100002)" false`,
		`import: "192.0.2.0/24" -> "" false`, `import: "" -> "192.0.2.0/24 ge 24 le 32" false`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestChangedPasswordDoesNotShow(t *testing.T) {
	before, after := mustLoad(t, small, nil), mustLoad(t, small, nil)
	before.Peers[0].Password, after.Peers[0].Password = "old-one", "new-one"
	got := fmt.Sprint(Changes(before, after))
	if !strings.Contains(got, "peers[10.0.0.0].password_file") || strings.Contains(got, "-one") {
		t.Error(got)
	}
}

// TestApplied: what takes a restart stays as it is, the rest comes from the new configuration.
func TestApplied(t *testing.T) {
	now := mustLoad(t, small, nil)
	next := mustLoad(t, small+"state_dir: /elsewhere\nlog: {level: debug, format: json}\netcd: {timeout: 9s}\nbudget: {ipv4: 9}\nhistory: {dir: /srv/l, max_size: 2GiB}\n", nil)
	got := now.Applied(next)
	if got.StateDir != now.StateDir || got.Log.Format != LogText || got.Etcd.Timeout != 3*time.Second {
		t.Errorf("changed without a restart: %+v", got)
	}
	if got.Log.Level != next.Log.Level || got.Budget.IPv4 != 9 || got.History.MaxSize != 2<<30 || got.History.Dir != "" {
		t.Errorf("not applied: %+v", got)
	}
	for _, c := range Changes(got, next) {
		if !c.Restart {
			t.Errorf("left over: %v", c)
		}
	}
}

package relay

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestParseSettings(t *testing.T) {
	defaults := Settings{Socket: DefaultSocket, Spool: DefaultSpool, Timeout: DefaultTimeout}
	for config, want := range map[string]Settings{
		`{}`:                           defaults,
		` { "socket" : null } ` + "\n": defaults,
		`{"cniVersion":"1.0.0"}`:       {"1.0.0", DefaultSocket, DefaultSpool, DefaultTimeout},
		`{"a":{"socket":"/no"},"b":["socket","}"],"socket":"\/run\/\u0061","spool":"/s","timeout":"1m30s","n":-1.5e3}`: {
			"", "/run/a", "/s", 90 * time.Second},
		`{"socket":"/first","socket":"/last","x":true}`: {"", "/last", DefaultSpool, DefaultTimeout},
	} {
		if got, err := ParseSettings([]byte(config)); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", config, got, err, want)
		}
	}
}

func TestParseSettingsRefuses(t *testing.T) {
	for config, want := range map[string]struct {
		code int
		text string
	}{
		``:                     {CodeDecode, "no object"},
		`[]`:                   {CodeDecode, "no object"},
		`{`:                    {CodeDecode, ""},
		`{"a":1`:               {CodeDecode, ""},
		`{"a":}`:               {CodeDecode, "no value"},
		`{"a"}`:                {CodeDecode, "no key"},
		`{"a":"x}`:             {CodeDecode, "no value"},
		`{"a":1}{}`:            {CodeDecode, "after the object"},
		`{"a":1 "b":2}`:        {CodeDecode, "no comma"},
		`{"a":[1}`:             {CodeDecode, ""},
		`{"\ud8":1}`:           {CodeDecode, "no key"},
		`{"socket":1}`:         {CodeInvalidConfig, "socket: want a string"},
		`{"socket":"run/x"}`:   {CodeInvalidConfig, "socket: want an absolute path"},
		`{"socket":"/\u0000"}`: {CodeInvalidConfig, "socket"},
		`{"spool":""}`:         {CodeInvalidConfig, "spool"},
		`{"timeout":"30"}`:     {CodeInvalidConfig, "timeout"},
		`{"timeout":"0s"}`:     {CodeInvalidConfig, "timeout"},
		`{"timeout":"11m"}`:    {CodeInvalidConfig, "timeout"},
		`{"timeout":30}`:       {CodeInvalidConfig, "timeout: want a string"},
		`{"socket":"/` + strings.Repeat("x", 107) + `"}`: {CodeInvalidConfig, "107"},
	} {
		_, err := ParseSettings([]byte(config))
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != want.code || !strings.Contains(e.Error(), want.text) {
			t.Errorf("%s: got %v, want code %d and %q", config, err, want.code, want.text)
		}
	}
}

// FuzzTopLevelStrings holds the scanner against encoding/json: on what that accepts they agree.
func FuzzTopLevelStrings(f *testing.F) {
	for _, s := range []string{`{}`, `{"socket":"/a\ud83d\ude00\n"}`, `{"x":{"y":[1,"]"]},"socket":"b"}`, `{"socket":1}`, `{"socket":null}`, `{"a":"\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := topLevelStrings(data, "socket")
		var want map[string]json.RawMessage
		if json.Unmarshal(data, &want) != nil || want == nil || !utf8.Valid(data) {
			return // must only not crash
		}
		var text *string
		if raw, ok := want["socket"]; ok {
			if json.Unmarshal(raw, &text) != nil {
				return // any error is right, and with a duplicate key the last may be none
			}
		}
		if err != nil {
			if strings.Count(string(data), "socket") < 2 && !strings.Contains(string(data), `\u`) {
				t.Fatalf("%q: %v", data, err)
			}
			return
		}
		if value, ok := got["socket"]; ok != (text != nil) || ok && value != *text {
			t.Errorf("%q: got %q, want %v", data, value, text)
		}
	})
}

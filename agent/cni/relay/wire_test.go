package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestRequestRoundTrip(t *testing.T) {
	for _, want := range []Request{
		{Config: []byte{}},
		{Command: Add, ContainerID: "c1", Netns: "/run/netns/x", IfName: "eth0", Args: "A=b;C=d", Patience: 1500 * time.Millisecond, Config: []byte(`{"a":1}`)},
		{Command: GC, Patience: MaxTimeout, Config: bytes.Repeat([]byte("x"), MaxConfig)},
	} {
		frame, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadRequest(bytes.NewReader(frame))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %.200v, %v, want %.200v", got, err, want)
		}
		for _, n := range []int{0, 3, headerSize - 1, headerSize, len(frame) - 1} {
			if _, err := ReadRequest(bytes.NewReader(frame[:n])); err == nil {
				t.Errorf("accepted %d of %d bytes", n, len(frame))
			}
		}
	}
}

func TestResponseRoundTrip(t *testing.T) {
	for _, want := range []Response{{Stdout: []byte{}}, {Failed: true, Stdout: []byte("{}\n")}} {
		frame, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ReadResponse(bytes.NewReader(frame)); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
}

func TestEncodeRefusesWhatCannotBeSent(t *testing.T) {
	for name, r := range map[string]Request{
		"too large":         {Config: make([]byte, maxBody)},
		"negative patience": {Patience: -time.Second},
		"endless patience":  {Patience: 1 << 62},
	} {
		if _, err := r.Encode(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := (&Response{Stdout: make([]byte, maxBody+1)}).Encode(); err == nil {
		t.Error("too large response: accepted")
	}
}

func TestReadRequestRefuses(t *testing.T) {
	frame := func(version byte, size uint32, body string) []byte {
		b := append([]byte(magic), version, 0)
		return append(binary.BigEndian.AppendUint32(b, size), body...)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"another protocol": {[]byte("GET / HTTP/1.1\r\n\r\n"), "not the CNI relay protocol"},
		"another version":  {frame(wireVersion+1, 0, ""), "of one release"},
		"huge":             {frame(wireVersion, 1<<31, ""), "more than"},
		"no body":          {frame(wireVersion, 0, ""), "truncated"},
		"field too long":   {frame(wireVersion, 8, "\x00\x00\x00\x01\xff\xff\xff\xff"), "truncated"},
		"bytes to spare":   {frame(wireVersion, 29, strings.Repeat("\x00", 29)), "to spare"},
	} {
		if _, err := ReadRequest(bytes.NewReader(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := ReadRequest(bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: got %v", err)
	}
}

func FuzzReadRequest(f *testing.F) {
	seed, err := (&Request{Command: Add, ContainerID: "c", Config: []byte("{}")}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ReadRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.HasPrefix(data[headerSize:], again[headerSize:]) {
			t.Errorf("decoded %+v, encoded again %q, %v", r, again, err)
		}
	})
}

func FuzzErrorJSON(f *testing.F) {
	f.Add("1.1.0", "plain", "with \"quotes\" \\ and \n\x00\x7f")
	f.Add("\xff", "\u2028", "é")
	f.Fuzz(func(t *testing.T, version, msg, details string) {
		var got struct {
			CNIVersion, Msg, Details string
			Code                     int
		}
		data := (&Error{Code: CodeExhausted, Msg: msg, Details: details}).JSON(version)
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		valid := func(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
		if got.Code != CodeExhausted || len(got.Msg) < len(valid(msg)) || len(got.Details) < len(valid(details)) {
			t.Errorf("%q became %+v", data, got)
		}
	})
}

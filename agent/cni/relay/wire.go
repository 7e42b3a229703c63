package relay

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"strconv"
	"time"
)

// One connection carries one request and one response. Both start with the same header, whose form no later version
// may change, so that a shim and an agent of different versions can at least tell each other so:
//
//	"HFCN"  version u8  status u8  length u32     big endian; status is 0 in a request and the exit code in a response
//
// A request's body is the patience in milliseconds (u32) and then its strings, each a length (u32) and the bytes, in
// the order of Request. A response's body is what the shim prints on stdout.
const (
	magic       = "HFCN"
	wireVersion = 1
	headerSize  = len(magic) + 1 + 1 + 4
	maxBody     = MaxConfig + 256<<10
)

var (
	errMagic     = errors.New("not the CNI relay protocol")
	errTruncated = errors.New("truncated CNI relay request")
	errTrailing  = errors.New("CNI relay request with bytes to spare")
)

// Response is what the shim does at the end: print Stdout, and exit with 0 or 1.
type Response struct {
	Failed bool
	Stdout []byte
}

// Encode gives the request's frame.
func (r *Request) Encode() ([]byte, error) {
	ms := r.Patience.Milliseconds()
	if ms < 0 || ms > math.MaxUint32 {
		return nil, errors.New("patience " + r.Patience.String() + " out of range")
	}
	fields := []string{r.Command, r.ContainerID, r.Netns, r.IfName, r.Args, string(r.Config)}
	size := 4
	for _, f := range fields {
		size += 4 + len(f)
	}
	b, err := appendHeader(make([]byte, 0, headerSize+size), 0, size)
	if err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, uint32(ms))
	for _, f := range fields {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b, nil
}

// Encode gives the response's frame.
func (r *Response) Encode() ([]byte, error) {
	var status byte
	if r.Failed {
		status = 1
	}
	b, err := appendHeader(make([]byte, 0, headerSize+len(r.Stdout)), status, len(r.Stdout))
	return append(b, r.Stdout...), err
}

// ReadRequest reads one request, of which nothing is believed yet.
func ReadRequest(from io.Reader) (Request, error) {
	_, body, err := readFrame(from)
	if err != nil {
		return Request{}, err
	}
	if len(body) < 4 {
		return Request{}, errTruncated
	}
	r := Request{Patience: time.Duration(binary.BigEndian.Uint32(body)) * time.Millisecond}
	body = body[4:]
	for _, field := range []*string{&r.Command, &r.ContainerID, &r.Netns, &r.IfName, &r.Args} {
		var b []byte
		if b, body, err = cut(body); err != nil {
			return Request{}, err
		}
		*field = string(b)
	}
	if r.Config, body, err = cut(body); err != nil {
		return Request{}, err
	}
	if len(body) > 0 {
		return Request{}, errTrailing
	}
	return r, nil
}

// ReadResponse reads one response.
func ReadResponse(from io.Reader) (Response, error) {
	status, body, err := readFrame(from)
	return Response{Failed: status != 0, Stdout: body}, err
}

func appendHeader(b []byte, status byte, size int) ([]byte, error) {
	if size > maxBody {
		return nil, errors.New("CNI relay frame of " + strconv.Itoa(size) + " bytes, more than " + strconv.Itoa(maxBody))
	}
	b = append(b, magic...)
	b = append(b, wireVersion, status)
	return binary.BigEndian.AppendUint32(b, uint32(size)), nil
}

func readFrame(from io.Reader) (status byte, body []byte, err error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(from, h[:]); err != nil {
		return 0, nil, err
	}
	if string(h[:len(magic)]) != magic {
		return 0, nil, errMagic
	}
	if v := h[len(magic)]; v != wireVersion {
		return 0, nil, errors.New("CNI relay version " + strconv.Itoa(int(v)) + " where " + strconv.Itoa(wireVersion) +
			" is expected: install hostfabric and hostfabric-cni of one release")
	}
	size := binary.BigEndian.Uint32(h[headerSize-4:])
	if size > maxBody {
		return 0, nil, errors.New("CNI relay frame of " + strconv.FormatUint(uint64(size), 10) + " bytes, more than " + strconv.Itoa(maxBody))
	}
	body = make([]byte, size)
	_, err = io.ReadFull(from, body)
	return h[len(magic)+1], body, err
}

// cut splits one length-prefixed string off the front of b.
func cut(b []byte) (field, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, errTruncated
	}
	n := binary.BigEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return nil, nil, errTruncated
	}
	return b[:n], b[n:], nil
}

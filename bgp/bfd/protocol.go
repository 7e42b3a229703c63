package bfd

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// The agent and this process exchange lines of JSON on a unix socket: a request and its reply, as often as wanted, or
// one watch request and then replies without end. Requests and replies know their fields; a newer side's others are ignored.
const (
	maxLine      = 1 << 20
	writeTimeout = 5 * time.Second
	idleTimeout  = 30 * time.Second // between requests
)

// request has one of its fields set.
type request struct {
	Set       *[]Session    `json:"set,omitempty"`
	AdminDown *adminRequest `json:"admin_down,omitempty"`
	Status    bool          `json:"status,omitempty"`
	Watch     bool          `json:"watch,omitempty"`
	Upgrade   bool          `json:"upgrade,omitempty"`
}

type adminRequest struct {
	Down   bool   `json:"down"`
	Reason string `json:"reason,omitempty"` // for the log
}

type reply struct {
	Error    string    `json:"error,omitempty"`
	Version  string    `json:"version,omitempty"`
	PID      int       `json:"pid,omitempty"`
	Sessions *[]Status `json:"sessions,omitempty"` // all of them
	Change   *Status   `json:"change,omitempty"`
}

func writeLine(conn net.Conn, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = conn.Write(append(line, '\n'))
	return err
}

func newLines(conn net.Conn) *bufio.Scanner {
	sc := bufio.NewScanner(conn)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	return sc
}

func readLine(sc *bufio.Scanner, v any) error {
	if !sc.Scan() {
		if err := sc.Err(); err != nil {
			return err
		}
		return errClosed
	}
	if err := json.Unmarshal(sc.Bytes(), v); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// errClosed: the other side has ended the connection.
var errClosed = errors.New("connection closed")

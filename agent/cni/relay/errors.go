package relay

import (
	"strconv"
	"unicode/utf8"
)

// Error codes of the CNI specification (section 5), and from 100 on our own.
const (
	CodeIncompatibleVersion = 1
	CodeUnsupportedField    = 2
	CodeUnknownContainer    = 3
	CodeInvalidEnvironment  = 4
	CodeIO                  = 5
	CodeDecode              = 6
	CodeInvalidConfig       = 7
	CodeTryAgain            = 11
	CodeNotAvailable        = 50 // STATUS: no ADD can be served
	CodeLimited             = 51 // STATUS: and existing containers may have limited connectivity

	CodeExhausted     = 100 // no free address in this host's blocks
	CodeAddressInUse  = 101 // the wanted address is taken
	CodeNotInBlock    = 102 // the wanted address is outside this host's blocks
	CodeMismatch      = 103 // ADD again, with other parameters than the first
	CodeLinkExists    = 104 // the container has an interface of that name that is not ours
	CodeNotAsAttached = 105 // CHECK found a difference
	CodeInternal      = 999
)

// Error is a failure in CNI's terms. Msg is short and the same for every failure of its kind; Details has the case.
type Error struct {
	Code    int
	Msg     string
	Details string
}

func (e *Error) Error() string {
	if e.Details == "" {
		return e.Msg
	}
	return e.Msg + ": " + e.Details
}

// JSON is the error as a plugin prints it on stdout.
func (e *Error) JSON(cniVersion string) []byte {
	b := append([]byte(nil), `{"cniVersion":`...)
	b = appendString(b, cniVersion)
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `,"msg":`...)
	b = appendString(b, e.Msg)
	if e.Details != "" {
		b = append(b, `,"details":`...)
		b = appendString(b, e.Details)
	}
	return append(b, "}\n"...)
}

// VersionJSON answers VERSION in the version the runtime asked with.
func VersionJSON(cniVersion string) []byte {
	b := append([]byte(nil), `{"cniVersion":`...)
	b = appendString(b, cniVersion)
	b = append(b, `,"supportedVersions":[`...)
	for i, v := range SupportedVersions() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, v)
	}
	return append(b, "]}\n"...)
}

// appendString appends s as a JSON string; bytes that are no UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

// quote shows a value in a message, shortened to what a person will read.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}

func envError(msg, details string) error {
	return &Error{Code: CodeInvalidEnvironment, Msg: msg, Details: details}
}

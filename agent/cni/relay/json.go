package relay

import (
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// topLevelStrings reads the string values of the named keys of a JSON object. Of a key that occurs twice the last
// counts, as in encoding/json. A named key whose value is no string is an error, beside which the others are found
// all the same; null is as if the key were absent.
func topLevelStrings(data []byte, names ...string) (map[string]string, error) {
	s := scanner{data: data}
	found := map[string]string{}
	if !s.take('{') {
		return found, decodeError(s.at, "no object")
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return found, decodeError(s.at, "no comma or brace")
		}
		if err := s.member(names, found); err != nil {
			return found, err
		}
	}
	if s.space(); s.at < len(data) {
		return found, decodeError(s.at, "bytes after the object")
	}
	return found, s.wrong
}

type scanner struct {
	data  []byte
	at    int
	wrong error // the first named key with a value that is no string
}

// member reads one "key": value.
func (s *scanner) member(names []string, found map[string]string) error {
	s.space()
	key, ok := s.text()
	if !ok || !s.take(':') {
		return decodeError(s.at, "no key")
	}
	s.space()
	start := s.at
	value, isText := s.text()
	if !isText && !s.skip() {
		return decodeError(s.at, "no value")
	}
	if !slices.Contains(names, key) {
		return nil
	}
	switch {
	case isText:
		found[key] = value
	case string(s.data[start:s.at]) == "null":
		delete(found, key)
	case s.wrong == nil:
		s.wrong = configError(key, "want a string")
	}
	return nil
}

func (s *scanner) space() {
	for s.at < len(s.data) && isSpace(s.data[s.at]) {
		s.at++
	}
}

// take passes over c if it is next but for white space.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.at < len(s.data) && s.data[s.at] == c {
		s.at++
		return true
	}
	return false
}

// skip passes over one value that is no string: to the comma, brace or bracket that ends it, through what it nests.
func (s *scanner) skip() bool {
	start, depth := s.at, 0
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; {
		case c == '"':
			if _, ok := s.text(); !ok {
				return false
			}
			s.at-- // the loop's own step
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ']') && depth > 0:
			depth--
		case depth == 0 && (c == ',' || c == '}' || c == ']' || isSpace(c)):
			return s.at > start
		}
	}
	return false
}

// text reads the string that starts here; without one it moves nothing.
func (s *scanner) text() (string, bool) {
	start := s.at
	if start >= len(s.data) || s.data[start] != '"' {
		return "", false
	}
	for i := start + 1; i < len(s.data); i++ {
		switch c := s.data[i]; {
		case c == '\\':
			i++
		case c == '"':
			text, ok := unescape(s.data[start+1 : i])
			if ok {
				s.at = i + 1
			}
			return text, ok
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func unescape(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; i >= len(raw) {
			return "", false
		}
		switch c := raw[i]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c])
		case 'u':
			r, ok := hex4(raw[i+1:])
			if !ok {
				return "", false
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := lowSurrogate(raw[i+1:])
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", false
		}
	}
	return string(out), true
}

// lowSurrogate reads a second \uXXXX.
func lowSurrogate(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	return hex4(b[2:])
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxList bounds every list: checks compare each element with each other.
const maxList = 1024

// shape is what may stand at a place of the file.
type shape struct {
	scalar bool              // text, number or boolean
	keys   map[string]*shape // a mapping with these keys
	each   *shape            // a list of these
}

// readTree turns the file into maps, lists and text of the shape that root has. What has another shape is
// reported and left out. It is false if there is no tree at all.
func readTree(name string, data []byte, r *report) (map[string]any, bool) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return map[string]any{}, true
	} else if err != nil {
		r.addSyntax(name, err)
		return nil, false
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		r.add(name, fmt.Sprintf("line %d: a second document begins", second.Line), "keep one, without ---")
		return nil, false
	case !errors.Is(err, io.EOF):
		r.addSyntax(name, err)
		return nil, false
	}
	top := doc.Content[0]
	if isNull(top) {
		return map[string]any{}, true
	}
	if top.Kind != yaml.MappingNode {
		r.add(name, fmt.Sprintf("line %d: not a mapping", top.Line), `write lines such as "asn: 4200000001"`)
		return nil, false
	}
	return r.mapping(top, "", root), true
}

var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// addSyntax reports what the YAML parser says; it stops at its first mistake.
func (r *report) addSyntax(name string, err error) {
	e := &KeyError{Path: name, Problem: err.Error()}
	if m := yamlError.FindStringSubmatch(err.Error()); m != nil {
		e.Line, _ = strconv.Atoi(m[1])
		e.Problem = m[2]
	}
	switch {
	case strings.Contains(e.Problem, "cannot start any token"):
		e.Hint = "indent with spaces, not tabs; quote text that begins with @, ` or %"
	case strings.Contains(e.Problem, "did not find expected"):
		e.Line++ // for these the library counts from 0, and gives the line where the list or mapping begins
		e.Hint = "look at the indentation, quotes and brackets from this line on"
	case strings.Contains(e.Problem, "mapping values are not allowed"), strings.Contains(e.Problem, "could not find expected"):
		e.Hint = "look at the indentation, colons and quotes of this line and the one before"
	case strings.Contains(e.Problem, "unexpected end of stream"):
		e.Hint = "a quote that begins there has no end"
	}
	if e.Line > 0 {
		e.Problem = fmt.Sprintf("line %d: %s", e.Line, e.Problem)
	}
	r.errs = append(r.errs, e)
}

func (r *report) mapping(node *yaml.Node, path string, s *shape) map[string]any {
	values := map[string]any{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			r.add(join(path, "?"), fmt.Sprintf("line %d: a key must be a word", key.Line), "")
			continue
		}
		at := join(path, printable(key.Value))
		if first, seen := r.lines[at]; seen {
			r.add(at, fmt.Sprintf("line %d: already set on line %d", key.Line, first), "keep one of the two")
			continue
		}
		r.lines[at] = key.Line
		want := s.keys[key.Value]
		if want == nil {
			r.add(at, fmt.Sprintf("line %d: unknown key", key.Line), suggest(path, key.Value, s))
			continue
		}
		if v := r.value(value, at, want); v != nil {
			values[key.Value] = v
		}
	}
	return values
}

// value is nil for what is empty, so that the default applies, and for what was reported.
func (r *report) value(node *yaml.Node, path string, s *shape) any {
	switch {
	case isNull(node):
		return nil
	case node.Kind == yaml.AliasNode:
		r.add(path, "YAML aliases are not understood", "write the value out")
	case node.Kind == yaml.ScalarNode && s.scalar:
		return node.Value
	case node.Kind == yaml.MappingNode && s.keys != nil:
		return r.mapping(node, path, s)
	case node.Kind == yaml.SequenceNode && s.each != nil:
		return r.list(node, path, s.each)
	default:
		r.add(path, "this is "+describe(node)+", not "+s.String(), s.example(path))
	}
	return nil
}

// list keeps the place of elements that were reported, as nil, so that the indices stay those of the file.
func (r *report) list(node *yaml.Node, path string, each *shape) any {
	if len(node.Content) > maxList {
		r.add(path, fmt.Sprintf("%d elements are too many", len(node.Content)), fmt.Sprintf("at most %d", maxList))
		return nil
	}
	values := make([]any, len(node.Content))
	for i, n := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		r.lines[at] = n.Line
		if isNull(n) {
			r.add(at, "empty element", "remove it")
			continue
		}
		values[i] = r.value(n, at, each)
	}
	return values
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// printable keeps a strange key from breaking the message apart.
func printable(key string) string {
	if strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 || key == "" {
		return strconv.Quote(key)
	}
	return key
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

func (s *shape) String() string {
	var names []string
	if s.scalar {
		names = append(names, "a single value")
	}
	if s.keys != nil {
		names = append(names, "a mapping")
	}
	if s.each != nil {
		names = append(names, "a list")
	}
	return strings.Join(names, " or ")
}

// example shows how to write what the shape wants.
func (s *shape) example(path string) string {
	key := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case s.each != nil && s.each.scalar:
		return "write " + key + ": [...]"
	case s.each != nil:
		return "write each element below it, beginning with -"
	case s.keys != nil:
		return "keys: " + strings.Join(s.names(), ", ")
	}
	return ""
}

func (s *shape) names() []string {
	var names []string
	for k := range s.keys {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}

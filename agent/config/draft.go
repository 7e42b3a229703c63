package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// draft is a Config in the making, with what only the checks need.
type draft struct {
	Config
	listen listen
	peers  []located[peerDraft]
	blocks []located[Block]
	fabric []located[netip.Prefix]
	pools  []poolDraft
	etcd   etcdDraft

	poolsKnown bool // the pools parsed, so that looking for a block in them makes sense
}

// located is a value that parsed, and the path of its key.
type located[T any] struct {
	path  string
	value T
}

// importDraft is an element of import; ge and le may be unset.
type importDraft struct {
	prefix netip.Prefix
	ge, le int
}

// listen is bgp.listen.
type listen string

const (
	listenAuto listen = "auto" // if a peer is passive
	listenOn   listen = "true"
	listenOff  listen = "false"
)

const (
	minHold = 3 * time.Second // RFC 4271 section 4.2 has 0 as well, for ever: a dead ToR would never be noticed
	maxHold = 65535 * time.Second
)

func parseName(text string) (string, error) {
	if len(text) > 64 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", &problem{fmt.Sprintf("%q is not a name", text), "at most 64 printable characters"}
	}
	return text, nil
}

func asIs(text string) (string, error) { return text, nil }

// hostOr is parseLabel with the machine's name, up to its first dot, as the default.
func hostOr(hostname func() (string, error)) func(string) (string, error) {
	return func(text string) (string, error) {
		if text != "" {
			return parseLabel(text)
		}
		name, err := hostname()
		if err != nil {
			return "", &problem{"this machine's name cannot be found: " + err.Error(), "set host"}
		}
		name, _, _ = strings.Cut(name, ".")
		if _, err := parseLabel(name); err != nil {
			return "", &problem{fmt.Sprintf("this machine's name, %q, is not a DNS label", name), "set host"}
		}
		return parseLabel(name)
	}
}

func (d *draft) setScalars(l *layers, r *report) {
	for _, f := range fields {
		if r.bad[f.key] {
			continue
		}
		if err := f.set(d, l.viper.GetString(f.key)); err != nil {
			r.addErr(f.key, l.source[f.key], err)
		}
	}
}

func (d *draft) setLists(l *layers, r *report, f files) {
	for i, v := range l.list("peers", r, "the routers this host connects to; [] for none") {
		if values, ok := v.(map[string]any); ok {
			d.addPeer(fmt.Sprintf("peers[%d]", i), values, r, f)
		}
	}
	needed := ""
	if d.Source == SourceStatic {
		needed = "the address blocks of this host"
	}
	for i, v := range l.list("blocks", r, needed) {
		d.addBlock(fmt.Sprintf("blocks[%d]", i), v, r)
	}
	d.Reserved = values(elements("reserved", l.list("reserved", r, ""), r, parseRange))
	d.fabric = elements("fabric", l.list("fabric", r, ""), r, parsePrefix)
	for i, v := range l.list("import", r, "") {
		if rule, ok := importRule(fmt.Sprintf("import[%d]", i), v, r); ok {
			d.Import = append(d.Import, rule)
		}
	}
	d.Firewall.Open = values(elements("firewall.open", l.list("firewall.open", r, ""), r, parsePort))
	d.Masquerade.Except = values(elements("masquerade.except", l.list("masquerade.except", r, ""), r, parsePrefix))
	d.setPools(l, r)
	d.setStations(l, r)
	d.setDNS(l, r)
	d.setAnnounce(l, r)
}

// list is a list of the file; needed, if not empty, says what must be there.
func (l *layers) list(key string, r *report, needed string) []any {
	values, present := l.viper.Get(key).([]any)
	if !present && needed != "" && !r.bad[key] {
		r.add(key, "missing", needed)
	}
	return values
}

// setEntry fills an element of a list; what is wrong keeps its zero value.
func setEntry[T any](fields []field[T], t *T, path string, values map[string]any, r *report) {
	for _, f := range fields {
		at := path + "." + f.key
		if r.bad[at] {
			continue
		}
		text, ok := entryValue(values, f.key).(string)
		if !ok {
			text = f.value
		}
		if err := f.set(t, text); err != nil {
			r.addErr(at, "", err)
			if r.lines[at] == 0 {
				r.errs[len(r.errs)-1].Line = r.lines[path]
			}
		}
	}
}

// entryValue follows a key with dots into the sections of an element.
func entryValue(values map[string]any, key string) any {
	section, rest, inside := strings.Cut(key, ".")
	if !inside {
		return values[key]
	}
	below, _ := values[section].(map[string]any)
	return entryValue(below, rest)
}

// elements are those of a list of single values that parse.
func elements[T any](key string, all []any, r *report, parse func(string) (T, error)) []located[T] {
	var list []located[T]
	for i, v := range all {
		text, ok := v.(string)
		if !ok {
			continue
		}
		path := fmt.Sprintf("%s[%d]", key, i)
		one, err := parse(text)
		if err != nil {
			r.addErr(path, "", err)
			continue
		}
		list = append(list, located[T]{path, one})
	}
	return list
}

// importRule understands a prefix on its own, which accepts just itself, and a mapping as in a prefix list: ge and
// le bound the length; ge alone leaves it open upwards.
func importRule(path string, v any, r *report) (ImportRule, bool) {
	before := len(r.errs)
	i := importDraft{ge: unset, le: unset}
	switch v := v.(type) {
	case string:
		p, err := parsePrefix(v)
		if err != nil {
			r.addErr(path, "", err)
		}
		i.prefix = p
	case map[string]any:
		setEntry(importFields, &i, path, v, r)
	default:
		return ImportRule{}, false
	}
	if len(r.errs) > before || !r.good(path+".prefix", path+".ge", path+".le") {
		return ImportRule{}, false
	}
	rule := i.rule()
	length, most := rule.Prefix.Bits(), rule.Prefix.Addr().BitLen()
	if rule.MinLength < length || rule.MaxLength < rule.MinLength || rule.MaxLength > most {
		r.add(path, fmt.Sprintf("lengths %d to %d do not fit %s", rule.MinLength, rule.MaxLength, rule.Prefix),
			fmt.Sprintf("%d <= ge <= le <= %d", length, most))
		return ImportRule{}, false
	}
	return rule, true
}

func (i importDraft) rule() ImportRule {
	rule := ImportRule{Prefix: i.prefix, MinLength: i.prefix.Bits(), MaxLength: i.prefix.Bits()}
	if i.ge != unset {
		rule.MinLength, rule.MaxLength = i.ge, i.prefix.Addr().BitLen()
	}
	if i.le != unset {
		rule.MaxLength = i.le
	}
	return rule
}

// config is the finished Config; the checks have passed.
func (d *draft) config() *Config {
	c := d.Config
	for _, p := range d.peers {
		c.Peers = append(c.Peers, p.value.peer(&d.Config))
	}
	c.Blocks, c.Fabric = d.finalBlocks(), values(d.fabric)
	for _, p := range d.pools {
		c.Pools = append(c.Pools, p.pool())
	}
	c.Etcd.Endpoints = values(d.etcd.endpoints)
	c.BGP.Listen = d.listens()
	return &c
}

// families are Config.Families of what is known so far.
func (d *draft) families() (ipv4, ipv6 bool) {
	c := Config{Source: d.Source, Blocks: values(d.blocks)}
	for _, p := range d.pools {
		c.Pools = append(c.Pools, p.pool())
	}
	return c.Families()
}

func values[T any](list []located[T]) []T {
	var vs []T
	for _, l := range list {
		vs = append(vs, l.value)
	}
	return vs
}

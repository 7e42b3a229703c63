package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// DNSHost is a host whose names this one finds without being told by the fabric.
type DNSHost struct {
	Name      string         // one label, in lower case
	Addresses []netip.Addr   // on which it answers, in the order to try them
	Blocks    []netip.Prefix // whose addresses it has the names of
}

// describe is the host in one line.
func (h DNSHost) describe() string {
	text := fmt.Sprintf("%s at %v", h.Name, h.Addresses)
	if len(h.Blocks) > 0 {
		text += fmt.Sprintf(" with %v", h.Blocks)
	}
	return text
}

// dnsHostFields are the keys of an element of dns.hosts besides its lists.
var dnsHostFields = []field[DNSHost]{
	{"name", "", put(func(h *DNSHost) *string { return &h.Name }, needed(parseLabel, "the other host's name, its key host"))},
}

// dnsHostShape is an element of dns.hosts.
func dnsHostShape() *shape {
	s := mappingOf(dnsHostFields)
	for _, list := range []string{"addresses", "blocks"} {
		s.keys[list] = &shape{each: &shape{scalar: true}}
	}
	return s
}

// setDNSHosts wants hosts of different names with different blocks, for of two that have one neither could be meant.
func (d *draft) setDNSHosts(l *layers, r *report) {
	names := map[string]string{}
	blocks := map[netip.Prefix]string{}
	for i, v := range l.list("dns.hosts", r, "") {
		entry, ok := v.(map[string]any)
		if !ok {
			continue
		}
		path := fmt.Sprintf("dns.hosts[%d]", i)
		var h DNSHost
		setEntry(dnsHostFields, &h, path, entry, r)
		if first := names[h.Name]; h.Name != "" && first != "" {
			r.add(path+".name", fmt.Sprintf("%s is also %s", h.Name, first), "one entry a host")
		}
		names[h.Name] = path
		h.Addresses = dnsAddresses(path, entry, r)
		given, _ := entry["blocks"].([]any)
		for _, b := range elements(path+".blocks", given, r, parsePrefix) {
			if first := blocks[b.value]; first != "" {
				r.add(b.path, fmt.Sprintf("%s is also %s", b.value, first), "remove one")
			}
			blocks[b.value] = b.path
			h.Blocks = append(h.Blocks, b.value)
		}
		d.DNS.Hosts = append(d.DNS.Hosts, h)
	}
}

// maxDNSAddresses bounds how many servers are tried for one query.
const maxDNSAddresses = 16

func dnsAddresses(path string, entry map[string]any, r *report) (list []netip.Addr) {
	at := path + ".addresses"
	given, _ := entry["addresses"].([]any)
	switch {
	case len(given) == 0 && r.good(at):
		r.add(at, "missing", "where the host answers DNS, such as [10.64.0.0]: the first address of its first block")
		if r.lines[at] == 0 {
			r.errs[len(r.errs)-1].Line = r.lines[path]
		}
	case len(given) > maxDNSAddresses:
		r.add(at, fmt.Sprintf("%d addresses", len(given)), fmt.Sprintf("at most %d", maxDNSAddresses))
		return nil
	}
	for _, a := range elements(at, given, r, parseAddr) {
		if slices.Contains(list, a.value) {
			r.add(a.path, fmt.Sprintf("%s is there twice", a.value), "remove one")
		}
		list = append(list, a.value)
	}
	return list
}

package config

import (
	"fmt"
	"net/netip"
	"time"
)

// BMPStation collects what the peers announce (BMP, RFC 7854).
type BMPStation struct {
	Address netip.AddrPort
	Policy  BMPPolicy
}

// BMPPolicy says what a station is told of.
type BMPPolicy string

// The views a station can have: what the peers sent, what of it was accepted, the routes in use, and all three.
const (
	BMPPre   BMPPolicy = "pre"
	BMPPost  BMPPolicy = "post"
	BMPLocal BMPPolicy = "local"
	BMPAll   BMPPolicy = "all"
)

// MRT is a file the table is dumped to (RFC 6396).
type MRT struct {
	File     string        // absolute, replaced at every dump; empty: none
	Interval time.Duration // between dumps
}

// defaultBMPPort is the one most stations listen on; RFC 7854 has none assigned.
const defaultBMPPort = 11019

// stationFields are the keys of an element of bgp.bmp.
var stationFields = []field[BMPStation]{
	{"address", "", put(func(s *BMPStation) *netip.AddrPort { return &s.Address }, needed(parseStation, "such as 192.0.2.9:11019"))},
	{"policy", string(BMPPre), put(func(s *BMPStation) *BMPPolicy { return &s.Policy }, parseChoice(BMPPre, BMPPost, BMPLocal, BMPAll))},
}

// parseStation accepts an address with or without a port.
var parseStation = parseServer(defaultBMPPort, "192.0.2.9:11019 or '[fd00::9]:11019'")

func (d *draft) setStations(l *layers, r *report) {
	seen := map[netip.AddrPort]string{}
	for i, v := range l.list("bgp.bmp", r, "") {
		path := fmt.Sprintf("bgp.bmp[%d]", i)
		values, ok := v.(map[string]any)
		if text, scalar := v.(string); scalar {
			values, ok = map[string]any{"address": text}, true
		}
		if !ok {
			continue
		}
		before := len(r.errs)
		var s BMPStation
		setEntry(stationFields, &s, path, values, r)
		if len(r.errs) > before {
			continue
		}
		if first, twice := seen[s.Address]; twice {
			r.add(path+".address", fmt.Sprintf("%s is also %s", s.Address, first), "one connection to each station")
			continue
		}
		seen[s.Address] = path
		d.BGP.BMP = append(d.BGP.BMP, s)
	}
}

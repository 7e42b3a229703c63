package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Announce is what all announcements of this host carry.
type Announce struct {
	Communities      []uint32         // RFC 1997, in the order of the file
	LargeCommunities []LargeCommunity // in the order of the file
}

// LargeCommunity is an RFC 8092 community.
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

// String is the form the file has.
func (l LargeCommunity) String() string { return fmt.Sprintf("%d:%d:%d", l.Global, l.Local1, l.Local2) }

// maxCommunities keeps an UPDATE of one prefix well within the 4096 octets of a message.
const maxCommunities = 64

// parseCommunity accepts two numbers of 16 bits. What is reserved has effects of its own on a router, up to discarding the
// traffic.
func parseCommunity(text string) (uint32, error) {
	parts, ok := numbers(text, 2, 16)
	if !ok {
		return 0, &problem{fmt.Sprintf("%q is not a community", text), "two numbers of 0 to 65535, such as 65001:100"}
	}
	if parts[0] == 0 || parts[0] == 65535 {
		return 0, &problem{fmt.Sprintf("community %s is of a reserved range (RFC 1997)", text), "begin it with an AS number of yours"}
	}
	return parts[0]<<16 | parts[1], nil
}

// parseLargeCommunity accepts three numbers of 32 bits, the first of them an AS number.
func parseLargeCommunity(text string) (LargeCommunity, error) {
	parts, ok := numbers(text, 3, 32)
	if !ok {
		return LargeCommunity{}, &problem{fmt.Sprintf("%q is not a large community", text), "three numbers of 0 to 4294967295, such as 65001:1:2"}
	}
	if why, no := reserved[parts[0]]; no {
		return LargeCommunity{}, &problem{fmt.Sprintf("large community %s begins with a reserved AS number (%s)", text, why), "begin it with an AS number of yours"}
	}
	return LargeCommunity{parts[0], parts[1], parts[2]}, nil
}

// numbers splits n numbers of so many bits at their colons.
func numbers(text string, n, bits int) ([]uint32, bool) {
	words := strings.Split(text, ":")
	if len(words) != n {
		return nil, false
	}
	out := make([]uint32, n)
	for i, w := range words {
		v, err := strconv.ParseUint(w, 10, bits)
		if err != nil {
			return nil, false
		}
		out[i] = uint32(v)
	}
	return out, true
}

func (d *draft) setAnnounce(l *layers, r *report) {
	d.Announce.Communities = communities("announce.communities", l, r, parseCommunity)
	d.Announce.LargeCommunities = communities("announce.large_communities", l, r, parseLargeCommunity)
}

func communities[C comparable](key string, l *layers, r *report, parse func(string) (C, error)) []C {
	values := l.list(key, r, "")
	if len(values) > maxCommunities {
		r.add(key, fmt.Sprintf("%d communities", len(values)), fmt.Sprintf("at most %d", maxCommunities))
		return nil
	}
	var list []C
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			continue
		}
		path := fmt.Sprintf("%s[%d]", key, i)
		c, err := parse(text)
		switch {
		case err != nil:
			r.addErr(path, "", err)
		case slices.Contains(list, c):
			r.add(path, text+" is given twice", "remove one")
		default:
			list = append(list, c)
		}
	}
	return list
}

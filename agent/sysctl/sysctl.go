// Package sysctl turns on and watches the kernel settings that a host needs to forward its containers' packets.
package sysctl

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const root = "/proc/sys"

const (
	forwarding4 = "net.ipv4.ip_forward"
	forwarding6 = "net.ipv6.conf.all.forwarding"
)

// EnableForwarding turns forwarding on for the wanted families where it is off. With IPv6 forwarding the kernel stops
// listening to router advertisements unless accept_ra is 2 on that link: a host that takes its own default route from
// them must set that.
func EnableForwarding(ipv4, ipv6 bool) error {
	for _, key := range wanted(ipv4, ipv6) {
		if check(key) == nil {
			continue
		}
		if err := os.WriteFile(file(key), []byte("1\n"), 0); err != nil {
			return fmt.Errorf("turn on %s: %w (set it by sysctl.d, or manage_sysctls: false)", key, err)
		}
	}
	return nil
}

// CheckForwarding names a family's setting that is off.
func CheckForwarding(ipv4, ipv6 bool) error {
	for _, key := range wanted(ipv4, ipv6) {
		if err := check(key); err != nil {
			return err
		}
	}
	return nil
}

// StrictReversePath names those of the links whose IPv4 packets the kernel drops if it would not answer by the same link. Where
// two routers both lead to a host, the other one may well deliver.
func StrictReversePath(links []string) []string {
	all, _ := reversePath("all")
	var problems []string
	for _, link := range links {
		// The kernel takes the larger number of the two, though 1 is strict and 2 loose.
		const strict = 1
		if own, ok := reversePath(link); ok && max(all, own) == strict {
			problems = append(problems, fmt.Sprintf("net.ipv4.conf.%s.rp_filter is %d and that of all %d: packets that come by %s while the route back "+
				"is by another router are dropped, set that of %s to 2", link, own, all, link, link))
		}
	}
	return problems
}

// reversePath is a link's rp_filter. There is none of a link that has gone.
func reversePath(link string) (n int, ok bool) {
	// The link's name as a part of the path: it may have dots.
	value, err := os.ReadFile(filepath.Join(root, "net/ipv4/conf", link, "rp_filter"))
	if err != nil {
		return 0, false
	}
	n, err = strconv.Atoi(string(bytes.TrimSpace(value)))
	return n, err == nil
}

func wanted(ipv4, ipv6 bool) []string {
	var keys []string
	if ipv4 {
		keys = append(keys, forwarding4)
	}
	if ipv6 {
		keys = append(keys, forwarding6)
	}
	return keys
}

func check(key string) error {
	value, err := os.ReadFile(file(key))
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	if v := bytes.TrimSpace(value); !bytes.Equal(v, []byte("1")) {
		return fmt.Errorf("%s is %s: the kernel does not forward, set it to 1", key, v)
	}
	return nil
}

func file(key string) string { return filepath.Join(root, strings.ReplaceAll(key, ".", "/")) }

// Package sysctl turns on and watches the kernel settings that a host needs to forward its containers' packets.
package sysctl

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
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

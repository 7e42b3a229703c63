// Package configtest checks router configurations with the routers' own parsers.
package configtest

import (
	"os/exec"
	"strings"
	"testing"
)

// notForBGP are commands of frr.conf that bgpd leaves to others.
var notForBGP = []string{"service integrated-vtysh-config", "no zebra nexthop kernel enable", "ip forwarding", "ipv6 forwarding"}

// FRR fails the test unless vtysh knows every command of the file, and bgpd carries each out. What is between
// "interface" and "exit" is zebra's and is checked by vtysh only.
func FRR(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("vtysh", "-C", "-f", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("vtysh -C: %v\n%s", err, out)
	}
	out, err := exec.Command("/usr/lib/frr/bgpd", "-C", "-f", path).CombinedOutput()
	if err != nil {
		t.Errorf("bgpd -C: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		_, command, unknown := strings.Cut(line, "No such command on config line")
		if unknown && isForOthers(command) {
			continue
		}
		if unknown || strings.Contains(line, "on config line") || strings.Contains(line, "%") {
			t.Errorf("bgpd -C: %s", line)
		}
	}
}

func isForOthers(line string) bool {
	_, command, _ := strings.Cut(line, ": ")
	command = strings.TrimSpace(command)
	for _, c := range notForBGP {
		if command == c {
			return true
		}
	}
	return strings.HasPrefix(command, "ip address ") || strings.HasPrefix(command, "ipv6 address ")
}

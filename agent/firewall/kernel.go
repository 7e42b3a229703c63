package firewall

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func open(home *os.File) (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(home.Fd())))
}

// absent is what read returns while there is no table.
const absent = "absent"

// read describes the table by its chains, its sets and the handles of its rules, which the kernel never gives twice: whatever is taken out, put in or
// replaced shows. Counters do not.
func read(home *os.File) (string, error) {
	conn, err := open(home)
	if err != nil {
		return "", err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	var b strings.Builder
	for _, c := range chains {
		if c.Table.Name != TableName {
			continue
		}
		if c.Hooknum == nil || c.Priority == nil || c.Policy == nil {
			return "", fmt.Errorf("chain %s is at no hook", c.Name)
		}
		fmt.Fprintf(&b, "chain %s at %d, %d, policy %d:", c.Name, *c.Hooknum, *c.Priority, *c.Policy)
		rules, err := conn.GetRules(ourTable(), c)
		if err != nil {
			return "", fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		for _, r := range rules {
			fmt.Fprintf(&b, " %d", r.Handle)
		}
		b.WriteByte('\n')
	}
	if b.Len() == 0 {
		return absent, nil
	}
	sets, err := conn.GetSets(ourTable())
	if err != nil {
		return "", fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return "", fmt.Errorf("list elements of %s: %w", s.Name, err)
		}
		fmt.Fprintf(&b, "set %s", s.Name)
		for _, e := range elements {
			fmt.Fprintf(&b, " %x %t", e.Key, e.IntervalEnd)
		}
		b.WriteByte('\n')
	}
	return b.String(), nil
}

// remove deletes the table. One that is not there is success.
func remove(home *os.File) error {
	conn, err := open(home)
	if err != nil {
		return err
	}
	conn.DelTable(ourTable())
	if err := conn.Flush(); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

type counts struct{ packets, bytes uint64 }

// readCounters returns the table's counters by name; none without a table.
func readCounters(home *os.File) (map[string]counts, error) {
	conn, err := open(home)
	if err != nil {
		return nil, err
	}
	objects, err := conn.GetObjects(ourTable())
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	all := make(map[string]counts)
	for _, o := range objects {
		if c, ok := o.(*nftables.CounterObj); ok {
			all[c.Name] = counts{c.Packets, c.Bytes}
		}
	}
	return all, nil
}

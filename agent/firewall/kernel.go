package firewall

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

func open(home *os.File) (*nftables.Conn, error) {
	return nftables.New(nftables.WithNetNSFd(int(home.Fd())))
}

// image describes a table.
type image struct {
	shape   string // its chains, the numbers of their rules, its sets and what is in them; "" without a table
	handles string // those of its rules: the kernel gives none twice, so whatever is put in, taken out or replaced shows
}

// read describes the table as it is. Counters do not show.
func read(home *os.File) (image, error) {
	conn, err := open(home)
	if err != nil {
		return image{}, err
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return image{}, fmt.Errorf("list chains: %w", err)
	}
	var now image
	for _, c := range chains {
		if c.Table.Name != TableName {
			continue
		}
		rules, err := conn.GetRules(ourTable(), c)
		if err != nil {
			return image{}, fmt.Errorf("list rules of %s: %w", c.Name, err)
		}
		now.shape += describeChain(c, len(rules))
		for _, r := range rules {
			now.handles += fmt.Sprintf("%d ", r.Handle)
		}
	}
	if now.shape == "" {
		return now, nil
	}
	sets, err := conn.GetSets(ourTable())
	if err != nil {
		return image{}, fmt.Errorf("list sets: %w", err)
	}
	for _, s := range sets {
		elements, err := conn.GetSetElements(s)
		if err != nil {
			return image{}, fmt.Errorf("list elements of %s: %w", s.Name, err)
		}
		now.shape += describeSet(s.Name, elements)
	}
	return now, nil
}

func describeChain(c *nftables.Chain, rules int) string {
	if c.Hooknum == nil || c.Priority == nil || c.Policy == nil {
		return fmt.Sprintf("chain %s: %d rules\n", c.Name, rules)
	}
	return fmt.Sprintf("chain %s at hook %d, priority %d, policy %d: %d rules\n", c.Name, *c.Hooknum, *c.Priority, *c.Policy, rules)
}

func describeSet(name string, elements []nftables.SetElement) string {
	var all []string
	for _, e := range elements {
		all = append(all, fmt.Sprintf("%x %t", e.Key, e.IntervalEnd))
	}
	slices.Sort(all)
	return fmt.Sprintf("set %s: %s\n", name, strings.Join(all, ", "))
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

package agent

import (
	"fmt"
	"strings"
)

// alias is what a host link says of itself in its ifalias, so that the kernel is the record of who is attached:
//
//	hostfabric <container ID>/<interface> <owner>
type alias struct {
	Key   Key
	Owner string
}

const aliasPrefix = "hostfabric"

func (a alias) String() string { return fmt.Sprintf("%s %s %s", aliasPrefix, a.Key, a.Owner) }

func parseAlias(s string) (alias, error) {
	fields := strings.SplitN(s, " ", 3)
	if len(fields) != 3 || fields[0] != aliasPrefix {
		return alias{}, fmt.Errorf("link alias %q: not one of ours", s)
	}
	id, iface, ok := strings.Cut(fields[1], "/")
	key := Key{ContainerID: id, Interface: iface}
	if !ok || key.Validate() != nil {
		return alias{}, fmt.Errorf("link alias %q: no attachment key", s)
	}
	return alias{Key: key, Owner: fields[2]}, nil
}

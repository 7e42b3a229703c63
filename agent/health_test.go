package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/routes"
)

// failures are an owner's refused routes.
type failures map[routes.Owner][]error

func (f failures) Failures(of routes.Owner) []routes.Status {
	var all []routes.Status
	for _, err := range f[of] {
		r := routes.Route{Prefix: netip.MustParsePrefix("10.64.0.7/32")}
		all = append(all, routes.Status{Owner: of, Route: r, State: routes.Failed, Err: fmt.Errorf("install: %w", err)})
	}
	return all
}

func TestCheckRoutes(t *testing.T) {
	for name, tc := range map[string]struct {
		table failures
		bad   bool
	}{
		"nothing refused":             {nil, false},
		"a container that died":       {failures{routes.Endpoints: {unix.ENODEV, unix.ENETDOWN, errors.New("no such link")}}, false},
		"no memory":                   {failures{routes.Endpoints: {unix.ENODEV, unix.ENOBUFS}}, true},
		"no privileges":               {failures{routes.Endpoints: {unix.EPERM}}, true},
		"routes that the fabric told": {failures{routes.Fabric: {unix.ENOMEM}}, false},
	} {
		err := agent.CheckRoutes(tc.table)
		if (err != nil) != tc.bad || tc.bad && !strings.Contains(err.Error(), "10.64.0.7/32") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

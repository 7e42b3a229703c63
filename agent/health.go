package agent

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hostfabric/hostfabric/routes"
)

// unwell are refusals that are about the kernel or this process, and not about the one route: no container would get one.
var unwell = []error{unix.EPERM, unix.EACCES, unix.ENOMEM, unix.ENOBUFS, unix.ENOSPC, unix.EMFILE, unix.ENFILE}

// CheckRoutes says why the kernel takes no routes to containers. One that is refused because its container has just died is
// no reason.
func CheckRoutes(table interface {
	Failures(of routes.Owner) []routes.Status
}) error {
	for _, f := range table.Failures(routes.Endpoints) {
		for _, e := range unwell {
			if errors.Is(f.Err, e) {
				return fmt.Errorf("the kernel refuses routes to containers, such as %s: %w", f.Route.Prefix, f.Err)
			}
		}
	}
	return nil
}

package server

import "runtime/debug"

// LibraryVersion is the version of GoBGP in this binary.
func LibraryVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/osrg/gobgp/v3" {
			return dep.Version
		}
	}
	return "unknown"
}

package bfd

import "testing"

func TestPathFailed(t *testing.T) {
	const pathDown Diagnostic = 5
	for _, tc := range []struct {
		local, remote State
		why, theirs   Diagnostic
		want          bool
	}{
		{Down, Up, DetectionTimeExpired, NoDiagnostic, true},
		{Down, Down, DetectionTimeExpired, DetectionTimeExpired, true},
		{Down, Down, NeighborSignaledDown, DetectionTimeExpired, true}, // it no longer hears us
		{Down, Down, NeighborSignaledDown, pathDown, true},
		{Down, Down, NeighborSignaledDown, NoDiagnostic, false},         // begun anew
		{Down, Down, NeighborSignaledDown, NeighborSignaledDown, false}, // likewise, by FRR
		{Down, AdminDown, NeighborSignaledDown, AdministrativelyDown, false},
		{Down, AdminDown, NeighborSignaledDown, DetectionTimeExpired, false},
		{Down, Down, NoDiagnostic, NoDiagnostic, false}, // not up yet
		{AdminDown, Down, AdministrativelyDown, DetectionTimeExpired, false},
		{Init, Down, DetectionTimeExpired, DetectionTimeExpired, false},
		{Up, Up, DetectionTimeExpired, DetectionTimeExpired, false},
	} {
		s := Status{State: tc.local, RemoteState: tc.remote, Diagnostic: tc.why, RemoteDiagnostic: tc.theirs}
		if got := s.PathFailed(); got != tc.want {
			t.Errorf("%s (%s), the peer %s (%s): %t", tc.local, tc.why, tc.remote, tc.theirs, got)
		}
	}
}

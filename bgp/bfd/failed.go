package bfd

// PathFailed reports whether the session is Down because packets no longer arrive, here or at the peer. One that its peer has
// closed or begun anew is Down too, and says nothing of the path: FRR 8.4 begins it anew whenever the BGP session beside it
// comes up (RFC 5882 section 4.2 has AdminDown be no failure; this is the same without the word).
func (s Status) PathFailed() bool {
	if s.State != Down {
		return false
	}
	if s.Diagnostic != NeighborSignaledDown {
		return s.Diagnostic == DetectionTimeExpired
	}
	switch s.RemoteDiagnostic {
	case NoDiagnostic, NeighborSignaledDown, AdministrativelyDown:
		return false
	}
	return s.RemoteState == Down
}

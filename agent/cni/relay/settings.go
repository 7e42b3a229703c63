package relay

import (
	"strconv"
	"strings"
	"time"
)

// Settings are the keys of the network config that concern the way to the agent.
type Settings struct {
	CNIVersion string // "" if the config has none
	Socket     string
	Spool      Spool
	Timeout    time.Duration
}

// ParseSettings finds them in a network config. It reads only as much JSON as that takes: whether the rest is sound
// is for the agent to say. The error is an *Error, and the version is set beside it if it could be read.
func ParseSettings(config []byte) (Settings, error) {
	s := Settings{Socket: DefaultSocket, Spool: DefaultSpool, Timeout: DefaultTimeout}
	values, err := topLevelStrings(config, "cniVersion", "socket", "spool", "timeout")
	s.CNIVersion = values["cniVersion"]
	if err != nil {
		return s, err
	}
	if v, ok := values["socket"]; ok {
		// The kernel's sun_path has 108 bytes with the final NUL.
		if !absolute(v) || len(v) > 107 {
			return s, configError("socket", "want an absolute path of at most 107 bytes, have "+quote(v))
		}
		s.Socket = v
	}
	if v, ok := values["spool"]; ok {
		if !absolute(v) {
			return s, configError("spool", "want an absolute path, have "+quote(v))
		}
		s.Spool = Spool(v)
	}
	if v, ok := values["timeout"]; ok {
		d, err := time.ParseDuration(v)
		if err != nil || d <= 0 || d > MaxTimeout {
			return s, configError("timeout", `want a duration above 0 and up to 10m, such as "30s", have `+quote(v))
		}
		s.Timeout = d
	}
	return s, nil
}

func absolute(path string) bool {
	return strings.HasPrefix(path, "/") && !strings.ContainsRune(path, 0)
}

func configError(key, details string) error {
	return &Error{Code: CodeInvalidConfig, Msg: "invalid network config", Details: key + ": " + details}
}

func decodeError(at int, details string) error {
	return &Error{Code: CodeDecode, Msg: "network config is not JSON", Details: details + " at byte " + strconv.Itoa(at)}
}

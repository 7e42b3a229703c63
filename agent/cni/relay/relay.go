// Package relay is what the CNI shim (cmd/hostfabric-cni) and the agent's CNI front-end (agent/cni) share: the
// request and its checks, the wire format between them, the error form, and the spool of DELs.
//
// The shim is started once for every container that comes or goes, so what this package imports is paid each time.
// It keeps to os, syscall and the small text packages: encoding/json costs 0.16 ms of a 1.3 ms start, net 0.12 ms
// and the CNI types 0.3 ms.
package relay

import (
	"strings"
	"time"
)

const (
	// DefaultSocket is where the agent listens unless the network config's "socket" says otherwise.
	DefaultSocket = "/run/hostfabric/cni.sock"
	// DefaultSpool holds the DELs of the time without an agent unless the network config's "spool" says otherwise.
	DefaultSpool = "/var/lib/hostfabric/cni-spool"
	// DefaultTimeout is the shim's patience unless the network config's "timeout" says otherwise. containerd, CRI-O
	// and podman put no limit of their own on a plugin; the kubelet gives a whole RunPodSandbox four minutes (twice
	// its runtimeRequestTimeout). 30 s outlasts an agent's restart and leaves the runtime time to clean up.
	DefaultTimeout = 30 * time.Second
	// MaxTimeout bounds the network config's "timeout".
	MaxTimeout = 10 * time.Minute

	// MaxConfig is the size in bytes of the largest network config accepted.
	MaxConfig = 1 << 20

	maxContainerID = 128  // the agent's own bound; with an interface name it makes a file name (NAME_MAX 255)
	maxInterface   = 15   // IFNAMSIZ less the final NUL
	maxNetns       = 4095 // PATH_MAX less the final NUL
	maxArgs        = 64 << 10
)

// The CNI verbs.
const (
	Add     = "ADD"
	Del     = "DEL"
	Check   = "CHECK"
	GC      = "GC"
	Status  = "STATUS"
	Version = "VERSION"
)

// LatestVersion of the CNI specification we speak, and the one errors carry while the runtime's is not known.
const LatestVersion = "1.1.0"

// SupportedVersions of the CNI specification, oldest first.
func SupportedVersions() []string { return []string{"0.3.1", "0.4.0", "1.0.0", LatestVersion} }

// Request is one call of a CNI plugin: its environment, and its network config as it came on stdin.
type Request struct {
	Command     string
	ContainerID string
	Netns       string
	IfName      string
	Args        string
	Patience    time.Duration // how long the shim waits for the answer
	Config      []byte
}

// Validate checks the environment's part; the error is an *Error that names the variables at fault.
func (r *Request) Validate() error {
	if err := ValidateCommand(r.Command); err != nil {
		return err
	}
	if r.Command == GC || r.Command == Status || r.Command == Version {
		return nil
	}
	if missing := r.missing(); len(missing) > 0 {
		return envError(strings.Join(missing, ", ")+" missing", "CNI_COMMAND="+r.Command+" needs it")
	}
	if err := ValidateKey(Key{r.ContainerID, r.IfName}); err != nil {
		return err
	}
	if n := r.Netns; n != "" && (n[0] != '/' || len(n) > maxNetns || strings.ContainsRune(n, 0)) {
		return envError("invalid CNI_NETNS", "want the absolute path of a network namespace, have "+quote(n))
	}
	if len(r.Args) > maxArgs {
		return envError("invalid CNI_ARGS", "longer than 64 KiB")
	}
	return nil
}

func (r *Request) missing() []string {
	var missing []string
	if r.ContainerID == "" {
		missing = append(missing, "CNI_CONTAINERID")
	}
	if r.IfName == "" {
		missing = append(missing, "CNI_IFNAME")
	}
	if r.Netns == "" && r.Command != Del {
		missing = append(missing, "CNI_NETNS")
	}
	return missing
}

// ValidateCommand accepts the six CNI verbs.
func ValidateCommand(command string) error {
	switch command {
	case Add, Del, Check, GC, Status, Version:
		return nil
	case "":
		return envError("CNI_COMMAND missing", "a container runtime sets it to ADD, DEL, CHECK, GC, STATUS or VERSION")
	}
	return envError("invalid CNI_COMMAND", "want ADD, DEL, CHECK, GC, STATUS or VERSION, have "+quote(command))
}

// ValidateKey checks an attachment's two names; the error is an *Error that says which variable is at fault.
func ValidateKey(k Key) error {
	if !validContainerID(k.ContainerID) {
		return envError("invalid CNI_CONTAINERID", "want 1 to 128 of a-z A-Z 0-9 _ . - and a letter or digit first, have "+quote(k.ContainerID))
	}
	if !validInterface(k.IfName) {
		return envError("invalid CNI_IFNAME", "want 1 to 15 printable characters, no space / : or %, and not lo, have "+quote(k.IfName))
	}
	return nil
}

func validContainerID(id string) bool {
	if id == "" || len(id) > maxContainerID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letter && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return true
}

// validInterface is the kernel's own rule (dev_valid_name) and a little more: '%' would be a name template there, and
// every namespace has its lo.
func validInterface(name string) bool {
	if name == "" || len(name) > maxInterface || name == "." || name == ".." || name == "lo" {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == '/' || c == ':' || c == '%' {
			return false
		}
	}
	return true
}

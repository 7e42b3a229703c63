// hostfabric-cni is the CNI plugin binary: it hands the runtime's request to the agent and prints the answer. All
// that CNI means is in the agent (agent/cni); what is here is for the time when there is no agent.
package main

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

const (
	firstRetry = 10 * time.Millisecond
	lastRetry  = 250 * time.Millisecond
	// statusPatience is short: a runtime asks again in seconds, and a hung agent is no ready one.
	statusPatience = 5 * time.Second
)

func main() {
	os.Exit(run(os.Stdin, os.Stdout, os.Stderr))
}

// run answers the one request of this process and returns its exit code.
func run(stdin io.Reader, stdout, stderr io.Writer) int {
	req := relay.Request{
		Command:     os.Getenv("CNI_COMMAND"),
		ContainerID: os.Getenv("CNI_CONTAINERID"),
		Netns:       os.Getenv("CNI_NETNS"),
		IfName:      os.Getenv("CNI_IFNAME"),
		Args:        os.Getenv("CNI_ARGS"),
	}
	if req.Command == "" {
		about := "hostfabric-cni is started by a container runtime; it speaks CNI 0.3.1 to " + relay.LatestVersion + "\n"
		_, _ = io.WriteString(stderr, about) // the error on stdout is what counts
	}
	version := relay.LatestVersion
	resp, err := answer(&req, stdin, &version)
	if err != nil {
		resp = relay.Response{Failed: true, Stdout: asError(err).JSON(version)}
	}
	if _, err := stdout.Write(resp.Stdout); err != nil || resp.Failed {
		return 1
	}
	return 0
}

// answer sets version to the network config's as soon as it is known.
func answer(req *relay.Request, stdin io.Reader, version *string) (relay.Response, error) {
	if err := req.Validate(); err != nil {
		return relay.Response{}, err
	}
	var err error
	if req.Config, err = readConfig(stdin); err != nil {
		return relay.Response{}, err
	}
	settings, err := relay.ParseSettings(req.Config)
	if settings.CNIVersion != "" {
		*version = settings.CNIVersion
	}
	if req.Command == relay.Version { // answered whatever else stdin holds: the runtime asks before it configures
		return relay.Response{Stdout: relay.VersionJSON(*version)}, nil
	}
	if err != nil {
		return relay.Response{}, err
	}
	return send(req, settings)
}

func readConfig(stdin io.Reader) ([]byte, error) {
	config, err := io.ReadAll(io.LimitReader(stdin, relay.MaxConfig+1))
	if err != nil {
		return nil, &relay.Error{Code: relay.CodeIO, Msg: "cannot read the network config from stdin", Details: err.Error()}
	}
	if len(config) > relay.MaxConfig {
		return nil, &relay.Error{Code: relay.CodeDecode, Msg: "network config too large", Details: "more than 1 MiB on stdin"}
	}
	return config, nil
}

func send(req *relay.Request, s relay.Settings) (relay.Response, error) {
	req.Patience = s.Timeout
	switch req.Command {
	case relay.Add:
		resp, err := callUntil(s.Socket, req, time.Now().Add(s.Timeout))
		return resp, unanswered(err, s.Socket, relay.CodeTryAgain)
	case relay.Del:
		resp, err := relay.Call(s.Socket, req)
		if err != nil {
			return relay.Response{}, spool(req, s.Spool, err)
		}
		return resp, nil
	case relay.Status:
		req.Patience = min(s.Timeout, statusPatience)
		resp, err := relay.Call(s.Socket, req)
		return resp, unanswered(err, s.Socket, relay.CodeNotAvailable)
	default:
		resp, err := relay.Call(s.Socket, req)
		return resp, unanswered(err, s.Socket, relay.CodeTryAgain)
	}
}

// callUntil asks again while there is no agent. An ADD may be sent twice: it is idempotent by its key.
func callUntil(socket string, req *relay.Request, deadline time.Time) (relay.Response, error) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		req.Patience = time.Until(deadline)
		resp, err := relay.Call(socket, req)
		if !errors.Is(err, relay.ErrDown) || time.Until(deadline) <= wait {
			return resp, err
		}
		time.Sleep(wait)
	}
}

// spool leaves a DEL that the agent did not answer for it to do later: a container must be able to go at any time.
func spool(req *relay.Request, dir relay.Spool, why error) error {
	err := dir.Add(relay.Key{ContainerID: req.ContainerID, IfName: req.IfName})
	if err == nil {
		return nil
	}
	return &relay.Error{
		Code:    relay.CodeIO,
		Msg:     "cannot reach the hostfabric agent nor keep the DEL for it",
		Details: why.Error() + "; " + err.Error(),
	}
}

// unanswered puts a failed call in CNI's terms; code is for the failures that time may heal.
func unanswered(err error, socket string, code int) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, relay.ErrDown):
		return &relay.Error{Code: code, Msg: "the hostfabric agent is not running", Details: socket + ": " + err.Error()}
	case errors.Is(err, relay.ErrTimeout):
		return &relay.Error{Code: code, Msg: "the hostfabric agent does not answer", Details: socket + ": " + err.Error()}
	}
	return &relay.Error{Code: relay.CodeIO, Msg: "cannot talk to the hostfabric agent", Details: socket + ": " + err.Error()}
}

func asError(err error) *relay.Error {
	if e, ok := errors.AsType[*relay.Error](err); ok {
		return e
	}
	return &relay.Error{Code: relay.CodeInternal, Msg: "hostfabric-cni failed", Details: err.Error()}
}

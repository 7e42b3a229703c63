package cni

import (
	"context"
	"errors"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// problems puts the agent's failures in CNI's terms, the first that fits.
var problems = []struct {
	is   error
	code int
	msg  string
}{
	{agent.ErrNotFound, relay.CodeUnknownContainer, "container is not attached"},
	{agent.ErrNetns, relay.CodeInvalidEnvironment, "invalid CNI_NETNS"},
	{agent.ErrInvalid, relay.CodeInvalidConfig, "agent refuses the request"},
	{agent.ErrLinkExists, relay.CodeLinkExists, "CNI_IFNAME exists in the container"},
	{agent.ErrSourceAway, relay.CodeTryAgain, "no free address, and the source of more cannot be reached"},
	{agent.ErrExhausted, relay.CodeExhausted, "no free address"},
	{agent.ErrAddressInUse, relay.CodeAddressInUse, "wanted address is in use"},
	{agent.ErrNotInBlock, relay.CodeNotInBlock, "wanted address is outside this host's blocks"},
	{agent.ErrMismatch, relay.CodeMismatch, "container is attached with other parameters"},
	{agent.ErrStorage, relay.CodeIO, "agent cannot write its leases"},
	{agent.ErrNotReady, relay.CodeTryAgain, "agent is not ready"},
	{agent.ErrDraining, relay.CodeTryAgain, "host is drained"},
	{context.DeadlineExceeded, relay.CodeTryAgain, "agent did not finish in time"},
	{context.Canceled, relay.CodeTryAgain, "request was cancelled"},
}

// problem gives nil for nil, and otherwise a *relay.Error.
func problem(err error) error {
	return problemOr(err, relay.CodeInternal, "agent failed")
}

// checkProblem is problem for CHECK, where a failure of no other kind is a difference found.
func checkProblem(err error) error {
	return problemOr(err, relay.CodeNotAsAttached, "attachment is not as ADD left it")
}

func problemOr(err error, code int, msg string) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*relay.Error](err); ok {
		return e
	}
	for _, p := range problems {
		if errors.Is(err, p.is) {
			code, msg = p.code, p.msg
			break
		}
	}
	return &relay.Error{Code: code, Msg: msg, Details: err.Error()}
}

// asError is for what must be printed, whatever it is.
func asError(err error) *relay.Error {
	e, _ := errors.AsType[*relay.Error](problem(err))
	return e
}

func configError(key, details string) error {
	return &relay.Error{Code: relay.CodeInvalidConfig, Msg: "invalid network config", Details: key + ": " + details}
}

func unsupported(key, value string) error {
	return &relay.Error{Code: relay.CodeUnsupportedField, Msg: "unsupported field in network config", Details: key + ": " + value}
}

func ioError(msg string, err error) error {
	return &relay.Error{Code: relay.CodeIO, Msg: msg, Details: err.Error()}
}

package cni

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// knownArgs of CNI_ARGS are accepted whether IgnoreUnknown is set or not.
var knownArgs = []string{
	"IgnoreUnknown", "IP", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID",
}

func parseArgs(cniArgs string) (map[string]string, error) {
	args := map[string]string{}
	var unknown []string
	for pair := range strings.SplitSeq(cniArgs, ";") {
		if pair == "" {
			continue // a trailing semicolon
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return nil, argsError(fmt.Sprintf("%q is not KEY=VALUE", pair))
		}
		if !slices.Contains(knownArgs, k) {
			unknown = append(unknown, k)
		}
		args[k] = v
	}
	ignore := false
	switch v := strings.ToLower(args["IgnoreUnknown"]); v {
	case "1", "true":
		ignore = true
	case "", "0", "false":
	default:
		return nil, argsError(fmt.Sprintf("IgnoreUnknown: want 1, 0, true or false, have %q", v))
	}
	if len(unknown) > 0 && !ignore {
		return nil, argsError(fmt.Sprintf("unknown %s (IgnoreUnknown=1 would let them pass)", strings.Join(unknown, ", ")))
	}
	return args, nil
}

func argsError(details string) error {
	return &relay.Error{Code: relay.CodeInvalidEnvironment, Msg: "invalid CNI_ARGS", Details: details}
}

// parseAddresses takes addresses with or without a prefix length, which says nothing here: each is a /32 or /128.
func parseAddresses(texts []string, invalid func(details string) error) ([]netip.Addr, error) {
	var addrs []netip.Addr
	for _, text := range texts {
		a, err := parseAddress(strings.TrimSpace(text))
		if err != nil {
			return nil, invalid(fmt.Sprintf("%q is not a usable address: %v", text, err))
		}
		if slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return nil, invalid(fmt.Sprintf("%s: more than one address of its family", a))
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

func parseAddress(text string) (netip.Addr, error) {
	var a netip.Addr
	var err error
	if strings.Contains(text, "/") {
		var p netip.Prefix
		p, err = netip.ParsePrefix(text)
		a = p.Addr()
	} else {
		a, err = netip.ParseAddr(text)
	}
	if err != nil {
		return a, err
	}
	if a = a.Unmap(); a.Zone() != "" || !a.IsGlobalUnicast() {
		return a, fmt.Errorf("want a global unicast address")
	}
	return a, nil
}

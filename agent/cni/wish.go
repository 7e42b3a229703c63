package cni

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostfabric/hostfabric/agent"
	"github.com/hostfabric/hostfabric/agent/cni/relay"
)

// annotationPrefix begins the pod annotations that are ours. Runtimes pass annotations to networks that declare the capability
// io.kubernetes.cri.pod-annotations.
const annotationPrefix = "hostfabric.io/"

// annotations are all that there are, by what follows the prefix. Each sets its part of the request.
var annotations = map[string]func(r *agent.AttachRequest, value string) error{
	"pool": func(r *agent.AttachRequest, value string) error {
		r.Pool = value
		return agent.ValidatePool(value)
	},
	"addresses": func(r *agent.AttachRequest, value string) (err error) {
		r.Addresses, err = parseAddresses(strings.Split(value, ","), errors.New)
		return err
	},
	"family": func(r *agent.AttachRequest, value string) (err error) {
		r.Family, err = parseFamily(value)
		return err
	},
	"mtu": func(r *agent.AttachRequest, value string) (err error) {
		if r.MTU, err = strconv.Atoi(value); err != nil {
			return fmt.Errorf("%.16q is not a number", value)
		}
		return validateMTU(r.MTU)
	},
	"aliases": func(r *agent.AttachRequest, value string) error {
		r.Aliases = nil
		for alias := range strings.SplitSeq(value, ",") {
			r.Aliases = append(r.Aliases, strings.TrimSpace(alias))
		}
		return agent.Description{Aliases: r.Aliases}.Validate()
	},
	"name": func(r *agent.AttachRequest, value string) error {
		r.Name = value
		return agent.Description{Name: value}.Validate()
	},
	"labels": func(r *agent.AttachRequest, value string) error {
		for pair := range strings.SplitSeq(value, ",") {
			k, v, ok := strings.Cut(strings.TrimSpace(pair), "=")
			if !ok {
				return fmt.Errorf("%.64q is not KEY=VALUE", pair)
			}
			r.Labels[k] = v
		}
		return agent.Description{Labels: r.Labels}.Validate()
	},
}

// request is what a container is to get. What a pod says of itself goes before what its runtime says, and that before the
// network config, each thing by itself.
func (p plugin) request(cniArgs string) (agent.AttachRequest, error) {
	r := agent.AttachRequest{Pool: p.Pool, Family: p.Family, MTU: p.MTU}
	r.Labels = map[string]string{}
	maps.Copy(r.Labels, p.Labels)
	for _, l := range p.Args.CNI.Labels {
		r.Labels[l.Key] = l.Value
	}
	args, err := parseArgs(cniArgs)
	if err != nil {
		return r, err
	}
	if r.Addresses, err = p.addresses(args); err != nil {
		return r, err
	}
	r.Aliases = p.RuntimeConfig.Aliases.of(p.Name)
	if err := (agent.Description{Aliases: r.Aliases}).Validate(); err != nil {
		return r, configError("runtimeConfig.aliases", err.Error())
	}
	pod := agent.Description{Name: args["K8S_POD_NAME"]}
	if pod.Validate() == nil { // a longer one is a label only
		r.Name = pod.Name
	}
	if err := p.annotate(&r); err != nil {
		return r, err
	}
	for arg, label := range podLabels {
		if args[arg] != "" {
			r.Labels[label] = args[arg]
		}
	}
	return r, nil
}

// podLabels are what CNI_ARGS say of a pod, by the labels that the kubelet puts on its containers. They count before any other.
var podLabels = map[string]string{
	"K8S_POD_NAMESPACE": "io.kubernetes.pod.namespace",
	"K8S_POD_NAME":      "io.kubernetes.pod.name",
	"K8S_POD_UID":       "io.kubernetes.pod.uid",
}

// addresses finds the addresses that the runtime asks for: in the capability "ips", else in args.cni.ips, else in CNI_ARGS' IP,
// which a plugin must ignore beside the others (CONVENTIONS.md). At most one a family.
func (p plugin) addresses(args map[string]string) ([]netip.Addr, error) {
	switch {
	case len(p.RuntimeConfig.IPs) > 0:
		return parseAddresses(p.RuntimeConfig.IPs, func(d string) error { return configError("runtimeConfig.ips", d) })
	case len(p.Args.CNI.IPs) > 0:
		return parseAddresses(p.Args.CNI.IPs, func(d string) error { return configError("args.cni.ips", d) })
	case args["IP"] != "":
		return parseAddresses(strings.Split(args["IP"], ","), argsError)
	}
	return nil, nil
}

// annotate does as the pod's annotations say. One that we do not know is a misspelt one: a pod that runs otherwise than it says would
// be found out much later.
func (p plugin) annotate(r *agent.AttachRequest) error {
	for _, key := range slices.Sorted(maps.Keys(p.RuntimeConfig.Annotations)) {
		name, ours := strings.CutPrefix(key, annotationPrefix)
		if !ours {
			continue
		}
		set, known := annotations[name]
		if !known {
			return annotationError(key, "unknown; there are "+strings.Join(slices.Sorted(maps.Keys(annotations)), ", "))
		}
		if err := set(r, p.RuntimeConfig.Annotations[key]); err != nil {
			return annotationError(key, err.Error())
		}
	}
	return nil
}

func annotationError(key, details string) error {
	return &relay.Error{Code: relay.CodeInvalidConfig, Msg: "invalid pod annotation", Details: key + ": " + details}
}

package fabric

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

var agentConf = template.Must(template.New("agent").Parse(`# {{.Host.Name}} of lab {{.Plan.Name}}; written by hostfabric-lab.
asn: {{.Host.ASN}}
router_id: {{.Host.RouterID}}
host: {{.Host.Name}}
peers:
{{- range .Host.Links}}
  - { {{- if .Unnumbered}}interface: {{.Name}}, asn: external{{else}}address: {{.PeerAddr}}, asn: {{.PeerASN}}{{end}}, name: {{.Peer}}{{if $.Plan.Feed}}, max_prefixes: 2000000{{end}}}
{{- end}}
{{- if eq .Plan.Source "etcd"}}
source: etcd
etcd:
  endpoints: ["{{.Etcd}}"]
pools:
  - name: default
    prefixes:
{{- range .Plan.Space}}
      - "{{.}}"
{{- end}}
    block_ipv4: {{.Plan.BlockIPv4}}
{{- else}}
blocks:
{{- range $block := .Host.Blocks}}
  - {{with index $.Host.Pools $block}}{prefix: "{{$block}}", pool: {{.}}}{{else}}"{{$block}}"{{end}}
{{- end}}
{{- end}}
{{- if or .Plan.ShrinkAfter .Plan.Reconcile .Plan.Quarantine}}
ipam:
{{- if .Plan.Quarantine}}
  quarantine: {{.Plan.Quarantine}}
{{- end}}
{{- if .Plan.ShrinkAfter}}
  shrink_after: {{.Plan.ShrinkAfter}}
{{- end}}
{{- if .Plan.Reconcile}}
  reconcile: {{.Plan.Reconcile}}
{{- end}}
{{- end}}
fabric:
{{- range .Plan.Space}}
  - "{{.}}"
{{- end}}
{{- if .Plan.Feed}}
  - "{{.Feed}}"
{{- end}}
{{- if .Plan.Docker}}
ipam: {reconcile: 1s}
docker: {enabled: true, socket: {{.Plan.DockerPlugin .Host.Name}}, api: "unix://{{.Plan.DockerAPI .Host.Name}}"}
{{- end}}
{{- if .Plan.BFD}}
bfd: {enabled: true, interval: 100ms, multiplier: 3}
{{- end}}
metrics: {listen: "unix://{{.Dir}}/run/metrics.sock"}
{{- if .Plan.Sandboxes}}
sandboxes: {low: {{.Plan.Sandboxes}}, high: {{.Plan.Sandboxes}}}
{{- end}}
state_dir: {{.Dir}}/state
run_dir: {{.Dir}}/run
{{with index .Plan.Extra .Host.Name}}{{.}}{{end}}`))

// AgentConfig is the configuration file of a host's agent.
func (p Plan) AgentConfig(h Host) ([]byte, error) {
	var b bytes.Buffer
	err := agentConf.Execute(&b, struct {
		Plan Plan
		Host Host
		Dir  string
		Etcd string
		Feed netip.Prefix
	}{p, h, p.NodeDir(h.Name), p.etcd().Endpoint(), feed4})
	if err != nil {
		return nil, fmt.Errorf("configuration of host %s: %w", h.Name, err)
	}
	return b.Bytes(), nil
}

// DockerPlugin is the socket of a host's agent that a Docker daemon is to find at /run/docker/plugins.
func (p Plan) DockerPlugin(host string) string {
	return filepath.Join(p.NodeDir(host), "plugins", "hostfabric.sock")
}

// DockerAPI is the socket at which a host's agent expects Docker.
func (p Plan) DockerAPI(host string) string { return filepath.Join(p.NodeDir(host), "docker.sock") }

// agentName is the record and the log of an agent in its host's directory.
const agentName = "agent"

func (p Plan) startAgent(h Host, binary string) error {
	conf, err := p.AgentConfig(h)
	if err != nil {
		return err
	}
	dir := p.NodeDir(h.Name)
	for _, d := range []string{dir, filepath.Join(dir, "state"), filepath.Join(dir, "run")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("host %s: %w", h.Name, err)
		}
	}
	file := filepath.Join(dir, "hostfabric.yaml")
	if err := os.WriteFile(file, conf, 0o644); err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	_, err = daemon.Start(daemon.Spec{
		Name: agentName, Dir: dir, NS: h.NS, Env: p.mark(),
		Path: binary, Args: []string{"agent", "--config", file},
	})
	if err != nil {
		return fmt.Errorf("host %s: %w", h.Name, err)
	}
	return nil
}

// AgentPID is the process of a host's agent.
func (l *Lab) AgentPID(host string) (int, error) {
	p, err := daemon.Load(l.Plan.NodeDir(host), agentName)
	if err != nil {
		return 0, err
	}
	if !p.Alive() {
		return 0, fmt.Errorf("host %s: the agent has ended%s", host, l.tail(host, agentName))
	}
	return p.PID, nil
}

// StartAgent starts a host's agent again, after it ended.
func (l *Lab) StartAgent(host, binary string) error {
	for _, h := range l.Plan.AllHosts() {
		if h.Name == host {
			return l.Plan.startAgent(h, binary)
		}
	}
	return fmt.Errorf("lab %s has no host %q", l.Plan.Name, host)
}

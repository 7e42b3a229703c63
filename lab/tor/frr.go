package tor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"text/template"

	"github.com/hostfabric/hostfabric/lab/fabric/daemon"
)

// frrDir is where distributions put FRR's daemons.
const frrDir = "/usr/lib/frr"

// frrTemp is where FRR's daemons buffer their logs, in folders NAME.PID that a killed daemon leaves behind.
const frrTemp = "/var/tmp/frr"

type frrDriver struct{}

func (frrDriver) Check() error {
	for _, tool := range []string{filepath.Join(frrDir, "zebra"), filepath.Join(frrDir, "bgpd"), "vtysh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed: `apt-get install frr`, or take another --tor", filepath.Base(tool))
		}
	}
	if raw, err := os.ReadFile("/proc/self/setgroups"); err == nil && bytes.HasPrefix(raw, []byte("deny")) {
		return errors.New("FRR insists on changing to its own user, which a user namespace without real root forbids: run as root, or take --tor embedded or bird")
	}
	return nil
}

func (frrDriver) Attach(n Node) Tor { return newFRR(n) }

func (d frrDriver) Start(ctx context.Context, n Node) (Tor, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	f := newFRR(n)
	if err := f.clear(); err != nil {
		return nil, err
	}
	if err := f.configure(); err != nil {
		return nil, fmt.Errorf("router %s: configure FRR: %w", n.Name, err)
	}
	for _, name := range f.daemons {
		if err := f.run(ctx, name); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// RestartBGP restarts zebra too, as FRR's own watchdog does, and has it keep the kernel's routes for a while (-K). With bgpd alone
// FRR 8.4 drops what it kept too early: when a session comes up whose neighbour lacks the capability or sends the restart bit,
// as every FRR does in its first two minutes, or when those sessions that are up so far have told everything.
func (frrDriver) RestartBGP(ctx context.Context, n Node) error {
	f := newFRR(n)
	for _, name := range []string{"bgpd", "zebra"} {
		if err := f.kill(ctx, name); err != nil {
			return err
		}
	}
	if err := f.run(ctx, "zebra", "-K", "30"); err != nil {
		return err
	}
	return f.run(ctx, "bgpd")
}

func (f frr) run(ctx context.Context, name string, more ...string) error {
	if err := f.start(name, filepath.Join(frrDir, name), append(f.args(name), more...)...); err != nil {
		return err
	}
	return f.await(ctx, name+" to answer", func() bool {
		_, err := f.ask(ctx, name, "show version")
		return err == nil
	})
}

// args keeps everything of an instance in its own folder, and the vty off TCP.
func (f frr) args(name string) []string {
	in := func(file string) string { return filepath.Join(f.node.Dir, file) }
	args := []string{"-f", in(name + ".conf"), "-i", in(name + ".frr.pid"), "-z", in("zserv.api"), "--vty_socket", f.node.Dir, "-P", "0", "--log", "stdout", "--log-level", "notifications"}
	if name == "bfdd" {
		args = append(args, "--bfdctl", in("bfdd.sock"))
	}
	return args
}

// configure writes the files. The daemons run as user frr, and their folder must be theirs.
func (f frr) configure() error {
	uid, gid, err := frrUser()
	if err != nil {
		return err
	}
	if err := os.Chown(f.node.Dir, uid, gid); err != nil {
		return err
	}
	for name, tmpl := range map[string]*template.Template{"zebra.conf": zebraConf, "bgpd.conf": bgpdConf, "bfdd.conf": bfddConf} {
		var conf bytes.Buffer
		if err := tmpl.Execute(&conf, f.node); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(f.node.Dir, name), conf.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func frrUser() (uid, gid int, err error) {
	u, err := user.Lookup("frr")
	if err != nil {
		return 0, 0, fmt.Errorf("FRR's user: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("FRR's user: %w", err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("FRR's group: %w", err)
	}
	return uid, gid, nil
}

// zebra 8.4 loses ECMP legs after a carrier flap when it keeps nexthop objects in the kernel.
var zebraConf = template.Must(template.New("zebra.conf").Parse(`! {{.Name}}; written by hostfabric-lab.
frr defaults datacenter
hostname {{.Name}}
no zebra nexthop kernel enable
`))

// Graceful restart is left at FRR's default, helper mode: a host's routes survive the restart of its speaker. With Graceful
// its own restart is graceful too, towards neighbours below it: see RestartBGP.
var bgpdConf = template.Must(template.New("bgpd.conf").Parse(`! {{.Name}}; written by hostfabric-lab.
frr defaults datacenter
hostname {{.Name}}
router bgp {{.ASN}}
 bgp router-id {{.RouterID}}
 no bgp ebgp-requires-policy
 no bgp network import-check
 no bgp default ipv4-unicast
 bgp bestpath as-path multipath-relax
 timers bgp 3 9
{{- if eq .Restart "graceful"}}
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart select-defer-time 5
{{- else if eq .Restart "none"}}
 bgp graceful-restart-disable
{{- end}}
{{- range .Neighbors}}
{{- if .Unnumbered}}
 neighbor {{.Link}} interface v6only remote-as {{.ASN}}
{{- else}}
 neighbor {{.Address}} remote-as {{.ASN}}
{{- end}}
 neighbor {{.Peer}} description {{.Name}}
 neighbor {{.Peer}} timers connect 1
 neighbor {{.Peer}} advertisement-interval 0
{{- if and (eq $.Restart "graceful") .Passive}}
 neighbor {{.Peer}} graceful-restart
{{- end}}
{{- if .Passive}}
 neighbor {{.Peer}} passive
{{- end}}
{{- if .BFD}}
 neighbor {{.Peer}} bfd profile {{.Name}}
{{- end}}
{{- end}}
 address-family ipv4 unicast
  maximum-paths 64
{{- range .Networks}}{{if .Addr.Is4}}
  network {{.}}
{{- end}}{{end}}
{{- range .Neighbors}}
  neighbor {{.Peer}} activate
{{- if .DefaultOnly}}
  neighbor {{.Peer}} prefix-list DEFAULT4 out
{{- end}}
{{- end}}
 exit-address-family
{{- if .IPv6}}
 address-family ipv6 unicast
  maximum-paths 64
{{- range .Networks}}{{if .Addr.Is6}}
  network {{.}}
{{- end}}{{end}}
{{- range .Neighbors}}
  neighbor {{.Peer}} activate
{{- if .DefaultOnly}}
  neighbor {{.Peer}} prefix-list DEFAULT6 out
{{- end}}
{{- end}}
 exit-address-family
{{- end}}
{{- if .FiltersNeighbors}}
ip prefix-list DEFAULT4 seq 5 permit 0.0.0.0/0
ipv6 prefix-list DEFAULT6 seq 5 permit ::/0
{{- end}}
`))

// frr is a running FRR.
type frr struct{ processes }

func newFRR(n Node) frr {
	daemons := []string{"zebra", "bgpd"}
	if n.HasBFD() {
		daemons = []string{"zebra", "bfdd", "bgpd"}
	}
	return frr{processes{node: n, daemons: daemons}}
}

// Kill also removes the buffers that only a daemon in good health removes itself.
func (f frr) Kill() error {
	procs, err := f.load()
	if err != nil {
		return err
	}
	err = f.processes.Kill()
	for _, p := range procs {
		Forget(p)
	}
	return err
}

// Forget removes what a killed daemon of some router implementation leaves outside its folder.
func Forget(p daemon.Process) {
	if p.Command == "zebra" || p.Command == "bgpd" || p.Command == "bfdd" {
		_ = os.RemoveAll(filepath.Join(frrTemp, fmt.Sprintf("%s.%d", p.Command, p.PID))) // nothing is lost if it stays
		_ = os.Remove(frrTemp)                                                           // refused while others use it
	}
}

func (f frr) ask(ctx context.Context, from, command string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "vtysh", "--vty_socket", f.node.Dir, "-d", from, "-c", command)
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
			stderr = bytes.TrimSpace(ee.Stderr)
		}
		return nil, fmt.Errorf("router %s: vtysh %s: %w: %s", f.node.Name, command, err, stderr)
	}
	return out, nil
}

func (f frr) askJSON(ctx context.Context, command string, into any) error {
	out, err := f.ask(ctx, "bgpd", command)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("router %s: vtysh %s: %w", f.node.Name, command, err)
	}
	return nil
}

func (f frr) Prefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error) {
	families := []string{"ipv4"}
	if f.node.IPv6 {
		families = append(families, "ipv6")
	}
	var found []netip.Prefix
	for _, family := range families {
		var table struct {
			Routes map[netip.Prefix][]struct{ Valid bool }
		}
		if err := f.askJSON(ctx, "show bgp "+family+" unicast json", &table); err != nil {
			return nil, err
		}
		for prefix, paths := range table.Routes {
			if len(paths) > 0 && paths[0].Valid && inside(prefix, within) {
				found = append(found, prefix)
			}
		}
	}
	return sorted(found), nil
}

type frrNeighbor struct {
	State string `json:"bgpState"`
	Stats struct {
		UpdatesReceived uint64 `json:"updatesRecv"`
	} `json:"messageStats"`
}

func (f frr) neighbors(ctx context.Context) (map[string]frrNeighbor, error) {
	all := map[string]frrNeighbor{}
	return all, f.askJSON(ctx, "show bgp neighbors json", &all)
}

func (f frr) UpdatesReceived(ctx context.Context) (uint64, error) {
	neighbors, err := f.neighbors(ctx)
	var sum uint64
	for _, n := range neighbors {
		sum += n.Stats.UpdatesReceived
	}
	return sum, err
}

func (f frr) Established(ctx context.Context) (up, total int, err error) {
	neighbors, err := f.neighbors(ctx)
	for _, n := range neighbors {
		if n.State == "Established" {
			up++
		}
	}
	return up, len(neighbors), err
}

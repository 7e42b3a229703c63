package tor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
)

type birdDriver struct{}

func (birdDriver) Check() error {
	for _, tool := range []string{"bird", "birdc"} {
		if _, err := sbin(tool); err != nil {
			return fmt.Errorf("%s is not installed: `apt-get install bird2`, or take another --tor", tool)
		}
	}
	return nil
}

// sbin finds a tool also where the path of an ordinary user does not lead.
func sbin(tool string) (string, error) {
	if path, err := exec.LookPath(tool); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", tool))
}

func (birdDriver) Attach(n Node) Tor { return newBird(n) }

func (d birdDriver) Start(ctx context.Context, n Node) (Tor, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	b := newBird(n)
	if err := b.clear(); err != nil {
		return nil, err
	}
	var conf bytes.Buffer
	if err := birdConf.Execute(&conf, n); err != nil {
		return nil, fmt.Errorf("router %s: %w", n.Name, err)
	}
	file := filepath.Join(n.Dir, "bird.conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o644); err != nil {
		return nil, fmt.Errorf("router %s: %w", n.Name, err)
	}
	return b, b.run(ctx)
}

// RestartBGP has the new process recover (-R), where the configuration says how.
func (birdDriver) RestartBGP(ctx context.Context, n Node) error {
	b := newBird(n)
	if err := b.kill(ctx, "bird"); err != nil {
		return err
	}
	return b.run(ctx, "-R")
}

func (b bird) run(ctx context.Context, more ...string) error {
	path, err := sbin("bird")
	if err != nil {
		return fmt.Errorf("router %s: %w", b.node.Name, err)
	}
	if err := b.start("bird", path, append([]string{"-f", "-c", filepath.Join(b.node.Dir, "bird.conf"), "-s", b.socket()}, more...)...); err != nil {
		return err
	}
	return b.await(ctx, "bird to answer", func() bool {
		_, err := b.ask(ctx, "show status")
		return err == nil
	})
}

// BIRD is told to tie paths by what the fabric gives them (local preference, path length, origin, MED) and to put all
// ties into the kernel. "graceful restart aware" is helper mode: a host's routes survive the restart of its speaker.
// With Graceful its own restart is too, and leaves the kernel's routes alone until the neighbours have told theirs.
var birdConf = template.Must(template.New("bird.conf").Parse(`# {{.Name}}; written by hostfabric-lab.
log stderr all;
router id {{.RouterID}};
protocol device { scan time 10; }
{{- if eq .Restart "graceful"}}
graceful restart wait 10;
{{- end}}
protocol kernel kernel4 { {{if eq .Restart "graceful"}}graceful restart on; {{end}}merge paths yes limit 64; ipv4 { import none; export where source = RTS_BGP; }; }
{{- if .IPv6}}
protocol kernel kernel6 { {{if eq .Restart "graceful"}}graceful restart on; {{end}}merge paths yes limit 64; ipv6 { import none; export where source = RTS_BGP; }; }
{{- end}}
protocol static originate4 { ipv4;{{range .Networks}}{{if .Addr.Is4}} route {{.}} blackhole;{{end}}{{end}} }
{{- if .IPv6}}
protocol static originate6 { ipv6;{{range .Networks}}{{if .Addr.Is6}} route {{.}} blackhole;{{end}}{{end}} }
{{- end}}
template bgp peer {
	local as {{.ASN}};
	graceful restart {{if eq .Restart "graceful"}}on{{else if eq .Restart "none"}}off{{else}}aware{{end}};
	hold time 9;
	keepalive time 3;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 2;
	ipv4 { import all; export all; };
{{- if .IPv6}}
	ipv6 { import all; export all; };
{{- end}}
}
{{- if .HasBFD}}
protocol bfd {
{{- range .Neighbors}}{{$link := .Link}}{{with .BFD}}
	interface "{{$link}}" { interval {{.Milliseconds}} ms; multiplier {{.Multiplier}}; };
{{- end}}{{end}}
}
{{- end}}
{{- range .Neighbors}}{{if .Unnumbered}}
protocol radv advertise_{{.Name}} { interface "{{.Link}}" { max ra interval 5; default lifetime 0; }; }
protocol bgp range_{{.Name}} from peer {
	neighbor range fe80::/10 as {{.ASN}};
	interface "{{.Link}}";
	dynamic name "{{.Name}}_";
{{- with .BFD}}
	bfd {{.Mode}};
{{- end}}
	ipv4 { extended next hop on; };
}
{{- else}}
protocol bgp {{.Name}} from peer { neighbor {{.Address}} as {{.ASN}}; source address {{.Local}};{{if .Passive}} passive;{{end}}{{with .BFD}} bfd {{.Mode}};{{end}}
{{- if .DefaultOnly}} ipv4 { export where net = 0.0.0.0/0; };{{if $.IPv6}} ipv6 { export where net = ::/0; };{{end}}{{end}} }
{{- end}}{{end}}
`))

// bird is a running BIRD.
type bird struct{ processes }

func newBird(n Node) bird { return bird{processes{node: n, daemons: []string{"bird"}}} }

func (b bird) socket() string { return filepath.Join(b.node.Dir, "bird.ctl") }

func (b bird) ask(ctx context.Context, command string) (string, error) {
	path, err := sbin("birdc")
	if err != nil {
		return "", fmt.Errorf("router %s: %w", b.node.Name, err)
	}
	out, err := exec.CommandContext(ctx, path, "-r", "-s", b.socket(), command).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("router %s: birdc %s: %w: %s", b.node.Name, command, err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

func (b bird) Prefixes(ctx context.Context, within ...netip.Prefix) ([]netip.Prefix, error) {
	out, err := b.ask(ctx, "show route all primary")
	if err != nil {
		return nil, err
	}
	var found []netip.Prefix
	for line := range strings.Lines(out) {
		// A route begins with its prefix; its attributes are on lines that begin with white space.
		if word, _, _ := strings.Cut(line, " "); word != "" {
			if p, err := netip.ParsePrefix(word); err == nil && inside(p, within) {
				found = append(found, p)
			}
		}
	}
	return sorted(found), nil
}

func (b bird) UpdatesReceived(ctx context.Context) (uint64, error) {
	protocols, err := b.protocols(ctx)
	var sum uint64
	for _, p := range protocols {
		sum += p.received
	}
	return sum, err
}

func (b bird) Established(ctx context.Context) (up, total int, err error) {
	protocols, err := b.protocols(ctx)
	for _, p := range protocols {
		if p.established {
			up++
		}
	}
	return up, len(protocols), err
}

func (b bird) protocols(ctx context.Context) ([]birdProtocol, error) {
	out, err := b.ask(ctx, "show protocols all")
	if err != nil {
		return nil, err
	}
	all, err := parseBirdProtocols(out)
	if err != nil {
		return nil, fmt.Errorf("router %s: birdc show protocols all: %w", b.node.Name, err)
	}
	return all, nil
}

// birdProtocol is a BGP session as BIRD shows it.
type birdProtocol struct {
	name        string
	established bool
	received    uint64 // updates and withdrawals, counted by route
}

var errBirdCounter = errors.New("unexpected counters")

func parseBirdProtocols(out string) ([]birdProtocol, error) {
	var all []birdProtocol
	bgp := false
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && line[0] != ' ' {
			// What a range is for are the sessions that come out of it.
			if bgp = fields[1] == "BGP" && !strings.HasPrefix(fields[0], "range_"); bgp {
				all = append(all, birdProtocol{name: fields[0]})
			}
			continue
		}
		if !bgp || len(fields) < 3 {
			continue
		}
		p := &all[len(all)-1]
		switch fields[0] + " " + fields[1] {
		case "BGP state:":
			p.established = fields[2] == "Established"
		case "Import updates:", "Import withdraws:":
			n, err := strconv.ParseUint(fields[2], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%w: %q", errBirdCounter, line)
			}
			p.received += n
		}
	}
	return all, nil
}

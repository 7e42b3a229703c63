// Package containerlab_test checks the topologies without containerlab: a name or address that does not fit is found
// here, not after minutes of deploying.
package containerlab_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/hostfabric/hostfabric/agent/config"
	"github.com/hostfabric/hostfabric/configs/configtest"
)

const (
	frrPath  = "/etc/frr/frr.conf"
	hostPath = "/etc/hostfabric/hostfabric.yaml"
)

// topology is what these files use of containerlab's format.
type topology struct {
	Name     string `json:"name"`
	Topology struct {
		Kinds  map[string]node `json:"kinds"`
		Groups map[string]node `json:"groups"`
		Nodes  map[string]node `json:"nodes"`
		Links  []struct {
			Endpoints []string `json:"endpoints"`
		} `json:"links"`
	} `json:"topology"`
}

type node struct {
	Kind    string         `json:"kind"`
	Group   string         `json:"group"`
	Image   string         `json:"image"`
	Binds   []string       `json:"binds"`
	Exec    []string       `json:"exec"`
	Sysctls map[string]int `json:"sysctls"`
}

// bind is the file that the node sees at path; "" if none.
func (n node) bind(path string) string {
	for _, b := range n.Binds {
		if source, target, _ := strings.Cut(b, ":"); target == path {
			return source
		}
	}
	return ""
}

func load(t *testing.T, path string) topology {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var top topology
	if err := yaml.UnmarshalStrict(data, &top); err != nil {
		t.Fatal(err)
	}
	return top
}

func TestTopologies(t *testing.T) {
	files, err := filepath.Glob("*.clab.yml")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, path := range files {
		t.Run(path, func(t *testing.T) {
			top := load(t, path)
			for name, n := range top.Topology.Nodes {
				checkNode(t, name, n, top)
			}
			cables := checkLinks(t, top)
			checkAddressing(t, top, cables)
			checkHosts(t, top, cables)
		})
	}
}

func checkNode(t *testing.T, name string, n node, top topology) {
	group, ok := top.Topology.Groups[n.Group]
	if !ok || group.Image == "" || group.Kind != "linux" {
		t.Errorf("%s: group %q: %+v", name, n.Group, group)
	}
	for _, b := range n.Binds {
		source, target, _ := strings.Cut(b, ":")
		if _, err := os.Stat(source); err != nil || !filepath.IsAbs(target) {
			t.Errorf("%s: bind %s: %v", name, b, err)
		}
	}
	if conf := n.bind(frrPath); conf != "" {
		configtest.FRR(t, conf)
		if text := read(t, conf); !strings.Contains(text, "\nhostname "+name+"\n") {
			t.Errorf("%s is not the configuration of %s", conf, name)
		}
	} else if n.bind(hostPath) == "" {
		t.Errorf("%s has no configuration", name)
	}
}

// checkLinks returns which end each end is cabled to.
func checkLinks(t *testing.T, top topology) map[string]string {
	cables := map[string]string{}
	for _, l := range top.Topology.Links {
		if len(l.Endpoints) != 2 {
			t.Fatalf("link %v", l.Endpoints)
		}
		for i, end := range l.Endpoints {
			name, _, _ := strings.Cut(end, ":")
			if _, ok := top.Topology.Nodes[name]; !ok {
				t.Errorf("link %v: no node %s", l.Endpoints, name)
			}
			if cables[end] != "" {
				t.Errorf("%s is used twice", end)
			}
			cables[end] = l.Endpoints[1-i]
		}
	}
	return cables
}

var (
	frrAddress  = regexp.MustCompile(`(?m)^interface (\S+)$|^ ip(?:v6)? address (\S+)$`)
	execAddress = regexp.MustCompile(`^ip address add (\S+) dev (\S+)$`)
)

// addresses are those of each end of a link, "node:interface".
func addresses(t *testing.T, top topology) map[string][]netip.Prefix {
	found := map[string][]netip.Prefix{}
	for name, n := range top.Topology.Nodes {
		var link string
		if conf := n.bind(frrPath); conf != "" {
			for _, m := range frrAddress.FindAllStringSubmatch(read(t, conf), -1) {
				if m[1] != "" {
					link = m[1]
					continue
				}
				found[name+":"+link] = append(found[name+":"+link], netip.MustParsePrefix(m[2]))
			}
		}
		for _, e := range n.Exec {
			m := execAddress.FindStringSubmatch(e)
			if m == nil {
				t.Fatalf("%s runs %q", name, e)
			}
			found[name+":"+m[2]] = append(found[name+":"+m[2]], netip.MustParsePrefix(m[1]))
		}
	}
	return found
}

// checkAddressing: both ends of a cable are in one /31 and one /127, with addresses of their own; no end is loose.
func checkAddressing(t *testing.T, top topology, cables map[string]string) {
	seen := map[netip.Addr]string{}
	found := addresses(t, top)
	for end, list := range found {
		other := found[cables[end]]
		if len(list) != 2 || len(other) != 2 {
			t.Errorf("%s has %v, and %q at the other end %v", end, list, cables[end], other)
			continue
		}
		for i, p := range list {
			if p.Bits() != p.Addr().BitLen()-1 || p.Masked() != other[i].Masked() {
				t.Errorf("%s has %s, the other end %s", end, p, other[i])
			}
			if seen[p.Addr()] != "" {
				t.Errorf("%s and %s have %s", end, seen[p.Addr()], p.Addr())
			}
			seen[p.Addr()] = end
		}
	}
	if len(found) != len(cables) {
		t.Errorf("%d ends have addresses, %d have cables", len(found), len(cables))
	}
}

var frrASN = regexp.MustCompile(`(?m)^router bgp (\d+)$`)

// checkHosts: an agent's peers are the routers at the other ends of its cables, and no two hosts share anything.
func checkHosts(t *testing.T, top topology, cables map[string]string) {
	found := addresses(t, top)
	owner := map[string]string{}
	once := func(name string, what any) {
		key := fmt.Sprint(what)
		if owner[key] != "" {
			t.Errorf("%s and %s both have %s", owner[key], name, key)
		}
		owner[key] = name
	}
	for name, n := range top.Topology.Nodes {
		conf := n.bind(hostPath)
		if conf == "" {
			m := frrASN.FindStringSubmatch(read(t, n.bind(frrPath)))
			if m == nil {
				t.Fatalf("%s has no AS", name)
			}
			once(name, "AS "+m[1])
			continue
		}
		c, err := config.Load(conf, nil)
		if err != nil {
			t.Fatalf("%s: %v", conf, err)
		}
		if c.Host != name || len(c.Peers) != 2 {
			t.Errorf("%s: host %s, %d peers", conf, c.Host, len(c.Peers))
		}
		once(name, fmt.Sprint("AS ", c.ASN))
		once(name, c.RouterID)
		for _, b := range c.BlockPrefixes() {
			once(name, b)
		}
		for i, p := range c.Peers {
			router, _, _ := strings.Cut(cables[fmt.Sprintf("%s:eth%d", name, i+1)], ":")
			far := found[cables[fmt.Sprintf("%s:eth%d", name, i+1)]]
			if p.Name != router || len(far) == 0 || far[0].Addr() != p.Address {
				t.Errorf("%s: peer %s %s, but eth%d leads to %s %v", conf, p.Name, p.Address, i+1, router, far)
				continue
			}
			asn := fmt.Sprintf("router bgp %d\n", p.ASN)
			if !strings.Contains(read(t, top.Topology.Nodes[router].bind(frrPath)), asn) {
				t.Errorf("%s: %s is not AS %d", conf, router, p.ASN)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestDockerfile: what it copies from the tree is there, and the Go release is the module's.
func TestDockerfile(t *testing.T) {
	const top = "../.."
	text := read(t, "Dockerfile")
	for _, m := range regexp.MustCompile(`(?m)^COPY (\w\S*(?: \w\S*)*) \S+$`).FindAllStringSubmatch(text, -1) {
		for _, source := range strings.Fields(m[1]) {
			if _, err := os.Stat(filepath.Join(top, source)); err != nil {
				t.Error(err)
			}
		}
	}
	release := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, filepath.Join(top, "go.mod")))
	if release == nil || !strings.Contains(text, "FROM golang:"+release[1]+"-") {
		t.Errorf("go.mod has go %v, the Dockerfile does not", release)
	}
	for _, m := range regexp.MustCompile(`\./(cmd/\S+)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(top, m[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestReadmeNamesNodes: every container that the commands name is a node of a topology.
func TestReadmeNamesNodes(t *testing.T) {
	nodes := map[string]bool{}
	for _, path := range []string{"rack.clab.yml", "fabric.clab.yml"} {
		top := load(t, path)
		for name := range top.Topology.Nodes {
			nodes["clab-"+top.Name+"-"+name] = true
		}
	}
	for _, name := range regexp.MustCompile(`clab-[a-z0-9-]+`).FindAllString(read(t, "README.md"), -1) {
		if !nodes[name] && !strings.HasSuffix(name, "-") { // clab-hostfabric-rack-$h
			t.Errorf("README names %s", name)
		}
	}
}

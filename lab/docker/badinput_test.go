package docker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostfabric/hostfabric/lab/docker"
)

// say sends a request to the plugin as nobody but a test or an attacker with Docker's rights does.
func (r *rig) say(d *docker.Docker, method, body string) (status int, answer map[string]any) {
	r.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", d.Plugin)
	}}}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://plugin/"+method, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.Errorf("%s: answer: %v", method, err)
	}
	return resp.StatusCode, answer
}

// ask says what must succeed.
func (r *rig) ask(d *docker.Docker, method, body string) map[string]any {
	r.Helper()
	status, answer := r.say(d, method, body)
	if status != http.StatusOK || answer["Err"] != nil {
		r.Fatalf("%s: %d %v", method, status, answer)
	}
	return answer
}

func (r *rig) networkID(d *docker.Docker, name string) string {
	r.Helper()
	return r.do(d, "network", "inspect", "--format", "{{.Id}}", name)
}

// reserve has the plugin lease an IPv4 address of the network "plain".
func (r *rig) reserve(d *docker.Docker) string {
	r.Helper()
	pool := r.ask(d, "IpamDriver.RequestPool", `{"AddressSpace":"hostfabric"}`)["PoolID"]
	return r.ask(d, "IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":%q}`, pool))["Address"].(string)
}

func createEndpoint(network, endpoint, address string) string {
	return fmt.Sprintf(`{"NetworkID":%q,"EndpointID":%q,"Interface":{"Address":%q},"Options":{}}`, network, endpoint, address)
}

// forgotten: an endpoint that Docker never heard of again, because it died in the middle, ends without Docker. So does a
// network.
func forgotten(r *rig) {
	plain := r.networkID(r.a, "plain")
	r.ask(r.a, "NetworkDriver.CreateEndpoint", createEndpoint(plain, "0123abcd", r.reserve(r.a)))
	if n := len(r.endpoints(r.a)); n != 3 {
		r.Errorf("%d endpoints", n)
	}
	r.ask(r.a, "NetworkDriver.CreateNetwork", `{"NetworkID":"4567","IPv4Data":[{"AddressSpace":"hostfabric"}]}`)
	r.agree(r.a, 2)
	r.eventually(func() error {
		record, err := os.ReadFile(filepath.Join(filepath.Dir(r.a.API), "state", "docker-networks.json"))
		if err == nil && (bytes.Contains(record, []byte(`"4567"`)) || !bytes.Contains(record, []byte(plain))) {
			err = fmt.Errorf("record: %s", record)
		}
		return err
	})
}

// badInput wants each to be refused by the protocol's own error, and nothing to come of it.
func badInput(r *rig) {
	plain := r.networkID(r.a, "plain")
	address := r.reserve(r.a)
	r.ask(r.a, "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e1", address))
	link := filepath.Join(r.TempDir(), "sandbox")
	if err := os.Symlink("/proc/1/ns/net", link); err != nil {
		r.Fatal(err)
	}
	foreign := r.b.Host.Blocks[0].Addr().Next().Next().String()
	for _, tc := range []struct{ what, method, body string }{
		{"malformed JSON", "NetworkDriver.CreateEndpoint", `{"NetworkID":`},
		{"JSON of another shape", "NetworkDriver.CreateEndpoint", `[1, 2]`},
		{"two requests in one", "NetworkDriver.DeleteEndpoint", `{"NetworkID":"n","EndpointID":"e"}{}`},
		{"no body", "NetworkDriver.CreateEndpoint", ``},
		{"oversized body", "NetworkDriver.CreateEndpoint", `{"NetworkID":"` + strings.Repeat("x", 2<<20) + `"}`},
		{"unknown method", "NetworkDriver.Nothing", `{}`},
		{"unknown network", "NetworkDriver.CreateEndpoint", createEndpoint("beef", "e2", address)},
		{"network's ID as a path", "NetworkDriver.CreateNetwork", `{"NetworkID":"../../etc","IPv4Data":[{"AddressSpace":"hostfabric"}]}`},
		{"endpoint's ID as a path", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "../e2", address)},
		{"negative MTU", "NetworkDriver.CreateNetwork", `{"NetworkID":"n9","Options":{"com.docker.network.generic":{"com.docker.network.driver.mtu":"-1"}},"IPv4Data":[{"AddressSpace":"hostfabric"}]}`},
		{"others' addresses", "NetworkDriver.CreateNetwork", `{"NetworkID":"n9","IPv4Data":[{"AddressSpace":"LocalDefault"}]}`},
		{"unknown option", "NetworkDriver.CreateNetwork", `{"NetworkID":"n9","Options":{"com.docker.network.generic":{"x":"y"}},"IPv4Data":[{"AddressSpace":"hostfabric"}]}`},
		{"address of another host", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e2", foreign+"/32")},
		{"address that nobody asked for", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e2", r.a.Host.Blocks[0].Addr().Next().String()+"/32")},
		{"address taken", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e2", address)},
		{"no address", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e2", "")},
		{"address with a network", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e2", "10.64.0.9/24")},
		{"duplicate endpoint", "NetworkDriver.CreateEndpoint", createEndpoint(plain, "e1", r.reserve(r.a))},
		{"bad MAC address", "NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e2","Interface":{"Address":%q,"MacAddress":"ff:ff:ff:ff:ff:ff"}}`, plain, r.reserve(r.a))},
		{"endpoint of another network", "NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e1","SandboxKey":"/run/x"}`, r.networkID(r.a, "net"))},
		{"unknown endpoint", "NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e7","SandboxKey":"/run/x"}`, plain)},
		{"sandbox out of its place", "NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e1","SandboxKey":"/run/docker/netns/../../../proc/1/ns/net"}`, plain)},
		{"pool of nobody", "IpamDriver.RequestAddress", `{"PoolID":"beef"}`},
		{"unknown pool", "IpamDriver.RequestAddress", `{"PoolID":"hostfabric,nosuch,0.0.0.0/0"}`},
		{"address outside the block", "IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":"hostfabric,,0.0.0.0/0","Address":%q}`, foreign)},
		{"taken address", "IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID":"hostfabric,,0.0.0.0/0","Address":%q}`, strings.TrimSuffix(address, "/32"))},
		{"no address at all", "IpamDriver.RequestAddress", `{"PoolID":"hostfabric,,0.0.0.0/0","Address":"10.64.0.300"}`},
		{"address space of others", "IpamDriver.RequestPool", `{"AddressSpace":"LocalDefault"}`},
		{"subnet with host bits", "IpamDriver.RequestPool", `{"AddressSpace":"hostfabric","Pool":"10.64.0.1/10"}`},
	} {
		status, answer := r.say(r.a, tc.method, tc.body)
		text, _ := answer["Err"].(string)
		if status < 400 || text == "" {
			r.Errorf("%s: %d %v", tc.what, status, answer)
			continue
		}
		r.Logf("%s: %d %.160s", tc.what, status, text)
	}
	// The path of a sandbox is never opened: a symbolic link leads nowhere, and what it points to has no link more.
	r.ask(r.a, "NetworkDriver.Join", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e1","SandboxKey":%q}`, plain, link))
	r.ask(r.a, "NetworkDriver.DeleteEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e1"}`, plain))
	r.ask(r.a, "NetworkDriver.DeleteEndpoint", fmt.Sprintf(`{"NetworkID":%q,"EndpointID":"e1"}`, plain)) // as often as one likes
	for _, reserved := range r.reservations(r.a) {
		r.ask(r.a, "IpamDriver.ReleaseAddress", fmt.Sprintf(`{"PoolID":"hostfabric,,0.0.0.0/0","Address":%q}`, reserved))
	}
	r.agree(r.a, 2)
}

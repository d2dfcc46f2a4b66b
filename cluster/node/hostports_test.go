package node

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/podnet"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// TestHostPortsOfOthers has the CNI plugins serve host ports of a pod of the node, and of a container of another network
// of the machine, in both families. Those of the node go, also when the plugin was not asked; the other's stay until they
// go themselves.
func TestHostPortsOfOthers(t *testing.T) {
	plugins := filepath.Join(os.Getenv("SKIFF_TOOLS"), "cni")
	machine, pod, other := nettest.New(t), nettest.New(t), nettest.New(t)
	machine.Set(t, "ipv4/ip_forward", "1")
	machine.Set(t, "ipv6/conf/all/forwarding", "1")
	saved := func() string {
		t.Helper()
		return plainRules(machine.Run(t, "iptables-save", "-t", "nat") + machine.Run(t, "ip6tables-save", "-t", "nat"))
	}
	c := Config{Dir: t.TempDir(), Bridge: "pods"}
	own, err := cniConfig(c, podnet.Share{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:10:244::/64")}, MTU: 1500})
	check(t, err)
	theirs := strings.NewReplacer(`"`+cniNetwork+`"`, `"others"`, "10.244.0.", "10.88.0.", "fd00:10:244:", "fd00:10:88:", `"pods"`, `"others"`).Replace(string(own))
	remove := func() {
		t.Helper()
		machine.Do(t, func() { err = removeHostPortRules() })
		check(t, err)
	}

	attach(t, plugins, machine, other, []byte(theirs), "one", 8081)
	before := saved()
	attach(t, plugins, machine, pod, own, "one", 8082)
	if n := strings.Count(saved(), `dnat name: \"`+cniNetwork+`\" id`); n != 2 {
		t.Fatalf("the pod has %d host ports, want one of each family:\n%s", n, saved())
	}
	remove()
	if after := saved(); after != before {
		t.Errorf("beside another network there is\n%s\nand there was before\n%s", after, before)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		machine.Run(t, program, "-t", "nat", "-F", entryOfPorts)
	}
	remove()
	if after := saved(); strings.Contains(after, "CNI-") {
		t.Errorf("without the other network there is still\n%s", after)
	}
}

// attach has the plugins of a network make a container's link and its host port, as a runtime does.
func attach(t *testing.T, plugins string, machine, container *nettest.Namespace, network []byte, id string, port int) {
	t.Helper()
	var list struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	check(t, json.Unmarshal(network, &list))
	var last json.RawMessage
	for _, plugin := range list.Plugins {
		plugin["cniVersion"], plugin["name"] = list.CNIVersion, list.Name
		if last != nil {
			plugin["prevResult"] = last
		}
		plugin["runtimeConfig"] = map[string]any{"portMappings": []map[string]any{{"hostPort": port, "containerPort": 8080, "protocol": "tcp"}}}
		config, err := json.Marshal(plugin)
		check(t, err)
		cmd := exec.Command(filepath.Join(plugins, plugin["type"].(string)))
		cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID="+id, "CNI_NETNS="+container.Path(), "CNI_IFNAME=eth0", "CNI_PATH="+plugins)
		cmd.Stdin = strings.NewReader(string(config))
		var out []byte
		machine.Do(t, func() { out, err = cmd.Output() })
		if err != nil {
			t.Fatalf("%s: %v\n%s", plugin["type"], err, out)
		}
		last = out
	}
}

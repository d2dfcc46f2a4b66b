package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/proxy/mode"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// others is what a machine has of other programs before a cluster comes: a firewall that forwards nothing, a port that
// is redirected, sets, a table of routes, and a link.
const others = `
iptables -P FORWARD DROP
ip6tables -P FORWARD DROP
iptables -A INPUT -p tcp --dport 4444 -j REJECT --reject-with tcp-reset
iptables -t nat -A PREROUTING -p tcp -d 192.0.2.1 --dport 999 -j REDIRECT --to-ports 7000
ip6tables -A INPUT -p tcp --dport 4444 -j REJECT
ipset create others hash:ip
ipset add others 203.0.113.99
iptables -A FORWARD -m set --match-set others src -j DROP
nft add table inet others
nft add chain inet others input '{ type filter hook input priority 0; }'
nft add rule inet others input tcp dport 4445 reject with tcp reset
ip link add others type bridge
ip address add 198.51.100.1/24 dev others
ip link set others up
ip route add 198.51.101.0/24 dev others table 99
ip rule add from 198.51.100.0/24 lookup 99 priority 1000
`

// later is what they add while the cluster runs: at the ends of chains, for where nobody has a say they may be anywhere.
const later = `
iptables -t nat -A PREROUTING -p tcp -d 192.0.2.1 --dport 998 -j REDIRECT --to-ports 7000
iptables -A FORWARD -s 203.0.113.98 -j DROP
nft add table ip later
nft add chain ip later input '{ type filter hook input priority 10; }'
nft add rule ip later input tcp dport 4446 reject with tcp reset
ip route add 198.51.102.0/24 dev others proto static
ip -6 rule add from fd00:5::/64 lookup 98 priority 1001
`

// withinState are words of what a machine has while a cluster with everything runs on it. That they are seen says that
// their absence would be.
var withinState = map[string][]string{
	"": {
		"SKIFF-MASQUERADE", "SKIFF-DNS", "table ip skiff-network-policy", "table ip6 skiff-network-policy", "link skiff.vxlan",
		"169.254.20.10/32", "net.ipv4.ip_forward = 1", "net.ipv6.conf.all.forwarding = 1", "net.ipv4.conf.all.route_localnet = 1",
		"-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT", "forwarding ", "neighbour -6 ",
	},
	"iptables": {"KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-SEP-"},
	"nftables": {"table ip skiff-proxy", "table ip6 skiff-proxy"},
	"ipvs":     {"table ip skiff-proxy", "table ip6 skiff-proxy", "TCP  0A61"},
}

// TestNothingIsLeft has a machine of its own, on which others have rules, run a cluster with everything that touches the
// network, in each mode: it stops, and it is killed and cleared away. Both leave the machine as it was, and the others
// what they have.
func TestNothingIsLeft(t *testing.T) {
	for _, name := range []string{"iptables", "nftables", "ipvs"} {
		t.Run(name, func(t *testing.T) {
			if _, err := mode.Choose(name); err != nil {
				if os.Getenv("SKIFF_GUEST") != "" {
					t.Fatal(err)
				}
				t.Skip("the kernel of the guest has what this needs: ", err)
			}
			m := newMachine(t, name)
			before := m.State(t)
			for what, end := range map[string]func(){
				"stopped":          func() { m.Stop(t) },
				"killed, and down": func() { m.Kill(); m.othersWork(t); m.Down(t) },
			} {
				m.serve(t)
				m.Run(t, "sh", "-e", "-c", later)
				m.othersWork(t, "998")
				end()
				m.othersWork(t, "998")
				m.forgetLater(t)
				if left := nettest.Difference(before, m.State(t)) + m.Traces(t); left != "" {
					t.Errorf("%s, the machine is not as it was (+ is left behind, - was taken):\n%s", what, left)
				}
				if text, _ := os.ReadFile("/run/skiff-kernel.json"); strings.Contains(string(text), m.DataDir) { // of all clusters
					t.Errorf("%s, settings are still noted:\n%s", what, text)
				}
			}
		})
	}
}

// machine is the network of a machine, on which a cluster runs, and a client beside it.
type machine struct {
	*nettest.Namespace
	*clustertest.Cluster
	outside *nettest.Namespace
	mode    string
}

func newMachine(t *testing.T, name string) machine {
	t.Helper()
	m := machine{Namespace: nettest.New(t), outside: nettest.New(t), mode: name}
	nettest.Join(t, m.Namespace, "uplink", "192.0.2.1/24", m.outside, "eth0", "192.0.2.9/24")
	m.Namespace.Run(t, "ip", "address", "add", "fd00:9::1/64", "dev", "uplink", "nodad")
	m.outside.Run(t, "ip", "address", "add", "fd00:9::9/64", "dev", "eth0", "nodad")
	for _, family := range []string{"-4", "-6"} {
		gateways := map[string][2]string{"-4": {"192.0.2.9", "192.0.2.1"}, "-6": {"fd00:9::9", "fd00:9::1"}}[family]
		m.Namespace.Run(t, "ip", family, "route", "add", "default", "via", gateways[0])
		m.outside.Run(t, "ip", family, "route", "add", "default", "via", gateways[1])
	}
	m.Namespace.Run(t, "sh", "-e", "-c", others)
	m.ListenTCP(t, "192.0.2.1:7000", "others")
	m.Cluster = clustertest.NewOf(t, 2, corev1.IPv4Protocol, corev1.IPv6Protocol)
	m.On(m.Namespace)
	m.With("--proxy-mode", name, "--pod-network", "vxlan", "--dns-cache")
	return m
}

// serve starts the cluster, gives it Services of all kinds, and sees that they answer. What is looked for afterwards is
// there.
func (m machine) serve(t *testing.T) {
	t.Helper()
	m.Start(t)
	manifest := filepath.Join(t.TempDir(), "everything.yaml")
	if err := os.WriteFile(manifest, []byte(everything), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Kubectl(t, "apply", "-f", manifest); err != nil {
		t.Fatal(out)
	}
	m.Until(t, func(out string) bool { return strings.Count(out, "True") == 2 }, "get", "pods", "-n", "every",
		"-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
	for _, name := range []string{"one", "two"} {
		uid, err := m.Kubectl(t, "get", "pod", "-n", "every", name, "-o", "jsonpath={.metadata.uid}")
		if err != nil {
			t.Fatal(uid)
		}
		nettest.Open(t, "/proc/"+processOf(t, uid)+"/ns/net").ListenTCP(t, ":8080", name)
	}
	service, err := m.Kubectl(t, "get", "service", "-n", "every", "all", "-o", "jsonpath={.spec.clusterIPs[*]}")
	ips := strings.Fields(service)
	if err != nil || len(ips) != 2 {
		t.Fatal(service)
	}
	for from, asked := range map[*nettest.Namespace][]string{
		m.Namespace: {ips[0] + ":80", "[" + ips[1] + "]:80"},
		m.outside: {"192.0.2.1:30080", "[fd00:9::1]:30080", "203.0.113.5:80", "[fd00:7::5]:80", "192.0.2.1:80", "[fd00:9::1]:80",
			"192.0.2.1:8081", "[fd00:9::1]:8081"}, // host ports
	} {
		for _, addr := range asked {
			m.answers(t, from, addr, "one", "two")
		}
	}
	state := m.State(t)
	for _, word := range append(withinState[""], withinState[m.mode]...) {
		if !strings.Contains(state, word) {
			t.Errorf("the running cluster has no %q: it is looked for in the wrong place, or there is less than there was meant to be", word)
		}
	}
	if m.Traces(t) == "" {
		t.Error("the running cluster has no traces: they are looked for in the wrong place")
	}
	log, err := os.ReadFile(filepath.Join(m.DataDir, "skiff.log"))
	for _, program := range []string{"iptables", "ip6tables"} {
		if note := program + " drops what is forwarded (-P FORWARD DROP)"; err != nil || !strings.Contains(string(log), note) {
			t.Errorf("nothing was told of a firewall, want %q in the log (%v)", note, err)
		}
	}
}

// answers asks until one of those answers that may.
func (m machine) answers(t *testing.T, from *nettest.Namespace, addr string, names ...string) {
	t.Helper()
	var got string
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		got, err = from.Ask(t, addr, time.Second)
		for _, name := range names {
			if err == nil && got == name {
				return
			}
		}
	}
	t.Errorf("%s: got %q (%v), want one of %q", addr, got, err, names)
}

// othersWork sees that the rules of other programs do what they did; further are the ports that they redirect besides.
func (m machine) othersWork(t *testing.T, further ...string) {
	t.Helper()
	for _, port := range append([]string{"999"}, further...) {
		m.answers(t, m.outside, "192.0.2.1:"+port, "others")
	}
	for _, port := range []string{"4444", "4445"} {
		if _, err := m.outside.Ask(t, "192.0.2.1:"+port, 10*time.Second); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("port %s of the machine: got %v, want a refusal", port, err)
		}
	}
}

// forgetLater takes away what others added while the cluster ran, which fails if it is not there.
func (m machine) forgetLater(t *testing.T) {
	t.Helper()
	var undo strings.Builder
	for line := range strings.Lines(later) {
		switch {
		case strings.HasPrefix(line, "iptables"):
			fmt.Fprint(&undo, strings.Replace(line, " -A ", " -D ", 1))
		case strings.HasPrefix(line, "nft add table"):
			fmt.Fprint(&undo, strings.Replace(line, "add", "delete", 1))
		case strings.HasPrefix(line, "ip "):
			fmt.Fprint(&undo, strings.Replace(line, " add ", " delete ", 1))
		}
	}
	m.Namespace.Run(t, "sh", "-e", "-c", undo.String())
}

const everything = `
apiVersion: v1
kind: Namespace
metadata: {name: every}
---
apiVersion: v1
kind: Pod
metadata: {name: one, namespace: every, labels: {app: every}}
spec:
  nodeName: node-1
  terminationGracePeriodSeconds: 1
  containers:
  - name: pause
    image: registry.k8s.io/pause:3.10.2
    imagePullPolicy: Never
    ports: [{containerPort: 8080, hostPort: 8081}, {containerPort: 8080, hostPort: 8082, protocol: UDP}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, namespace: every, labels: {app: every}}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers: [{name: pause, image: "registry.k8s.io/pause:3.10.2", imagePullPolicy: Never}]
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: every}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalIPs: [203.0.113.5, "fd00:7::5"]
  selector: {app: every}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}
  - {name: sctp, port: 81, targetPort: 8080, protocol: SCTP}
---
apiVersion: v1
kind: Service
metadata: {name: some, namespace: every}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  loadBalancerSourceRanges: [198.18.0.0/24, "fd00:6::/64"]
  selector: {app: every}
  ports: [{port: 82, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: every}
spec:
  type: LoadBalancer
  ipFamilyPolicy: RequireDualStack
  externalTrafficPolicy: Local
  internalTrafficPolicy: Local
  selector: {app: every}
  ports: [{port: 83, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: faithful, namespace: every}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  sessionAffinity: ClientIP
  selector: {app: every}
  ports: [{port: 84, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody, namespace: every}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {app: none}
  ports: [{name: tcp, port: 85, targetPort: 8080}, {name: udp, port: 85, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: every}
spec: {clusterIP: None, selector: {app: every}, ports: [{port: 86}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: most, namespace: every}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 8080}], from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.9.0.0/16]}}, {ipBlock: {cidr: "::/0"}}]}]
  egress: [{to: [{podSelector: {}}]}]
---
`

package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 61) + "--bcd"
	for _, test := range []struct {
		name         string
		pod          string
		spec         v1.PodSpec
		host, domain string
		full         string
	}{
		{name: "pod's name", pod: "web-0", host: "web-0", full: "web-0"},
		{name: "long name is cut", pod: long, host: strings.Repeat("a", 61), full: strings.Repeat("a", 61)},
		{name: "hostname and subdomain", pod: "p", spec: v1.PodSpec{Hostname: "h", Subdomain: "s"}, host: "h", domain: "s.ns.svc.cluster.local", full: "h"},
		{name: "full name", pod: "p", spec: v1.PodSpec{Hostname: "h", Subdomain: "s", SetHostnameAsFQDN: ptr.To(true)}, host: "h", domain: "s.ns.svc.cluster.local", full: "h.s.ns.svc.cluster.local"},
		{name: "override", pod: "p", spec: v1.PodSpec{HostnameOverride: ptr.To("x.y.z")}, host: "x.y.z", full: "x.y.z"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: test.pod, Namespace: "ns"}, Spec: test.spec}
			host, domain, err := hostname(pod, "cluster.local")
			if err != nil || host != test.host || domain != test.domain {
				t.Errorf("hostname is %q in %q (%v), want %q in %q", host, domain, err, test.host, test.domain)
			}
			if full, err := fqdn(pod, host, domain); err != nil || full != test.full {
				t.Errorf("full name is %q (%v), want %q", full, err, test.full)
			}
		})
	}
}

func TestFullNameTooLong(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{SetHostnameAsFQDN: ptr.To(true)}}
	if name, err := fqdn(pod, strings.Repeat("a", 60), "s.ns.svc.cluster.local"); err == nil {
		t.Errorf("full name is %q, want an error", name)
	}
}

func TestHostsFile(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{HostAliases: []v1.HostAlias{{IP: "123.45.67.89", Hostnames: []string{"foo", "bar"}}}}}
	got := string(hostsFile(pod, []string{"10.0.0.7"}, "h", "s.ns.svc.cluster.local", nil))
	want := `# Kubernetes-managed hosts file.
127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
fe00::0	ip6-mcastprefix
fe00::1	ip6-allnodes
fe00::2	ip6-allrouters
10.0.0.7	h.s.ns.svc.cluster.local	h

# Entries added by HostAliases.
123.45.67.89	foo	bar
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hosts file (-want +got):\n%s", diff)
	}

	pod.Spec.HostNetwork = true
	got = string(hostsFile(pod, nil, "h", "", []byte("127.0.0.1 node\n")))
	want = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n\n# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hosts file on the host's network (-want +got):\n%s", diff)
	}
}

func TestDNS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# node\nnameserver 192.0.2.53\nsearch old.example\nsearch node.example. other.example\noptions timeout:1 rotate\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cluster := DNS{Servers: []string{"10.96.0.10"}, Domain: "cluster.local", ResolvConf: file}
	inCluster := []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "node.example", "other.example"}
	node := []string{"node.example", "other.example"}
	for _, test := range []struct {
		name                       string
		dns                        DNS
		spec                       v1.PodSpec
		servers, searches, options []string
	}{
		{name: "cluster first", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst},
			servers: []string{"10.96.0.10"}, searches: inCluster, options: []string{"ndots:5"}},
		{name: "cluster first on the host's network", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, HostNetwork: true},
			servers: []string{"192.0.2.53"}, searches: node, options: []string{"timeout:1", "rotate"}},
		{name: "cluster first with host network", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirstWithHostNet, HostNetwork: true},
			servers: []string{"10.96.0.10"}, searches: inCluster, options: []string{"ndots:5"}},
		{name: "default", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSDefault},
			servers: []string{"192.0.2.53"}, searches: node, options: []string{"timeout:1", "rotate"}},
		{name: "cluster without DNS", dns: DNS{ResolvConf: file}, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst},
			servers: []string{"192.0.2.53"}, searches: node, options: []string{"timeout:1", "rotate"}},
		{name: "none", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{
			Nameservers: []string{"1.1.1.1"}, Searches: []string{"x.y"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}, {Name: "edns0"}}}},
			servers: []string{"1.1.1.1"}, searches: []string{"x.y"}, options: []string{"ndots:2", "edns0"}},
		{name: "own options replace", dns: cluster, spec: v1.PodSpec{DNSPolicy: v1.DNSClusterFirst, DNSConfig: &v1.PodDNSConfig{
			Nameservers: []string{"1.1.1.1"}, Options: []v1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("1")}}}},
			servers: []string{"10.96.0.10", "1.1.1.1"}, searches: inCluster, options: []string{"ndots:1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: test.spec}
			got, complaint, err := test.dns.config(pod)
			if err != nil || complaint != "" {
				t.Fatalf("error %v, complaint %q", err, complaint)
			}
			for what, pair := range map[string][2][]string{
				"servers": {test.servers, got.Servers}, "searches": {test.searches, got.Searches}, "options": {test.options, got.Options},
			} {
				if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

func TestTooManyServers(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{DNSPolicy: v1.DNSNone, DNSConfig: &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}}}
	got, complaint, err := DNS{}.config(pod)
	if err != nil || len(got.Servers) != 3 || !strings.HasSuffix(complaint, "1.1.1.1 2.2.2.2 3.3.3.3") {
		t.Errorf("servers %v, complaint %q, error %v", got.Servers, complaint, err)
	}
}

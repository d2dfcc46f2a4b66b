package cluster_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// clusterDNS is the tenth address of the Service range of clustertest.
const clusterDNS = "10.97.0.10:53"

// resolver asks name servers from inside a network namespace.
type resolver struct {
	*nettest.Namespace
	server string
}

// answer is what a name server says.
type answer struct {
	code    dnsmessage.RCode
	records []string // of the answer, sorted, without their TTL
	ttl     uint32   // the least of them; without any, how long that may be remembered
}

func (a answer) String() string { return fmt.Sprintf("%v %q", a.code, a.records) }

// ask looks a name up over UDP, or over TCP.
func (r resolver) ask(t *testing.T, network, name string, kind dnsmessage.Type) (answer, error) {
	t.Helper()
	query, err := (&dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 77, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}).Pack()
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	r.Do(t, func() { conn, err = net.DialTimeout(network, r.server, 5*time.Second) })
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	data, err := exchange(conn, network, query)
	if err != nil {
		return answer{}, err
	}
	var message dnsmessage.Message
	if err := message.Unpack(data); err != nil {
		return answer{}, err
	}
	return read(message), nil
}

// exchange sends a query and returns what comes back. Over TCP each has its length before it (RFC 1035, 4.2.2).
func exchange(conn net.Conn, network string, query []byte) ([]byte, error) {
	data := make([]byte, 1<<16)
	if network == "udp" {
		if _, err := conn.Write(query); err != nil {
			return nil, err
		}
		n, err := conn.Read(data)
		return data[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(conn, data[:2]); err != nil {
		return nil, err
	}
	data = data[:binary.BigEndian.Uint16(data)]
	_, err := io.ReadFull(conn, data)
	return data, err
}

func read(m dnsmessage.Message) answer {
	a := answer{code: m.RCode, ttl: 1 << 31}
	for _, r := range m.Answers {
		a.records = append(a.records, record(r))
		a.ttl = min(a.ttl, r.Header.TTL)
	}
	for _, r := range m.Authorities {
		if soa, ok := r.Body.(*dnsmessage.SOAResource); ok && len(m.Answers) == 0 {
			a.ttl = min(soa.MinTTL, r.Header.TTL) // RFC 2308
		}
	}
	slices.Sort(a.records)
	return a
}

func record(r dnsmessage.Resource) string {
	switch b := r.Body.(type) {
	case *dnsmessage.AResource:
		return net.IP(b.A[:]).String()
	case *dnsmessage.AAAAResource:
		return net.IP(b.AAAA[:]).String()
	case *dnsmessage.CNAMEResource:
		return "CNAME " + b.CNAME.String()
	case *dnsmessage.PTRResource:
		return b.PTR.String()
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("%d %s", b.Port, b.Target)
	case *dnsmessage.TXTResource:
		return strings.Join(b.TXT, "")
	}
	return fmt.Sprint(r.Body)
}

// becomes asks until the answer is as wanted: controllers and name servers follow objects in their own time.
func (r resolver) becomes(t *testing.T, name string, kind dnsmessage.Type, want string) answer {
	t.Helper()
	pattern := regexp.MustCompile("^" + want + "$")
	var got answer
	var err error
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if got, err = r.ask(t, "udp", name, kind); err == nil && pattern.MatchString(got.String()) {
			return got
		}
	}
	t.Errorf("%s %s: got %s (%v), want %s", name, kind, got, err, want)
	return got
}

// node is a resolver on a node of the cluster.
func (c dnsCluster) node(t *testing.T, name string) resolver {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.DataDir, "netns", "*"+name))
	if err != nil || len(files) != 1 {
		t.Fatalf("namespaces of %s: %v, %v", name, files, err)
	}
	return resolver{nettest.Open(t, files[0]), clusterDNS}
}

// dnsCluster is a cluster with the objects of testdata/dns.yaml.
type dnsCluster struct{ *clustertest.Cluster }

func newDNSCluster(t *testing.T, flags ...string) dnsCluster {
	t.Helper()
	c := dnsCluster{clustertest.New(t, 1)}
	c.With(flags...)
	c.Start(t)
	if out, err := c.Kubectl(t, "apply", "-f", "testdata/dns.yaml"); err != nil {
		t.Fatal(out)
	}
	c.Until(t, func(out string) bool { return strings.Count(out, ".") == 3*3 }, "get", "pods", "-n", "dns", "-o", "jsonpath={.items[*].status.podIP}")
	return c
}

func (c dnsCluster) field(t *testing.T, object, path string) string {
	t.Helper()
	out, err := c.Kubectl(t, "get", "-n", "dns", object, "-o", "jsonpath="+path)
	if err != nil || out == "" {
		t.Fatalf("%s of %s: %v: %s", path, object, err, out)
	}
	return out
}

// reversed is the name under which an address is looked up.
func reversed(addr string) string {
	parts := strings.Split(addr, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + ".in-addr.arpa."
}

// TestDNS looks names up as the specification of DNS in Kubernetes, version 1.1.0, has them, and what users add to
// them; then the API goes away, and lookups go on.
func TestDNS(t *testing.T) {
	c := newDNSCluster(t)
	r := c.node(t, "node-1")
	address := c.field(t, "service/plain", "{.spec.clusterIP}")
	named := c.field(t, "pod/named", "{.status.podIP}")
	nameless := c.field(t, "pod/nameless", "{.status.podIP}")
	unready := c.field(t, "pod/unready", "{.status.podIP}")
	dashed := func(addr string) string { return strings.ReplaceAll(addr, ".", "-") }
	const zone = "svc.cluster.local."
	const nothing, noName = `RCodeSuccess \[\]`, `RCodeNameError \[\]`
	list := func(records ...string) string {
		slices.Sort(records)
		for i, r := range records {
			records[i] = regexp.QuoteMeta(r)
		}
		return `RCodeSuccess \["` + strings.Join(records, `" "`) + `"\]`
	}
	lookups := []struct {
		what, name string
		kind       dnsmessage.Type
		want       string
	}{
		{"the version", "dns-version.cluster.local.", dnsmessage.TypeTXT, list("1.1.0")},
		{"a Service", "plain.dns." + zone, dnsmessage.TypeA, list(address)},
		{"a Service, in capitals", "PLAIN.dns.SVC.cluster.local.", dnsmessage.TypeA, list(address)},
		{"a Service has no address of the other family", "plain.dns." + zone, dnsmessage.TypeAAAA, nothing},
		{"no Service", "none.dns." + zone, dnsmessage.TypeA, noName},
		{"no namespace", "plain.none." + zone, dnsmessage.TypeA, noName},
		{"a named port", "_web._tcp.plain.dns." + zone, dnsmessage.TypeSRV, list("80 plain.dns." + zone)},
		{"a named port of another protocol", "_web._udp.plain.dns." + zone, dnsmessage.TypeSRV, noName},
		{"any port", "_nothing._tcp.plain.dns." + zone, dnsmessage.TypeSRV, noName},
		{"a Service by address", reversed(address), dnsmessage.TypePTR, list("plain.dns." + zone)},
		{"a headless Service", "headless.dns." + zone, dnsmessage.TypeA, list(named, nameless)},
		{"a pod with hostname and subdomain", "first.headless.dns." + zone, dnsmessage.TypeA, list(named)},
		{"a pod without", dashed(nameless) + ".headless.dns." + zone, dnsmessage.TypeA, list(nameless)},
		{"a pod that is not ready", dashed(unready) + ".headless.dns." + zone, dnsmessage.TypeA, noName},
		{"ports of a headless Service", "_web._tcp.headless.dns." + zone, dnsmessage.TypeSRV,
			list("8080 first.headless.dns."+zone, "8080 "+dashed(nameless)+".headless.dns."+zone)},
		{"a pod by address", reversed(named), dnsmessage.TypePTR, `RCodeSuccess \[.*"first.headless.dns.svc.cluster.local.".*\]`},
		{"a headless Service of pods that are not ready", "early.dns." + zone, dnsmessage.TypeA, list(named, nameless, unready)},
		{"a headless Service without pods", "empty.dns." + zone, dnsmessage.TypeA, noName},
		{"an external name", "external.dns." + zone, dnsmessage.TypeCNAME, list("CNAME plain.dns." + zone)},
		{"an external name's address", "external.dns." + zone, dnsmessage.TypeA, list("CNAME plain.dns."+zone, address)},
		{"endpoints without pods", "manual.dns." + zone, dnsmessage.TypeA, list("192.0.2.7", "192.0.2.8")},
		{"an endpoint with a hostname", "db.manual.dns." + zone, dnsmessage.TypeA, list("192.0.2.7")},
		{"an endpoint by address", reversed("192.0.2.7"), dnsmessage.TypePTR, list("db.manual.dns." + zone)},
		{"a pod's address", dashed(named) + ".dns.pod.cluster.local.", dnsmessage.TypeA, list(named)},
		{"a pod's address in no namespace", dashed(named) + ".none.pod.cluster.local.", dnsmessage.TypeA, noName},
		{"no address", "word.dns.pod.cluster.local.", dnsmessage.TypeA, noName},
		{"the API", "kubernetes.default." + zone, dnsmessage.TypeA, list("10.97.0.1")},
		{"the port of the API", "_https._tcp.kubernetes.default." + zone, dnsmessage.TypeSRV, list("443 kubernetes.default." + zone)},
	}
	look := func(t *testing.T) {
		for _, l := range lookups {
			got := r.becomes(t, l.name, l.kind, l.want)
			if got.ttl > 30 {
				t.Errorf("%s: may be remembered for %d seconds, want at most 30", l.what, got.ttl)
			}
			if again, err := r.ask(t, "tcp", l.name, l.kind); err != nil || cmp.Diff(again.records, got.records) != "" {
				t.Errorf("%s over TCP: got %s (%v), want %s", l.what, again, err, got)
			}
		}
	}
	t.Run("lookups", look)
	t.Run("search", func(t *testing.T) {
		c.searches(t, map[string]string{
			"plain": address, "plain.dns": address, "plain.dns.svc": address, "plain.dns.svc.cluster.local": address, "first.headless": named,
			"external": address, "kubernetes.default": "10.97.0.1", "kube-dns.kube-system.svc": "10.97.0.10",
		})
	})
	t.Run("a Service that was not there when it was first looked up", func(t *testing.T) { c.late(t, r) })
	upstream := newNameServer(t, c.gateway()+":0")
	t.Run("stub domains", func(t *testing.T) { c.stubs(t, r, upstream) })
	c.Stop(t)
	c.Start(t)
	r = c.node(t, "node-1")
	t.Run("stub domains after a new start", func(t *testing.T) {
		r.becomes(t, "host.corp.example.", dnsmessage.TypeA, list("192.0.2.20"))
		r.becomes(t, "alias.dns."+zone, dnsmessage.TypeA, `RCodeSuccess \[.*"`+regexp.QuoteMeta(address)+`".*\]`)
	})
	c.Until(t, func(out string) bool { return strings.Contains(out, ".") }, "get", "pod", "-n", "dns", "named", "-o", "jsonpath={.status.podIP}")
	named = c.field(t, "pod/named", "{.status.podIP}")
	t.Run("without the API", func(t *testing.T) {
		r.becomes(t, "first.headless.dns."+zone, dnsmessage.TypeA, list(named))
		c.Kill()
		for range 20 {
			for name, want := range map[string]string{"plain.dns." + zone: address, "first.headless.dns." + zone: named} {
				if got, err := r.ask(t, "udp", name, dnsmessage.TypeA); err != nil || got.String() != fmt.Sprintf("%v %q", dnsmessage.RCodeSuccess, []string{want}) {
					t.Errorf("%s: got %s (%v), want %s", name, got, err, want)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
}

func sameLines(a, b string) bool {
	x, y := slices.Sorted(strings.Lines(a)), slices.Sorted(strings.Lines(b))
	return slices.Equal(x, y)
}

// resolvConf is the file in the containers of a pod.
func (c dnsCluster) resolvConf(t *testing.T, uid string) string {
	t.Helper()
	pid := processOf(t, uid)
	data, err := os.ReadFile("/proc/" + pid + "/root/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// processOf is a process of a pod, which runs nothing but pause.
func processOf(t *testing.T, uid string) string {
	t.Helper()
	groups, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range groups {
		data, _ := os.ReadFile(file) // it may just have ended
		pid := filepath.Base(filepath.Dir(file))
		comm, _ := os.ReadFile("/proc/" + pid + "/comm")
		if strings.Contains(string(data), uid) && strings.TrimSpace(string(comm)) == "pause" {
			if _, err := os.Stat("/proc/" + pid + "/root/etc/resolv.conf"); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("pod %s has no process", uid)
	return ""
}

package cluster_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// TestDNSCache has each node keep a cache: pods ask it first, it remembers, lookups at it are not tracked, and the
// cluster's name server is there when it is not.
func TestDNSCache(t *testing.T) {
	c := newDNSCluster(t, "--dns-cache")
	named := c.field(t, "pod/named", "{.status.podIP}")
	address := c.field(t, "service/plain", "{.spec.clusterIP}")
	uid := c.field(t, "pod/named", "{.metadata.uid}")
	got, want := c.resolvConf(t, uid), "search dns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 169.254.20.10\nnameserver 10.97.0.10\noptions ndots:5\n"
	if !sameLines(got, want) || strings.Index(got, "169.254.20.10") > strings.Index(got, "10.97.0.10") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	pod := nettest.Open(t, "/proc/"+processOf(t, uid)+"/ns/net")
	cache, server := resolver{pod, "169.254.20.10:53"}, resolver{pod, clusterDNS}
	const plain, first, none = "plain.dns.svc.cluster.local.", "first.headless.dns.svc.cluster.local.", "none.dns.svc.cluster.local."
	found := func(addr string) string { return `RCodeSuccess \["` + regexp.QuoteMeta(addr) + `"\]` }
	server.becomes(t, first, dnsmessage.TypeA, found(named))
	cache.becomes(t, plain, dnsmessage.TypeA, found(address))
	cache.becomes(t, none, dnsmessage.TypeA, `RCodeNameError \[\]`)

	node := c.node(t, "node-1")
	c.measure(t, node, cache, server, plain)

	// It remembers for a while when nobody answers it, also what became too old.
	if out, err := c.Kubectl(t, "scale", "-n", "kube-system", "deployment/coredns", "--replicas=0"); err != nil {
		t.Fatal(out)
	}
	refused := func() bool {
		_, err := server.ask(t, "udp", plain, dnsmessage.TypeA)
		return err != nil
	}
	for begin := time.Now(); !refused(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			t.Fatal("the cluster's name server answers without a pod")
		}
	}
	if got, err := cache.ask(t, "udp", plain, dnsmessage.TypeA); err != nil || !slices.Equal(got.records, []string{address}) {
		t.Errorf("while the cluster's name server is away: got %s (%v), want %s", got, err, address)
	}
	if out, err := c.Kubectl(t, "scale", "-n", "kube-system", "deployment/coredns", "--replicas=1"); err != nil {
		t.Fatal(out)
	}
	server.becomes(t, plain, dnsmessage.TypeA, found(address))
	cache.becomes(t, first, dnsmessage.TypeA, found(named))

	// A cache that ends comes back.
	file := filepath.Join(c.DataDir, "nodes", "node-1", "dns-cache.corefile")
	killed := c.killCache(t, file)
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if now := c.cacheProcess(t, file); now != "" && now != killed {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal("the cache does not come back")
		}
	}
	cache.becomes(t, plain, dnsmessage.TypeA, found(address))

	// The process of the node is not needed for lookups. Without a cache they are refused at once, so that the second
	// name server is asked.
	c.Kill()
	if got, err := cache.ask(t, "udp", plain, dnsmessage.TypeA); err != nil || !slices.Equal(got.records, []string{address}) {
		t.Errorf("after a kill: got %s (%v), want %s", got, err, address)
	}
	// Its command line goes before its sockets do.
	status := "/proc/" + c.killCache(t, file) + "/status"
	for data, err := os.ReadFile(status); err == nil && !hasEnded(string(data)); data, err = os.ReadFile(status) {
		time.Sleep(time.Millisecond)
	}
	if _, err := cache.ask(t, "udp", plain, dnsmessage.TypeA); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("without the cache: got %v, want a refusal", err)
	}
	server.becomes(t, plain, dnsmessage.TypeA, found(address))
	c.Start(t)
	cache.becomes(t, plain, dnsmessage.TypeA, found(address))
	c.Stop(t)
	if left := c.Traces(t); left != "" {
		t.Errorf("left on the machine:\n%s", left)
	}
}

// cacheProcess is the process of a node's cache, by its file; empty if there is none.
func (c dnsCluster) cacheProcess(t *testing.T, file string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		data, _ := os.ReadFile(f) // it may just have ended
		if strings.Contains(string(data), "coredns\x00-conf\x00"+file) {
			return filepath.Base(filepath.Dir(f))
		}
	}
	return ""
}

func (c dnsCluster) killCache(t *testing.T, file string) string {
	t.Helper()
	pid := c.cacheProcess(t, file)
	number, err := strconv.Atoi(pid)
	if err == nil {
		err = unix.Kill(number, unix.SIGKILL)
	}
	if err != nil {
		t.Fatalf("kill the cache: %v", err)
	}
	return pid
}

// measure tells how long lookups of a pod take with and without the cache, and how many connections the node tracks
// for each; at the cache it is to be none.
func (c dnsCluster) measure(t *testing.T, node, cache, server resolver, name string) {
	const lookups = 500
	for _, r := range []resolver{server, cache} {
		before := tracked(t, node, r.server)
		var took []time.Duration
		for range lookups {
			begin := time.Now()
			if _, err := r.ask(t, "udp", name, dnsmessage.TypeA); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		more := tracked(t, node, r.server) - before
		t.Logf("%s: p50 %v, p99 %v, %d tracked connections for %d lookups", r.server, took[lookups/2], took[lookups*99/100], more, lookups)
		if r == cache && more > 0 {
			t.Errorf("%d lookups at the cache are tracked", more)
		}
	}
}

// tracked counts the connections to a name server that a node tracks.
func tracked(t *testing.T, node resolver, server string) (n int) {
	t.Helper()
	var flows []*netlink.ConntrackFlow
	var err error
	node.Do(t, func() { flows, err = netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET) })
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range flows {
		if net.JoinHostPort(f.Forward.DstIP.String(), strconv.Itoa(int(f.Forward.DstPort))) == server {
			n++
		}
	}
	return n
}

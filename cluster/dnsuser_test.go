package cluster_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// searches sees what a pod is told of name servers, and what it finds under names that are not complete when it does as it
// is told; an empty address is none. A name server that tried the rest of the search path by itself (autopath) would
// answer what nobody asked.
func (c dnsCluster) searches(t *testing.T, names map[string]string) {
	conf := c.resolvConf(t, c.field(t, "pod/named", "{.metadata.uid}"))
	if want := "search dns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.97.0.10\noptions ndots:5\n"; !sameLines(conf, want) {
		t.Errorf("got\n%s\nwant\n%s", conf, want)
	}
	pod, _ := c.pod(t, "dns", "named")
	inside := resolver{pod, clusterDNS}
	for name, want := range names {
		if got, err := inside.search(t, conf, name); got != want || err != nil {
			t.Errorf("%s: got %q (%v), want %q", name, got, err, want)
		}
	}
	const doubled = "plain.dns.svc.cluster.local.dns.svc.cluster.local."
	if got, err := inside.ask(t, "udp", doubled, dnsmessage.TypeA); err != nil || got.code != dnsmessage.RCodeNameError {
		t.Errorf("%s: got %s (%v), want that there is no such name", doubled, got, err)
	}
}

// search looks a name of few dots up as resolv.conf(5) has it: below each domain of the search path, and last as it is.
func (r resolver) search(t *testing.T, conf, name string) (string, error) {
	t.Helper()
	var below []string
	for line := range strings.Lines(conf) {
		if path, ok := strings.CutPrefix(line, "search "); ok {
			below = strings.Fields(path)
		}
	}
	for _, domain := range append(below, "") {
		full := strings.TrimSuffix(name+"."+domain, ".") + "."
		got, err := r.ask(t, "udp", full, dnsmessage.TypeA)
		if err != nil {
			return "", fmt.Errorf("%s: %w", full, err)
		}
		for _, record := range got.records {
			if net.ParseIP(record) != nil {
				return record, nil
			}
		}
	}
	return "", nil
}

// late has a Service made after it was looked up: nobody remembers that it was not there.
func (c dnsCluster) late(t *testing.T, r resolver) {
	const name = "late.dns.svc.cluster.local."
	r.becomes(t, name, dnsmessage.TypeA, `RCodeNameError \[\]`)
	if out, err := c.Kubectl(t, "create", "service", "clusterip", "-n", "dns", "late", "--tcp=80", "--clusterip=10.97.5.5"); err != nil {
		t.Fatal(out)
	}
	r.becomes(t, name, dnsmessage.TypeA, `RCodeSuccess \["10.97.5.5"\]`)
	if out, err := c.Kubectl(t, "delete", "service", "-n", "dns", "late"); err != nil {
		t.Fatal(out)
	}
	r.becomes(t, name, dnsmessage.TypeA, `RCodeNameError \[\]`)
}

// gateway is the address of this machine on the network of the nodes.
func (c dnsCluster) gateway() string { return strings.TrimSuffix(c.NodeCIDR, "0/24") + "1" }

// stubs has a user hand a domain over to another name server, in a block of its own and in that of the cluster, which
// remembers both what there is and what there is not; and a name of their own in the cluster's domain.
func (c dnsCluster) stubs(t *testing.T, r resolver, upstream *nameServer) {
	manifest := filepath.Join(t.TempDir(), "custom.yaml")
	if err := os.WriteFile(manifest, []byte(strings.ReplaceAll(customDNS, "UPSTREAM", upstream.addr)), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Kubectl(t, "apply", "-f", manifest); err != nil {
		t.Fatal(out)
	}
	r.becomes(t, "host.corp.example.", dnsmessage.TypeA, `RCodeSuccess \["192.0.2.20"\]`)
	r.becomes(t, "alias.dns.svc.cluster.local.", dnsmessage.TypeA, `RCodeSuccess \[.*\]`)
	for name, want := range map[string]string{"host.stub.example.": `RCodeSuccess \["192.0.2.20"\]`, "none.stub.example.": `RCodeNameError \[\]`} {
		r.becomes(t, name, dnsmessage.TypeA, want)
		before := upstream.asked(name)
		for range 5 {
			if got := r.becomes(t, name, dnsmessage.TypeA, want); got.ttl > 30 {
				t.Errorf("%s may be remembered for %d seconds, want at most 30", name, got.ttl)
			}
		}
		if now := upstream.asked(name); before == 0 || now != before {
			t.Errorf("%s was looked up five times more within 30 seconds: the other name server was asked %d times before and %d then", name, before, now)
		}
	}
}

const customDNS = `
apiVersion: v1
kind: ConfigMap
metadata: {name: coredns-custom, namespace: kube-system}
data:
  corp.server: |
    corp.example:53 {
        forward . UPSTREAM
    }
  alias.override: |
    rewrite name alias.dns.svc.cluster.local plain.dns.svc.cluster.local
    forward stub.example UPSTREAM
`

// nameServer is one that knows hosts, at 192.0.2.20, and nothing else. What it says may be remembered for an hour.
type nameServer struct {
	addr  string
	mu    sync.Mutex
	count map[string]int
}

func newNameServer(t *testing.T, addr string) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &nameServer{addr: conn.LocalAddr().String(), count: make(map[string]int)}
	go func() {
		for buffer := make([]byte, 1<<12); ; {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer, err := s.answer(buffer[:n]); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return s
}

// asked is how often a name was looked up.
func (s *nameServer) asked(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[name]
}

func (s *nameServer) answer(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	if len(m.Questions) != 1 {
		return nil, fmt.Errorf("%d questions", len(m.Questions))
	}
	name := m.Questions[0].Name
	s.mu.Lock()
	s.count[strings.ToLower(name.String())]++
	s.mu.Unlock()
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	header := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 3600}
	if strings.HasPrefix(strings.ToLower(name.String()), "host.") {
		m.Answers = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.AResource{A: [4]byte{192, 0, 2, 20}}}}
	} else {
		m.RCode = dnsmessage.RCodeNameError
		m.Authorities = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.SOAResource{NS: name, MBox: name, MinTTL: 3600}}}
	}
	return m.Pack()
}

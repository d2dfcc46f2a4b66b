package cluster_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/cluster/clustertest"
)

// TestKubeletsGetTheirCertificates: a kubelet asks the cluster for the certificate of its API, which whoever trusts the
// cluster's authority believes.
func TestKubeletsGetTheirCertificates(t *testing.T) {
	c := clustertest.New(t, 1)
	c.Start(t)
	c.Until(t, func(out string) bool {
		return strings.Contains(out, "kubernetes.io/kubelet-serving") && strings.Contains(out, "Approved,Issued")
	}, "get", "csr")
	address, err := c.Kubectl(t, "get", "node", "node-1", `-o=jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		t.Fatal(address)
	}
	config, err := clientcmd.LoadFromFile(c.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	for _, cluster := range config.Clusters {
		roots.AppendCertsFromPEM(cluster.CertificateAuthorityData)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		conn, err := tls.Dial("tcp", net.JoinHostPort(address, "10250"), &tls.Config{RootCAs: roots})
		if err != nil {
			t.Fatal(err)
		}
		shown := conn.ConnectionState().PeerCertificates[0]
		conn.Close()
		if slices.Equal(shown.Subject.Organization, []string{"system:nodes"}) && shown.Subject.CommonName == "system:node:node-1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kubelet shows a certificate of %v, not the one that it asked for", shown.Subject)
		}
	}
	c.Stop(t)
}

// TestNodesAreKnownByTheirOwnCertificates: a node that is a process of its own gets a certificate for its kubelet with the one
// that the cluster has made for it, and is known by its own from then on, also at the next start.
func TestNodesAreKnownByTheirOwnCertificates(t *testing.T) {
	c := clustertest.New(t, 1)
	c.Start(t)
	const fields = `-o=jsonpath={range .items[?(@.spec.signerName=="kubernetes.io/kube-apiserver-client-kubelet")]}{.metadata.name} {.spec.username} {.status.conditions[*].message}{"\n"}{end}`
	want := "system:node:node-1 Auto approving self kubelet client certificate after SubjectAccessReview."
	first := c.Until(t, func(out string) bool { return strings.Contains(out, want) }, "get", "csr", fields)
	own := filepath.Join(c.DataDir, "nodes", "node-1", "pki", "kubelet-client-current.pem")
	pair, err := tls.LoadX509KeyPair(own, own)
	if err != nil {
		t.Fatal(err)
	}
	if name := pair.Leaf.Subject.CommonName; name != "system:node:node-1" {
		t.Errorf("the node has a certificate for %s", name)
	}
	c.Stop(t)
	c.Start(t) // returns when the node is ready again
	if again, err := c.Kubectl(t, "get", "csr", fields); err != nil || again != first {
		t.Errorf("after another start: got the requests %q (%v), want no further one than %q", again, err, first)
	}
	c.Stop(t)
}

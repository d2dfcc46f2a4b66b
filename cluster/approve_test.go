package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/skiff-k8s/skiff/cluster/node"
)

// TestKubeletsAskForThemselves: nobody gets a certificate for another name or address than those that its node has.
func TestKubeletsAskForThemselves(t *testing.T) {
	m := member{Config: node.Config{Name: "node-1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")}}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest)
		want   bool
	}{
		"its own": {func(*x509.CertificateRequest, *certificatesv1.CertificateSigningRequest) {}, true},
		"its own of both families": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP("fd00::1"))
		}, true},
		"another address of IPv6": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP("fd00::2"))
		}, false},
		"another's name": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.DNSNames = []string{"node-1", "node-2"}
		}, false},
		"another address": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.IPAddresses = []net.IP{{10, 0, 0, 2}}
		}, false},
		"a mail address": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.EmailAddresses = []string{"a@b"}
		}, false},
		"a URI": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}}
		}, false},
		"another subject": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.Subject.CommonName = "system:node:node-2"
		}, false},
		"other groups": {func(r *x509.CertificateRequest, _ *certificatesv1.CertificateSigningRequest) {
			r.Subject.Organization = []string{"system:nodes", "system:masters"}
		}, false},
		"asked by another": {func(_ *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
			c.Spec.Username = "system:node:node-2"
		}, false},
		"another signer": {func(_ *x509.CertificateRequest, c *certificatesv1.CertificateSigningRequest) {
			c.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			request := &x509.CertificateRequest{
				Subject:  pkix.Name{CommonName: "system:node:node-1", Organization: []string{"system:nodes"}},
				DNSNames: []string{"node-1"}, IPAddresses: []net.IP{{10, 0, 0, 1}},
			}
			csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				Username: "system:node:node-1", SignerName: certificatesv1.KubeletServingSignerName,
			}}
			test.change(request, csr)
			der, err := x509.CreateCertificateRequest(rand.Reader, request, key)
			if err != nil {
				t.Fatal(err)
			}
			csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
			if got := m.asks(csr); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	if m.asks(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		Username: "system:node:node-1", SignerName: certificatesv1.KubeletServingSignerName, Request: []byte("nonsense"),
	}}) {
		t.Error("nonsense is taken for a request")
	}
}

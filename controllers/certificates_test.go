package controllers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/controllers"
)

// authority is a certificate authority, and its key.
func authority(t *testing.T) (cert, key []byte, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), pool
}

// asked is a request for a certificate.
type asked struct {
	signer  string
	subject pkix.Name
	dns     []string
	ips     []net.IP
	usages  []certificatesv1.KeyUsage
	seconds *int32
}

func (a asked) csr(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: a.subject, DNSNames: a.dns, IPAddresses: a.ips}, private)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		SignerName: a.signer, Usages: a.usages, ExpirationSeconds: a.seconds,
	}}
}

// approved makes a request and approves it, unless it is approved already.
func (a asked) approved(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	requests := client.CertificatesV1().CertificateSigningRequests()
	if _, err := requests.Create(t.Context(), a.csr(t, name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		csr, err := requests.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || len(csr.Status.Conditions) > 0 {
			return err
		}
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{
			Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test", Message: "by hand",
		}}
		_, err = requests.UpdateApproval(t.Context(), name, csr, metav1.UpdateOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// answered waits until a request is answered, and returns the certificate or why there is none.
func (w *world) answered(name string) (cert *x509.Certificate, failure string) {
	w.t.Helper()
	w.eventually("an answer to "+name, func() error {
		csr, err := w.CertificatesV1().CertificateSigningRequests().Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range csr.Status.Conditions {
			if c.Type == certificatesv1.CertificateFailed {
				failure = c.Reason + ": " + c.Message
				return nil
			}
		}
		block, _ := pem.Decode(csr.Status.Certificate)
		if block == nil {
			return fmt.Errorf("conditions %+v", csr.Status.Conditions)
		}
		cert, err = x509.ParseCertificate(block.Bytes)
		return err
	})
	return cert, failure
}

var (
	clientUsages  = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	servingUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}
	aNode         = pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
)

// TestRequestsAreSigned asks each signer for what it signs and for what it does not.
func TestRequestsAreSigned(t *testing.T) {
	cert, key, pool := authority(t)
	w := startWith(t, controllers.Config{SigningCA: cert, SigningKey: key})
	const client, kubelet, serving = "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"
	for i, test := range []struct {
		asked
		failure string
		life    time.Duration // without what is backdated
	}{
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me", Organization: []string{"a", "b"}}, usages: clientUsages}, life: 365 * 24 * time.Hour},
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me"}, usages: clientUsages, seconds: ptr(int32(3600))}, life: time.Hour + 5*time.Minute},
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me"}, usages: clientUsages, seconds: ptr(int32(600))}, life: 15 * time.Minute},
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me"}, usages: clientUsages, seconds: ptr(int32(10 * 365 * 86400))}, life: 365 * 24 * time.Hour},
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me"}, usages: servingUsages}, failure: "invalid usage for client certificate: server auth"},
		{asked: asked{signer: client, subject: pkix.Name{CommonName: "me"}, usages: clientUsages[:1]}, failure: "missing required usage for client certificate: client auth"},
		{asked: asked{signer: kubelet, subject: aNode, usages: clientUsages}, life: 365 * 24 * time.Hour},
		{asked: asked{signer: kubelet, subject: pkix.Name{CommonName: "system:node:n1"}, usages: clientUsages}, failure: "subject organization is not system:nodes"},
		{asked: asked{signer: kubelet, subject: pkix.Name{CommonName: "n1", Organization: []string{"system:nodes"}}, usages: clientUsages}, failure: "subject common name does not begin with system:node:"},
		{asked: asked{signer: kubelet, subject: aNode, dns: []string{"n1"}, usages: clientUsages}, failure: "DNS subjectAltNames are not allowed"},
		{asked: asked{signer: kubelet, subject: aNode, ips: []net.IP{{10, 0, 0, 1}}, usages: clientUsages}, failure: "IP subjectAltNames are not allowed"},
		{asked: asked{signer: kubelet, subject: aNode, usages: servingUsages}, failure: "usages did not match [client auth digital signature key encipherment]"},
		{asked: asked{signer: serving, subject: aNode, dns: []string{"n1"}, ips: []net.IP{{10, 0, 0, 1}}, usages: servingUsages}, life: 365 * 24 * time.Hour},
		{asked: asked{signer: serving, subject: aNode, usages: servingUsages}, failure: "DNS or IP subjectAltName is required"},
		{asked: asked{signer: serving, subject: aNode, dns: []string{"n1"}, usages: clientUsages}, failure: "usages did not match [digital signature key encipherment server auth]"},
		{asked: asked{signer: serving, subject: pkix.Name{CommonName: "x", Organization: []string{"system:nodes"}}, dns: []string{"n1"}, usages: servingUsages}, failure: "subject common name does not begin with system:node:"},
	} {
		name := fmt.Sprintf("r%d", i)
		test.approved(t, w, name)
		got, failure := w.answered(name)
		if test.failure != "" {
			if want := "SignerValidationFailure: " + test.failure; failure != want {
				t.Errorf("%s %+v: got %q, want %q", name, test.asked, failure, want)
			}
			continue
		}
		if failure != "" {
			t.Errorf("%s %+v: %s", name, test.asked, failure)
			continue
		}
		if _, err := got.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got.Subject.CommonName != test.subject.CommonName || fmt.Sprint(got.DNSNames, got.IPAddresses) != fmt.Sprint(test.dns, test.ips) || got.IsCA {
			t.Errorf("%s: got a certificate for %v, %v, %v", name, got.Subject, got.DNSNames, got.IPAddresses)
		}
		if life := got.NotAfter.Sub(got.NotBefore); life != test.life {
			t.Errorf("%s: it lasts %v, want %v", name, life, test.life)
		}
	}
}

// TestOthersAreLeftAlone: requests that nobody has approved, that somebody denied, and those to other signers.
func TestOthersAreLeftAlone(t *testing.T) {
	cert, key, _ := authority(t)
	w := startWith(t, controllers.Config{SigningCA: cert, SigningKey: key})
	requests := w.CertificatesV1().CertificateSigningRequests()
	mine := asked{signer: "kubernetes.io/kube-apiserver-client", subject: pkix.Name{CommonName: "me"}, usages: clientUsages}
	if _, err := requests.Create(t.Context(), mine.csr(t, "pending"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	denied, err := requests.Create(t.Context(), mine.csr(t, "denied"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	denied.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := requests.UpdateApproval(t.Context(), "denied", denied, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	other := mine
	other.signer = "example.com/other"
	other.approved(t, w, "other")
	mine.approved(t, w, "last")
	w.answered("last") // by then the loop has looked at the others
	for _, name := range []string{"pending", "denied", "other"} {
		csr, err := requests.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(csr.Status.Certificate) > 0 {
			t.Errorf("request %s is signed", name)
		}
	}
}

// TestKubeletsAreApproved: a kubelet gets a certificate for itself, another only by who brings nodes in, nobody else one.
func TestKubeletsAreApproved(t *testing.T) {
	cert, key, _ := authority(t)
	w := startWith(t, controllers.Config{SigningCA: cert, SigningKey: key})
	as := func(name string, groups ...string) kubernetes.Interface {
		return typed(t, apiservertest.Config(w.server, name, append(groups, user.AllAuthenticated)...))
	}
	for name, role := range map[string]string{
		"system:bootstrappers": "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
		"system:nodes":         "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
	} {
		if _, err := w.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: name}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "asking"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: user.AllAuthenticated}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	request := asked{signer: "kubernetes.io/kube-apiserver-client-kubelet", subject: aNode, usages: clientUsages}
	create := func(name string, as kubernetes.Interface) {
		t.Helper()
		w.eventually("request "+name, func() error {
			_, err := as.CertificatesV1().CertificateSigningRequests().Create(context.Background(), request.csr(t, name), metav1.CreateOptions{})
			return err
		})
	}
	create("stranger", as("somebody"))
	create("self", as("system:node:n1", "system:nodes"))
	create("bootstrap", as("system:bootstrap:abc", "system:bootstrappers"))
	for name, message := range map[string]string{
		"self":      "Auto approving self kubelet client certificate after SubjectAccessReview.",
		"bootstrap": "Auto approving kubelet client certificate after SubjectAccessReview.",
	} {
		if _, failure := w.answered(name); failure != "" {
			t.Errorf("%s: %s", name, failure)
		}
		csr, err := w.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c := csr.Status.Conditions; len(c) != 1 || c[0].Reason != "AutoApproved" || c[0].Message != message {
			t.Errorf("%s: got %+v, want %q", name, c, message)
		}
	}
	csr, err := w.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "stranger", metav1.GetOptions{})
	if err != nil || len(csr.Status.Conditions) > 0 {
		t.Errorf("a stranger's request: %+v (%v), want it pending", csr.Status.Conditions, err)
	}
}

package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestWhenRequestsAreUseless looks at what a request says and when it is of no more use.
func TestWhenRequestsAreUseless(t *testing.T) {
	made := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	settled := made.Add(30 * time.Minute)
	with := func(kind certificatesv1.RequestConditionType) []certificatesv1.CertificateSigningRequestCondition {
		return []certificatesv1.CertificateSigningRequestCondition{{Type: kind, LastUpdateTime: metav1.NewTime(settled)}}
	}
	for name, test := range map[string]struct {
		status certificatesv1.CertificateSigningRequestStatus
		want   time.Time
	}{
		"pending":              {want: made.Add(24 * time.Hour)},
		"denied":               {certificatesv1.CertificateSigningRequestStatus{Conditions: with(certificatesv1.CertificateDenied)}, settled.Add(time.Hour)},
		"failed":               {certificatesv1.CertificateSigningRequestStatus{Conditions: with(certificatesv1.CertificateFailed)}, settled.Add(time.Hour)},
		"approved":             {certificatesv1.CertificateSigningRequestStatus{Conditions: with(certificatesv1.CertificateApproved)}, settled.Add(24 * time.Hour)},
		"signed":               {certificatesv1.CertificateSigningRequestStatus{Conditions: with(certificatesv1.CertificateApproved), Certificate: []byte("x")}, settled.Add(time.Hour)},
		"approved, and failed": {certificatesv1.CertificateSigningRequestStatus{Conditions: append(with(certificatesv1.CertificateApproved), with(certificatesv1.CertificateFailed)...)}, settled.Add(time.Hour)},
		"of another kind":      {certificatesv1.CertificateSigningRequestStatus{Conditions: with("Other")}, time.Time{}},
		"without a time":       {certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied}}}, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}, Status: test.status}
			if got := useless(csr); !got.Equal(test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestLegacyRequestsAreSigned: such requests are those of older API versions, stored before. Any usage will do, and no
// certificate outlives its authority.
func TestLegacyRequestsAreSigned(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"x"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := &certificatesv1.CertificateSigningRequest{
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}),
			SignerName: "kubernetes.io/legacy-unknown", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageServerAuth, certificatesv1.UsageClientAuth},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue},
		}},
	}
	authority := &Authority{ca, key}
	answered, err := authority.answer(csr, now)
	if err != nil || answered == nil {
		t.Fatalf("got %v (%v), want an answer", answered, err)
	}
	block, _ := pem.Decode(answered.Status.Certificate)
	if block == nil {
		t.Fatalf("no certificate: %+v", answered.Status)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !cert.NotAfter.Equal(ca.NotAfter) || len(cert.ExtKeyUsage) != 2 || cert.VerifyHostname("x") != nil {
		t.Errorf("got a certificate until %v for %v and %v", cert.NotAfter, cert.ExtKeyUsage, cert.DNSNames)
	}
	if _, err := authority.answer(csr, ca.NotAfter); err == nil {
		t.Error("an authority that has expired signs")
	}
}

// FuzzParse: requests are strangers' bytes.
func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, request []byte) {
		csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: request}}
		if parsed, err := parse(csr); (parsed == nil) == (err == nil) {
			t.Errorf("got %v and %v", parsed, err)
		}
	})
}

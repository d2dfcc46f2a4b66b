// Package certificates records what kube-controller-manager makes of CertificateSigningRequests: its approver, its signers and
// its cleaner get the requests of requests_test.go, from an API whose clock is theirs. What came of each is written to
// controllers/certificates/testdata:
//
//	cd third_party/kubernetes && go test ./certificates  # not -mod=mod: tools are built anew when go.mod changes
package certificates

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
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/kubernetes/pkg/controller/certificates/approver"
	"k8s.io/kubernetes/pkg/controller/certificates/cleaner"
	"k8s.io/kubernetes/pkg/controller/certificates/signer"
	"sigs.k8s.io/yaml"
)

const folder = "../../../controllers/certificates/testdata"

// authority is one that signs, and since when and until when, from the recording on.
type authority struct {
	Name string `json:"name"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// request is what was asked for, and what came of it.
type request struct {
	Name      string                                    `json:"name"`
	Authority string                                    `json:"authority"`
	Object    *certificatesv1.CertificateSigningRequest `json:"object"`
	Rights    []string                                  `json:"rights,omitempty"` // that whoever asks has
	Reviews   []string                                  `json:"reviews,omitempty"`

	Conditions  []string     `json:"conditions,omitempty"`
	Certificate *certificate `json:"certificate,omitempty"`
}

// certificate is one in words.
type certificate struct {
	Subject    string   `json:"subject"`
	Names      []string `json:"names,omitempty"`
	KeyUsage   int      `json:"keyUsage"`
	Usages     []int    `json:"usages,omitempty"`
	Extensions []string `json:"extensions,omitempty"`
	IsCA       bool     `json:"isCA,omitempty"`
	Algorithm  string   `json:"algorithm"`
	Backdated  string   `json:"backdated"`
	Lasts      string   `json:"lasts"`
}

type recorded struct {
	At          time.Time   `json:"at"`
	Authorities []authority `json:"authorities"`
	Requests    []request   `json:"requests"`
}

// settled is a request that nobody answers any more, and at which full hour after the start it was gone.
type settled struct {
	Name   string                                    `json:"name"`
	Object *certificatesv1.CertificateSigningRequest `json:"object"`
	Gone   string                                    `json:"gone"`
}

func write(t *testing.T, file, what string, value any) {
	t.Helper()
	out, err := yaml.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	head := "# " + what + " Written by third_party/kubernetes/certificates.\n"
	if err := os.WriteFile(filepath.Join(folder, file), append([]byte(head), out...), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRecordAnswers(t *testing.T) {
	at := time.Now().UTC().Truncate(time.Second)
	r := recorded{At: at, Authorities: []authority{
		newAuthority(t, "lasting", at.Add(10*365*24*time.Hour)),
		newAuthority(t, "ending", at.Add(30*24*time.Hour)),
		newAuthority(t, "ended", at.Add(-time.Minute)),
	}}
	r.Requests = requests(t)
	for _, a := range r.Authorities {
		t.Run(a.Name, func(t *testing.T) { answer(t, a, r.Requests) })
	}
	write(t, "answers.yaml", "What kube-controller-manager v1.36.3 makes of requests for certificates.", r)
}

func newAuthority(t *testing.T, name string, end time.Time) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: end.Add(-20 * 365 * 24 * time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return authority{name, block("CERTIFICATE", der), block("EC PRIVATE KEY", private)}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// answer has the controllers answer the requests to an authority.
func answer(t *testing.T, a authority, all []request) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for file, text := range map[string]string{cert: a.Cert, key: a.Key} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := fake.NewSimpleClientset()
	client.PrependReactor("update", "certificatesigningrequests", stamp)
	var mu sync.Mutex
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		return true, review(action, all), nil
	})
	ctx, stop := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	csrs := factory.Certificates().V1().CertificateSigningRequests()
	var running sync.WaitGroup
	approving := approver.NewCSRApprovingController(ctx, client, csrs)
	running.Go(func() { approving.Run(ctx, 1) })
	const year = 365 * 24 * time.Hour // what --cluster-signing-duration is by default
	for _, make := range []func() (*signer.CSRSigningController, error){
		func() (*signer.CSRSigningController, error) {
			return signer.NewKubeletServingCSRSigningController(ctx, client, csrs, cert, key, year)
		},
		func() (*signer.CSRSigningController, error) {
			return signer.NewKubeletClientCSRSigningController(ctx, client, csrs, cert, key, year)
		},
		func() (*signer.CSRSigningController, error) {
			return signer.NewKubeAPIServerClientCSRSigningController(ctx, client, csrs, cert, key, year)
		},
		func() (*signer.CSRSigningController, error) {
			return signer.NewLegacyUnknownCSRSigningController(ctx, client, csrs, cert, key, year)
		},
	} {
		signing, err := make()
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { signing.Run(ctx, 1) })
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for _, r := range all {
		if r.Authority == a.Name {
			if _, err := client.CertificatesV1().CertificateSigningRequests().Create(ctx, r.Object, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	time.Sleep(5 * time.Second) // by then all that happens has happened
	now := time.Now()
	for i := range all {
		if all[i].Authority == a.Name {
			all[i].fill(t, a, client, now)
		}
	}
	stop()
	running.Wait()
}

var version atomic.Int64

// stamp sets versions and the times of conditions, as the API server does: who watches is not told of what has the same version.
func stamp(action clienttesting.Action) (bool, runtime.Object, error) {
	csr := action.(clienttesting.UpdateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
	csr.ResourceVersion = fmt.Sprint(version.Add(1))
	for i := range csr.Status.Conditions {
		if c := &csr.Status.Conditions[i]; c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = metav1.Now()
		}
	}
	return false, nil, nil
}

// review answers whether somebody has a right, and notes that it was asked. Requests know each other by their users.
func review(action clienttesting.Action, all []request) *authorizationv1.SubjectAccessReview {
	asked := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
	s, a := asked.Spec, asked.Spec.ResourceAttributes
	for i := range all {
		if r := &all[i]; r.Object.Spec.UID == s.UID && s.UID != "" {
			asked.Status.Allowed = slices.Contains(r.Rights, a.Subresource)
			text := fmt.Sprintf("%s %s/%s.%s/%s by %s in %q with %v", a.Verb, a.Resource, a.Subresource, a.Group, a.Version, s.User, s.Groups, s.Extra)
			if !slices.Contains(r.Reviews, text) { // it is asked again for requests that are not approved
				r.Reviews = append(r.Reviews, text)
			}
		}
	}
	return asked
}

func (r *request) fill(t *testing.T, a authority, client *fake.Clientset, now time.Time) {
	csr, err := client.CertificatesV1().CertificateSigningRequests().Get(t.Context(), r.Object.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range csr.Status.Conditions {
		r.Conditions = append(r.Conditions, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
	}
	if len(csr.Status.Certificate) > 0 {
		r.Certificate = tell(t, csr.Status.Certificate, a, now)
	}
}

// tell puts a certificate into words, without what is another one each time.
func tell(t *testing.T, text []byte, a authority, now time.Time) *certificate {
	parse := func(text []byte) *x509.Certificate {
		found, rest := pem.Decode(text)
		if found == nil || len(rest) > 0 {
			t.Fatalf("not one block alone: %q", text)
		}
		cert, err := x509.ParseCertificate(found.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	cert, by := parse(text), parse([]byte(a.Cert))
	if err := cert.CheckSignatureFrom(by); err != nil {
		t.Fatal(err)
	}
	c := &certificate{
		Subject: cert.Subject.String(), KeyUsage: int(cert.KeyUsage), IsCA: cert.IsCA, Algorithm: cert.SignatureAlgorithm.String(),
		Backdated: now.Sub(cert.NotBefore).Round(time.Minute).String(), Lasts: cert.NotAfter.Sub(cert.NotBefore).String(),
	}
	if cert.NotAfter.Equal(by.NotAfter) {
		c.Lasts = "as long as its authority"
	}
	c.Names = append(c.Names, cert.DNSNames...)
	c.Names = append(c.Names, cert.EmailAddresses...)
	for _, ip := range cert.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	for _, u := range cert.URIs {
		c.Names = append(c.Names, u.String())
	}
	for _, u := range cert.ExtKeyUsage {
		c.Usages = append(c.Usages, int(u))
	}
	for _, e := range cert.Extensions {
		c.Extensions = append(c.Extensions, e.Id.String())
	}
	return c
}

func TestRecordCleaning(t *testing.T) {
	var all []settled
	synctest.Test(t, func(t *testing.T) {
		all = finished(t, time.Now())
		ctx, stop := context.WithCancel(t.Context())
		client := fake.NewSimpleClientset()
		csrs := client.CertificatesV1().CertificateSigningRequests()
		for _, s := range all {
			if _, err := csrs.Create(ctx, s.Object, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		factory := informers.NewSharedInformerFactory(client, 0)
		cleaning := cleaner.NewCSRCleanerController(csrs, factory.Certificates().V1().CertificateSigningRequests())
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		go cleaning.Run(ctx, 1)
		for hour := range 30 {
			synctest.Wait()
			for i := range all {
				_, err := csrs.Get(ctx, all[i].Object.Name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) && all[i].Gone == "never" {
					all[i].Gone = fmt.Sprint(hour)
				}
			}
			time.Sleep(time.Hour)
		}
		stop()
		factory.Shutdown()
	})
	write(t, "cleaned.yaml", "When kube-controller-manager v1.36.3 deletes requests, from 2000-01-01 00:00 on.", all)
}

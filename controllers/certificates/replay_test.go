package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// What kube-controller-manager made of requests: see third_party/kubernetes/certificates, which asks it.

type recorded struct {
	At          time.Time `json:"at"`
	Authorities []struct {
		Name string `json:"name"`
		Cert string `json:"cert"`
		Key  string `json:"key"`
	} `json:"authorities"`
	Requests []request `json:"requests"`
}

// request is what was asked for, and what came of it.
type request struct {
	Name      string                                    `json:"name"`
	Authority string                                    `json:"authority"`
	Object    *certificatesv1.CertificateSigningRequest `json:"object"`
	Rights    []string                                  `json:"rights"` // that whoever asks has
	outcome   `json:",inline"`
}

type outcome struct {
	Reviews     []string     `json:"reviews"`
	Conditions  []string     `json:"conditions"`
	Certificate *certificate `json:"certificate"`
}

// certificate is one in words.
type certificate struct {
	Subject    string   `json:"subject"`
	Names      []string `json:"names"`
	KeyUsage   int      `json:"keyUsage"`
	Usages     []int    `json:"usages"`
	Extensions []string `json:"extensions"`
	IsCA       bool     `json:"isCA"`
	Algorithm  string   `json:"algorithm"`
	Backdated  string   `json:"backdated"`
	Lasts      string   `json:"lasts"`
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// TestAnswers compares what comes of requests with what kube-controller-manager makes of them at the same time.
func TestAnswers(t *testing.T) {
	var r recorded
	read(t, "answers.yaml", &r)
	if len(r.Requests) == 0 {
		t.Fatal("nothing is recorded")
	}
	for _, a := range r.Authorities {
		t.Run(a.Name, func(t *testing.T) {
			mine := slices.DeleteFunc(slices.Clone(r.Requests), func(q request) bool { return q.Authority != a.Name })
			if len(mine) == 0 {
				t.Fatal("nothing is recorded")
			}
			authority, err := NewAuthority([]byte(a.Cert), []byte(a.Key))
			if err != nil {
				t.Fatal(err)
			}
			var got []outcome
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(r.At))
				got = answers(t, authority, mine)
			})
			for i, q := range mine {
				if diff := cmp.Diff(q.outcome, got[i]); diff != "" {
					t.Errorf("%s: kube-controller-manager (-) and Skiff (+):\n%s", q.Name, diff)
				}
			}
		})
	}
}

// answers has the controllers answer requests.
func answers(t *testing.T, authority *Authority, all []request) []outcome {
	client := fake.NewClientset()
	client.PrependReactor("update", "certificatesigningrequests", stamp)
	got := make([]outcome, len(all))
	var mu sync.Mutex
	client.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		asked := action.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		s, a := asked.Spec, asked.Spec.ResourceAttributes
		i := slices.IndexFunc(all, func(q request) bool { return q.Object.Spec.UID == s.UID })
		if i < 0 {
			return true, nil, fmt.Errorf("a review of an unknown request: %+v", s)
		}
		asked.Status.Allowed = slices.Contains(all[i].Rights, a.Subresource)
		text := fmt.Sprintf("%s %s/%s.%s/%s by %s in %q with %v", a.Verb, a.Resource, a.Subresource, a.Group, a.Version, s.User, s.Groups, s.Extra)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(got[i].Reviews, text) { // it is asked again for requests that are not approved
			got[i].Reviews = append(got[i].Reviews, text)
		}
		return true, asked, nil
	})
	objects := make([]*certificatesv1.CertificateSigningRequest, len(all))
	for i := range all {
		objects[i] = all[i].Object
	}
	run(t, client, objects, func(d Deps) []reconcile.Controller {
		return []reconcile.Controller{Approver(d), Signer(d, authority)}
	}, func() {
		time.Sleep(5 * time.Second) // by then all that happens has happened
		for i, q := range all {
			csr, err := client.CertificatesV1().CertificateSigningRequests().Get(t.Context(), q.Object.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range csr.Status.Conditions {
				got[i].Conditions = append(got[i].Conditions, fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message))
			}
			if len(csr.Status.Certificate) > 0 {
				got[i].Certificate = tell(t, csr.Status.Certificate, authority.cert, time.Now())
			}
		}
	})
	return got
}

// run runs controllers on requests while work does.
func run(t *testing.T, client *fake.Clientset, requests []*certificatesv1.CertificateSigningRequest, controllers func(Deps) []reconcile.Controller, work func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(client, 0)
	var running sync.WaitGroup
	for _, c := range controllers(Deps{Client: client, Informers: factory, Workers: 1}) {
		running.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	factory.Start(ctx.Done())
	time.Sleep(time.Second) // what is made before this client is watched is not told of again
	for _, csr := range requests {
		if _, err := client.CertificatesV1().CertificateSigningRequests().Create(t.Context(), csr, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	work()
	stop()
	running.Wait()
	factory.Shutdown()
	time.Sleep(time.Hour) // what is waiting for a time notices then that it is over
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

// tell puts a certificate into words, without what is another one each time.
func tell(t *testing.T, text []byte, by *x509.Certificate, now time.Time) *certificate {
	t.Helper()
	found, rest := pem.Decode(text)
	if found == nil || len(rest) > 0 {
		t.Fatalf("not one block alone: %q", text)
	}
	cert, err := x509.ParseCertificate(found.Bytes)
	if err != nil {
		t.Fatal(err)
	}
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

// TestCleaning compares when requests are deleted. kube-controller-manager looks every hour, Skiff knows the time.
func TestCleaning(t *testing.T) {
	var all []struct {
		Name   string                                    `json:"name"`
		Object *certificatesv1.CertificateSigningRequest `json:"object"`
		Gone   string                                    `json:"gone"` // in which hour, or never
	}
	read(t, "cleaned.yaml", &all)
	got := make([]string, len(all))
	synctest.Test(t, func(t *testing.T) { // begins when the recording did
		client := fake.NewClientset()
		csrs := client.CertificatesV1().CertificateSigningRequests()
		objects := make([]*certificatesv1.CertificateSigningRequest, len(all))
		for i := range all {
			objects[i], got[i] = all[i].Object, "never"
		}
		run(t, client, objects, func(d Deps) []reconcile.Controller { return []reconcile.Controller{Cleaner(d)} }, func() {
			time.Sleep(time.Minute) // for those that are deleted at once
			for hour := range 30 {
				for i, csr := range objects {
					if _, err := csrs.Get(t.Context(), csr.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) && got[i] == "never" {
						got[i] = fmt.Sprint(hour)
					}
				}
				time.Sleep(time.Hour)
			}
		})
	})
	if len(all) == 0 {
		t.Fatal("nothing is recorded")
	}
	for i, s := range all {
		if got[i] != s.Gone {
			t.Errorf("%s: deleted in hour %s, by kube-controller-manager in hour %s", s.Name, got[i], s.Gone)
		}
	}
}

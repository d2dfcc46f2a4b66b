package rotate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// sign makes a certificate that began an hour ago.
func (a authority) sign(t *testing.T, subject pkix.Name, public any, left time.Duration) []byte {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: subject, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(left),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// pair makes a certificate and its key.
func (a authority) pair(t *testing.T, subject pkix.Name, left time.Duration) (cert, key []byte) {
	t.Helper()
	private := newKey(t)
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return a.sign(t, subject, private.Public(), left), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// world is a cluster whose signer signs all it is asked for.
type world struct {
	authority
	left  time.Duration // how long what it signs is good for
	admin kubernetes.Interface
	first *rest.Config // who may bring nodes in
	asked chan string  // who has got a certificate
}

var bootstrapper = pkix.Name{CommonName: "system:bootstrap:abcdef", Organization: []string{"system:bootstrappers"}}

func newWorld(t *testing.T, left time.Duration) *world {
	t.Helper()
	w := &world{authority: newAuthority(t), left: left, asked: make(chan string, 100)}
	server := apiservertest.Start(t, func(o *apiserver.Options) { o.ClientCA = w.pem() })
	var err error
	if w.admin, err = kubernetes.NewForConfig(apiservertest.Config(server, "admin")); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	shown, err := tls.X509KeyPair(w.pair(t, pkix.Name{CommonName: "server"}, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- server.Serve(ctx, listener, &tls.Config{Certificates: []tls.Certificate{shown}, ClientAuth: tls.RequestClientCert})
	}()
	t.Cleanup(func() { stop(); <-ended })
	w.first = &rest.Config{Host: "https://" + listener.Addr().String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: w.pem()}}
	w.first.CertData, w.first.KeyData = w.pair(t, bootstrapper, time.Hour)
	if _, err := w.admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-bootstrapper"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: bootstrapper.Organization[0]}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	requests, err := w.admin.CertificatesV1().CertificateSigningRequests().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go w.answer(t, requests)
	return w
}

// answer approves and signs what is asked for, until the test ends.
func (w *world) answer(t *testing.T, requests watch.Interface) {
	client := w.admin.CertificatesV1().CertificateSigningRequests()
	for event := range requests.ResultChan() {
		csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || event.Type != watch.Added || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
			continue
		}
		block, _ := pem.Decode(csr.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Errorf("request %s: %v", csr.Name, err)
			return
		}
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
		if csr, err = client.UpdateApproval(context.Background(), csr.Name, csr, metav1.UpdateOptions{}); err == nil {
			csr.Status.Certificate = w.sign(t, request.Subject, request.PublicKey, w.left)
			csr, err = client.UpdateStatus(context.Background(), csr, metav1.UpdateOptions{})
		}
		if t.Context().Err() != nil {
			return
		}
		if err != nil {
			t.Errorf("sign: %v", err)
			return
		}
		w.asked <- csr.Spec.Username
	}
}

// folder is for certificates. It is not t.TempDir, since nobody waits for a certificate that is just being written when a
// Client ends.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "skiff-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// open runs a Client until the test ends.
func (w *world) open(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{First: w.first, NodeName: "n1", Dir: dir, Roots: w.pool()})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	t.Cleanup(func() { <-ended })
	return c
}

// who says as whom requests of a client come. A connection may just be closed because there is a new certificate.
func who(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	for {
		review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if errors.Is(err, net.ErrClosed) {
			continue
		}
		if err != nil {
			t.Fatalf("ask who one is: %v", err)
		}
		if !slices.Contains(review.Status.UserInfo.Groups, "system:nodes") {
			t.Errorf("%s is in %q only", review.Status.UserInfo.Username, review.Status.UserInfo.Groups)
		}
		return review.Status.UserInfo.Username
	}
}

func (w *world) client(t *testing.T, c *Client) kubernetes.Interface {
	t.Helper()
	config, err := c.Config(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

const node = "system:node:n1"

// TestClientIsRenewed: the first certificate is asked for as another, each later one as the node itself, and who was connected
// goes on when the certificate that it was connected with has ended.
func TestClientIsRenewed(t *testing.T) {
	w := newWorld(t, 5*time.Second) // so near its end that it is asked for again at once
	client := w.client(t, w.open(t, folder(t)))
	end := time.Now().Add(w.left)
	if got := who(t, client); got != node {
		t.Fatalf("the node is %s, want %s", got, node)
	}
	if got := <-w.asked; got != bootstrapper.CommonName {
		t.Errorf("the first certificate is asked for by %s, want %s", got, bootstrapper.CommonName)
	}
	for renewed := 0; renewed < 2 || time.Now().Before(end.Add(time.Second)); renewed++ {
		if got := <-w.asked; got != node {
			t.Errorf("another certificate is asked for by %s, want %s", got, node)
		}
	}
	if got := who(t, client); got != node {
		t.Errorf("with a later certificate the node is %s, want %s", got, node)
	}
}

// TestClientOnDisk: what a node finds when it starts is used, unless it has ended, or is somebody else's.
func TestClientOnDisk(t *testing.T) {
	w := newWorld(t, 10*24*time.Hour)
	before := 0 // requests of the cases before
	for name, test := range map[string]struct {
		by      authority
		subject pkix.Name
		left    time.Duration
		asks    bool
	}{
		"good":                 {w.authority, subject("n1"), 10 * 24 * time.Hour, false},
		"ended":                {w.authority, subject("n1"), -time.Minute, true},
		"of another authority": {newAuthority(t), subject("n1"), 10 * 24 * time.Hour, true},
		"of another node":      {w.authority, subject("n2"), 10 * 24 * time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t)
			files, err := certificate.NewFileStore("kubelet-client", dir, dir, "", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := files.Update(test.by.pair(t, test.subject, test.left)); err != nil {
				t.Fatal(err)
			}
			if got := who(t, w.client(t, w.open(t, dir))); got != node {
				t.Errorf("the node is %s, want %s", got, node)
			}
			if test.asks {
				if by := <-w.asked; by != bootstrapper.CommonName {
					t.Errorf("%s asks for the certificate, want %s", by, bootstrapper.CommonName)
				}
			}
			requests, err := w.admin.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if asked := len(requests.Items) > before; asked != test.asks {
				t.Errorf("it is asked for a certificate: %v, want %v", asked, test.asks)
			}
			before = len(requests.Items)
		})
	}
}

// TestClientWaits: without a certificate there is no way in, and waiting for it ends.
func TestClientWaits(t *testing.T) {
	w := newWorld(t, time.Hour)
	c, err := NewClient(ClientConfig{First: w.first, NodeName: "n1", Dir: t.TempDir(), Roots: w.pool()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if config, err := c.Config(ctx); err == nil {
		t.Errorf("got %v without a certificate", config)
	}
}

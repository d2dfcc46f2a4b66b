package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// listen serves s over TLS and returns how to reach it without credentials,
// and a client certificate of user eve in group devs.
func listen(t *testing.T, changes ...func(*apiserver.Options)) (s *apiserver.Server, anonymous *rest.Config, eve rest.TLSClientConfig) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(template, parent *x509.Certificate) []byte {
		template.SerialNumber, template.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true}
	caDER := sign(ca, ca)
	serving := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, ca)
	client := sign(&x509.Certificate{Subject: pkix.Name{CommonName: "eve", Organization: []string{"devs"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca)
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }

	s = apiservertest.Start(t, func(o *apiserver.Options) {
		o.ClientCA, o.ServiceAccountKey = encode("CERTIFICATE", caDER), encode("EC PRIVATE KEY", private)
		for _, change := range changes {
			change(o)
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- s.Serve(ctx, l, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{serving}, PrivateKey: key}}, ClientAuth: tls.RequestClientCert,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	trust := rest.TLSClientConfig{CAData: encode("CERTIFICATE", caDER)}
	eve = trust
	eve.CertData, eve.KeyData = encode("CERTIFICATE", client), encode("EC PRIVATE KEY", private)
	return s, &rest.Config{Host: "https://" + l.Addr().String(), TLSClientConfig: trust}, eve
}

func clientset(t testing.TB, c *rest.Config) *kubernetes.Clientset {
	t.Helper()
	k, err := kubernetes.NewForConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestCertificate(t *testing.T) {
	_, config, eve := listen(t)
	config.TLSClientConfig = eve
	review, err := clientset(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	u := review.Status.UserInfo
	if want := []string{"devs", "system:authenticated"}; u.Username != "eve" || !slices.Equal(u.Groups, want) {
		t.Errorf("got %s of %q, want eve of %q", u.Username, u.Groups, want)
	}
	if id := u.Extra["authentication.kubernetes.io/credential-id"]; len(id) != 1 || !strings.HasPrefix(id[0], "X509SHA256=") {
		t.Errorf("got credential id %q, want one X509SHA256=…", id)
	}
}

func TestAnonymous(t *testing.T) {
	_, config, _ := listen(t)
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200, "/version/": 200,
		"/": 403, "/metrics": 403, "/api": 403, "/apis": 403, "/api/v1/pods": 403, "/readyz/etcd": 403, "/openid/v1/jwks": 403,
	} {
		resp, err := client.Get(config.Host + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: got %d, want %d", path, resp.StatusCode, want)
		}
	}
	config.BearerToken = "nonsense"
	_, err = clientset(t, config).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsUnauthorized(err) || err.Error() != "Unauthorized" {
		t.Errorf("with a wrong token: got %v, want Unauthorized", err)
	}
}

// TestServiceAccountToken goes the way of a pod's token: asked for by the
// kubelet, used by the pod, reviewed by an extension server, void when the pod
// is gone.
func TestServiceAccountToken(t *testing.T) {
	s, config, _ := listen(t)
	admin := clientset(t, apiservertest.Config(s, "admin"))
	node := clientset(t, apiservertest.Config(s, "system:node:n1", "system:nodes"))
	ctx := t.Context()
	create := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	create(err)
	_, err = admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	create(err)
	pod, err := admin.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	create(err)
	if v := pod.Spec.Volumes; len(v) != 1 || !strings.HasPrefix(v[0].Name, "kube-api-access-") {
		t.Errorf("got volumes %v, want one with the credentials", v)
	}

	request := func() *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: ptr.To(int64(3607)),
			BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "p", UID: pod.UID},
		}}
	}
	other := clientset(t, apiservertest.Config(s, "system:node:n2", "system:nodes"))
	if _, err := other.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", request(), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token asked for by another node: got %v, want Forbidden", err)
	}
	token, err := node.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", request(), metav1.CreateOptions{})
	create(err)
	if left := time.Until(token.Status.ExpirationTimestamp.Time); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("the token is told to expire in %v, want an hour", left)
	}

	config.BearerToken = token.Status.Token
	robot := clientset(t, config)
	_, err = robot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if want := `configmaps is forbidden: User "system:serviceaccount:default:robot" cannot list resource "configmaps" in API group "" in the namespace "default"`; err == nil || err.Error() != want {
		t.Errorf("before there are rights: got %v, want %s", err, want)
	}
	_, err = admin.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "robot"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "robot", Namespace: "default"}},
	}, metav1.CreateOptions{})
	create(err)
	within(t, time.Second, func() bool {
		_, err = robot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		return err == nil
	})

	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}
	reviewed, err := admin.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	create(err)
	u := reviewed.Status.User
	if !reviewed.Status.Authenticated || u.Username != "system:serviceaccount:default:robot" {
		t.Errorf("the review says %+v, want robot", reviewed.Status)
	}
	for key, want := range map[string]string{"pod-name": "p", "pod-uid": string(pod.UID), "node-name": "n1"} {
		if got := u.Extra["authentication.kubernetes.io/"+key]; len(got) != 1 || got[0] != want {
			t.Errorf("the review says %s is %q, want %q", key, got, want)
		}
	}

	if err := admin.CoreV1().Pods("default").Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}); err != nil {
		t.Fatal(err)
	}
	if _, err = robot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("after the pod is gone: got %v, want Unauthorized", err)
	}
	reviewed, err = admin.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	create(err)
	if reviewed.Status.Authenticated || reviewed.Status.Error == "" {
		t.Errorf("the review of a void token says %+v, want an error", reviewed.Status)
	}
}

// TestAccessReview asks as stock programs do whether they may.
func TestAccessReview(t *testing.T) {
	s := apiservertest.Start(t, nil)
	for _, c := range []struct {
		name, user, verb, group, resource, namespace string
		want                                         bool
	}{
		{"scheduler", "system:kube-scheduler", "list", "", "pods", "", true},
		{"scheduler binds", "system:kube-scheduler", "create", "", "pods/binding", "default", true},
		{"scheduler reads no secrets", "system:kube-scheduler", "get", "", "secrets", "default", false},
		{"controllers", "system:kube-controller-manager", "create", "", "pods", "default", true},
		{"controllers, status", "system:kube-controller-manager", "update", "apps", "deployments/status", "default", true},
		{"proxy", "system:kube-proxy", "watch", "discovery.k8s.io", "endpointslices", "", true},
		{"somebody", "eve", "get", "", "pods", "default", false},
	} {
		resource, sub, _ := strings.Cut(c.resource, "/")
		client := clientset(t, apiservertest.Config(s, c.user, "system:authenticated"))
		review, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: c.verb, Group: c.group, Resource: resource, Subresource: sub, Namespace: c.namespace,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if review.Status.Allowed != c.want {
			t.Errorf("%s: got allowed %t (%s), want %t", c.name, review.Status.Allowed, review.Status.Reason, c.want)
		}
	}
}

// TestCreateByUpdate has a user who may change objects, and no more, name some
// that are not there.
func TestCreateByUpdate(t *testing.T) {
	s := apiservertest.Start(t, nil)
	grant(t, s, "eve", []rbacv1.PolicyRule{
		{Verbs: []string{"patch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}},
		{Verbs: []string{"update"}, APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}},
	})
	eve := clientset(t, apiservertest.Config(s, "eve", "system:authenticated"))
	_, err := eve.CoreV1().ConfigMaps("default").Apply(t.Context(), corev1ac.ConfigMap("new", "default"), metav1.ApplyOptions{FieldManager: "eve"})
	if want := `configmaps "new" is forbidden: User "eve" cannot create resource "configmaps" in API group "" in the namespace "default"`; err == nil || err.Error() != want {
		t.Errorf("apply: got %v, want %s", err, want)
	}
	_, err = eve.CoordinationV1().Leases("default").Update(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.UpdateOptions{})
	if want := `leases.coordination.k8s.io "new" is forbidden: User "eve" cannot create resource "leases" in API group "coordination.k8s.io" in the namespace "default"`; err == nil || err.Error() != want {
		t.Errorf("update: got %v, want %s", err, want)
	}
}

// TestRestart checks that a second start finds everything and writes nothing.
func TestRestart(t *testing.T) {
	kept := memory.New()
	start := func(name string, change func(*apiserver.Options)) int64 {
		t.Run(name, func(t *testing.T) {
			apiservertest.Start(t, func(o *apiserver.Options) {
				o.Backend = unclosed{kept}
				change(o)
			})
		})
		revision, err := kept.Revision(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
	same := func(*apiserver.Options) {}
	before := start("first", same)
	if before == 0 {
		t.Fatal("the first start wrote nothing")
	}
	for _, c := range []struct {
		name   string
		change func(*apiserver.Options)
		want   []string
	}{
		{"second", same, nil},
		{"with another authority", func(o *apiserver.Options) { o.ClientCA = apiservertest.NewAuthority().Certificate },
			[]string{"/registry/configmaps/kube-system/extension-apiserver-authentication"}},
	} {
		after := start(c.name, c.change)
		if after == before {
			t.Fatalf("the start %s gave no sign of life", c.name)
		}
		var written []string
		for change, err := range kept.Watch(t.Context(), "", before) {
			if err != nil {
				t.Fatal(err)
			}
			if change.Key != "" && !strings.HasPrefix(change.Key, "/registry/masterleases/") { // a sign of life
				written = append(written, change.Key)
			}
			if change.Revision >= after {
				break
			}
		}
		if !slices.Equal(written, c.want) {
			t.Errorf("the start %s wrote %v, want %v", c.name, written, c.want)
		}
		before = after
	}
}

// unclosed outlives the server that uses it.
type unclosed struct{ backend.Backend }

func (unclosed) Close() error { return nil }

func TestDiscoveryClient(t *testing.T) {
	s := apiservertest.Start(t, nil)
	groups, lists, err := clientset(t, apiservertest.Config(s, "admin")).Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	if groups[0].Name != "" || groups[1].Name != "apiregistration.k8s.io" || groups[2].Name != "apps" {
		t.Errorf("got groups %s, %s, %s, …; want the core, apiregistration.k8s.io and apps first", groups[0].Name, groups[1].Name, groups[2].Name)
	}
	found := make(map[string]bool)
	for _, l := range lists {
		for _, r := range l.APIResources {
			found[l.GroupVersion+" "+r.Name] = true
		}
	}
	for _, want := range []string{"v1 pods/exec", "apps/v1 deployments/scale", "authentication.k8s.io/v1 tokenreviews", "v1 serviceaccounts/token"} {
		if !found[want] {
			t.Errorf("%s is not listed", want)
		}
	}
}

func within(t *testing.T, limit time.Duration, is func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v", limit)
		}
	}
}

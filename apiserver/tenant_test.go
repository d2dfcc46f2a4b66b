package apiserver_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// marker stands in every object that no tenant of namespace a may read.
const marker = "nobody-in-a-reads-this"

// A tenancy is a server with two namespaces, a and b, whose tenants have rights
// in a alone: "owner" all there are, "viewer" those of the role view.
type tenancy struct {
	backend backend.Backend
	clients map[string]http.RoundTripper

	revision int64            // at which changed looked last
	seen     map[string]int64 // what it saw
}

func newTenancy(t testing.TB) *tenancy {
	t.Helper()
	var stored backend.Backend
	s := apiservertest.Start(t, func(o *apiserver.Options) { stored = o.Backend })
	c, ctx := client(t, apiservertest.Config(s, "admin"), inJSON), t.Context()
	marked := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Name: name, Annotations: map[string]string{"example.com/marker": marker}}
	}
	for _, namespace := range []metav1.ObjectMeta{{Name: "a"}, marked("b")} {
		must(t)(c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: namespace}, metav1.CreateOptions{}))
	}
	must(t)(c.CoreV1().Secrets("a").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}))
	must(t)(c.CoreV1().Secrets("b").Create(ctx, &corev1.Secret{ObjectMeta: marked("s")}, metav1.CreateOptions{}))
	must(t)(c.CoreV1().ServiceAccounts("b").Create(ctx, &corev1.ServiceAccount{ObjectMeta: marked("default")}, metav1.CreateOptions{}))
	must(t)(c.CoreV1().Pods("b").Create(ctx, &corev1.Pod{ObjectMeta: marked("s"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{}))
	must(t)(c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: marked("s")}, metav1.CreateOptions{}))
	must(t)(c.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: marked("s")}, metav1.CreateOptions{}))
	must(t)(c.RbacV1().Roles("a").Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "owner"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"},
	}}}, metav1.CreateOptions{}))
	bind(t, c, "owner", rbacv1.RoleRef{Kind: "Role", Name: "owner"})
	bind(t, c, "viewer", rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"})
	y := &tenancy{backend: stored, clients: map[string]http.RoundTripper{
		"owner":  apiservertest.Config(s, "owner", "tenants").Transport,
		"viewer": apiservertest.Config(s, "viewer", "tenants").Transport,
	}}
	y.changed(t)
	return y
}

func bind(t testing.TB, c kubernetes.Interface, name string, role rbacv1.RoleRef) {
	t.Helper()
	role.APIGroup = rbacv1.GroupName
	must(t)(c.RbacV1().RoleBindings("a").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: role, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: name}},
	}, metav1.CreateOptions{}))
}

// must fails the test where an object could not be made.
func must(t testing.TB) func(any, error) {
	return func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// outside are the revisions of all that is stored and not of namespace a. No
// other object has an element "a" in its key. That the server lives is written
// again and again, whatever is asked of it.
func (y *tenancy) outside(t testing.TB) map[string]int64 {
	t.Helper()
	page, err := y.backend.List(context.Background(), "/registry/", "", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	revisions := make(map[string]int64)
	for _, e := range page.Entries {
		if !slices.Contains(strings.Split(e.Key, "/"), "a") && !strings.HasPrefix(e.Key, "/registry/masterleases/") {
			revisions[e.Key] = e.Revision
		}
	}
	return revisions
}

// changed reports whether anything outside of namespace a was written since it
// was asked before.
func (y *tenancy) changed(t testing.TB) bool {
	t.Helper()
	revision, err := y.backend.Revision(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if revision == y.revision {
		return false
	}
	before := y.seen
	y.revision, y.seen = revision, y.outside(t)
	return !maps.Equal(before, y.seen)
}

// bodies are what is sent by method. They fit every kind as well as can be.
var bodies = map[string]string{
	http.MethodPost:  `{"metadata":{"name":"new"}}`,
	http.MethodPut:   `{"metadata":{"name":"b","labels":{"changed":"true"}}}`,
	http.MethodPatch: `{"metadata":{"labels":{"changed":"true"}}}`,
}

// ask sends a request as a tenant and returns the status and the answer.
func (y *tenancy) ask(t testing.TB, tenant, method, target, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://in-process"+target, strings.NewReader(body))
	if err != nil {
		return 0, "" // no client can send it
	}
	r.URL.RawQuery = "timeoutSeconds=-1&" + r.URL.RawQuery // of watches, which would last
	if r.Header.Set("Content-Type", inJSON); method == http.MethodPatch {
		r.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := y.clients[tenant].RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// confined asks as both tenants and reports what they read or changed outside
// of their namespace.
func (y *tenancy) confined(t testing.TB, method, target, body string) {
	t.Helper()
	for tenant := range y.clients {
		code, answer := y.ask(t, tenant, method, target, body)
		if strings.Contains(answer, marker) {
			t.Errorf("%s: %s %s = %d, and reads what is not theirs: %s", tenant, method, target, code, answer)
		}
		if y.changed(t) {
			t.Fatalf("%s: %s %s = %d, and changes what is not theirs", tenant, method, target, code)
		}
	}
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// TestTenantIsConfined asks for every path of up to three elements that can be
// made of some words, at the root of a version and below a namespace, as
// somebody with rights in that namespace.
func TestTenantIsConfined(t *testing.T) {
	y := newTenancy(t)
	words := []string{"namespaces", "a", "b", "secrets", "s", "status", "watch", "clusterroles", ".."}
	for _, prefix := range []string{"/api/v1", "/api/v1/namespaces/a", "/apis/rbac.authorization.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1/namespaces/a"} {
		var walk func(path string, left int)
		walk = func(path string, left int) {
			for _, method := range methods {
				y.confined(t, method, path, bodies[method])
			}
			for _, word := range words {
				if left > 0 {
					walk(path+"/"+word, left-1)
				}
			}
		}
		walk(prefix, 3)
	}
}

// TestBelowAnotherNamespace: what is below a namespace is in it, or is not.
func TestBelowAnotherNamespace(t *testing.T) {
	y := newTenancy(t)
	for _, path := range []string{
		"/api/v1/namespaces/a/namespaces", "/api/v1/namespaces/a/namespaces/b", "/api/v1/namespaces/a/namespaces/b/status",
		"/api/v1/namespaces/a/namespaces/b/finalize", "/api/v1/watch/namespaces/a/namespaces", "/api/v1/namespaces/a/nodes/s",
		"/apis/rbac.authorization.k8s.io/v1/namespaces/a/clusterroles/s",
	} {
		for _, method := range methods {
			// The old paths are for reading, whatever the method.
			if code, answer := y.ask(t, "owner", method, path, bodies[method]); code != http.StatusNotFound {
				t.Errorf("%s %s = %d %s, want 404", method, path, code, answer)
			}
		}
	}
	if code, answer := y.ask(t, "owner", http.MethodGet, "/api/v1/namespaces/a", ""); code != http.StatusOK {
		t.Errorf("a namespace is not open to its own owner: %d %s", code, answer)
	}
}

// FuzzTenantIsConfined looks for any path, query and body with which somebody
// with rights in one namespace reads or changes something outside of it.
func FuzzTenantIsConfined(f *testing.F) {
	for _, seed := range []struct{ method, target, body string }{
		{"GET", "/api/v1/namespaces/a/namespaces/b", ""},
		{"GET", "/api/v1/watch/namespaces/a/namespaces", ""},
		{"GET", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.namespace%3Db&limit=1&continue=x", ""},
		{"GET", "/api/v1/namespaces/a%2F..%2Fb/secrets/s", ""},
		{"POST", "/api/v1/namespaces/a/secrets", `{"metadata":{"name":"new","namespace":"b"}}`},
		{"PUT", "/api/v1/namespaces/a/secrets/s?fieldManager=x", `{"metadata":{"name":"s","namespace":"b"}}`},
		{"PATCH", "/api/v1/namespaces/a/secrets/s", `{"metadata":{"namespace":"b"}}`},
		{"DELETE", "/api/v1/namespaces/a/secrets?fieldSelector=metadata.namespace%3Db", `{"gracePeriodSeconds":0}`},
		{"POST", "/api/v1/namespaces/a/pods/s/binding", `{"metadata":{"name":"s","namespace":"b"},"target":{"name":"s"}}`},
		{"POST", "/api/v1/namespaces/a/serviceaccounts/default/token", `{"spec":{"boundObjectRef":{"kind":"Secret","name":"s","apiVersion":"v1"}}}`},
	} {
		f.Add(seed.method, seed.target, seed.body)
	}
	y := newTenancy(f)
	f.Fuzz(func(t *testing.T, method, target, body string) {
		if !strings.HasPrefix(target, "/") {
			t.Skip("no path")
		}
		y.confined(t, method, target, body)
	})
}

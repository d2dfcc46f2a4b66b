package apiserver_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// notTyped is how kube-apiserver answers an apply that does not fit its schema, with status 500.
const notTyped = `"message":"failed to create typed patch object (`

// fuzzed asks a server as an administrator, and is content with every answer that does not say that the server is at fault.
func fuzzed(f *testing.F) func(t *testing.T, method, target, form string, body []byte) {
	s := apiservertest.Start(f, nil)
	c := client(f, apiservertest.Config(s, "admin"), inJSON)
	must(f)(c.CoreV1().ConfigMaps("default").Create(f.Context(), configMap("c"), metav1.CreateOptions{}))
	must(f)(c.AppsV1().Deployments("default").Create(f.Context(), deploymentOf("i"), metav1.CreateOptions{}))
	admin := s.Transport(&user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}})
	return func(t *testing.T, method, target, form string, body []byte) {
		r := httptest.NewRequest(method, "/", bytes.NewReader(body))
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(target, "?")
		if form != "" {
			r.Header.Set("Content-Type", form)
		}
		answer, err := admin.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if answer.StatusCode >= http.StatusInternalServerError {
			var said bytes.Buffer
			said.ReadFrom(answer.Body)
			if strings.Contains(said.String(), notTyped) {
				return
			}
			t.Errorf("%s %s: %d %s", method, target, answer.StatusCode, said.String())
		}
	}
}

// FuzzBodies creates objects of kinds that are decoded in different ways.
func FuzzBodies(f *testing.F) {
	forms := []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", ""}
	paths := []string{"/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/pods", "/apis/apps/v1/namespaces/default/deployments",
		"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
		"/apis/networking.k8s.io/v1/namespaces/default/ingresses", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"}
	for i, body := range []string{
		`{"metadata":{"generateName":"x-"},"data":{"a":"b"}}`, "metadata: {generateName: x-}\ndata: {a: b}\n", "k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x0b\n\x09\n\x01c\x12\x00\x1a\x00\"\x00",
		`{"metadata":{"generateName":"x-"},"spec":{"containers":[{"name":"c","image":"i"}]}}`,
		`{"metadata":{"name":"as.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"plural":"as","singular":"a","kind":"A","listKind":"AList"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"x":{"type":"integer"}},"x-kubernetes-validations":[{"rule":"self.x > 1"}]}}}]}}`,
		`{"metadata":{"name":"p"},"spec":{"validations":[{"expression":"object.metadata.name == 'x'"}]}}`,
	} {
		for path := range paths {
			f.Add(uint8(i), uint8(path), []byte(body))
		}
	}
	ask := fuzzed(f)
	f.Fuzz(func(t *testing.T, form, path uint8, body []byte) {
		ask(t, http.MethodPost, paths[int(path)%len(paths)]+"?dryRun=All&fieldValidation=Strict", forms[int(form)%len(forms)], body)
	})
}

// FuzzPatches patches objects in each of the ways there are.
func FuzzPatches(f *testing.F) {
	forms := []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	paths := []string{"/api/v1/namespaces/default/configmaps/c", "/apis/apps/v1/namespaces/default/deployments/d", "/apis/apps/v1/namespaces/default/deployments/d/scale", "/apis/apps/v1/namespaces/default/deployments/d/status"}
	for path := range paths {
		f.Add(uint8(0), uint8(path), []byte(`[{"op":"add","path":"/data/x","value":"y"},{"op":"copy","from":"/data","path":"/metadata/labels"},{"op":"test","path":"/data/x","value":1}]`))
		f.Add(uint8(0), uint8(path), []byte(`[{"op":"test","path":"/data/none"}]`))
		f.Add(uint8(1), uint8(path), []byte(`{"data":{"n":null},"metadata":{"labels":{"a":"b"}}}`))
		f.Add(uint8(2), uint8(path), []byte(`{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"name":"c","$patch":"delete"}],"$retainKeys":["x"]}}}}`))
		f.Add(uint8(3), uint8(path), []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {spec: {containers: [{name: c, image: j}]}}}\n"))
	}
	ask := fuzzed(f)
	f.Fuzz(func(t *testing.T, form, path uint8, body []byte) {
		media := forms[int(form)%len(forms)]
		target := paths[int(path)%len(paths)] + "?dryRun=All"
		if strings.Contains(media, "apply") {
			target += "&fieldManager=x&force=true"
		}
		ask(t, http.MethodPatch, target, media, body)
	})
}

// FuzzQueries lists by selectors, pages and forms.
func FuzzQueries(f *testing.F) {
	for _, seed := range [][3]string{
		{"a in (b,c),!d,e!=f,g>1", "metadata.name=c,metadata.namespace!=x", "limit=1"}, {"(", `a\=b=c`, "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYVx1MDAwMCJ9&limit=2"},
		{"", "", "resourceVersion=1&resourceVersionMatch=Exact"}, {"", "", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJkZWZhdWx0L2MifQ&limit=-1"},
		{"", "", "includeObject=x&pretty=1&timeoutSeconds=x"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	ask := fuzzed(f)
	f.Fuzz(func(t *testing.T, labels, fields, more string) {
		if query, err := url.ParseQuery(more); err == nil && (query.Has("watch") || strings.Contains(more, "timeout")) {
			query.Set("timeoutSeconds", "-1") // ends at once
			query.Del("timeout")
			more = query.Encode()
		}
		query := url.Values{"labelSelector": {labels}, "fieldSelector": {fields}}.Encode() + "&" + more
		for _, path := range []string{"/api/v1/namespaces/default/configmaps", "/api/v1/pods"} {
			ask(t, http.MethodGet, path+"?"+query, "", nil)
		}
	})
}

// forged is a token of an administrator that nobody has signed. All else about it is as it should be.
func forged(f *testing.F, s *apiserver.Server) string {
	c := client(f, apiservertest.Config(s, "admin"), inJSON)
	robot, err := c.CoreV1().ServiceAccounts("default").Create(f.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		f.Fatal(err)
	}
	must(f)(c.RbacV1().ClusterRoleBindings().Create(f.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "robot"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: "robot"}},
	}, metav1.CreateOptions{}))
	const own = "https://kubernetes.default.svc.cluster.local"
	claims := fmt.Sprintf(`{"iss":%q,"aud":[%[1]q],"sub":"system:serviceaccount:default:robot","kubernetes.io":{"namespace":"default","serviceaccount":{"name":"robot","uid":%[2]q}}}`, own, robot.UID)
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"ES256"}`)) + "." + part([]byte(claims)) + "." + part(make([]byte, 64))
}

// FuzzCredentials shows what is said to be a token, or to be somebody else. Nobody is an administrator by that.
func FuzzCredentials(f *testing.F) {
	s := apiservertest.Start(f, func(o *apiserver.Options) { o.BootstrapTokens = true })
	for _, seed := range [][2]string{
		{"Bearer " + forged(f, s), ""},
		{"Bearer eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMuY2x1c3Rlci5sb2NhbCJ9.", "Impersonate-User: admin"},
		{"Bearer eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.AAAA", "X-Remote-User: admin"}, {"Bearer abcdef.0123456789abcdef", "X-Remote-Group: system:masters"}, {"Basic YTpi", ""},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, authorization, header string) {
		r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/kube-system/secrets", nil)
		r.Header.Set("Authorization", authorization)
		if name, value, ok := strings.Cut(header, ":"); ok && name != "" {
			r.Header[http.CanonicalHeaderKey(name)] = []string{strings.TrimSpace(value)}
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized && w.Code != http.StatusForbidden && w.Code != http.StatusBadRequest {
			t.Errorf("%q, %q: %d %s", authorization, header, w.Code, w.Body)
		}
	})
}

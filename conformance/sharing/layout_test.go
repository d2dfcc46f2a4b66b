package sharing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/builtin"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const namespace = "kinds"

// storedAs are the kinds that kube-apiserver stores in another version than Skiff.
var storedAs = map[string]string{
	"customresourcedefinitions.apiextensions.k8s.io":               "apiextensions.k8s.io/v1beta1 as JSON",
	"apiservices.apiregistration.k8s.io":                           "apiregistration.k8s.io/v1 as JSON",
	"mutatingadmissionpolicies.admissionregistration.k8s.io":       "admissionregistration.k8s.io/v1beta1",
	"mutatingadmissionpolicybindings.admissionregistration.k8s.io": "admissionregistration.k8s.io/v1beta1",
}

// rows are the kinds that are stored, each once, with an object of it.
func rows(t *testing.T) (list []*resource.Resource, objects map[*resource.Resource]*unstructured.Unstructured) {
	t.Helper()
	objects = make(map[*resource.Resource]*unstructured.Unstructured)
	byKind := make(map[string]*resource.Resource)
	for _, r := range builtin.Resources(builtin.Deps{}) {
		if r.Review == nil && r.Live == nil && r.Stored == r {
			list = append(list, r)
			byKind[r.GVK().String()] = r
		}
	}
	data, err := os.ReadFile("testdata/objects.yaml")
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("REQUEST"), []byte(signingRequest(t)))
	for _, doc := range strings.Split(string(data), "\n---\n") {
		obj := new(unstructured.Unstructured)
		if err := yaml.Unmarshal([]byte(doc), &obj.Object); err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		r := byKind[obj.GroupVersionKind().String()]
		if r == nil {
			t.Fatalf("%s is not stored", obj.GroupVersionKind())
		}
		objects[r] = obj
	}
	for _, r := range list {
		if objects[r] == nil {
			t.Errorf("testdata has no object of %s", r.GVK())
		}
	}
	return list, objects
}

func signingRequest(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "one"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func at(s *server, r *resource.Resource) dynamic.ResourceInterface {
	if r.ClusterScoped {
		return s.dynamic.Resource(r.GVR())
	}
	return s.dynamic.Resource(r.GVR()).Namespace(namespace)
}

// prepare makes the namespace of the objects.
func prepare(t *testing.T, s *shared, on *server) {
	t.Helper()
	if _, err := on.typed.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := on.typed.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// create makes all objects on a server.
func create(t *testing.T, on *server, list []*resource.Resource, objects map[*resource.Resource]*unstructured.Unstructured) {
	t.Helper()
	for _, r := range list {
		if _, err := at(on, r).Create(t.Context(), objects[r], metav1.CreateOptions{}); err != nil {
			t.Errorf("create %s on %s: %v", r.GR(), on.name, err)
		}
	}
}

// same compares every object as two servers give it.
func same(t *testing.T, one, other *server, list []*resource.Resource, objects map[*resource.Resource]*unstructured.Unstructured) {
	t.Helper()
	for _, r := range list {
		have, err := at(one, r).Get(t.Context(), objects[r].GetName(), metav1.GetOptions{})
		if err != nil {
			t.Errorf("get %s from %s: %v", r.GR(), one.name, err)
			continue
		}
		got, err := at(other, r).Get(t.Context(), objects[r].GetName(), metav1.GetOptions{})
		if err != nil {
			t.Errorf("get %s from %s: %v", r.GR(), other.name, err)
			continue
		}
		if !reflect.DeepEqual(have.Object, got.Object) {
			a, _ := json.Marshal(have.Object)
			b, _ := json.Marshal(got.Object)
			t.Errorf("%s differs:\n%s: %s\n%s: %s", r.GR(), one.name, a, other.name, b)
		}
	}
}

// TestLayout: what kube-apiserver stores is where Skiff looks for it, and Skiff gives the same objects.
func TestLayout(t *testing.T) {
	s := start(t)
	list, objects := rows(t)
	kube, stop := s.kube(t, "192.0.2.1")
	prepare(t, s, kube)
	create(t, kube, list, objects)
	etcd := s.raw(t)
	for _, r := range list {
		where := r.Key("", objects[r].GetName())
		if r.Namespaced() {
			where = r.Key(namespace, objects[r].GetName())
		}
		found, err := etcd.Get(t.Context(), where)
		if err != nil {
			t.Fatal(err)
		}
		if len(found.Kvs) == 0 {
			t.Errorf("kube-apiserver does not store %s at %s", r.GR(), where)
			continue
		}
		want := r.GroupVersion().String()
		if other := storedAs[r.GR().String()]; other != "" {
			want = other
		}
		if got := versionOf(t, found.Kvs[0].Value); got != want {
			t.Errorf("kube-apiserver stores %s as %s, want %s", r.GR(), got, want)
		}
	}
	skiff := s.skiff(t, "192.0.2.2")
	same(t, kube, skiff, list, objects)
	stop()
}

// versionOf is the apiVersion of stored bytes.
func versionOf(t *testing.T, value []byte) string {
	t.Helper()
	var meta runtime.TypeMeta
	if message, ok := bytes.CutPrefix(value, []byte("k8s\x00")); ok {
		var unknown runtime.Unknown
		if err := unknown.Unmarshal(message); err != nil {
			t.Fatal(err)
		}
		return unknown.APIVersion
	}
	if err := json.Unmarshal(value, &meta); err != nil {
		t.Fatal(err)
	}
	return meta.APIVersion + " as JSON"
}

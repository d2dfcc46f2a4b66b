package rest_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// Clients of custom resources write DeleteOptions of the group and version that they know, and kube-apiserver takes those
// of any.
func TestDeleteOptionsAreOfAnyGroup(t *testing.T) {
	s := apiservertest.Start(t, nil)
	config := apiservertest.Config(s, "admin")
	maps := kubernetes.NewForConfigOrDie(config).CoreV1().ConfigMaps("default")
	ask := func(name, media, body string) (int, metav1.Status) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, config.Host+"/api/v1/namespaces/default/configmaps/"+name, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", media)
		answer, err := config.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var status metav1.Status
		if err := json.NewDecoder(answer.Body).Decode(&status); err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, status
	}
	for _, version := range []string{"v1", "v9", "apps/v1", "apps/v9", "meta.k8s.io/v1", "kueue.x-k8s.io/v1beta2", ""} {
		for media, body := range map[string]string{
			"application/json":                    `{"kind": "DeleteOptions", "apiVersion": "` + version + `", "preconditions": {"uid": "another"}}`,
			"application/yaml":                    "kind: DeleteOptions\napiVersion: \"" + version + "\"\npreconditions: {uid: another}\n",
			"application/vnd.kubernetes.protobuf": protobufOptions(t, version, &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("another")}),
		} {
			_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if code, status := ask("c", media, body); code != http.StatusConflict || !strings.Contains(status.Message, "the UID in the precondition (another)") {
				t.Errorf("%s, apiVersion %q: %d %q, want the precondition to be read", media, version, code, status.Message)
			}
			if err := maps.Delete(t.Context(), "c", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	code, status := ask("c", "application/json", `{"kind": "Options", "apiVersion": "example.com/v1"}`)
	if code != http.StatusBadRequest || status.Message != `no kind "Options" is registered for version "example.com/v1" in scheme "pkg/runtime/scheme.go:111"` {
		t.Errorf("another kind: %d %q", code, status.Message)
	}
}

// protobufOptions are options as protobuf has them, of a version.
func protobufOptions(t *testing.T, version string, o *metav1.DeleteOptions) string {
	t.Helper()
	raw, err := o.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	gv, err := schema.ParseGroupVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: gv.String(), Kind: "DeleteOptions"}, Raw: raw}
	bytes, err := envelope.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return "k8s\x00" + string(bytes)
}

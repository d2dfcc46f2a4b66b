package rest_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// What kube-apiserver answers for an object that it cannot decode, by its
// default and, for the reason and the option of DELETE, with KEP-3926.
func TestUnreadableObject(t *testing.T) {
	const (
		key    = "/registry/configmaps/default/broken"
		role   = "/registry/clusterroles/broken" // by which nobody may do anything
		all    = "/api/v1/namespaces/default/configmaps"
		one    = all + "/broken"
		ignore = `{"kind":"DeleteOptions","apiVersion":"v1","ignoreStoreReadErrorWithClusterBreakingPotential":true}`
		failed = `object ` + key + ` cannot be read`
	)
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		for _, key := range []string{key, role} {
			if _, err := o.Backend.Put(t.Context(), key, []byte("garbage"), backend.Absent, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	for _, c := range []struct {
		name, group, method, path, body string
		code                            int
		reason                          metav1.StatusReason
		message                         string
	}{
		{"let editors delete", "", "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", `{"metadata":{"name":"editors"},
			"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:aggregate-to-edit"},
			"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"editors"}]}`, 201, "", ""},
		{"list", "", "GET", all, "", 500, "StorageReadError", failed},
		{"list from the cache", "", "GET", all + "?resourceVersion=0", "", 500, "StorageReadError", failed},
		{"watch with initial events", "", "GET", all + "?watch=1", "", 500, "StorageReadError", failed},
		{"list of another namespace", "", "GET", strings.Replace(all, "default", "kube-system", 1), "", 200, "", ""},
		{"get", "", "GET", one, "", 500, "StorageReadError", failed},
		{"get from the cache", "", "GET", one + "?resourceVersion=0", "", 500, "StorageReadError", failed},
		{"update", "", "PUT", one, `{"metadata":{"name":"broken"}}`, 500, "StorageReadError", failed},
		{"create", "", "POST", all, `{"metadata":{"name":"broken"}}`, 409, "AlreadyExists", `configmaps "broken" already exists`},
		{"delete", "editors", "DELETE", one, "", 500, "StorageReadError", failed},
		{"delete of all", "", "DELETE", all, "", 500, "StorageReadError", failed},
		{"delete all the same, with another option", "", "DELETE", one + "?gracePeriodSeconds=0&ignoreStoreReadErrorWithClusterBreakingPotential=true", "", 422, "Invalid",
			"cannot be set together with .gracePeriodSeconds"},
		{"delete all the same, without the right to", "editors", "DELETE", one, ignore, 403, "Forbidden", `configmaps "broken" is forbidden`},
		{"delete all the same", "", "DELETE", one, ignore, 200, "", ""},
		{"get when it is gone", "", "GET", one, "", 404, "NotFound", `configmaps "broken" not found`},
		{"list when it is gone", "", "GET", all, "", 200, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, status := do(t, s, c.group, c.method, c.path, c.body)
			if code != c.code || status.Reason != c.reason || !strings.Contains(status.Message, c.message) {
				t.Errorf("got %d %q %q, want %d %q %q", code, status.Reason, status.Message, c.code, c.reason, c.message)
			}
		})
	}
}

// do sends a request as a member of a group (empty: as an administrator) and
// returns the answer, which is not a Status if it went well.
func do(t *testing.T, s *apiserver.Server, group, method, path, body string) (int, metav1.Status) {
	t.Helper()
	var groups []string
	if group != "" {
		groups = []string{group}
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://in-process"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := apiservertest.Config(s, "tester", groups...).Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	var status metav1.Status
	if err == nil {
		err = json.Unmarshal(bytes.TrimSpace(answer), &status)
	}
	if err != nil {
		t.Fatalf("%s %s: %v in %q", method, path, err, answer)
	}
	return resp.StatusCode, status
}

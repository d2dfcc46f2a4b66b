package apiserver_test

import (
	"net/http"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestAccessMetrics counts who asks from outside, and who may do what they ask for.
func TestAccessMetrics(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = map[string]user.Info{
			"one":   &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}},
			"other": &user.DefaultInfo{Name: "somebody", Groups: []string{user.AllAuthenticated}},
		}
	})
	address := serve(t, s)
	for _, c := range []struct {
		token  string
		code   int
		counts []string // what counts the request, with its label
	}{
		{"one", http.StatusOK, []string{"authenticated_user_requests", `username="admin"`, "authentication_attempts", `result="success"`, "authorization_attempts_total", `result="allowed"`}},
		{"other", http.StatusForbidden, []string{"authenticated_user_requests", `username="other"`, "authentication_attempts", `result="success"`, "authorization_attempts_total", `result="no-opinion"`}},
		{"wrong", http.StatusUnauthorized, []string{"authentication_attempts", `result="error"`}},
	} {
		counts := func() (all []int) {
			for i := 0; i < len(c.counts); i += 2 {
				all = append(all, gauge(t, s, c.counts[i], c.counts[i+1]))
			}
			return all
		}
		before := counts()
		if code, _ := ask(t, address, c.token, "/api/v1/namespaces/kube-system/secrets", nil); code != c.code {
			t.Errorf("%s: code = %d, want %d", c.token, code, c.code)
		}
		for i, after := range counts() {
			// What comes from within the server is authorized too, but not authenticated.
			if name := c.counts[2*i]; after <= before[i] || after > before[i]+1 && strings.HasPrefix(name, "authenticat") {
				t.Errorf("%s: %s{%s} was %d and is %d", c.token, name, c.counts[2*i+1], before[i], after)
			}
		}
	}
}

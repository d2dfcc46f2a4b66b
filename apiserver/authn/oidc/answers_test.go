package oidc_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authn/oidc"
)

// serve starts a server by a configuration file.
func serve(t testing.TB, file string, change func(*oidc.Config)) client {
	t.Helper()
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = map[string]user.Info{admin: &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}}
		o.Issuers.File = file
		o.Issuers.Times = oidc.Times{Look: 20 * time.Millisecond}
		if change != nil {
			change(&o.Issuers)
		}
	})
	front := httptest.NewServer(s.Handler())
	t.Cleanup(front.Close)
	return client{front.Client(), front.URL}
}

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// settled waits until a server accepts a token.
func (c client) settled(t testing.TB, token string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if code, _ := c.post(t, group+"selfsubjectreviews", token, struct{}{}); code != http.StatusUnauthorized {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the issuer's tokens are not accepted")
		}
	}
}

// differs is what is meant to differ from kube-apiserver, by the name of the question.
var differs = map[string]string{}

// TestAnswers puts tokens to a server and compares what it says with what kube-apiserver says under the same configuration
// (testdata/answers.json; make oracle records it anew).
func TestAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/answers.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded []answer
	decode(t, data, &recorded)
	want := make(map[string]answer)
	for _, a := range recorded {
		want[a.Name] = a
	}
	p := newProvider(t)
	c := serve(t, write(t, filepath.Join(t.TempDir(), "config.yaml"), configuration(p)), nil)
	all := ask(t, c, p)
	if len(all) != len(want) {
		t.Errorf("%d questions, %d answers are recorded", len(all), len(want))
	}
	for _, got := range all {
		if reason := differs[got.Name]; reason != "" {
			if same(t, got, want[got.Name]) {
				t.Errorf("%s: does not differ any more (%s)", got.Name, reason)
			}
			continue
		}
		if !same(t, got, want[got.Name]) {
			t.Errorf("%s:\n got %s\nwant %s", got.Name, text(t, got), text(t, want[got.Name]))
		}
	}
}

// ask puts all questions, and those of nobody.
func ask(t testing.TB, c client, p *provider) (all []answer) {
	list := questions(t, p)
	for _, q := range list {
		if q.name == "good" || q.name == "email" || q.name == "required" || q.name == "cel" || q.name == "scattered groups" || q.name == "described elsewhere" {
			c.settled(t, q.token)
		}
	}
	for _, q := range list {
		all = append(all, c.ask(t, p, q))
	}
	for _, path := range []string{"/livez", "/livez/ping", "/healthz", "/readyz", "/api", "//livez", "/version"} {
		code, _ := c.do(t, http.MethodGet, path, "", nil)
		all = append(all, answer{Name: "nobody at " + path, Code: code})
	}
	return all
}

func same(t testing.TB, a, b answer) bool {
	var values [2]any
	decode(t, []byte(text(t, a)), &values[0])
	decode(t, []byte(text(t, b)), &values[1])
	return reflect.DeepEqual(values[0], values[1])
}

func text(t testing.TB, a answer) string {
	data, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

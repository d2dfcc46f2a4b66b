package rest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// odd are resourceVersions that no server has given.
var odd = []string{"99999999999999999999", "18446744073709551615", "1000000000000", "-1", "+1", "00", "x", "1.5"}

// versioned are the requests in which a resourceVersion $ may stand.
var versioned = []struct{ method, path, body string }{
	{"GET", "/c?resourceVersion=$", ""},
	{"GET", "?resourceVersion=$", ""},
	{"GET", "?resourceVersion=$&limit=1", ""},
	{"GET", "?resourceVersion=$&resourceVersionMatch=Exact", ""},
	{"GET", "?resourceVersion=$&resourceVersionMatch=NotOlderThan", ""},
	{"GET", "?watch=1&timeoutSeconds=1&resourceVersion=$", ""},
	{"GET", "?watch=1&timeoutSeconds=5&resourceVersion=$&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", ""},
	{"PUT", "/c", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","resourceVersion":"$"},"data":{"a":"$"}}`},
	{"PATCH", "/c", `{"metadata":{"resourceVersion":"$"},"data":{"a":"$"}}`},
	{"DELETE", "/c", `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"resourceVersion":"$"}}`},
	{"DELETE", "?resourceVersion=$&labelSelector=none", ""},
}

// versionAnswer is what becomes of one of them.
type versionAnswer struct {
	Request string
	Code    int
	Retry   string // the header Retry-After
	Answer  string
}

var (
	asAdmin = map[string]*user.DefaultInfo{"admin": {Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}}
	// A number beyond 63 bits is said to be the largest of them.
	current = regexp.MustCompile(`Too large resource version: \d+, current: \d+`)
	about   = regexp.MustCompile(`"uid":"[^"]*"`)
	found   = regexp.MustCompile(`"kind":"ConfigMap`)
)

// askVersions sends them all.
func askVersions(t *testing.T, client *http.Client, base string) (all []versionAnswer) {
	const maps = "/api/v1/namespaces/default/configmaps"
	ask := func(method, target, body string) versionAnswer {
		r, err := http.NewRequestWithContext(t.Context(), method, base+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer admin")
		if r.Header.Set("Content-Type", "application/json"); method == http.MethodPatch {
			r.Header.Set("Content-Type", "application/merge-patch+json")
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		said, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		text := current.ReplaceAllString(strings.TrimSpace(string(said)), "Too large resource version: ASKED, current: RV")
		text = about.ReplaceAllString(text, `"uid":"UID"`)
		if found.MatchString(text) {
			text = "objects" // what is there is not what this is about
		}
		return versionAnswer{fmt.Sprint(method, " ", strings.TrimPrefix(target, maps), " ", body), answer.StatusCode, answer.Header.Get("Retry-After"), text}
	}
	if made := ask(http.MethodPost, maps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}}`); made.Code != http.StatusCreated {
		t.Fatalf("%+v", made)
	}
	for _, v := range versioned {
		for _, version := range odd {
			all = append(all, ask(v.method, maps+strings.ReplaceAll(v.path, "$", url.QueryEscape(version)), strings.ReplaceAll(v.body, "$", version)))
		}
	}
	return all
}

// TestOddVersions: resourceVersions that no server has given are answered as kube-apiserver answers them.
func TestOddVersions(t *testing.T) {
	data, err := os.ReadFile("testdata/versions.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []versionAnswer
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = map[string]user.Info{"admin": asAdmin["admin"]}
	})
	front := httptest.NewServer(s.Handler())
	defer front.Close()
	got := askVersions(t, front.Client(), front.URL)
	if len(got) != len(want) {
		t.Fatalf("%d requests, %d are recorded: run make oracle", len(got), len(want))
	}
	for i := range got {
		if d := cmp.Diff(want[i], got[i]); d != "" {
			t.Errorf("%s (-kube-apiserver +skiff)\n%s", got[i].Request, d)
		}
	}
}

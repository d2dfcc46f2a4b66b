package authz_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// request is what is asked of a server.
type request struct{ As, Method, Path, Body, Impersonate string }

// recorded is what becomes of a request: the answer, and what the webhooks were asked meanwhile.
type recorded struct {
	Request string
	Code    int
	Type    string
	Answer  string
	Asked   []string
}

// users are by token.
var users = func() map[string]*user.DefaultInfo {
	all := map[string]*user.DefaultInfo{
		"admin": {Name: "admin", UID: "1", Groups: []string{"system:masters"}},
		"node":  {Name: "system:node:allow", Groups: []string{"system:nodes"}},
	}
	for _, name := range []string{"allow", "deny", "none", "both", "garbage", "empty", "kind", "older", "status", "code403", "code404", "code500", "hang", "later", "skipped"} {
		all[name] = &user.DefaultInfo{Name: name, UID: "uid-" + name, Groups: []string{"devs"}}
	}
	return all
}()

// hook is a webhook that writes down what it is asked.
type hook struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	done  chan struct{} // ends those that hang
}

func newHook(t *testing.T) *hook {
	h := &hook{done: make(chan struct{})}
	h.Server = httptest.NewServer(h)
	t.Cleanup(func() { close(h.done); h.Close() })
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	h.mu.Lock()
	h.asked = append(h.asked, fmt.Sprintf("%s %s %s %s", r.Method, r.RequestURI, r.Header.Get("Content-Type"), strings.TrimSpace(string(body))))
	h.mu.Unlock()
	var review struct {
		APIVersion string
		Spec       struct{ User string }
	}
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	h.answer(w, r, review.APIVersion, review.Spec.User)
}

// take returns what was asked since it was called last.
func (h *hook) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	h.asked = nil
	return asked
}

// answer does what the name of the user says.
func (h *hook) answer(w http.ResponseWriter, r *http.Request, version, name string) {
	w.Header().Set("Content-Type", "application/json")
	says := func(version, status string) {
		fmt.Fprintf(w, `{"apiVersion":%q,"kind":"SubjectAccessReview","status":%s}`, version, status)
	}
	switch name {
	case "allow":
		says(version, `{"allowed":true,"reason":"the hook allows"}`)
	case "deny":
		says(version, `{"allowed":false,"denied":true,"reason":"the <hook> denies"}`)
	case "both":
		says(version, `{"allowed":true,"denied":true,"reason":"both"}`)
	case "garbage":
		fmt.Fprint(w, `<html>`)
	case "empty":
	case "kind":
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"Pod"}`)
	case "older":
		says("authorization.k8s.io/v1beta1", `{"allowed":true}`)
	case "status":
		fmt.Fprint(w, `{"apiVersion":"v1","kind":"Status","status":"Failure","message":"no","code":400}`)
	case "code403":
		http.Error(w, "go away", http.StatusForbidden)
	case "code404":
		http.NotFound(w, r)
	case "code500":
		http.Error(w, "broken", http.StatusInternalServerError)
	case "hang":
		select {
		case <-r.Context().Done():
		case <-h.done:
		}
	default:
		says(version, `{"allowed":false,"reason":"the hook does not know"}`)
	}
}

// configuration is that of three webhooks at h, before Node and RBAC.
func configuration(t *testing.T, h *hook) string {
	dir := t.TempDir()
	kubeconfig := func(name string) string {
		path := filepath.Join(dir, name)
		write(t, path, `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
			clusters: [{name: c, cluster: {server: "`+h.URL+`/`+name+`?a=b"}}], users: [{name: u, user: {token: secret}}]}`)
		return path
	}
	path := filepath.Join(dir, "authorization.yaml")
	write(t, path, `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: first
  webhook:
    timeout: 1s
    authorizedTTL: 1h
    unauthorizedTTL: 1h
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: NoOpinion
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: `+kubeconfig("first")+`}
    matchConditions:
    - expression: "request.user != 'skipped' && request.uid != 'skipped' && !('skipped' in request.groups) && !('skipped' in request.extra)"
    - expression: "!has(request.resourceAttributes) || !has(request.resourceAttributes.fieldSelector) || !request.resourceAttributes.fieldSelector.requirements.exists(r, r.operator == 'In' && 'skipped' in r.values)"
    - expression: "!has(request.resourceAttributes) || !has(request.resourceAttributes.labelSelector) || !request.resourceAttributes.labelSelector.requirements.exists(r, r.operator == 'Exists' && r.key == 'skipped' && !has(r.values))"
- type: Webhook
  name: second
  webhook:
    timeout: 2s
    authorizedTTL: 1h
    cacheUnauthorizedRequests: false
    subjectAccessReviewVersion: v1beta1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: `+kubeconfig("second")+`}
    matchConditions:
    - expression: "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'strict'"
- type: Webhook
  name: third
  webhook:
    timeout: 1s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: `+kubeconfig("third")+`}
    matchConditions:
    - expression: "has(request.resourceAttributes) && request.resourceAttributes.namespace == 'broken'"
    - expression: "request.nonResourceAttributes.path == '/'"
    - expression: "request.groups[7] == 'x'"
- type: Node
  name: node
- type: RBAC
  name: rbac
`)
	return path
}

func requests(t *testing.T) []request {
	data, err := os.ReadFile("testdata/requests.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all []request
	if err := yaml.UnmarshalStrict(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// ask sends the requests in order.
func ask(t *testing.T, client *http.Client, base string, h *hook) []recorded {
	var all []recorded
	for _, r := range requests(t) {
		if r.Method == "" {
			r.Method = http.MethodGet
		}
		send, err := http.NewRequestWithContext(t.Context(), r.Method, base+r.Path, strings.NewReader(r.Body))
		if err != nil {
			t.Fatal(err)
		}
		send.Header.Set("Authorization", "Bearer "+r.As)
		send.Header.Set("Accept", "application/json")
		if r.Body != "" {
			send.Header.Set("Content-Type", "application/json")
		}
		if r.Impersonate != "" {
			send.Header.Set("Impersonate-User", r.Impersonate)
		}
		h.take()
		answer, err := client.Do(send)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		one := recorded{strings.TrimSpace(fmt.Sprint(r.As, " ", r.Method, " ", r.Path, " ", r.Impersonate, r.Body)), answer.StatusCode, answer.Header.Get("Content-Type"),
			plain(string(body), h), h.take()}
		for i := range one.Asked {
			one.Asked[i] = plain(one.Asked[i], h)
		}
		if one.Code == http.StatusOK && r.Method == http.MethodGet {
			one.Answer = "" // what is there is not what this is about
		}
		all = append(all, one)
	}
	return all
}

// plain is text without what differs from one run to the next.
func plain(text string, h *hook) string {
	text = strings.ReplaceAll(text, h.URL, "HOOK")
	text = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}`).ReplaceAllString(text, "UID")
	// Whether the client's clock or the request's ends first.
	text = regexp.MustCompile(`(context deadline exceeded|net/http: request canceled)( \(Client\.Timeout exceeded while awaiting headers\))?`).ReplaceAllString(text, "TIMEOUT")
	text = regexp.MustCompile(`"resourceVersion":"\d+"`).ReplaceAllString(text, `"resourceVersion":"RV"`)
	return strings.TrimSpace(regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`).ReplaceAllString(text, "TIME"))
}

// TestWebhooks: webhooks are asked, and decide, as with kube-apiserver (webhooks.json).
func TestWebhooks(t *testing.T) {
	data, err := os.ReadFile("testdata/webhooks.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []recorded
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	h := newHook(t)
	client, base := serve(t, func(o *apiserver.Options) {
		o.Authorization = authz.Config{File: configuration(t, h), Backoff: time.Millisecond}
	})
	got := ask(t, client, base, h)
	if len(got) != len(want) {
		t.Fatalf("%d requests, %d are recorded: run make oracle", len(got), len(want))
	}
	for i := range got {
		want[i].Answer = plain(want[i].Answer, h)
		if d := cmp.Diff(want[i], got[i]); d != "" {
			t.Errorf("%s (-kube-apiserver +skiff)\n%s", got[i].Request, d)
		}
	}
}

// serve starts a server with the users, which is reached by HTTP.
func serve(t *testing.T, change func(*apiserver.Options)) (*http.Client, string) {
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = make(map[string]user.Info)
		for token, u := range users {
			o.StaticTokens[token] = u
		}
		change(o)
	})
	front := httptest.NewServer(s.Handler())
	t.Cleanup(front.Close)
	return front.Client(), front.URL
}

package authz_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/authz"
)

// file writes a configuration with one webhook, and what more says of it.
func file(t *testing.T, server, more string) string {
	dir := t.TempDir()
	write(t, dir+"/kubeconfig", `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
		clusters: [{name: c, cluster: {server: "`+server+`"}}], users: [{name: u, user: {token: secret}}]}`)
	write(t, dir+"/file", `
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- {type: Webhook, name: w, webhook: {timeout: 5s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1,
   connectionInfo: {type: KubeConfigFile, kubeConfigFile: `+dir+`/kubeconfig}, `+more+`}}
- {type: RBAC, name: rbac}
`)
	return dir + "/file"
}

// about is a question about a user and a pod.
func about(name, pod string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name}, Verb: "get", Resource: "pods", Name: pod, ResourceRequest: true}
}

func opened(t testing.TB, c authz.Config) *authz.Authorizer {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	z, err := authz.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestEndlessAnswer: an answer is read up to a size.
func TestEndlessAnswer(t *testing.T) {
	var sent atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":{"allowed":true,"reason":"`)
		for block := bytes.Repeat([]byte("x"), 1<<16); r.Context().Err() == nil; {
			n, err := w.Write(block)
			if err != nil {
				return
			}
			sent.Add(int64(n))
		}
	}))
	defer server.Close()
	z := opened(t, authz.Config{File: file(t, server.URL, "failurePolicy: Deny")})
	decision, _, err := z.Authorize(t.Context(), about("u", "p"))
	if decision != authorizer.DecisionDeny || err == nil || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Errorf("got %v, %v, want a denial because of the size", decision, err)
	}
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were sent", n)
	}
}

// TestRedirect: credentials are shown to the webhook alone.
func TestRedirect(t *testing.T) {
	var reached atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Store(true)
		fmt.Fprint(w, `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":{"allowed":true}}`)
	}))
	defer elsewhere.Close()
	for _, code := range []int{http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		server := httptest.NewServer(http.RedirectHandler(elsewhere.URL, code))
		z := opened(t, authz.Config{File: file(t, server.URL, "failurePolicy: Deny")})
		if decision, _, err := z.Authorize(t.Context(), about("u", "p")); decision != authorizer.DecisionDeny || err == nil {
			t.Errorf("%d: got %v, %v, want a denial", code, decision, err)
		}
		server.Close()
	}
	if reached.Load() {
		t.Error("a redirect was followed")
	}
}

// TestHangingWebhook: those about whom a webhook that hangs is not asked are served, and the request ends with its client.
func TestHangingWebhook(t *testing.T) {
	asked, done := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices when the client goes
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-done:
		}
	}))
	defer server.Close()
	defer close(done)
	client, base := serve(t, func(o *apiserver.Options) {
		o.Authorization.File = file(t, server.URL, `failurePolicy: Deny, matchConditions: [{expression: "request.user != 'none'"}]`)
	})
	get := func(ctx context.Context, as, path string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
		if err != nil {
			return 0, err
		}
		r.Header.Set("Authorization", "Bearer "+as)
		answer, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		return answer.StatusCode, answer.Body.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	const some = 20
	for range some {
		waiting.Go(func() { _, _ = get(ctx, "allow", "/api/v1/nodes") }) // it is given up
	}
	for range some {
		<-asked
	}
	for _, c := range []struct {
		as, path string
		code     int
	}{{"admin", "/api/v1/nodes", http.StatusOK}, {"none", "/version", http.StatusOK}, {"none", "/api/v1/nodes", http.StatusForbidden}} {
		if code, err := get(t.Context(), c.as, c.path); code != c.code || err != nil {
			t.Errorf("%s %s: got %d, %v, want %d", c.as, c.path, code, err, c.code)
		}
	}
	cancel()
	waiting.Wait()
}

// TestAnswersAreKept: as long as they hold, in a bounded number, and none that is large.
func TestAnswersAreKept(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":{"allowed":%t}}`, strings.Contains(string(body), `"user":"allow"`))
	}))
	defer server.Close()
	z := opened(t, authz.Config{File: file(t, server.URL, "failurePolicy: Deny, authorizedTTL: 1h, cacheUnauthorizedRequests: false")})
	ask := func(name, pod string) int64 {
		before := asked.Load()
		decision, _, err := z.Authorize(t.Context(), about(name, pod))
		if err != nil || (decision == authorizer.DecisionAllow) != (name == "allow") {
			t.Fatalf("%s: %v, %v", name, decision, err)
		}
		return asked.Load() - before
	}
	long := strings.Repeat("x", 10_000)
	for n, c := range []struct {
		name, pod string
		times     int64
	}{{"allow", "a", 1}, {"allow", "a", 0}, {"allow", "b", 1}, {"refuse", "a", 1}, {"refuse", "a", 1}, {"allow", long, 1}, {"allow", long, 1}, {"allow", "a", 0}} {
		if got := ask(c.name, c.pod); got != c.times {
			t.Errorf("question %d: asked %d times, want %d", n, got, c.times)
		}
	}
}

// TestReload: a new version of the file decides from when it is good.
func TestReload(t *testing.T) {
	h := newHook(t)
	path := file(t, h.URL, "failurePolicy: Deny")
	client, base := serve(t, func(o *apiserver.Options) { o.Authorization = authz.Config{File: path, Look: time.Millisecond} })
	may := func() bool {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/api/v1/nodes", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer allow")
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}
	reloads := func(status string) string {
		return metric(t, client, base, `authorization_config_controller_automatic_reloads_total{`, `status="`+status+`"`)
	}
	replace := func(text string) {
		t.Helper()
		write(t, path+".new", text)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	until := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it does not come to it that " + what)
			}
		}
	}
	if !may() {
		t.Fatal("the webhook is not asked")
	}
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"
	replace(head + "- {type: AlwaysAllow, name: alwaysallow}\n")
	until("a file without RBAC is refused", func() bool { return reloads("failure") == "1" })
	replace(head + "- {type: RBAC, name: rbac}\n- {type: Node, name: node}\n")
	until("a file with Node is refused", func() bool { return reloads("failure") == "2" })
	if !may() {
		t.Error("the webhook is not asked any more")
	}
	replace(head + "- {type: RBAC, name: rbac}\n")
	until("RBAC alone decides", func() bool { return !may() })
	replace(head + "- {type: RBAC, name: rbac}\n- {type: AlwaysAllow, name: alwaysallow}\n")
	until("all is allowed", may)
	until("that is counted", func() bool { return reloads("success") == "2" })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	until("the file is missed", func() bool { return reloads("failure") != "2" })
	if !may() {
		t.Error("without a file it is not the last one that decides")
	}
}

// metric is the value of the first metric whose line has both texts in it.
func metric(t *testing.T, client *http.Client, base, name, label string) string {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer admin")
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, name) && strings.Contains(line, label) {
			return line[strings.LastIndex(line, " ")+1 : len(line)-1]
		}
	}
	return ""
}

// FuzzAnswer: whatever a webhook answers, it allows only by saying so, and never while it denies.
func FuzzAnswer(f *testing.F) {
	var mu sync.Mutex
	var says []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(says)
	}))
	defer server.Close()
	for _, status := range []string{`{"allowed":true}`, `{"allowed":true,"denied":true}`, `{}`, `null`, `{"allowed":"true"}`, `{"allowed":true,"allowed":false}`} {
		f.Add([]byte(`{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","status":` + status + `}`))
	}
	f.Add([]byte("k8s\x00"))
	f.Add([]byte(strings.Repeat("[", 10_000)))
	dir := f.TempDir()
	if err := os.WriteFile(dir+"/kubeconfig", []byte(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}],
		clusters: [{name: c, cluster: {server: "`+server.URL+`"}}]}`), 0o600); err != nil {
		f.Fatal(err)
	}
	z := opened(f, authz.Config{Modes: []string{"Webhook"}, Webhook: authz.Webhook{ConfigFile: dir + "/kubeconfig", Version: "v1"}, Backoff: time.Nanosecond})
	f.Fuzz(func(t *testing.T, answer []byte) {
		mu.Lock()
		says = answer
		mu.Unlock()
		decision, _, err := z.Authorize(t.Context(), about("u", "p"))
		switch {
		case decision == authorizer.DecisionAllow && (err != nil || !bytes.Contains(answer, []byte("true"))):
			t.Errorf("%q allows", answer)
		case err != nil && decision == authorizer.DecisionAllow:
			t.Errorf("%q is an error and allows", answer)
		}
	})
}

package authn_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authn"
)

// issuer is that of the servers, and so their audience.
const issuer = "https://kubernetes.default.svc.cluster.local"

var admins = map[string]*user.DefaultInfo{"admin": {Name: "admin", UID: "1", Groups: []string{user.SystemPrivilegedGroup}}}

// verdicts are what a webhook says of tokens: a status. What is no JSON is what else becomes of the question, see hook.ServeHTTP.
var verdicts = map[string]string{
	"good":              `{"authenticated":true,"user":{"username":"jane","uid":"7","groups":["devs","ops"],"extra":{"example.com/a":["1","2"],"B":["3"]}}}`,
	"bare":              `{"authenticated":true,"user":{"username":"jane"}}`,
	"nameless":          `{"authenticated":true,"user":{"groups":["system:masters"]}}`,
	"userless":          `{"authenticated":true}`,
	"no":                `{"authenticated":false}`,
	"nothing":           `{}`,
	"no with a user":    `{"authenticated":false,"user":{"username":"jane"}}`,
	"why":               `{"authenticated":false,"error":"it was <revoked>"}`,
	"yes with an error": `{"authenticated":true,"user":{"username":"jane"},"error":"odd"}`,
	"for us":            `{"authenticated":true,"user":{"username":"jane"},"audiences":["` + issuer + `"]}`,
	"for both":          `{"authenticated":true,"user":{"username":"jane"},"audiences":["others","` + issuer + `"]}`,
	"for others":        `{"authenticated":true,"user":{"username":"jane"},"audiences":["others"]}`,
	"for others, why":   `{"authenticated":false,"audiences":["others"],"error":"why"}`,
	"for nobody":        `{"authenticated":true,"user":{"username":"jane"},"audiences":[]}`,
	"anonymous":         `{"authenticated":true,"user":{"username":"system:anonymous"}}`,
	"a node":            `{"authenticated":true,"user":{"username":"system:node:n","groups":["system:nodes"]}}`,
	"garbage":           "text <html>", "empty": "text ", "half": `text {"apiVersion":`,
	"another kind": `text {"apiVersion":"v1","kind":"Pod"}`, "no kind": `text {"status":{"authenticated":true,"user":{"username":"jane"}}}`,
	"another version": `text {"apiVersion":"authentication.k8s.io/v2","kind":"TokenReview","status":{"authenticated":true,"user":{"username":"jane"}}}`,
	"wrong type":      `text {"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":"yes"}}`,
	"status":          `text {"apiVersion":"v1","kind":"Status","status":"Failure","message":"no","code":400}`,
	"code 201":        "code 201", "code 400": "code 400", "code 401": "code 401", "code 403": "code 403", "code 404": "code 404", "code 408": "code 408", "code 409": "code 409", "code 429": "code 429",
	"code 500": "code 500", "code 502": "code 502", "code 503": "code 503", "code 504": "code 504",
	"later": "later", "cut": "cut", "reset": "reset",
}

// tokenHook answers questions about tokens, and writes them down.
type tokenHook struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
}

func newTokenHook(t *testing.T) *tokenHook {
	h := &tokenHook{}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *tokenHook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // what is missing shows in what is written down
	h.mu.Lock()
	h.asked = append(h.asked, fmt.Sprintf("%s %s %s %s %s %s", r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.Header.Get("Accept"), strings.TrimSpace(string(body))))
	times := len(h.asked)
	h.mu.Unlock()
	var review struct {
		APIVersion string
		Spec       struct{ Token string }
	}
	if err := json.Unmarshal(body, &review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	says := func(status string) {
		fmt.Fprintf(w, `{"apiVersion":%q,"kind":"TokenReview","status":%s}`, review.APIVersion, status)
	}
	verdict := verdicts[tokenOf(review.Spec.Token)]
	how, what, _ := strings.Cut(verdict, " ")
	switch how {
	case "text":
		io.WriteString(w, what)
	case "code":
		var code int
		fmt.Sscan(what, &code)
		w.WriteHeader(code)
		says(verdicts["good"])
	case "later":
		if times < 3 {
			http.Error(w, "not now", http.StatusInternalServerError)
			return
		}
		says(verdicts["good"])
	case "cut", "reset":
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		if how == "reset" {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
	default:
		says(verdict)
	}
}

// bearer is a token, which has no spaces, tokenOf the name of its verdict.
func bearer(verdict string) string { return strings.ReplaceAll(verdict, " ", "_") }
func tokenOf(token string) string  { return strings.ReplaceAll(token, "_", " ") }

// take returns what was asked since it was called last, each question once, and how often in all.
func (h *tokenHook) take() (questions []string, times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, q := range h.asked {
		if !slices.Contains(questions, q) {
			questions = append(questions, q)
		}
	}
	times, h.asked = len(h.asked), nil
	return questions, times
}

// kubeconfig leads to the webhook. The token in it is for TLS alone.
func (h *tokenHook) kubeconfig(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "webhook")
	config := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
		clusters: [{name: c, cluster: {server: "` + h.URL + `/tokens?a=b"}}], users: [{name: u, user: {token: secret}}]}`
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tokenAnswer is what becomes of a request with a token, or of a TokenReview of it, and what the webhook was asked meanwhile.
type tokenAnswer struct {
	Request string
	Code    int
	Answer  string
	Asked   []string
	Times   int
}

// askTokens shows every token twice, and has some reviewed for audiences.
func askTokens(t *testing.T, client *http.Client, base string, h *tokenHook) (all []tokenAnswer) {
	const path = "/apis/authentication.k8s.io/v1/"
	ask := func(token, kind, body, about string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path+kind, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		h.take()
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		one := tokenAnswer{Request: about, Code: answer.StatusCode, Answer: unlike(string(said), h)}
		one.Asked, one.Times = h.take()
		all = append(all, one)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for name := range verdicts {
			if !yield(name) {
				return
			}
		}
	})
	for _, name := range names {
		for range 2 {
			ask(bearer(name), "selfsubjectreviews", `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`, name)
		}
		for _, audiences := range []string{``, `"others"`, `"others","nobody"`, `"` + issuer + `"`, `"others","` + issuer + `"`} {
			body := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q,"audiences":[%s]}}`, bearer(name), audiences)
			if strings.HasPrefix(verdicts[name], "{") {
				ask("admin", "tokenreviews", body, name+" for "+audiences)
			}
		}
	}
	return all
}

var differs = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "TIME"},
	{regexp.MustCompile(`,"managedFields":\[.*?\}\}\}\]`), ""},
	{regexp.MustCompile(`127\.0\.0\.1:\d+->127\.0\.0\.1:\d+`), "CONNECTION"},
}

// unlike is text without what differs from one run to the next.
func unlike(text string, h *tokenHook) string {
	text = strings.ReplaceAll(text, h.URL, "HOOK")
	for _, d := range differs {
		text = d.pattern.ReplaceAllString(text, d.by)
	}
	return strings.TrimSpace(text)
}

// TestTokenWebhook: a webhook is asked about tokens, and what it says counts, as with kube-apiserver (webhook.json).
func TestTokenWebhook(t *testing.T) {
	data, err := os.ReadFile("testdata/webhook.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string][]tokenAnswer
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			h := newTokenHook(t)
			s := apiservertest.Start(t, func(o *apiserver.Options) {
				o.StaticTokens = map[string]user.Info{"admin": admins["admin"]}
				o.TokenWebhook = authn.WebhookConfig{File: h.kubeconfig(t), Version: version, Cache: time.Hour, Pause: time.Millisecond}
			})
			front := httptest.NewServer(s.Handler())
			defer front.Close()
			got := askTokens(t, front.Client(), front.URL, h)
			if len(got) != len(want[version]) {
				t.Fatalf("%d requests, %d are recorded: run make oracle", len(got), len(want[version]))
			}
			for i := range got {
				if d := cmp.Diff(want[version][i], got[i]); d != "" {
					t.Errorf("%s (-kube-apiserver +skiff)\n%s", got[i].Request, d)
				}
			}
		})
	}
}

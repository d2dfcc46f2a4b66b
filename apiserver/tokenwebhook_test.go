package apiserver_test

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authn"
)

// tokenWebhook is a server that is asked about tokens. What it is asked about it is told how to answer.
type tokenWebhook struct {
	*httptest.Server
	mu     sync.Mutex
	asked  map[string][]authenticationv1.TokenReview // by token
	answer func(w http.ResponseWriter, review authenticationv1.TokenReview, times int)
}

func newTokenWebhook(t *testing.T, answer func(w http.ResponseWriter, review authenticationv1.TokenReview, times int)) *tokenWebhook {
	h := &tokenWebhook{asked: make(map[string][]authenticationv1.TokenReview), answer: answer}
	h.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Kind != "TokenReview" || r.Method != http.MethodPost {
			t.Errorf("%s of %+v: %v", r.Method, review, err)
		}
		h.mu.Lock()
		h.asked[review.Spec.Token] = append(h.asked[review.Spec.Token], review)
		times := len(h.asked[review.Spec.Token])
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		h.answer(w, review, times)
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *tokenWebhook) times(token string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.asked[token])
}

// kubeconfig writes a file that leads to h.
func (h *tokenWebhook) kubeconfig(t *testing.T) string {
	config := clientcmdapi.NewConfig()
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	config.Clusters["x"] = &clientcmdapi.Cluster{Server: h.URL + "/authenticate", CertificateAuthorityData: authority}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x"}
	config.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "webhook.kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

func say(w http.ResponseWriter, review authenticationv1.TokenReview, status authenticationv1.TokenReviewStatus) {
	review.Status = status
	_ = json.NewEncoder(w).Encode(review) // the client may have gone
}

// TestTokenWebhook: what a webhook says of tokens counts, is remembered, and is asked for again when that may help.
func TestTokenWebhook(t *testing.T) {
	const server = "https://kubernetes.default.svc.cluster.local"
	beside := make(chan string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { beside <- r.URL.Path }))
	defer other.Close()
	jane := authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "jane", UID: "1", Groups: []string{"a"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}}
	ok := func(w http.ResponseWriter, r authenticationv1.TokenReview) { say(w, r, jane) }
	for _, version := range []string{"v1", "v1beta1"} {
		t.Run(version, func(t *testing.T) {
			hook := newTokenWebhook(t, func(w http.ResponseWriter, r authenticationv1.TokenReview, times int) {
				if want := "authentication.k8s.io/" + version; r.APIVersion != want || !reflect.DeepEqual(r.Spec.Audiences, []string{server}) && !strings.HasPrefix(r.Spec.Token, "for") {
					t.Errorf("asked by %s for %q, want %s", r.APIVersion, r.Spec.Audiences, want)
				}
				switch r.Spec.Token {
				case "good-token":
					ok(w, r)
				case "for-us", "for-others-too":
					say(w, r, authenticationv1.TokenReviewStatus{Authenticated: true, User: jane.User, Audiences: []string{server, "others"}})
				case "for-others":
					say(w, r, authenticationv1.TokenReviewStatus{Authenticated: true, User: jane.User, Audiences: []string{"others"}})
				case "a-reason":
					say(w, r, authenticationv1.TokenReviewStatus{Error: "it was revoked"})
				case "later":
					if times < 3 {
						http.Error(w, "not now", http.StatusInternalServerError)
						return
					}
					ok(w, r)
				case "never":
					http.Error(w, "not now "+r.Spec.Token, http.StatusTooManyRequests)
				case "forbidden":
					http.Error(w, "no", http.StatusForbidden)
				case "garbage":
					io.WriteString(w, "{")
				case "another-kind":
					io.WriteString(w, `{"apiVersion":"authentication.k8s.io/`+version+`","kind":"Status","status":{"authenticated":true,"user":{"username":"root"}}}`)
				case "another-version":
					io.WriteString(w, `{"apiVersion":"x/v1","kind":"TokenReview","status":{"authenticated":true,"user":{"username":"root"}}}`)
				case "huge":
					fmt.Fprintf(w, `{"kind":"TokenReview","x":%q}`, strings.Repeat("x", 2<<20))
				case "led-astray":
					w.Header().Set("Location", other.URL+"/latest")
					w.WriteHeader(http.StatusTemporaryRedirect)
				default:
					say(w, r, authenticationv1.TokenReviewStatus{})
				}
			})
			var log bytes.Buffer
			s := apiservertest.Start(t, func(o *apiserver.Options) {
				o.TokenWebhook.File, o.TokenWebhook.Version, o.TokenWebhook.Cache, o.TokenWebhook.Pause = hook.kubeconfig(t), version, time.Hour, time.Millisecond
				o.Log = slog.New(slog.NewTextHandler(&locked{w: &log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			front := httptest.NewServer(s.Handler())
			defer front.Close()
			for _, c := range []struct {
				token string
				user  string // "": 401
				times int    // the webhook is asked for two requests
			}{
				{"good-token", "jane", 1}, {"for-us", "jane", 1}, {"for-others", "", 1}, {"unknown", "", 1}, {"a-reason", "", 2}, {"later", "jane", 3}, {"never", "", 10},
				{"forbidden", "", 2}, {"garbage", "", 2}, {"another-kind", "", 2}, {"another-version", "", 2}, {"huge", "", 2}, {"led-astray", "", 2},
			} {
				for range 2 {
					if got := whoAmI(t, front, c.token); got != c.user {
						t.Errorf("%s: got user %q, want %q", c.token, got, c.user)
					}
				}
				if got := hook.times(c.token); got != c.times {
					t.Errorf("%s: the webhook was asked %d times, want %d", c.token, got, c.times)
				}
			}
			select {
			case path := <-beside:
				t.Errorf("the webhook led to %s, with a token", path)
			default:
			}
			checkReviews(t, s, hook)
			if text := log.String(); strings.Contains(text, "good-token") || strings.Contains(text, "not now never") {
				t.Errorf("the log has a token: %s", text)
			}
		})
	}
}

// checkReviews asks by TokenReviews for audiences.
func checkReviews(t *testing.T, s *apiserver.Server, hook *tokenWebhook) {
	client := clientset(t, apiservertest.Config(s, "admin"))
	for _, c := range []struct {
		token     string
		audiences []string
		want      []string // nil: it is not authenticated
	}{
		{"for-others-too", []string{"others", "nobody"}, []string{"others"}},
		{"for-others-too", []string{"nobody"}, nil},
		{"good-token", []string{"others"}, nil}, // nothing is said of audiences: it is for this server
		{"good-token", nil, []string{"https://kubernetes.default.svc.cluster.local"}},
	} {
		if c.token == "good-token" && c.audiences != nil {
			c.token = "for-us-alone"
			hook.mu.Lock()
			next := hook.answer
			hook.answer = func(w http.ResponseWriter, r authenticationv1.TokenReview, times int) {
				if r.Spec.Token == c.token {
					say(w, r, authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: "jane"}})
					return
				}
				next(w, r, times)
			}
			hook.mu.Unlock()
		}
		review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: c.token, Audiences: c.audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := review.Status; got.Authenticated != (c.want != nil) || !reflect.DeepEqual(got.Audiences, c.want) {
			t.Errorf("%s for %q: got %+v, want audiences %q", c.token, c.audiences, got, c.want)
		}
	}
}

// whoAmI is the user of a token, "" if the answer is 401.
func whoAmI(t *testing.T, front *httptest.Server, token string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL+"/apis/authentication.k8s.io/v1/selfsubjectreviews", strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := front.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusUnauthorized {
		return ""
	}
	var review authenticationv1.SelfSubjectReview
	if err := json.NewDecoder(answer.Body).Decode(&review); err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo.Username
}

// locked writes for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// TestTokenWebhookIsRefused: a configuration that is not good ends the start.
func TestTokenWebhookIsRefused(t *testing.T) {
	hook := newTokenWebhook(t, nil)
	for _, c := range []struct{ file, version, want string }{
		{hook.kubeconfig(t), "v2", `unsupported authentication webhook version "v2", supported versions are "v1", "v1beta1"`},
		{"/nothing/there", "v1", "no such file or directory"},
	} {
		_, err := authn.NewWebhook(authn.WebhookConfig{File: c.file, Version: c.version})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

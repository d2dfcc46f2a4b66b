//go:build programs

package programs

import (
	"bufio"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// openID is a provider of OpenID Connect behind a server with TLS, which stays when the provider is another one.
type openID struct {
	*httptest.Server
	behind  atomic.Pointer[url.URL]
	running *exec.Cmd
}

// landing is where the provider sends users when they have logged in. Nobody goes there.
const landing = "https://127.0.0.1:1/landing"

// TestOpenIDProvider has a user log in at a provider that others wrote, and use the token of it.
func TestOpenIDProvider(t *testing.T) {
	p := newOpenID(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	certificate, err := json.Marshal(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})))
	if err != nil {
		t.Fatal(err)
	}
	configuration := fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n"+
		"- {issuer: {url: %q, audiences: [web], certificateAuthority: %s}, claimMappings: {username: {claim: sub, prefix: \"openid:\"}}}\n", p.URL, certificate)
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Issuers.File = file })
	front := httptest.NewServer(s.Handler())
	t.Cleanup(front.Close)
	who := func(token string) (string, error) {
		c := kubernetes.NewForConfigOrDie(&rest.Config{Host: front.URL, BearerToken: token})
		review, err := c.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return review.Status.UserInfo.Username, nil
	}

	first := p.login(t)
	wait(t, "the user of a token", func() bool { name, err := who(first.ID); return err == nil && name == "openid:id1" })
	if _, err := who(first.Access); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for the provider itself: got %v, want 401", err)
	}
	p.restart(t) // with other keys
	second := p.login(t)
	wait(t, "the user of a token by new keys", func() bool { name, err := who(second.ID); return err == nil && name == "openid:id1" })
	wait(t, "the end of the token by keys that are gone", func() bool { _, err := who(first.ID); return apierrors.IsUnauthorized(err) })
}

// wait waits until something is so.
func wait(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("there is no sign of %s", what)
		}
	}
}

func newOpenID(t *testing.T) *openID {
	t.Helper()
	p := &openID{}
	p.Server = httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(p.behind.Load())
		r.Out.Host = r.In.Host
	}})
	t.Cleanup(p.Close)
	p.start(t)
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *openID) start(t *testing.T) {
	t.Helper()
	p.running = exec.Command(filepath.Join(os.Getenv("SKIFF_PROGRAMS"), "oidc-provider"), "-issuer", p.URL, "-redirect", landing)
	p.running.Stderr = t.Output()
	out, err := p.running.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.running.Start(); err != nil {
		t.Fatal(err)
	}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the provider does not say where it listens: %v", err)
	}
	p.behind.Store(&url.URL{Scheme: "http", Host: strings.TrimSpace(address)})
}

func (p *openID) stop(t *testing.T) {
	if err := p.running.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.running.Wait() // it says that it was killed
}

func (p *openID) restart(t *testing.T) {
	p.stop(t)
	p.start(t)
}

// tokens are what a provider gives a client.
type tokens struct {
	ID     string `json:"id_token"`
	Access string `json:"access_token"`
}

// login logs the user of the library's example in, as a browser and the client it goes to do.
func (p *openID) login(t *testing.T) (got tokens) {
	t.Helper()
	browser := *p.Client()
	browser.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), landing) {
			return http.ErrUseLastResponse
		}
		return nil
	}
	page := answer(t)(browser.Get(p.URL + "/auth?" + url.Values{"client_id": {"web"}, "redirect_uri": {landing}, "response_type": {"code"},
		"scope": {"openid"}, "state": {"s"}, "nonce": {"n"}}.Encode()))
	host, _, _ := strings.Cut(strings.TrimPrefix(p.URL, "https://"), ":")
	sent := answer(t)(browser.PostForm(p.URL+"/login/username", url.Values{"id": {page.Request.URL.Query().Get("authRequestID")},
		"username": {"test-user@" + host}, "password": {"verysecure"}}))
	where, err := sent.Location()
	if err != nil {
		t.Fatalf("the login leads nowhere: %v", err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/oauth/token", strings.NewReader(url.Values{
		"grant_type": {"authorization_code"}, "code": {where.Query().Get("code")}, "redirect_uri": {landing}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("web", "secret")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	given := answer(t)(p.Client().Do(r))
	if err := json.NewDecoder(given.Body).Decode(&got); err != nil || got.ID == "" {
		t.Fatalf("the provider gives no token: %d %v", given.StatusCode, err)
	}
	return got
}

// answer is what a server answers. Its body is closed when the test ends.
func answer(t *testing.T) func(*http.Response, error) *http.Response {
	t.Helper()
	return func(r *http.Response, err error) *http.Response {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Body.Close() })
		return r
	}
}

package oidc_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-k8s/skiff/apiserver/authn/oidc"
)

// fileOf names issuers of p by path.
func fileOf(p *provider, paths ...string) string {
	var out strings.Builder
	out.WriteString(head + "jwt:\n")
	for _, path := range paths {
		fmt.Fprintf(&out, "- issuer: {url: %q, audiences: [app], certificateAuthority: %q}\n  claimMappings: {username: {claim: sub, prefix: \"\"}}\n", p.URL+"/"+path, p.authority())
	}
	return out.String()
}

// run opens a file and lets it work until the test ends.
func run(t testing.TB, file string, change func(*oidc.Config)) *oidc.Authenticator {
	t.Helper()
	c := oidc.Config{File: file, Own: []string{own}, Times: oidc.Times{Look: 10 * time.Millisecond, Settle: time.Second}}
	if change != nil {
		change(&c)
	}
	a, err := oidc.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = a.Run(ctx) }) // it ends with ctx
	t.Cleanup(func() { cancel(); running.Wait() })
	return a
}

// accepts waits until a says of a token what is wanted.
func accepts(t testing.TB, a *oidc.Authenticator, token string, want bool) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		_, ok, err := a.AuthenticateToken(t.Context(), token)
		if ok == want {
			return
		}
		last = err
	}
	t.Fatalf("a token is accepted: %t, want %t (%v)", !want, want, last)
}

func (p *provider) token(t testing.TB, path string, key any, id string) string {
	return sign(t, jose.RS256, key, id, map[string]any{"iss": p.URL + "/" + path, "aud": "app", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix()})
}

// TestRotation: a new key is found when the first token that it signed comes, and an old one is forgotten.
func TestRotation(t *testing.T) {
	p := newProvider(t)
	a := run(t, write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a")), nil)
	accepts(t, a, p.token(t, "a", p.rsa, "rsa"), true)
	p.publish(jose.JSONWebKey{Key: p.other.Public(), KeyID: "new"})
	accepts(t, a, p.token(t, "a", p.other, "new"), true)
	accepts(t, a, p.token(t, "a", p.rsa, "rsa"), false)
}

// TestUnknownKeys: tokens that name keys nobody has do not make the server ask for keys without end, and those of others are
// accepted meanwhile.
func TestUnknownKeys(t *testing.T) {
	p := newProvider(t)
	a := run(t, write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a")), nil)
	good := p.token(t, "a", p.rsa, "rsa")
	accepts(t, a, good, true)
	forged := p.token(t, "a", p.other, "unknown")
	start, before := time.Now(), p.count("/keys")
	for range 1000 {
		if _, ok, err := a.AuthenticateToken(t.Context(), forged); ok || err == nil {
			t.Fatalf("a forged token: %t, %v", ok, err)
		}
	}
	most := int(time.Since(start)/time.Second) + 1
	if asked := p.count("/keys") - before; asked > most {
		t.Errorf("1000 tokens with unknown keys led to %d questions in %v", asked, time.Since(start))
	}
	accepts(t, a, good, true)
}

// TestHangingProvider: who waits for an issuer that does not answer waits alone.
func TestHangingProvider(t *testing.T) {
	p := newProvider(t)
	a := run(t, write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a", "b")), nil)
	good := p.token(t, "a", p.rsa, "rsa")
	accepts(t, a, good, true)
	release := make(chan struct{})
	defer close(release)
	p.at("/keys", func(http.ResponseWriter, *http.Request) { <-release })
	ctx, cancel := context.WithCancel(t.Context())
	forged, ended := p.token(t, "a", p.other, "unknown"), make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil { // the first ones may come too soon after the last fetch
			_, _, _ = a.AuthenticateToken(ctx, forged)
		}
	}()
	for before := p.count("/keys"); p.count("/keys") == before; time.Sleep(time.Millisecond) {
	}
	if _, ok, err := a.AuthenticateToken(t.Context(), good); !ok {
		t.Errorf("while keys are asked for, a good token: %v", err)
	}
	cancel() // the client has gone: nobody waits for the provider
	<-ended
}

// TestHostileProviders: what issuers answer does no harm, and their tokens are not accepted.
func TestHostileProviders(t *testing.T) {
	reached := make(chan string, 10)
	metadata := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { reached <- r.URL.Path }))
	defer metadata.Close()
	var most atomic.Int64 // that one answer without end has had
	endless := func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"keys":[`)
		for sent := 0; r.Context().Err() == nil; {
			n, err := io.WriteString(w, strings.Repeat(`{"kty":"oct","k":"AAAA"},`, 1000))
			if sent += n; int64(sent) > most.Load() {
				most.Store(int64(sent))
			}
			if err != nil {
				return
			}
		}
	}
	for name, attack := range map[string]func(p *provider){
		"keys without end":        func(p *provider) { p.at("/keys", endless) },
		"a description of no end": func(p *provider) { p.at("/a/.well-known/openid-configuration", endless) },
		"a way to the metadata": func(p *provider) {
			p.at("/a/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, metadata.URL+"/latest", http.StatusFound)
			})
		},
		"keys at the metadata": func(p *provider) {
			p.at("/a/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.URL+"/a", metadata.URL+"/keys")
			})
		},
		"a circle": func(p *provider) {
			p.at("/a/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) })
		},
		"a shared secret as a key": func(p *provider) {
			p.at("/keys", func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, `{"keys":[{"kty":"oct","kid":"rsa","k":"AAAA"}]}`)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { // when the provider has ended
				if n := most.Swap(0); n > 32<<20 {
					t.Errorf("%d MiB of an answer are read", n>>20)
				}
			})
			p := newProvider(t)
			attack(p)
			a := run(t, write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a", "b")), nil)
			if !strings.Contains(name, "keys") && !strings.Contains(name, "secret") {
				accepts(t, a, p.token(t, "b", p.rsa, "rsa"), true)
			}
			for range 3 {
				for p.count("/a/.well-known/openid-configuration") == 0 {
					time.Sleep(time.Millisecond)
				}
				if _, ok, err := a.AuthenticateToken(t.Context(), p.token(t, "a", p.rsa, "rsa")); ok || err == nil {
					t.Errorf("the token is accepted: %t, %v", ok, err)
				}
			}
			select {
			case path := <-reached:
				t.Errorf("what is beside the server was asked for %s", path)
			default:
			}
		})
	}
}

// TestUnknownKindsOfKeys: a key of a kind that is not known does not hide the others.
func TestUnknownKindsOfKeys(t *testing.T) {
	p := newProvider(t)
	key, err := jose.JSONWebKey{Key: p.rsa.Public(), KeyID: "rsa"}.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	p.at("/keys", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"lattice","kid":"x"},%s]}`, key)
	})
	accepts(t, run(t, write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a")), nil), p.token(t, "a", p.rsa, "rsa"), true)
}

// TestReload: a new version of the file is taken when it is good and its issuers answer, and not before.
func TestReload(t *testing.T) {
	p := newProvider(t)
	p.at("/away/.well-known/openid-configuration", http.NotFound)
	file := write(t, filepath.Join(t.TempDir(), "config"), fileOf(p, "a"))
	registry := prometheus.NewRegistry()
	a := run(t, file, func(c *oidc.Config) { c.Metrics = registry })
	first, second := p.token(t, "a", p.rsa, "rsa"), p.token(t, "b", p.rsa, "rsa")
	accepts(t, a, first, true)
	failures := 0.0
	for _, bad := range []string{"x", fileOf(p, "a") + "nothing: 1\n", head + "anonymous: {enabled: false}\n", fileOf(p, "b", "away")} {
		replace(t, file, bad)
		for reloads(t, registry, "failure") <= failures {
			time.Sleep(time.Millisecond)
		}
		failures = reloads(t, registry, "failure")
		if _, ok, err := a.AuthenticateToken(t.Context(), first); !ok {
			t.Errorf("after a bad version, a good token: %v", err)
		}
		if _, ok, _ := a.AuthenticateToken(t.Context(), second); ok {
			t.Error("a bad version is in force")
		}
	}
	replace(t, file, fileOf(p, "b"))
	accepts(t, a, second, true)
	accepts(t, a, first, false)
	if got := reloads(t, registry, "success"); got != 1 {
		t.Errorf("%v versions were taken, want 1", got)
	}
}

// replace writes a file as kubelets do, at once.
func replace(t *testing.T, file, content string) {
	t.Helper()
	if err := os.Rename(write(t, file+".new", content), file); err != nil {
		t.Fatal(err)
	}
}

func reloads(t *testing.T, registry *prometheus.Registry, status string) (n float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "apiserver_authentication_config_controller_automatic_reloads_total" {
			continue
		}
		for _, m := range f.Metric {
			if has(m, "status", status) {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func has(m *dto.Metric, name, value string) bool {
	for _, l := range m.Label {
		if l.GetName() == name && l.GetValue() == value {
			return true
		}
	}
	return false
}

// FuzzToken: no bytes make a token that is not signed, and none make anything panic.
func FuzzToken(f *testing.F) {
	p := newProvider(f)
	p.at("/away/.well-known/openid-configuration", http.NotFound)
	a := run(f, write(f, filepath.Join(f.TempDir(), "config"), configuration(p)), nil)
	accepts(f, a, sign(f, jose.RS256, p.rsa, "rsa", map[string]any{"iss": p.URL + "/plain", "aud": "app", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix()}), true)
	good := make(map[string]bool)
	for _, q := range questions(f, p) {
		_, ok, _ := a.AuthenticateToken(f.Context(), q.token)
		good[q.token] = ok
		f.Add(q.token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, ok, _ := a.AuthenticateToken(t.Context(), token); ok && !good[token] && !sameSigned(token, good) {
			t.Errorf("a token is accepted that nobody has signed: %q", token)
		}
	})
}

// sameSigned reports whether a token is one that was signed, but for bits of base64 that mean nothing.
func sameSigned(token string, good map[string]bool) bool {
	parts := strings.Split(token, ".")
	for known := range good {
		if k := strings.Split(known, "."); len(parts) == 3 && len(k) == 3 && parts[0] == k[0] && parts[1] == k[1] {
			return true
		}
	}
	return false
}

// FuzzClaims: what a provider signs makes a user or an error, whatever it is, and never one of the house where rules say so.
func FuzzClaims(f *testing.F) {
	p := newProvider(f)
	a := run(f, write(f, filepath.Join(f.TempDir(), "config"), configuration(p)), nil)
	end := time.Now().Add(time.Hour).Unix()
	accepts(f, a, sign(f, jose.RS256, p.rsa, "rsa", map[string]any{"iss": p.URL + "/plain", "aud": "app", "sub": "jane", "exp": end}), true)
	for _, path := range []string{"cel", "plain", "email", "required"} {
		f.Add(path, `"profile":{"name":"jane","host.name":"h"},"level":3,"roles":["a"]`)
		f.Add(path, `"sub":"x","groups":["a"],"email":"a","email_verified":true`)
		f.Add(path, `"profile":{"name":"system:x"},"level":1e400,"roles":"system:masters"`)
		f.Add(path, `"sub":null,"groups":{},"_claim_names":{"groups":"a"},"_claim_sources":{"a":{}}`)
	}
	f.Fuzz(func(t *testing.T, path, claims string) {
		payload := fmt.Appendf(nil, `{%s,"iss":%q,"aud":["app","one"],"exp":%d,"iat":%d}`, claims, p.URL+"/"+path, end, end-60)
		answer, ok, err := a.AuthenticateToken(t.Context(), signText(t, jose.RS256, p.rsa, "rsa", payload))
		switch {
		case ok != (err == nil) && ok:
			t.Errorf("a user and an error: %v", err)
		case ok && path == "cel" && strings.HasPrefix(answer.User.GetName(), "system:"):
			t.Errorf("a user of the house: %v", answer.User)
		}
	})
}

package oidc

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/skiff-k8s/skiff/apiserver/reach"
)

// mostAnswer is how much of an answer of a provider is read.
const mostAnswer = 1 << 20

// rediscover is the pause after a provider could not be asked about itself.
const rediscover = 10 * time.Second

// provider is an issuer of tokens, as it describes itself. It is asked in the background; until it has answered it verifies
// nothing.
type provider struct {
	issuer, discovery string
	client            *http.Client
	algorithms        []jose.SignatureAlgorithm
	fetched           func(keys string, err error) // is told about each fetch of keys; nil: nobody

	state     atomic.Pointer[providerState]
	describes sync.Mutex // held while the provider is asked about itself
	asked     time.Time  // when it was last
}

// providerState is what is known of a provider: its keys, or why they are not known.
type providerState struct {
	keys *keySet
	err  error
}

func newProvider(issuer, discovery string, client *http.Client, algorithms []jose.SignatureAlgorithm) *provider {
	if discovery == "" {
		discovery = strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
	}
	p := &provider{issuer: issuer, discovery: discovery, client: client, algorithms: algorithms}
	p.state.Store(&providerState{err: fmt.Errorf("oidc: authenticator for issuer %q is not initialized", issuer)})
	return p
}

// newClient makes what asks providers that show a certificate of one of authorities, in PEM; none means those of the host.
func newClient(authorities string) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if authorities != "" {
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM([]byte(authorities)) // validation has seen that there are some
	}
	return &http.Client{
		Transport:     reach.Limit{Next: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConns: 4, IdleConnTimeout: time.Minute}, Most: mostAnswer},
		CheckRedirect: redirects,
		Timeout:       fetchTime,
	}
}

// redirects are followed to TLS alone: an answer must not make this server talk to what is beside it.
func redirects(r *http.Request, via []*http.Request) error {
	if r.URL.Scheme != "https" {
		return fmt.Errorf("a token issuer may not lead to %s", r.URL.Scheme)
	}
	return reach.Redirects(r, via)
}

// run asks the provider about itself until it has answered, or ctx ends.
func (p *provider) run(ctx context.Context, log *slog.Logger) error {
	for {
		err := p.discover(ctx)
		if err == nil {
			return nil
		}
		log.WarnContext(ctx, "token issuer cannot be asked about itself; its tokens are not accepted", "issuer", p.issuer, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rediscover):
		}
	}
}

// discover asks the provider about itself, and for its keys, unless that is known or was asked a moment ago.
func (p *provider) discover(ctx context.Context) error {
	p.describes.Lock()
	defer p.describes.Unlock()
	if known := p.state.Load(); known.keys != nil || time.Since(p.asked) < rediscover/2 {
		return known.err
	}
	keys, err := p.describe(ctx)
	p.asked = time.Now()
	if err != nil {
		p.state.Store(&providerState{err: err})
		return err
	}
	p.state.Store(&providerState{keys: keys})
	if _, err := keys.renew(ctx); err != nil && ctx.Err() == nil {
		slog.DebugContext(ctx, "keys of a token issuer; they are asked for again with the next token", "issuer", p.issuer, "error", err)
	}
	return nil
}

// describe reads the description of the provider (OpenID Connect Discovery 1.0).
func (p *provider) describe(ctx context.Context) (*keySet, error) {
	var says struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	body, contentType, err := p.get(ctx, p.discovery)
	if err != nil {
		return nil, err
	}
	if err := decodeAnswer(body, contentType, &says); err != nil {
		return nil, fmt.Errorf("oidc: failed to decode provider discovery object: %w", err)
	}
	if says.Issuer != p.issuer {
		return nil, fmt.Errorf("oidc: issuer did not match the issuer returned by provider, expected %q got %q", p.issuer, says.Issuer)
	}
	if says.Keys == "" {
		return nil, errors.New("provider did not return JWKS URL")
	}
	if !strings.HasPrefix(says.Keys, "https://") {
		return nil, fmt.Errorf("oidc: the keys of issuer %q are not at an https URL", p.issuer)
	}
	return &keySet{fetch: func(ctx context.Context) ([]jose.JSONWebKey, error) { return p.fetchKeys(ctx, says.Keys) }}, nil
}

func (p *provider) fetchKeys(ctx context.Context, url string) (keys []jose.JSONWebKey, err error) {
	var body []byte
	if p.fetched != nil {
		defer func() { p.fetched(string(body), err) }()
	}
	body, contentType, err := p.get(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("oidc: get keys failed %w", err)
	}
	var raw json.RawMessage
	if err := decodeAnswer(body, contentType, &raw); err != nil {
		return nil, fmt.Errorf("oidc: failed to decode keys: %w", err)
	}
	if keys, err = parseKeys(raw); err != nil {
		return nil, fmt.Errorf("oidc: failed to decode keys: %w", err)
	}
	return keys, nil
}

// get returns an answer of the provider.
func (p *provider) get(ctx context.Context, url string) (body []byte, contentType string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	return answerTo(p.client, r)
}

// answerTo sends a request and reads the whole answer.
func answerTo(client *http.Client, r *http.Request) (body []byte, contentType string, err error) {
	answer, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, "", statusError(answer.Status)
	}
	body, err = io.ReadAll(answer.Body)
	return body, answer.Header.Get("Content-Type"), err
}

// statusError is an answer other than 200. Its page is not told to anybody.
type statusError string

func (e statusError) Error() string { return string(e) }

func decodeAnswer(body []byte, contentType string, into any) error {
	err := json.Unmarshal(body, into)
	if err == nil {
		return nil
	}
	if kind, _, failed := mime.ParseMediaType(contentType); failed == nil && kind == "application/json" {
		return fmt.Errorf("got Content-Type = application/json, but could not unmarshal as JSON: %w", err)
	}
	return fmt.Errorf("expected Content-Type = application/json, got %q: %w", contentType, err)
}

// hashed is the form in which metrics tell of issuers and keys.
func hashed(text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
}

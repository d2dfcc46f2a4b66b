package oidc_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// provider is a real issuer of tokens, over TLS. Each path below it is an issuer of its own, which all have the same keys.
type provider struct {
	*httptest.Server
	rsa, other *rsa.PrivateKey
	ec         *ecdsa.PrivateKey

	mu     sync.Mutex
	keys   []jose.JSONWebKey // that are published
	serve  map[string]http.HandlerFunc
	served map[string]int // requests by path
}

func newProvider(t testing.TB) *provider {
	p := &provider{serve: make(map[string]http.HandlerFunc), served: make(map[string]int)}
	var err error
	for _, key := range []**rsa.PrivateKey{&p.rsa, &p.other} {
		if *key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			t.Fatal(err)
		}
	}
	if p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	p.publish(jose.JSONWebKey{Key: p.rsa.Public(), KeyID: "rsa", Use: "sig", Algorithm: "RS256"}, jose.JSONWebKey{Key: p.ec.Public(), KeyID: "ec", Use: "sig"})
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(p.answer))
	p.Server.Config.ErrorLog = log.New(t.Output(), "", 0)
	p.Server.StartTLS()
	t.Cleanup(p.Server.Close)
	return p
}

func (p *provider) publish(keys ...jose.JSONWebKey) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// at serves one path by something else.
func (p *provider) at(path string, serve http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve[path] = serve
}

func (p *provider) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served[path]
}

func (p *provider) answer(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.served[r.URL.Path]++
	serve, keys := p.serve[r.URL.Path], p.keys
	p.mu.Unlock()
	issuer, isDescription := strings.CutSuffix(r.URL.Path, "/.well-known/openid-configuration")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case serve != nil:
		serve(w, r)
	case isDescription:
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL + issuer, "jwks_uri": p.URL + "/keys"})
	case r.URL.Path == "/keys":
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: keys})
	default:
		http.NotFound(w, r)
	}
}

// authority is what signed the certificate of the provider, in PEM.
func (p *provider) authority() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
}

// sign makes a token of claims.
func sign(t testing.TB, algorithm jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return signText(t, algorithm, key, id, payload)
}

func signText(t testing.TB, algorithm jose.SignatureAlgorithm, key any, id string, payload []byte) string {
	t.Helper()
	if private, ok := key.(crypto.Signer); ok {
		key = jose.JSONWebKey{Key: private, KeyID: id}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

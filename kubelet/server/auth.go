package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// How long the API server's answers are believed.
const (
	tokenTTL   = 2 * time.Minute
	allowedTTL = 5 * time.Minute
	deniedTTL  = 30 * time.Second
)

// guard lets through who has proved an identity that may do what it asks for. Both the identity of a
// token and what it may do are the API server's to say.
type guard struct {
	node   string
	client kubernetes.Interface
	roots  *x509.CertPool

	users   memory[[32]byte, *user] // by hash of the token
	answers memory[access, bool]
}

// user is an identity.
type user struct {
	name, uid string
	groups    []string
	extra     map[string]authorizationv1.ExtraValue
}

// access is one question to the authorizer.
type access struct {
	user, verb, subresource string
}

// wrap serves next to whom it lets through.
func (g *guard) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := g.authenticate(r)
		if err != nil || who == nil {
			fail(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		verb, subresources := verbOf(r.Method), subresourcesOf(r.URL.Path)
		allowed, err := g.authorize(r.Context(), who, verb, subresources)
		if err != nil {
			fail(w, http.StatusInternalServerError, fmt.Sprintf(
				"Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", who.name, verb, subresources))
			return
		}
		if !allowed {
			fail(w, http.StatusForbidden, fmt.Sprintf(
				"Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)\n", who.name, verb, subresources))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// authenticate returns nil for who shows neither a certificate nor a token that is good.
func (g *guard) authenticate(r *http.Request) (*user, error) {
	if who := g.byCertificate(r); who != nil {
		return who, nil
	}
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !found || token == "" {
		return nil, nil
	}
	return g.byToken(r.Context(), token)
}

func (g *guard) byCertificate(r *http.Request) *user {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || g.roots == nil {
		return nil
	}
	rest := x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		rest.AddCert(c)
	}
	leaf := r.TLS.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: g.roots, Intermediates: rest, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil || leaf.Subject.CommonName == "" {
		return nil
	}
	return &user{name: leaf.Subject.CommonName, groups: append(slices.Clone(leaf.Subject.Organization), "system:authenticated")}
}

func (g *guard) byToken(ctx context.Context, token string) (*user, error) {
	key := sha256.Sum256([]byte(token))
	if who, found := g.users.get(key); found {
		return who, nil
	}
	review, err := g.client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return nil, nil
	}
	u := review.Status.User
	who := &user{name: u.Username, uid: u.UID, groups: u.Groups, extra: map[string]authorizationv1.ExtraValue{}}
	for name, values := range u.Extra {
		who.extra[name] = authorizationv1.ExtraValue(values)
	}
	g.users.put(key, who, tokenTTL)
	return who, nil
}

// authorize says whether the user may do so with one of the node's subresources.
func (g *guard) authorize(ctx context.Context, who *user, verb string, subresources []string) (bool, error) {
	for _, subresource := range subresources {
		allowed, err := g.ask(ctx, who, verb, subresource)
		if err != nil || allowed {
			return allowed, err
		}
	}
	return false, nil
}

func (g *guard) ask(ctx context.Context, who *user, verb, subresource string) (bool, error) {
	key := access{user: fmt.Sprintf("%q %q %q %q", who.name, who.uid, who.groups, who.extra), verb: verb, subresource: subresource}
	if allowed, found := g.answers.get(key); found {
		return allowed, nil
	}
	review, err := g.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: who.name, UID: who.uid, Groups: who.groups, Extra: who.extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: g.node,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := deniedTTL
	if review.Status.Allowed {
		ttl = allowedTTL
	}
	g.answers.put(key, review.Status.Allowed, ttl)
	return review.Status.Allowed, nil
}

func verbOf(method string) string {
	return map[string]string{
		http.MethodPost: "create", http.MethodGet: "get", http.MethodPut: "update",
		http.MethodPatch: "patch", http.MethodDelete: "delete",
	}[method]
}

// subresourcesOf are the subresources of the node that a path belongs to, any of which will do: since
// KEP-2862 a few have one of their own beside "proxy".
func subresourcesOf(path string) []string {
	for _, row := range []struct {
		path         string
		subresources []string
	}{
		{"/pods", []string{"pods", "proxy"}},
		{"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}},
		{"/configz", []string{"configz", "proxy"}},
		{"/stats", []string{"stats"}},
		{"/metrics", []string{"metrics"}},
		{"/logs", []string{"log"}},
	} {
		if path == row.path || strings.HasPrefix(path, row.path+"/") {
			return row.subresources
		}
	}
	return []string{"proxy"}
}

// memory keeps answers for a while. Its zero value is ready.
type memory[K comparable, V any] struct {
	mu   sync.Mutex
	kept map[K]remembered[V]
}

type remembered[V any] struct {
	value V
	until time.Time
}

// memorySize bounds what callers with ever new tokens can make us keep.
const memorySize = 1024

func (m *memory[K, V]) get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.kept[key]
	return r.value, time.Now().Before(r.until)
}

func (m *memory[K, V]) put(key K, value V, ttl time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == nil || len(m.kept) >= memorySize {
		m.kept = map[K]remembered[V]{}
	}
	m.kept[key] = remembered[V]{value, time.Now().Add(ttl)}
}

package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

const issuer = "https://issuer.example"

// objects is a cluster that only has what tokens are bound to, by plural and name.
type objects map[string]resource.Object

func (o objects) Resource(_, plural string) *resource.Resource {
	return &resource.Resource{Plural: plural}
}

func (o objects) Get(_ context.Context, r *resource.Resource, _, name string) (resource.Object, error) {
	if obj := o[r.Plural+"/"+name]; obj != nil {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(r.GR(), name)
}

func (o objects) List(context.Context, *resource.Resource, string) ([]resource.Object, error) {
	panic("not needed")
}
func (o objects) Create(context.Context, *resource.Resource, resource.Object) (resource.Object, error) {
	panic("not needed")
}
func (o objects) Update(context.Context, *resource.Resource, string, string, bool, func(resource.Object) error) (resource.Object, error) {
	panic("not needed")
}
func (o objects) Delete(context.Context, *resource.Resource, string, string, *metav1.DeleteOptions) (resource.Object, error) {
	panic("not needed")
}

func meta(name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid)}
}

func tokens(t *testing.T, c TokensConfig) *Tokens {
	t.Helper()
	c.Issuer = issuer
	if c.Key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.Key = key
	}
	tk, err := NewTokens(c)
	if err != nil {
		t.Fatal(err)
	}
	return tk
}

func TestToken(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	account := Reference{"robot", "sa-uid"}
	pod, node, secret := &Reference{"p", "p-uid"}, &Reference{"n", "n-uid"}, &Reference{"s", "s-uid"}
	deleted := meta("p", "p-uid")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(-2 * time.Minute)}
	going := meta("p", "p-uid")
	going.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	full := objects{
		"serviceaccounts/robot": &corev1.ServiceAccount{ObjectMeta: meta("robot", "sa-uid")},
		"pods/p":                &corev1.Pod{ObjectMeta: meta("p", "p-uid")},
		"nodes/n":               &corev1.Node{ObjectMeta: meta("n", "n-uid")},
		"secrets/s":             &corev1.Secret{ObjectMeta: meta("s", "s-uid")},
	}
	with := func(key string, obj resource.Object) objects {
		o := objects{}
		for k, v := range full {
			o[k] = v
		}
		if o[key] = obj; obj == nil {
			delete(o, key)
		}
		return o
	}
	for _, c := range []struct {
		name     string
		binding  Binding
		cluster  objects
		issued   time.Duration // before now
		audience string
		extra    map[string]string
		problem  string
	}{
		{name: "unbound", cluster: full},
		{name: "bound to a pod on a node", cluster: full, binding: Binding{Pod: pod, Node: node},
			extra: map[string]string{"pod-name": "p", "pod-uid": "p-uid", "node-name": "n", "node-uid": "n-uid"}},
		{name: "the node of a pod need not be there", cluster: with("nodes/n", nil), binding: Binding{Pod: pod, Node: node},
			extra: map[string]string{"pod-name": "p", "pod-uid": "p-uid", "node-name": "n", "node-uid": "n-uid"}},
		{name: "bound to a node", cluster: full, binding: Binding{Node: node}, extra: map[string]string{"node-name": "n", "node-uid": "n-uid"}},
		{name: "bound to a secret", cluster: full, binding: Binding{Secret: secret}},
		{name: "account gone", cluster: with("serviceaccounts/robot", nil), problem: `serviceaccounts "robot" not found`},
		{name: "account made anew", cluster: with("serviceaccounts/robot", &corev1.ServiceAccount{ObjectMeta: meta("robot", "2")}),
			problem: "service account UID (2) does not match claim (sa-uid)"},
		{name: "pod gone", cluster: with("pods/p", nil), binding: Binding{Pod: pod}, problem: "service account token has been invalidated"},
		{name: "pod made anew", cluster: with("pods/p", &corev1.Pod{ObjectMeta: meta("p", "2")}), binding: Binding{Pod: pod},
			problem: "pod UID (2) does not match service account pod ref claim (p-uid)"},
		{name: "pod being deleted", cluster: with("pods/p", &corev1.Pod{ObjectMeta: going}), binding: Binding{Pod: pod},
			extra: map[string]string{"pod-name": "p", "pod-uid": "p-uid"}},
		{name: "pod deleted long ago", cluster: with("pods/p", &corev1.Pod{ObjectMeta: deleted}), binding: Binding{Pod: pod},
			problem: "service account token has been invalidated"},
		{name: "node gone", cluster: with("nodes/n", nil), binding: Binding{Node: node}, problem: "service account token has been invalidated"},
		{name: "expired", cluster: full, issued: 2 * time.Hour, problem: "service account token has expired"},
		{name: "not yet valid", cluster: full, issued: -2 * time.Hour, problem: "service account token is not valid yet"},
		{name: "for others", cluster: full, audience: "vault", problem: `token audiences ["vault"] is invalid for the target audiences ["https://issuer.example"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			tk := tokens(t, TokensConfig{Key: key})
			tk.Use(c.cluster)
			c.binding.Namespace, c.binding.ServiceAccount = "ns", account
			audience := issuer
			if c.audience != "" {
				audience = c.audience
			}
			token, err := tk.Issue(c.binding, []string{audience}, time.Now().Add(-c.issued), time.Hour, 0)
			if err != nil {
				t.Fatal(err)
			}
			answer, ok, err := tk.AuthenticateToken(t.Context(), token)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Fatalf("got %v, %t, error %v; want error %q", answer, ok, err, c.problem)
				}
				return
			}
			if err != nil || !ok {
				t.Fatalf("got %t, %v; want a user", ok, err)
			}
			u := answer.User
			if u.GetName() != "system:serviceaccount:ns:robot" || u.GetUID() != "sa-uid" {
				t.Errorf("got user %s (%s), want system:serviceaccount:ns:robot (sa-uid)", u.GetName(), u.GetUID())
			}
			if want := []string{"system:serviceaccounts", "system:serviceaccounts:ns"}; !slices.Equal(u.GetGroups(), want) {
				t.Errorf("got groups %q, want %q", u.GetGroups(), want)
			}
			if id := u.GetExtra()[user.CredentialIDKey]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
				t.Errorf("got credential id %q, want one JTI=…", id)
			}
			for key, want := range c.extra {
				if got := u.GetExtra()["authentication.kubernetes.io/"+key]; len(got) != 1 || got[0] != want {
					t.Errorf("extra %s: got %q, want %q", key, got, want)
				}
			}
			if got, want := len(u.GetExtra()), len(c.extra)+1; got != want {
				t.Errorf("got %d extras %v, want %d", got, u.GetExtra(), want)
			}
		})
	}
}

// TestClaims checks the names others read.
func TestClaims(t *testing.T) {
	now := time.Unix(1700000000, 0)
	token, err := tokens(t, TokensConfig{}).Issue(Binding{
		Namespace: "ns", ServiceAccount: Reference{"robot", "1"}, Pod: &Reference{"p", "2"}, Node: &Reference{"n", "3"},
	}, []string{"a"}, now, time.Hour, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	if id, _ := claims["jti"].(string); len(id) != 36 {
		t.Errorf("got jti %q, want a UUID", id)
	}
	delete(claims, "jti")
	got, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"aud":["a"],"exp":1700003600,"iat":1700000000,"iss":"https://issuer.example",` +
		`"kubernetes.io":{"namespace":"ns","node":{"name":"n","uid":"3"},"pod":{"name":"p","uid":"2"},"serviceaccount":{"name":"robot","uid":"1"},"warnafter":1700000060},` +
		`"nbf":1700000000,"sub":"system:serviceaccount:ns:robot"}`
	if string(got) != want {
		t.Errorf("got claims\n%s\nwant\n%s", got, want)
	}
}

func TestForeignTokens(t *testing.T) {
	cluster := objects{"serviceaccounts/robot": &corev1.ServiceAccount{ObjectMeta: meta("robot", "sa-uid")}}
	b := Binding{Namespace: "ns", ServiceAccount: Reference{"robot", "sa-uid"}}
	signing, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours, others := tokens(t, TokensConfig{Key: signing}), tokens(t, TokensConfig{})
	ours.Use(cluster)
	forged, err := others.Issue(b, []string{issuer}, time.Now(), time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := ours.AuthenticateToken(t.Context(), forged); ok || err == nil {
		t.Errorf("a token signed by another key: got %t, %v; want an error", ok, err)
	}
	good, err := ours.Issue(b, []string{issuer}, time.Now(), time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	longer := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), `"exp":`, `"exp":9`, 1)))
	if _, ok, err := ours.AuthenticateToken(t.Context(), parts[0]+"."+longer+"."+parts[2]); ok || err == nil {
		t.Errorf("a token that was changed: got %t, %v; want an error", ok, err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	if _, ok, _ := ours.AuthenticateToken(t.Context(), none); ok {
		t.Error("a token without a signature was accepted")
	}
	elsewhere, err := NewTokens(TokensConfig{Issuer: "https://elsewhere.example", Key: signing})
	if err != nil {
		t.Fatal(err)
	}
	another, err := elsewhere.Issue(b, []string{issuer}, time.Now(), time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "x", "a.b.c", another} {
		if _, ok, err := ours.AuthenticateToken(t.Context(), text); ok || err != nil {
			t.Errorf("%q: got %t, %v; want not ours, no error", text, ok, err)
		}
	}

	// After the key was changed, tokens signed by the old one still work.
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rotated := tokens(t, TokensConfig{Key: key, OldKeys: []crypto.PublicKey{ours.keys[0].Key}})
	rotated.Use(cluster)
	if _, ok, err := rotated.AuthenticateToken(t.Context(), good); !ok || err != nil {
		t.Errorf("a token signed by the old key: got %t, %v; want it accepted", ok, err)
	}
}

func TestOpenID(t *testing.T) {
	tk := tokens(t, TokensConfig{})
	w := httptest.NewRecorder()
	tk.OpenIDConfiguration("10.0.0.1:6443").ServeHTTP(w, httptest.NewRequest("GET", OpenIDConfigurationPath, nil))
	want := `{"issuer":"https://issuer.example","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	if got := w.Body.String(); got != want {
		t.Errorf("configuration:\n got %s\nwant %s", got, want)
	}
	w = httptest.NewRecorder()
	tk.Keys().ServeHTTP(w, httptest.NewRequest("GET", KeysPath, nil))
	if got := w.Header().Get("Content-Type"); got != "application/jwk-set+json" {
		t.Errorf("content type of the keys: got %q, want application/jwk-set+json", got)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 || !set.Keys[0].IsPublic() || set.Keys[0].KeyID != tk.keys[0].KeyID {
		t.Errorf("got keys %v, want the public half of the signing key", set.Keys)
	}
}

// authority signs client certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	pem  []byte
	list *Authorities // it alone
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	a := authority{key: key, pool: x509.NewCertPool()}
	a.cert = a.sign(t, template, template, key)
	a.pool.AddCert(a.cert)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	if a.list, err = FixedAuthorities(a.pem); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a authority) sign(t testing.TB, template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (a authority) client(t testing.TB, name string, groups ...string) *x509.Certificate {
	return a.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
}

func TestRequest(t *testing.T) {
	users, proxies, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	a := New(Config{
		ClientCAs:    users.list,
		FrontProxy:   &FrontProxy{CAs: proxies.list, AllowedNames: []string{"proxy"}},
		StaticTokens: map[string]user.Info{"secret": &user.DefaultInfo{Name: "static"}},
	})
	forwarded := http.Header{"X-Remote-User": {"eve"}, "X-Remote-Group": {"g1", "g2"}, "X-Remote-Extra-Acme.com%2fx": {"1"}}
	for _, c := range []struct {
		name   string
		cert   *x509.Certificate
		header http.Header
		user   string
		groups []string
		fails  bool
	}{
		{name: "nobody", user: "system:anonymous", groups: []string{"system:unauthenticated"}},
		{name: "certificate", cert: users.client(t, "eve", "g1", "g2"), user: "eve", groups: []string{"g1", "g2", "system:authenticated"}},
		{name: "certificate of a stranger", cert: strangers.client(t, "eve"), fails: true},
		{name: "token", header: http.Header{"Authorization": {"Bearer secret"}}, user: "static", groups: []string{"system:authenticated"}},
		{name: "token and more", header: http.Header{"Authorization": {"Bearer secret b"}}, user: "static", groups: []string{"system:authenticated"}},
		{name: "wrong token and more", header: http.Header{"Authorization": {"Bearer x secret"}}, fails: true},
		{name: "two spaces", header: http.Header{"Authorization": {"Bearer  secret"}}, user: "system:anonymous", groups: []string{"system:unauthenticated"}},
		{name: "tab", header: http.Header{"Authorization": {"Bearer\tsecret"}}, user: "system:anonymous", groups: []string{"system:unauthenticated"}},
		{name: "wrong token", header: http.Header{"Authorization": {"Bearer x"}}, fails: true},
		{name: "other scheme", header: http.Header{"Authorization": {"Basic x"}}, user: "system:anonymous", groups: []string{"system:unauthenticated"}},
		{name: "token makes up for a wrong certificate", cert: strangers.client(t, "eve"), header: http.Header{"Authorization": {"bearer secret"}},
			user: "static", groups: []string{"system:authenticated"}},
		{name: "token of a browser", header: http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"},
			"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io"}}, user: "static", groups: []string{"system:authenticated"}},
		{name: "front proxy", cert: proxies.client(t, "proxy"), header: forwarded, user: "eve", groups: []string{"g1", "g2", "system:authenticated"}},
		{name: "front proxy of another name", cert: proxies.client(t, "other"), header: forwarded, fails: true},
		{name: "forwarded by nobody", header: forwarded, user: "system:anonymous", groups: []string{"system:unauthenticated"}},
		{name: "forwarded by a user", cert: users.client(t, "mallory"), header: forwarded, user: "mallory", groups: []string{"system:authenticated"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			for key, values := range c.header {
				r.Header[key] = slices.Clone(values)
			}
			if c.cert != nil {
				r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.cert}}
			}
			answer, ok, err := a.AuthenticateRequest(r)
			if c.fails {
				if ok || err == nil {
					t.Fatalf("got %v, %v; want an error", ok, err)
				}
				return
			}
			if !ok || err != nil {
				t.Fatalf("got %v, %v; want user %s", ok, err, c.user)
			}
			if got := answer.User; got.GetName() != c.user || !slices.Equal(got.GetGroups(), c.groups) {
				t.Errorf("got %s %q, want %s %q", got.GetName(), got.GetGroups(), c.user, c.groups)
			}
			if c.user == "static" && (r.Header.Get("Authorization") != "" || strings.Contains(r.Header.Get("Sec-Websocket-Protocol"), "bearer")) {
				t.Error("the token is still in the request")
			}
			if c.user == "eve" && c.header != nil {
				if got := answer.User.GetExtra()["acme.com/x"]; !slices.Equal(got, []string{"1"}) {
					t.Errorf("got extra %q, want [1]", got)
				}
				if len(r.Header) != 0 {
					t.Errorf("headers are left: %v", r.Header)
				}
			}
		})
	}
}

var _ authenticator.Token = (*Tokens)(nil)

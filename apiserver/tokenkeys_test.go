package apiserver_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/authn"
)

func pemOf(t *testing.T, kind string, der []byte, err error) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// TestTokenKeys: tokens of all keys and issuers that are named are accepted, and the keys are published.
func TestTokenKeys(t *testing.T) {
	const now, before = "https://kubernetes.default.svc.cluster.local", "https://before.example"
	elliptic1, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa1, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(elliptic1)
	public, err2 := x509.MarshalPKIXPublicKey(rsa1.Public())
	var signing []byte
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		signing = o.ServiceAccountKey
		file := append(pemOf(t, "EC PRIVATE KEY", private, err), pemOf(t, "PUBLIC KEY", public, err2)...) // two in one file
		dir := t.TempDir()
		for name, keys := range map[string][]byte{"own": o.ServiceAccountKey, "two": file} {
			if err := os.WriteFile(filepath.Join(dir, name), keys, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o.ServiceAccountKeyFiles = []string{dir + "/two", dir + "/own", dir + "/two"}
		o.ServiceAccountIssuers = []string{"https://kubernetes.default.svc.cluster.local", before}
	})
	client := clientset(t, apiservertest.Config(s, "admin"))
	account, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(s.Handler())
	defer front.Close()
	issue := func(issuer string, key crypto.Signer) string {
		tokens, err := authn.NewTokens(authn.TokensConfig{Issuer: issuer, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		token, err := tokens.Issue(authn.Binding{Namespace: "default", ServiceAccount: authn.Reference{Name: account.Name, UID: string(account.UID)}}, []string{now}, time.Now(), time.Hour, 0)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for name, c := range map[string]struct {
		token string
		good  bool
	}{
		"a private key":       {issue(now, elliptic1), true},
		"a public key":        {issue(now, rsa1), true},
		"the issuer before":   {issue(before, rsa1), true},
		"another issuer":      {issue("https://other.example", rsa1), false},
		"the key of somebody": {issue(now, stranger), false},
	} {
		if got := whoAmI(t, front, c.token); (got == "system:serviceaccount:default:robot") != c.good {
			t.Errorf("%s: got user %q, want it accepted: %t", name, got, c.good)
		}
	}
	var set struct{ Keys []struct{ Kty, Kid string } }
	answer, err := inside(s).Get("https://in-process" + authn.KeysPath)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if data, _ := io.ReadAll(answer.Body); json.Unmarshal(data, &set) != nil || len(set.Keys) != 3 || set.Keys[0].Kty != "EC" || set.Keys[2].Kty != "RSA" {
		t.Errorf("got %s, want the signing key %d and two more", data, len(signing))
	}
}

func inside(s *apiserver.Server) *http.Client {
	return &http.Client{Transport: apiservertest.Config(s, "admin").Transport}
}

// TestAudienceConfusion: a token is for its audiences, and one that says nothing of audiences for this server alone.
func TestAudienceConfusion(t *testing.T) {
	const own = "https://kubernetes.default.svc.cluster.local"
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.StaticTokens = map[string]user.Info{"static": &user.DefaultInfo{Name: "jane"}}
	})
	client, address := clientset(t, apiservertest.Config(s, "admin")), serve(t, s)
	must(t)(client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	tokenFor := func(audiences ...string) string {
		r, err := client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Token
	}
	for name, token := range map[string]struct {
		text string
		of   []string // its audiences
		code int      // of a request to this server
	}{
		"static": {"static", []string{own}, http.StatusOK}, "ours": {tokenFor(), []string{own}, http.StatusOK},
		"another's": {tokenFor("vault"), []string{"vault"}, http.StatusUnauthorized}, "of both": {tokenFor("vault", own), []string{"vault", own}, http.StatusOK},
	} {
		if code, _ := ask(t, address, token.text, "/version", nil); code != token.code {
			t.Errorf("%s: a request with it is answered with %d, want %d", name, code, token.code)
		}
		for _, wanted := range [][]string{nil, {own}, {"vault"}, {"vault", own}, {"bank"}} {
			review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.text, Audiences: wanted}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if wanted == nil {
				wanted = []string{own}
			}
			common := slices.DeleteFunc(slices.Clone(token.of), func(a string) bool { return !slices.Contains(wanted, a) })
			if review.Status.Authenticated != (len(common) > 0) || !slices.Equal(review.Status.Audiences, common) {
				t.Errorf("%s for %q: got %+v, want the audiences %q", name, wanted, review.Status, common)
			}
		}
	}
}

package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

// warnings collects the Warning headers of answers.
type warnings []string

func (w *warnings) HandleWarningHeader(_ int, _, text string) { *w = append(*w, text) }

// TestLegacyTokens asks about tokens that live in Secrets. The answers are those of kube-apiserver 1.36.3.
func TestLegacyTokens(t *testing.T) {
	ctx := t.Context()
	var key []byte
	server := apiservertest.Start(t, func(o *apiserver.Options) { key = o.ServiceAccountKey })
	private, err := serviceaccount.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := serviceaccount.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	config := apiservertest.Config(server, "admin")
	var warned warnings
	config.WarningHandler = &warned
	client := kubernetes.NewForConfigOrDie(config)
	accounts, secrets := client.CoreV1().ServiceAccounts("default"), client.CoreV1().Secrets("default")

	const (
		warning  = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens."
		audience = "https://kubernetes.default.svc.cluster.local"
	)
	for i, test := range []struct {
		name      string
		claims    func(*serviceaccount.LegacyClaims)
		secret    func(*corev1.Secret)
		account   func(*corev1.ServiceAccount)
		spoil     bool // the signature
		deleted   string
		audiences []string
		problem   string
		warning   string
		unused    bool
	}{
		{name: "made by a person"},
		{name: "made unasked", account: func(sa *corev1.ServiceAccount) { sa.Secrets = []corev1.ObjectReference{{Name: sa.Name + "-token"}} }, warning: warning},
		{name: "for nobody else", audiences: []string{"vault"}, unused: true,
			problem: `token audiences ["https://kubernetes.default.svc.cluster.local"] is invalid for the target audiences ["vault"]`},
		{name: "for others", claims: func(c *serviceaccount.LegacyClaims) { c.Audience = jwt.Audience{"vault"} }, unused: true,
			problem: `token audiences ["vault"] is invalid for the target audiences ["https://kubernetes.default.svc.cluster.local"]`},
		{name: "an end counts for nothing", claims: func(c *serviceaccount.LegacyClaims) { c.Expiry = jwt.NewNumericDate(time.Unix(1000, 0)) }},
		{name: "no subject", claims: func(c *serviceaccount.LegacyClaims) { c.Subject = "" }, problem: "sub claim is missing", unused: true},
		{name: "another subject", claims: func(c *serviceaccount.LegacyClaims) { c.Subject = "system:serviceaccount:default:x" }, problem: "sub claim is invalid", unused: true},
		{name: "no namespace", claims: func(c *serviceaccount.LegacyClaims) { c.Namespace = "" }, problem: "namespace claim is missing", unused: true},
		{name: "no secret named", claims: func(c *serviceaccount.LegacyClaims) { c.SecretName = "" }, problem: "secretName claim is missing", unused: true},
		{name: "no account named", claims: func(c *serviceaccount.LegacyClaims) { c.ServiceAccountName = "" }, problem: "serviceAccountName claim is missing", unused: true},
		{name: "no uid", claims: func(c *serviceaccount.LegacyClaims) { c.ServiceAccountUID = "" }, problem: "serviceAccountUID claim is missing", unused: true},
		{name: "another uid", claims: func(c *serviceaccount.LegacyClaims) { c.ServiceAccountUID = "zzz" }, problem: "ServiceAccount UID (UID) does not match claim (zzz)", unused: true},
		{name: "no secret", deleted: "secret", problem: "Token has been invalidated"},
		{name: "secret being deleted", deleted: "secret", secret: func(s *corev1.Secret) { s.Finalizers = []string{"example.com/x"} }, problem: "Token has been invalidated", unused: true},
		{name: "secret with another token", secret: func(s *corev1.Secret) { s.Data["token"] = []byte("x") }, problem: "Token does not match server's copy", unused: true},
		{name: "no account", deleted: "account", problem: `serviceaccounts "robot-15" not found`, unused: true},
		{name: "account being deleted", deleted: "account", account: func(sa *corev1.ServiceAccount) { sa.Finalizers = []string{"example.com/x"} },
			problem: "ServiceAccount default/robot-16 has been deleted", unused: true},
		{name: "marked as invalid", secret: func(s *corev1.Secret) {
			s.Labels = map[string]string{serviceaccount.InvalidSinceLabel: "2020-01-01"}
		}, problem: "the token in secret default/robot-17-token for service account default/robot-17 has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token"},
		{name: "another signature", spoil: true, problem: "go-jose/go-jose: error in cryptographic primitive", unused: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			warned = nil
			name := fmt.Sprintf("robot-%d", i)
			sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if test.account != nil {
				test.account(sa)
			}
			sa, err := accounts.Create(ctx, sa, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			claims := serviceaccount.LegacyClaims{
				Claims:    jwt.Claims{Issuer: serviceaccount.LegacyIssuer, Subject: "system:serviceaccount:default:" + name},
				Namespace: "default", ServiceAccountName: name, ServiceAccountUID: string(sa.UID), SecretName: name + "-token",
			}
			if test.claims != nil {
				test.claims(&claims)
			}
			token, err := jwt.Signed(signer).Claims(claims).Serialize()
			if err != nil {
				t.Fatal(err)
			}
			if test.spoil {
				token = token[:len(token)-8] + "AAAAAAAA"
			}
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: name + "-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: name}},
				Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)},
			}
			if test.secret != nil {
				test.secret(secret)
			}
			if secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			switch test.deleted {
			case "secret":
				err = secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{})
			case "account":
				err = accounts.Delete(ctx, name, metav1.DeleteOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}

			review, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
				Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: test.audiences},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := review.Status
			if test.problem != "" {
				want := "[invalid bearer token, " + strings.ReplaceAll(test.problem, "(UID)", "("+string(sa.UID)+")") + "]"
				if got.Authenticated || got.Error != want {
					t.Errorf("got %+v, want error %s", got, want)
				}
			} else if got.Error != "" || got.User.Username != "system:serviceaccount:default:"+name || got.User.UID != string(sa.UID) || fmt.Sprint(got.User.Groups) !=
				"[system:serviceaccounts system:serviceaccounts:default system:authenticated]" || len(got.User.Extra) > 0 || fmt.Sprint(got.Audiences) != "["+audience+"]" {
				t.Errorf("got %+v", got)
			}
			if got := strings.Join(warned, "; "); got != test.warning {
				t.Errorf("got warning %q, want %q", got, test.warning)
			}
			if test.deleted == "secret" && len(secret.Finalizers) == 0 {
				return
			}
			if secret, err = secrets.Get(ctx, secret.Name, metav1.GetOptions{}); err != nil {
				t.Fatal(err)
			}
			today := serviceaccount.Date(time.Now())
			if got := secret.Labels[serviceaccount.LastUsedLabel]; (got == "") != test.unused || got > today {
				t.Errorf("got %q as the day of the last use, want today: %v", got, !test.unused)
			}
		})
	}

	body := metricsOf(t, config)
	for name, want := range map[string]int{"legacy_manual_token_uses_total": 2, "legacy_auto_token_uses_total": 1, "invalid_legacy_auto_token_uses_total": 1} {
		if line := fmt.Sprintf("\nserviceaccount_%s %d\n", name, want); !strings.Contains(body, line) {
			t.Errorf("metrics: got no line %q", strings.TrimSpace(line))
		}
	}
}

func metricsOf(t *testing.T, config *rest.Config) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, config.Host+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := config.Transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestTrackingOfLegacyTokens has a beginning that outlives the server.
func TestTrackingOfLegacyTokens(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	tracking, err := client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), "kube-apiserver-legacy-service-account-token-tracking", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serviceaccount.ParseDate(tracking.Data["since"]); err != nil || len(tracking.Data) != 1 {
		t.Errorf("got %v, want the day since when", tracking.Data)
	}
}

// TestLegacyTokenOverTheWire is used as clients do, as the header of a request.
func TestLegacyTokenOverTheWire(t *testing.T) {
	ctx := t.Context()
	var key []byte
	server := apiservertest.Start(t, func(o *apiserver.Options) { key = o.ServiceAccountKey })
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(server, "admin"))
	sa, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	private, err := serviceaccount.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := serviceaccount.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	token, err := serviceaccount.SignLegacy(signer, sa, "token")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}},
		Type:       corev1.SecretTypeServiceAccountToken, StringData: map[string]string{"token": token},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if code := get(t, server, token); code != http.StatusOK {
		t.Errorf("got %d, want 200", code)
	}
	if _, err := client.CoreV1().Secrets("default").Patch(ctx, "token", types.MergePatchType, []byte(`{"metadata":{"labels":{"`+serviceaccount.InvalidSinceLabel+`":"2020-01-01"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if code := get(t, server, token); code != http.StatusUnauthorized {
		t.Errorf("once marked as invalid: got %d, want 401", code)
	}
}

func get(t *testing.T, server *apiserver.Server, token string) (code int) {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api", nil)
	request.Header.Set("Authorization", "Bearer "+token)
	answer := httptest.NewRecorder()
	server.Handler().ServeHTTP(answer, request)
	return answer.Code
}

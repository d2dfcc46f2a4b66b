package apiserver_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestBootstrapTokens: who may join, as who, and who tries.
func TestBootstrapTokens(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.BootstrapTokens = true })
	client := clientset(t, apiservertest.Config(s, "admin"))
	secrets := client.CoreV1().Secrets("kube-system")
	const id, secret = "abcdef", "0123456789abcdef"
	for name, c := range map[string]struct {
		change func(*corev1.Secret)
		token  string
		groups []string // nil: who shows it is nobody
	}{
		"as it should be": {groups: []string{"system:bootstrappers", "system:authenticated"}},
		"with groups": {change: func(s *corev1.Secret) {
			s.StringData["auth-extra-groups"] = "system:bootstrappers:edge,system:bootstrappers:x-1"
		}, groups: []string{"system:bootstrappers", "system:bootstrappers:edge", "system:bootstrappers:x-1", "system:authenticated"}},
		"with an end to come":  {change: func(s *corev1.Secret) { s.StringData["expiration"] = time.Now().Add(time.Hour).Format(time.RFC3339) }, groups: []string{"system:bootstrappers", "system:authenticated"}},
		"with an end":          {change: func(s *corev1.Secret) { s.StringData["expiration"] = time.Now().Add(-time.Second).Format(time.RFC3339) }},
		"with no time":         {change: func(s *corev1.Secret) { s.StringData["expiration"] = "soon" }},
		"a group of the house": {change: func(s *corev1.Secret) { s.StringData["auth-extra-groups"] = "system:masters" }},
		"a group like theirs": {change: func(s *corev1.Secret) {
			s.StringData["auth-extra-groups"] = "system:bootstrappers:a,system:bootstrappers:"
		}},
		"not for this":         {change: func(s *corev1.Secret) { delete(s.StringData, "usage-bootstrap-authentication") }},
		"a Secret of no kind":  {change: func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }},
		"another id":           {change: func(s *corev1.Secret) { s.StringData["token-id"] = "ghijkl" }},
		"no secret":            {change: func(s *corev1.Secret) { delete(s.StringData, "token-secret") }},
		"being deleted":        {change: func(s *corev1.Secret) { s.Finalizers = []string{"example.com/x"} }},
		"another token":        {token: id + ".0123456789abcdeg"},
		"a token there is not": {token: "zzzzzz." + secret},
		"a path":               {token: "../../." + secret},
	} {
		t.Run(name, func(t *testing.T) {
			made := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
				StringData: map[string]string{"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"}}
			if c.change != nil {
				c.change(made)
			}
			if _, err := secrets.Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := secrets.Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil && made.Finalizers == nil {
					t.Fatal(err)
				}
				if made.Finalizers != nil {
					if _, err := secrets.Patch(t.Context(), made.Name, "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}()
			if made.Finalizers != nil {
				if err := secrets.Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			token := id + "." + secret
			if c.token != "" {
				token = c.token
			}
			review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			got := review.Status
			if got.Authenticated != (c.groups != nil) || strings.Contains(got.Error, "secret") || strings.Contains(got.Error, id) {
				t.Fatalf("got %+v", got)
			}
			if got.Authenticated && (got.User.Username != "system:bootstrap:"+id || !slices.Equal(got.User.Groups, c.groups)) {
				t.Errorf("got %+v, want groups %v", got.User, c.groups)
			}
		})
	}
	off := clientset(t, apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if _, err := off.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	review, err := off.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: id + "." + secret}}, metav1.CreateOptions{})
	if err != nil || review.Status.Authenticated {
		t.Errorf("where they are not on: %v, %+v", err, review.Status)
	}
}

package authentication_test

import (
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

func start(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"robot", "other"} {
		if _, err := c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "other", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTokenRequest compares with what kube-apiserver 1.36 answers.
func TestTokenRequest(t *testing.T) {
	c := start(t)
	bound := func(kind, name string) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name}}
	}
	for _, x := range []struct {
		name, account string
		meta          metav1.ObjectMeta
		spec          authenticationv1.TokenRequestSpec
		want          string
		lifetime      time.Duration
	}{
		{name: "plain", account: "robot", lifetime: time.Hour},
		{name: "ten minutes", account: "robot", spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(600))}, lifetime: 10 * time.Minute},
		{name: "too short", account: "robot", spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(10))},
			want: `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes`},
		{name: "too long", account: "robot", spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(1) << 34)},
			want: `TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 17179869184: may not specify a duration larger than 2^32 seconds`},
		{name: "no such account", account: "nope", want: `serviceaccounts "nope" not found`},
		{name: "another name", account: "robot", meta: metav1.ObjectMeta{Name: "x"},
			want: `TokenRequest.authentication.k8s.io "robot" is invalid: metadata.name: Invalid value: "x": must match the service account name if specified`},
		{name: "no such pod", account: "robot", spec: bound("Pod", "nope"), want: `pods "nope" not found`},
		{name: "a pod of another account", account: "robot", spec: bound("Pod", "p"),
			want: `cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`},
		{name: "its pod", account: "other", spec: bound("Pod", "p"), lifetime: time.Hour},
		{name: "a kind nothing is bound to", account: "robot", spec: bound("ConfigMap", "x"),
			want: `cannot bind token to object of type /v1, Kind=ConfigMap`},
	} {
		t.Run(x.name, func(t *testing.T) {
			answer, err := c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), x.account, &authenticationv1.TokenRequest{ObjectMeta: x.meta, Spec: x.spec}, metav1.CreateOptions{})
			if x.want != "" {
				if err == nil || err.Error() != x.want {
					t.Fatalf("got %v, want %s", err, x.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			left := time.Until(answer.Status.ExpirationTimestamp.Time)
			if off := x.lifetime - left; off < -time.Second || off > 10*time.Second {
				t.Errorf("the token lives for %v, want %v", left, x.lifetime)
			}
			if answer.Status.Token == "" || answer.Name != x.account || answer.UID == "" || len(answer.Spec.Audiences) != 1 {
				t.Errorf("the answer is not complete: %+v", answer)
			}
		})
	}
}

func TestTokenReview(t *testing.T) {
	c := start(t)
	made, err := c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "robot", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, token string
		audiences   []string
		is          bool
		problem     string
	}{
		{"for whom it is", made.Status.Token, []string{"vault", "other"}, true, ""},
		{"for others", made.Status.Token, []string{"other"}, false, `[invalid bearer token, token audiences ["vault"] is invalid for the target audiences ["other"]]`},
		{"for the API", made.Status.Token, nil, false, `[invalid bearer token, token audiences ["vault"] is invalid for the target audiences ["https://kubernetes.default.svc.cluster.local"]]`},
		{"no token of ours", "x", nil, false, "invalid bearer token"},
	} {
		t.Run(x.name, func(t *testing.T) {
			answer, err := c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
				Spec: authenticationv1.TokenReviewSpec{Token: x.token, Audiences: x.audiences},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if s := answer.Status; s.Authenticated != x.is || s.Error != x.problem || x.is && (len(s.Audiences) != 1 || s.Audiences[0] != "vault") {
				t.Errorf("got %+v, want authenticated %t, error %q", s, x.is, x.problem)
			}
		})
	}
	_, err = c.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{}, metav1.CreateOptions{})
	if want := "token is required for TokenReview in authentication"; err == nil || err.Error() != want {
		t.Errorf("without a token: got %v, want %s", err, want)
	}
}

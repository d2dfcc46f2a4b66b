package controllers_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

func (w *world) account(name string, secrets ...string) *corev1.ServiceAccount {
	w.t.Helper()
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, secret := range secrets {
		sa.Secrets = append(sa.Secrets, corev1.ObjectReference{Name: secret})
	}
	sa, err := w.CoreV1().ServiceAccounts(w.namespace).Create(w.t.Context(), sa, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return sa
}

func (w *world) tokenSecret(name string, annotations map[string]string) *corev1.Secret {
	w.t.Helper()
	secret, err := w.CoreV1().Secrets(w.namespace).Create(w.t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}, Type: corev1.SecretTypeServiceAccountToken,
	}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return secret
}

func of(account string) map[string]string {
	return map[string]string{corev1.ServiceAccountNameKey: account}
}

// token waits until a Secret is filled, and returns it.
func (w *world) token(name string) *corev1.Secret {
	w.t.Helper()
	var secret *corev1.Secret
	w.eventually("a token in "+name, func() (err error) {
		secret, err = w.CoreV1().Secrets(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err == nil && len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
			err = errors.New("none yet")
		}
		return err
	})
	return secret
}

func (w *world) secretGone(name string) {
	w.t.Helper()
	w.eventually("the end of "+name, func() error {
		_, err := w.CoreV1().Secrets(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		return gone(err)
	})
}

func TestTokenSecrets(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	robot := w.account("robot", "token")
	w.tokenSecret("token", of("robot"))
	secret := w.token("token")
	if got := string(secret.Data[corev1.ServiceAccountRootCAKey]); got != "the authority" {
		t.Errorf("ca.crt: got %q", got)
	}
	if got := string(secret.Data[corev1.ServiceAccountNamespaceKey]); got != w.namespace {
		t.Errorf("namespace: got %q", got)
	}
	if got := secret.Annotations[corev1.ServiceAccountUIDKey]; got != string(robot.UID) {
		t.Errorf("uid: got %q, want %q", got, robot.UID)
	}
	review, err := w.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: string(secret.Data[corev1.ServiceAccountTokenKey])},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u := review.Status.User; !review.Status.Authenticated || u.Username != "system:serviceaccount:test:robot" || u.UID != string(robot.UID) {
		t.Errorf("the token: got %+v", review.Status)
	}

	// A token that is taken out comes again, others' data stays.
	if _, err := w.CoreV1().Secrets(w.namespace).Patch(ctx, "token", types.MergePatchType, []byte(`{"data":{"token":null,"ca.crt":"eA==","mine":"eA=="}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	secret = w.token("token")
	if string(secret.Data["mine"]) != "x" || string(secret.Data[corev1.ServiceAccountRootCAKey]) != "the authority" {
		t.Errorf("refilled: got %q", secret.Data)
	}

	// A Secret that goes is taken off the list of its account.
	if err := w.CoreV1().Secrets(w.namespace).Delete(ctx, "token", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("an account without secrets", func() error {
		sa, err := w.CoreV1().ServiceAccounts(w.namespace).Get(ctx, "robot", metav1.GetOptions{})
		if err == nil && len(sa.Secrets) > 0 {
			err = fmt.Errorf("secrets %v", sa.Secrets)
		}
		return err
	})

	// An account takes its Secrets with it; those of others stay, and so do Secrets of other types.
	w.account("other")
	w.tokenSecret("token", of("robot"))
	w.tokenSecret("others", of("other"))
	if _, err := w.CoreV1().Secrets(w.namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "opaque", Annotations: of("robot")}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.token("token")
	w.token("others")
	if err := w.CoreV1().ServiceAccounts(w.namespace).Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.secretGone("token")
	for _, name := range []string{"others", "opaque"} {
		if _, err := w.CoreV1().Secrets(w.namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokenSecretsThatNameNobody(t *testing.T) {
	w := start(t)
	w.account("robot")
	w.tokenSecret("nobody", of("nobody"))
	w.tokenSecret("another", map[string]string{corev1.ServiceAccountNameKey: "robot", corev1.ServiceAccountUIDKey: "of-an-earlier-one"})
	w.secretGone("nobody")
	w.secretGone("another")
}

func TestTokensThatNobodyUsesAreCleanedUp(t *testing.T) {
	w := startWith(t, controllers.Config{LegacyTokenPeriod: time.Millisecond})
	ctx := t.Context()
	w.account("robot", "unused", "mounted", "recent", "long-invalid")
	for _, name := range []string{"unused", "mounted", "recent", "long-invalid", "manual"} {
		w.tokenSecret(name, of("robot"))
		w.token(name)
	}
	patch := func(secret, label string, day time.Time) {
		data := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, label, serviceaccount.Date(day))
		if _, err := w.CoreV1().Secrets(w.namespace).Patch(ctx, secret, types.MergePatchType, data, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	yearsAgo := time.Now().AddDate(-3, 0, 0)
	patch("recent", serviceaccount.LastUsedLabel, time.Now().AddDate(0, 0, 1))
	patch("unused", serviceaccount.LastUsedLabel, yearsAgo)
	patch("long-invalid", serviceaccount.InvalidSinceLabel, yearsAgo)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: template("p", "x").Spec}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}}}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The cleaner looked once at the start and found that uses are not tracked for long enough.
	tracking, err := w.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, serviceaccount.TrackingConfigMap, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tracking.Data[serviceaccount.TrackedSinceKey] = serviceaccount.Date(yearsAgo)
	if _, err := w.CoreV1().ConfigMaps(metav1.NamespaceSystem).Update(ctx, tracking, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.secretGone("long-invalid")
	w.eventually("a mark", func() error {
		secret, err := w.CoreV1().Secrets(w.namespace).Get(ctx, "unused", metav1.GetOptions{})
		if err == nil && secret.Labels[serviceaccount.InvalidSinceLabel] == "" {
			err = fmt.Errorf("labels %v", secret.Labels)
		}
		return err
	})
	for _, name := range []string{"mounted", "recent", "manual"} {
		secret, err := w.CoreV1().Secrets(w.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil || secret.Labels[serviceaccount.InvalidSinceLabel] != "" {
			t.Errorf("%s: got labels %v, error %v", name, secret.Labels, err)
		}
	}
}

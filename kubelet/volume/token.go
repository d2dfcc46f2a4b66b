package volume

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	maxTokenAge = 24 * time.Hour // a token is renewed when it is older, or when it is
	renewAfter  = 0.8            // through this part of its life
	renewJitter = 10 * time.Second
)

// tokens keeps the service account tokens of pods and renews them in time.
type tokens struct {
	client kubernetes.Interface

	mu   sync.Mutex
	held map[tokenKey]token
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type token struct {
	text            string
	issued, expires time.Time
	jitter          time.Duration
}

func newTokens(client kubernetes.Interface) *tokens {
	return &tokens{client: client, held: map[tokenKey]token{}}
}

// get returns a token of the pod's service account that has a good part of its life before it. While a
// new one is not to be had, the old one is returned until it expires.
func (t *tokens) get(ctx context.Context, pod *v1.Pod, s *v1.ServiceAccountTokenProjection) (string, error) {
	key := tokenKey{pod: pod.UID, audience: s.Audience, seconds: 3600}
	if s.ExpirationSeconds != nil {
		key.seconds = *s.ExpirationSeconds
	}
	t.mu.Lock()
	old, held := t.held[key]
	t.mu.Unlock()
	now := time.Now()
	if held && !old.stale(now) {
		return old.text, nil
	}

	renewed, err := t.request(ctx, pod, key)
	if err != nil && held && now.Before(old.expires) {
		slog.Warn("renew service account token", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		return old.text, nil
	}
	if err != nil {
		return "", fmt.Errorf("failed to fetch token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[key] = renewed
	return renewed.text, nil
}

// stale says that the token should be renewed.
func (t token) stale(now time.Time) bool {
	life := t.expires.Sub(t.issued)
	renew := min(time.Duration(float64(life)*renewAfter), maxTokenAge-t.jitter)
	return now.After(t.issued.Add(renew))
}

func (t *tokens) request(ctx context.Context, pod *v1.Pod, key tokenKey) (token, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if key.audience != "" {
		request.Spec.Audiences = []string{key.audience}
	}
	issued := time.Now()
	answer, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return token{}, err
	}
	return token{
		text:    answer.Status.Token,
		issued:  issued,
		expires: answer.Status.ExpirationTimestamp.Time,
		jitter:  rand.N(renewJitter),
	}, nil
}

// forget drops the tokens of a pod.
func (t *tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.held, func(k tokenKey, _ token) bool { return k.pod == uid })
}

package authn

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// BootstrapTokens authenticates by tokens that are Secrets of kube-system, with which machines ask to join a cluster
// (kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens). Use must be called before.
type BootstrapTokens struct{ cluster resource.Cluster }

// Use takes what the Secrets are read from.
func (b *BootstrapTokens) Use(cluster resource.Cluster) { b.cluster = cluster }

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

const (
	bootstrappers   = "system:bootstrappers"
	bootstrapUser   = "system:bootstrap:"
	bootstrapPrefix = "bootstrap-token-" // of the names of the Secrets
)

// AuthenticateToken knows a token of this form whose Secret has it, lets it authenticate, and has not expired. A token of another form is
// not its business.
func (b *BootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false, nil
	}
	if b.cluster == nil {
		return nil, false, errNotStarted
	}
	id, secret := parts[1], parts[2]
	obj, err := b.cluster.Get(ctx, b.cluster.Resource("", "secrets"), metav1.NamespaceSystem, bootstrapPrefix+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	stored, ok := obj.(*corev1.Secret)
	if !ok {
		return nil, false, fmt.Errorf("bootstrap token: got %T", obj)
	}
	groups, err := bootstrapGroups(stored)
	if err := cmp.Or(checkBootstrap(stored, id, secret, time.Now()), err); err != nil {
		slog.DebugContext(ctx, "bootstrap token is not taken", "id", id, "error", err) // who tries is not told
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapUser + id, Groups: groups}}, true, nil
}

// checkBootstrap says why a Secret does not let the bearer of a token in.
func checkBootstrap(s *corev1.Secret, id, secret string, now time.Time) error {
	switch {
	case s.DeletionTimestamp != nil:
		return errors.New("it is being deleted")
	case s.Type != corev1.SecretTypeBootstrapToken:
		return errors.New("its Secret is of another type")
	case subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1:
		return errors.New("its secret is another")
	case string(s.Data["token-id"]) != id:
		return errors.New("its id is another")
	case string(s.Data["usage-bootstrap-authentication"]) != "true":
		return errors.New("it is not for authentication")
	}
	end := string(s.Data["expiration"])
	if end == "" {
		return nil
	}
	expires, err := time.Parse(time.RFC3339, end)
	if err != nil {
		return errors.New("its expiration is not a time")
	}
	if !now.Before(expires) {
		return errors.New("it has expired")
	}
	return nil
}

// bootstrapGroups are those of the bearer.
func bootstrapGroups(s *corev1.Secret) ([]string, error) {
	groups := []string{bootstrappers}
	for group := range strings.SplitSeq(string(s.Data["auth-extra-groups"]), ",") {
		if group == "" {
			continue
		}
		if !bootstrapGroup.MatchString(group) {
			return nil, fmt.Errorf("group %q is not one of those of bootstrap tokens", group)
		}
		groups = append(groups, group)
	}
	return groups, nil
}

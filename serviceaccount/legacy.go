package serviceaccount

import (
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// LegacyIssuer is the iss claim of tokens that live in Secrets, in every cluster.
const LegacyIssuer = "kubernetes/serviceaccount"

// The labels of Secrets by which the use of legacy tokens is tracked. Their values are dates, see Date.
const (
	LastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	InvalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

// The ConfigMap in kube-system that says, under a key, since which date the use of legacy tokens is tracked.
const (
	TrackingConfigMap = "kube-apiserver-legacy-service-account-token-tracking"
	TrackedSinceKey   = "since"
)

const dateFormat = "2006-01-02"

// Date is how days are written in labels: such texts sort as the days do.
func Date(t time.Time) string { return t.UTC().Format(dateFormat) }

// ParseDate reads what Date has written.
func ParseDate(text string) (time.Time, error) { return time.Parse(dateFormat, text) }

// LegacyClaims are those of a token that lives in a Secret. It has no end of its own.
type LegacyClaims struct {
	jwt.Claims
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name"`
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace"`
}

// SignLegacy makes the token of an account that is to live in a Secret.
func SignLegacy(signer jose.Signer, account *corev1.ServiceAccount, secret string) (string, error) {
	token, err := jwt.Signed(signer).Claims(LegacyClaims{
		Claims:             jwt.Claims{Issuer: LegacyIssuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name)},
		ServiceAccountName: account.Name,
		ServiceAccountUID:  string(account.UID),
		SecretName:         secret,
		Namespace:          account.Namespace,
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token of service account %s/%s: %w", account.Namespace, account.Name, err)
	}
	return token, nil
}

package authn

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authsa "k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

// ProjectedTokenSeconds is the lifetime of the tokens that are mounted in pods
// for their use of this API: an odd number, by which requests for such tokens
// are known.
const ProjectedTokenSeconds = 60*60 + 7

// TokensConfig says how service account tokens are made and checked.
type TokensConfig struct {
	// Issuer is the iss claim, an https URL.
	Issuer string
	// OldIssuers are what the iss claim was before; such tokens are accepted too.
	OldIssuers []string
	// Audiences a token must be for to be accepted here, and those it gets when
	// none are asked for. Empty means the issuers.
	Audiences []string
	// Key signs tokens: *rsa.PrivateKey or *ecdsa.PrivateKey.
	Key crypto.Signer
	// OldKeys verify tokens too that others sign, or that were signed before Key was changed.
	OldKeys []crypto.PublicKey
	// Metrics is where the use of tokens is counted; nil: nowhere.
	Metrics prometheus.Registerer
}

// Tokens issues and verifies service account tokens: JWTs bound to the
// service account and, if asked for, to a pod, node or secret, which are
// looked up each time a token is used. No token is accepted before Use.
type Tokens struct {
	issuers   []string // the one of new tokens first
	audiences authenticator.Audiences
	signer    jose.Signer
	keys      []jose.JSONWebKey // the signing key's public half first
	cluster   resource.Cluster
	metrics   tokenMetrics
}

// NewTokens checks the configuration and prepares the keys.
func NewTokens(c TokensConfig) (*Tokens, error) {
	t := &Tokens{issuers: append([]string{c.Issuer}, c.OldIssuers...), audiences: c.Audiences, metrics: newTokenMetrics(c.Metrics)}
	if len(t.audiences) == 0 {
		t.audiences = t.issuers
	}
	for _, key := range append([]crypto.PublicKey{c.Key.Public()}, c.OldKeys...) {
		jwk, err := serviceaccount.WebKey(key)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(t.keys, func(k jose.JSONWebKey) bool { return k.KeyID == jwk.KeyID }) { // it may be in several files
			t.keys = append(t.keys, jwk)
		}
	}
	var err error
	if t.signer, err = serviceaccount.NewSigner(c.Key); err != nil {
		return nil, err
	}
	return t, nil
}

// Use says where the objects tokens are bound to are read. It must return
// before tokens are checked from other goroutines.
func (t *Tokens) Use(cluster resource.Cluster) { t.cluster = cluster }

// Audiences are those of the API server.
func (t *Tokens) Audiences() []string { return t.audiences }

// algorithms a token may be signed with. "none" and shared secrets are not
// among them.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384, jose.ES512}

// Claims are what a token of ours says about its bearer. The names are part of
// the Kubernetes API: relying parties read them.
type Claims struct {
	jwt.Claims
	// Audience hides that of jwt.Claims, which writes a single one as a string:
	// readers of Kubernetes tokens expect a list.
	Audience   []string `json:"aud"`
	Kubernetes Binding  `json:"kubernetes.io"`
}

// Binding names the service account of a token and the objects the token
// lives and dies with.
type Binding struct {
	Namespace      string     `json:"namespace,omitempty"`
	Node           *Reference `json:"node,omitempty"`
	Pod            *Reference `json:"pod,omitempty"`
	Secret         *Reference `json:"secret,omitempty"`
	ServiceAccount Reference  `json:"serviceaccount"`
	// WarnAfter is when the bearer should have replaced the token.
	WarnAfter *jwt.NumericDate `json:"warnafter,omitempty"`
}

// Reference is an object of a known kind in the namespace of the token.
type Reference struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Issue signs a token for the service account of b, valid from now. A
// warnAfter of 0 leaves that claim out.
func (t *Tokens) Issue(b Binding, audiences []string, now time.Time, lifetime, warnAfter time.Duration) (string, error) {
	if warnAfter > 0 {
		b.WarnAfter = jwt.NewNumericDate(now.Add(warnAfter))
	}
	token, err := jwt.Signed(t.signer).Claims(Claims{
		Claims: jwt.Claims{
			Issuer:    t.issuers[0],
			Subject:   authsa.MakeUsername(b.Namespace, b.ServiceAccount.Name),
			IssuedAt:  jwt.NewNumericDate(now),
			NotBefore: jwt.NewNumericDate(now),
			Expiry:    jwt.NewNumericDate(now.Add(lifetime)),
			ID:        uuid.NewString(),
		},
		Audience:   audiences,
		Kubernetes: b,
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token of service account %s/%s: %w", b.Namespace, b.ServiceAccount.Name, err)
	}
	return token, nil
}

// AuthenticateToken verifies a token. ok is false without an error for what is
// not a token of this issuer, nor one that lives in a Secret.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (answer *authenticator.Response, ok bool, err error) {
	var legacy serviceaccount.LegacyClaims
	if ours, err := t.verify(token, []string{serviceaccount.LegacyIssuer}, &legacy); err != nil {
		return nil, false, err
	} else if ours {
		return t.authenticateLegacy(ctx, token, legacy)
	}
	var claims Claims
	ours, err := t.verify(token, t.issuers, &claims)
	if err != nil || !ours {
		return nil, false, err
	}
	audiences, err := t.intersect(ctx, claims.Audience)
	if err != nil {
		return nil, false, err
	}
	now := time.Now()
	if err := checkTime(claims, now); err != nil {
		return nil, false, err
	}
	if err := checkBinding(ctx, t.cluster, claims.Kubernetes, now); err != nil {
		return nil, false, err
	}
	t.noteAge(ctx, claims, now)
	return &authenticator.Response{User: userOf(claims), Audiences: audiences}, true, nil
}

// intersect returns those of a token's audiences that are asked for, by default
// those of this server.
func (t *Tokens) intersect(ctx context.Context, audiences authenticator.Audiences) (authenticator.Audiences, error) {
	wanted, asked := authenticator.AudiencesFrom(ctx)
	if !asked {
		wanted = t.audiences
	}
	common := audiences.Intersect(wanted)
	if len(common) == 0 {
		return nil, fmt.Errorf("token audiences %q is invalid for the target audiences %q", audiences, wanted)
	}
	return common, nil
}

// noteAge tells tokens that should have been replaced from those that are fresh.
func (t *Tokens) noteAge(ctx context.Context, claims Claims, now time.Time) {
	warnAfter := claims.Kubernetes.WarnAfter
	switch {
	case warnAfter == nil || *warnAfter == 0:
	case now.After(warnAfter.Time()):
		request.Annotate(ctx, "authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %d", claims.Subject, now.Unix()-warnAfter.Time().Unix()))
		t.metrics.stale.Inc()
	default:
		t.metrics.valid.Inc()
	}
}

// verify reads the claims of a token of one of issuers and checks its signature.
func (t *Tokens) verify(token string, issuers []string, claims any) (ours bool, err error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return false, nil
	}
	var says struct {
		Issuer string `json:"iss"`
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&says); err != nil || !slices.Contains(issuers, says.Issuer) {
		return false, nil
	}
	var errs []error
	for _, key := range t.keys {
		if id := parsed.Headers[0].KeyID; id != "" && id != key.KeyID {
			continue
		}
		err := parsed.Claims(key.Key, claims)
		if err == nil {
			return true, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return false, errors.New("invalid signature, no keys found")
	}
	return false, utilerrors.NewAggregate(errs)
}

func checkTime(claims Claims, now time.Time) error {
	switch err := claims.Validate(jwt.Expected{Time: now}); {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrExpired):
		return errors.New("service account token has expired")
	case errors.Is(err, jwt.ErrNotValidYet):
		return errors.New("service account token is not valid yet")
	case errors.Is(err, jwt.ErrIssuedInTheFuture):
		return errors.New("service account token is issued in the future")
	default:
		return fmt.Errorf("service account token claims could not be validated: %w", err)
	}
}

// userOf is the identity the claims give.
func userOf(claims Claims) user.Info {
	k := claims.Kubernetes
	info := authsa.ServiceAccountInfo{Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: k.ServiceAccount.UID}
	if claims.ID != "" {
		info.CredentialID = "JTI=" + claims.ID
	}
	if k.Pod != nil {
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	return info.UserInfo()
}

package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// ProjectedTokenSeconds is the lifetime of the tokens that are mounted in pods
// for their use of this API: an odd number, by which requests for such tokens
// are known.
const ProjectedTokenSeconds = 60*60 + 7

// TokensConfig says how service account tokens are made and checked.
type TokensConfig struct {
	// Issuer is the iss claim, an https URL.
	Issuer string
	// Audiences a token must be for to be accepted here, and those it gets when
	// none are asked for. Empty means the issuer.
	Audiences []string
	// Key signs tokens: *rsa.PrivateKey or *ecdsa.PrivateKey.
	Key crypto.Signer
	// OldKeys verify tokens signed before Key was changed.
	OldKeys []crypto.PublicKey
}

// Tokens issues and verifies service account tokens: JWTs bound to the
// service account and, if asked for, to a pod, node or secret, which are
// looked up each time a token is used. No token is accepted before Use.
type Tokens struct {
	issuer    string
	audiences authenticator.Audiences
	signer    jose.Signer
	keys      []jose.JSONWebKey // the signing key's public half first
	cluster   resource.Cluster
}

// NewTokens checks the configuration and prepares the keys.
func NewTokens(c TokensConfig) (*Tokens, error) {
	t := &Tokens{issuer: c.Issuer, audiences: c.Audiences}
	if len(t.audiences) == 0 {
		t.audiences = authenticator.Audiences{c.Issuer}
	}
	for _, key := range append([]crypto.PublicKey{c.Key.Public()}, c.OldKeys...) {
		jwk, err := webKey(key)
		if err != nil {
			return nil, err
		}
		t.keys = append(t.keys, jwk)
	}
	var err error
	t.signer, err = jose.NewSigner(jose.SigningKey{
		Algorithm: jose.SignatureAlgorithm(t.keys[0].Algorithm),
		Key:       jose.JSONWebKey{Key: c.Key, KeyID: t.keys[0].KeyID, Algorithm: t.keys[0].Algorithm, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("prepare the service account signing key: %w", err)
	}
	return t, nil
}

// Use says where the objects tokens are bound to are read. It must return
// before tokens are checked from other goroutines.
func (t *Tokens) Use(cluster resource.Cluster) { t.cluster = cluster }

// Audiences are those of the API server.
func (t *Tokens) Audiences() []string { return t.audiences }

// webKey describes a public key as RFC 7517 does. Its id is a hash, so that
// the key cannot be told from it.
func webKey(key crypto.PublicKey) (jose.JSONWebKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("encode service account public key: %w", err)
	}
	id := sha256.Sum256(der)
	jwk := jose.JSONWebKey{Key: key, KeyID: base64.RawURLEncoding.EncodeToString(id[:]), Use: "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		jwk.Algorithm = string(jose.RS256)
	case *ecdsa.PublicKey:
		algorithm, ok := map[int]jose.SignatureAlgorithm{256: jose.ES256, 384: jose.ES384, 521: jose.ES512}[k.Curve.Params().BitSize]
		if !ok {
			return jose.JSONWebKey{}, fmt.Errorf("service account key: curve %s is not supported", k.Curve.Params().Name)
		}
		jwk.Algorithm = string(algorithm)
	default:
		return jose.JSONWebKey{}, fmt.Errorf("service account key: type %T is not supported", key)
	}
	return jwk, nil
}

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
			Issuer:    t.issuer,
			Subject:   serviceaccount.MakeUsername(b.Namespace, b.ServiceAccount.Name),
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
// not a token of this issuer.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (answer *authenticator.Response, ok bool, err error) {
	claims, ours, err := t.verify(token)
	if err != nil || !ours {
		return nil, false, err
	}
	wanted, asked := authenticator.AudiencesFrom(ctx)
	if !asked {
		wanted = t.audiences
	}
	audiences := authenticator.Audiences(claims.Audience).Intersect(wanted)
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", claims.Audience, wanted)
	}
	if err := checkTime(claims, time.Now()); err != nil {
		return nil, false, err
	}
	if err := checkBinding(ctx, t.cluster, claims.Kubernetes, time.Now()); err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: userOf(claims), Audiences: audiences}, true, nil
}

// verify reads the claims of a token of this issuer and checks its signature.
func (t *Tokens) verify(token string) (claims Claims, ours bool, err error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil {
		return claims, false, nil
	}
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil || claims.Issuer != t.issuer {
		return claims, false, nil
	}
	for _, key := range t.keys {
		if id := parsed.Headers[0].KeyID; id != "" && id != key.KeyID {
			continue
		}
		claims = Claims{}
		if err = parsed.Claims(key.Key, &claims); err == nil {
			return claims, true, nil
		}
	}
	if err == nil {
		err = errors.New("no keys found")
	}
	return claims, false, fmt.Errorf("invalid signature: %w", err)
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
	info := serviceaccount.ServiceAccountInfo{Namespace: k.Namespace, Name: k.ServiceAccount.Name, UID: k.ServiceAccount.UID}
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

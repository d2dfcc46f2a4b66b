package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The names by which Google's tokens say that they are Google's: without the scheme, some of them.
const (
	google         = "https://accounts.google.com"
	googleNoScheme = "accounts.google.com"
)

// issuerOf is who a token says has issued it. That is not verified. ok is false for what is no token.
func issuerOf(token string) (issuer string, ok bool) {
	parts := strings.SplitN(token, ".", 4)
	if len(parts) != 3 || strings.HasPrefix(strings.TrimSpace(token), "{") {
		return "", false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", false
	}
	var says struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(payload, &says) != nil {
		return "", false
	}
	if says.Issuer == googleNoScheme {
		return google, true
	}
	return says.Issuer, true
}

// idToken are the claims of a token that OpenID Connect gives a meaning.
type idToken struct {
	Issuer       string            `json:"iss"`
	Subject      string            `json:"sub"`
	Audience     oneOrMore         `json:"aud"`
	Expiry       date              `json:"exp"`
	IssuedAt     date              `json:"iat"`
	NotBefore    *date             `json:"nbf"`
	Nonce        string            `json:"nonce"`
	AtHash       string            `json:"at_hash"`
	ClaimNames   map[string]string `json:"_claim_names"`
	ClaimSources map[string]source `json:"_claim_sources"`
}

// date is a NumericDate of RFC 7519; fractions of a second are cut off.
type date time.Time

// UnmarshalJSON implements json.Unmarshaler.
func (d *date) UnmarshalJSON(data []byte) error {
	var n json.Number
	if err := json.Unmarshal(data, &n); err != nil {
		return err
	}
	seconds, err := n.Int64()
	if err != nil {
		f, err := n.Float64()
		if err != nil {
			return err
		}
		seconds = int64(f)
	}
	*d = date(time.Unix(seconds, 0))
	return nil
}

// verify returns the claims of a token if the provider has signed it for one of audiences, and it is valid now.
func (p *provider) verify(ctx context.Context, token string, audiences []string, now time.Time) (claims, error) {
	keys := p.state.Load().keys
	if keys == nil {
		return nil, errNotAsked
	}
	payload, err := p.checkSignature(ctx, keys, token)
	if err != nil {
		return nil, err
	}
	var says idToken
	if err := json.Unmarshal(payload, &says); err != nil {
		return nil, fmt.Errorf("oidc: failed to unmarshal claims: %w", err)
	}
	if err := p.check(says, audiences, now); err != nil {
		return nil, err
	}
	var c claims
	return c, json.Unmarshal(payload, &c)
}

// errNotAsked is about tokens of a provider that has not described itself.
var errNotAsked = errors.New("oidc: authenticator not initialized")

func (p *provider) checkSignature(ctx context.Context, keys *keySet, token string) ([]byte, error) {
	parsed, err := jose.ParseSignedCompact(token, p.algorithms)
	var other *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &other):
		return nil, fmt.Errorf("oidc: id token signed with unsupported algorithm, expected %q got %q", p.algorithms, other.Got)
	case err != nil:
		return nil, fmt.Errorf("oidc: malformed jwt: %w", err)
	case len(parsed.Signatures) != 1:
		return nil, errors.New("oidc: id token not signed")
	}
	payload, err := keys.verify(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("failed to verify signature: %w", err)
	}
	return payload, nil
}

// leeway is how much the clock of an issuer may be ahead.
const leeway = time.Minute

func (p *provider) check(says idToken, audiences []string, now time.Time) error {
	for _, from := range says.ClaimNames {
		if from == "" {
			return errors.New("oidc: failed to obtain source from claim name")
		}
		if _, there := says.ClaimSources[from]; !there {
			return errors.New("oidc: source does not exist")
		}
	}
	if says.Issuer != p.issuer && (p.issuer != google || says.Issuer != googleNoScheme) {
		return fmt.Errorf("oidc: id token issued by a different provider, expected %q got %q", p.issuer, says.Issuer)
	}
	if err := checkAudience(says.Audience, audiences); err != nil && len(audiences) == 1 {
		return err
	}
	if expiry := time.Time(says.Expiry); expiry.Before(now) {
		return fmt.Errorf("oidc: token is expired (Token Expiry: %v)", expiry)
	}
	if says.NotBefore != nil && now.Add(leeway).Before(time.Time(*says.NotBefore)) {
		return fmt.Errorf("oidc: current time %v before the nbf (not before) time: %v", now, time.Time(*says.NotBefore))
	}
	return checkAudience(says.Audience, audiences)
}

func checkAudience(got oneOrMore, wanted []string) error {
	switch {
	case slices.ContainsFunc(got, func(a string) bool { return slices.Contains(wanted, a) }):
		return nil
	case len(wanted) == 1:
		return fmt.Errorf("oidc: expected audience %q got %q", wanted[0], []string(got))
	}
	return fmt.Errorf("oidc: expected audience in %q got %q", slices.Sorted(slices.Values(wanted)), []string(got))
}

package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// rules say who the bearer of a token is, of the claims of one issuer. They are used by many goroutines at once.
type rules struct {
	source apiserverv1.JWTAuthenticator
	// What is said by expressions; nil: by claims, or not at all.
	username, groups, uid *expression.Identity
	extra                 []extra
	claimChecks           []check
	userChecks            []check
}

type extra struct {
	key   string
	value *expression.Identity
}

// check is an expression that must be true.
type check struct {
	*expression.Identity
	message string
}

// claims are those of a token, which has been verified, by name.
type claims map[string]json.RawMessage

// user is who the claims say. The order of the steps decides which of several errors is told.
func (r *rules) user(ctx context.Context, c claims) (user.Info, error) {
	seen := expression.ClaimsValue(c)
	var u user.DefaultInfo
	var err error
	if u.Name, err = r.nameOf(ctx, c, seen); err != nil {
		return nil, err
	}
	if u.Groups, err = r.groupsOf(ctx, c, seen); err != nil {
		return nil, err
	}
	if u.UID, err = r.uidOf(ctx, c, seen); err != nil {
		return nil, err
	}
	if u.Extra, err = r.extraOf(ctx, c, seen); err != nil {
		return nil, err
	}
	if err := r.checkRequired(c); err != nil {
		return nil, err
	}
	if err := checkAll(ctx, r.claimChecks, seen); err != nil {
		return nil, fmt.Errorf("oidc: error evaluating claim validation expression: %w", err)
	}
	if err := checkAll(ctx, r.userChecks, expression.UserValue(&u)); err != nil {
		return nil, fmt.Errorf("oidc: error evaluating user info validation rule: %w", err)
	}
	return &u, nil
}

func (r *rules) nameOf(ctx context.Context, c claims, seen traits.Mapper) (string, error) {
	if r.username != nil {
		name, err := text(ctx, r.username, seen, "username claim expression must return a string")
		if err != nil {
			return "", fmt.Errorf("oidc: error evaluating username claim expression: %w", err)
		}
		if name == "" {
			return "", errors.New("oidc: empty username via CEL expression is not allowed")
		}
		return name, nil
	}
	by := r.source.ClaimMappings.Username
	var name string
	if err := c.decode(by.Claim, &name); err != nil {
		return "", fmt.Errorf("oidc: parse username claims %q: %w", by.Claim, err)
	}
	if by.Claim == "email" {
		if err := c.checkEmail(); err != nil {
			return "", err
		}
	}
	return ptr.Deref(by.Prefix, "") + name, nil
}

func (r *rules) groupsOf(ctx context.Context, c claims, seen traits.Mapper) ([]string, error) {
	by := r.source.ClaimMappings.Groups
	if r.groups != nil {
		value, err := r.groups.Value(ctx, seen)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		groups, err := texts(value)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		return groups, nil
	}
	if _, said := c[by.Claim]; by.Claim == "" || !said {
		return nil, nil
	}
	var groups oneOrMore
	if err := c.decode(by.Claim, &groups); err != nil {
		return nil, fmt.Errorf("oidc: parse groups claim %q: %w", by.Claim, err)
	}
	for i := range groups {
		groups[i] = ptr.Deref(by.Prefix, "") + groups[i]
	}
	return groups, nil
}

func (r *rules) uidOf(ctx context.Context, c claims, seen traits.Mapper) (uid string, err error) {
	if r.uid != nil {
		if uid, err = text(ctx, r.uid, seen, "uid claim expression must return a string"); err != nil {
			return "", fmt.Errorf("oidc: error evaluating uid claim expression: %w", err)
		}
		return uid, nil
	}
	claim := r.source.ClaimMappings.UID.Claim
	if claim == "" {
		return "", nil
	}
	if err := c.decode(claim, &uid); err != nil {
		return "", fmt.Errorf("oidc: parse uid claim %q: %w", claim, err)
	}
	return uid, nil
}

func (r *rules) extraOf(ctx context.Context, c claims, seen traits.Mapper) (map[string][]string, error) {
	all := make(map[string][]string)
	var id string
	if err := c.decode("jti", &id); err == nil && id != "" {
		all[user.CredentialIDKey] = []string{"JTI=" + id}
	}
	for _, e := range r.extra {
		value, err := e.value.Value(ctx, seen)
		if err != nil {
			return nil, err
		}
		values, err := texts(value)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %s: %w", e.value.Text, err)
		}
		if len(values) > 0 {
			all[e.key] = values
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

func (r *rules) checkRequired(c claims) error {
	for _, rule := range r.source.ClaimValidationRules {
		if rule.Claim == "" {
			continue
		}
		if _, said := c[rule.Claim]; !said {
			return fmt.Errorf("oidc: required claim %s not present in ID token", rule.Claim)
		}
		var got string
		if err := c.decode(rule.Claim, &got); err != nil {
			return fmt.Errorf("oidc: parse claim %s: %w", rule.Claim, err)
		}
		if got != rule.RequiredValue {
			return fmt.Errorf("oidc: required claim %s value does not match. Got = %s, want = %s", rule.Claim, got, rule.RequiredValue)
		}
	}
	return nil
}

func checkAll(ctx context.Context, checks []check, about traits.Mapper) error {
	for _, c := range checks {
		value, err := c.Value(ctx, about)
		if err != nil {
			return err
		}
		switch value {
		case types.True:
		case types.False:
			return fmt.Errorf("validation expression '%s' failed: %s", c.Text, c.message)
		default:
			return errors.New("validation expression must return a boolean")
		}
	}
	return nil
}

// text evaluates an expression that makes a text; not says that it does not.
func text(ctx context.Context, x *expression.Identity, about traits.Mapper, not string) (string, error) {
	value, err := x.Value(ctx, about)
	if err != nil {
		return "", err
	}
	made, ok := value.(types.String)
	if !ok {
		return "", errors.New(not)
	}
	return string(made), nil
}

var errNotTexts = errors.New("expression must return a string or a list of strings")

// texts are the ones that a value has, but for empty ones.
func texts(value ref.Val) (all []string, err error) {
	switch v := value.(type) {
	case types.Null:
		return nil, nil
	case types.String:
		if v != "" {
			all = []string{string(v)}
		}
		return all, nil
	case traits.Lister:
		for i := v.Iterator(); i.HasNext() == types.True; {
			one, ok := i.Next().(types.String)
			if !ok {
				return nil, errNotTexts
			}
			if one != "" {
				all = append(all, string(one))
			}
		}
		return all, nil
	}
	return nil, errNotTexts
}

func (c claims) decode(name string, into any) error {
	raw, said := c[name]
	if !said {
		return errors.New("claim not present")
	}
	return json.Unmarshal(raw, into)
}

// checkEmail refuses an address that the issuer says is not verified.
func (c claims) checkEmail() error {
	if _, said := c["email_verified"]; !said {
		return nil
	}
	var verified bool
	if err := c.decode("email_verified", &verified); err != nil {
		return fmt.Errorf("oidc: parse 'email_verified' claim: %w", err)
	}
	if !verified {
		return errors.New("oidc: email not verified")
	}
	return nil
}

// oneOrMore is a list of texts, or one in its place.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (o *oneOrMore) UnmarshalJSON(data []byte) error {
	var list []string
	if json.Unmarshal(data, &list) == nil {
		*o = list
		return nil
	}
	var one string
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*o = oneOrMore{one}
	return nil
}

package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// source is where a claim is to be had that is not in the token itself (OpenID Connect Core 1.0, section 5.6.2).
type source struct {
	Endpoint    string `json:"endpoint"`
	AccessToken string `json:"access_token"`
}

// mostProviders is how many others may vouch for claims of one issuer's tokens.
const mostProviders = 16

// distributed finds a claim that tokens of an issuer leave to others.
type distributed struct {
	claim     string
	audiences []string
	home      *provider // the issuer itself

	mu     sync.Mutex
	others map[string]*provider // by issuer
}

// expand adds the claim to c if it is not there and c says where it is.
func (d *distributed) expand(ctx context.Context, c claims, now time.Time) error {
	from, err := d.source(c)
	if err != nil || from.Endpoint == "" {
		return err
	}
	token, err := d.ask(ctx, from)
	if err != nil {
		return fmt.Errorf("while getting distributed claim %q: %w", d.claim, err)
	}
	issuer, ok := issuerOf(token)
	if !ok {
		return fmt.Errorf("getting untrusted issuer from endpoint %v failed for claim %q: malformed token", from.Endpoint, d.claim)
	}
	p, err := d.provider(ctx, issuer)
	if err != nil {
		return fmt.Errorf("verifying untrusted issuer %v failed: %w", issuer, err)
	}
	more, err := p.verify(ctx, token, d.audiences, now)
	if err != nil {
		return fmt.Errorf("verify distributed claim token: %w", err)
	}
	value, said := more[d.claim]
	if !said {
		return fmt.Errorf("jwt returned by distributed claim endpoint %q did not contain claim: %v", from.Endpoint, d.claim)
	}
	c[d.claim] = value
	return nil
}

// source is where c says that the claim is; the zero value if it says nothing.
func (d *distributed) source(c claims) (source, error) {
	if _, said := c[d.claim]; said || c["_claim_names"] == nil {
		return source{}, nil
	}
	var names map[string]string
	if err := c.decode("_claim_names", &names); err != nil {
		return source{}, fmt.Errorf("oidc: error parsing distributed claim names: %w", err)
	}
	raw, said := c["_claim_sources"]
	if !said {
		return source{}, errors.New("oidc: no claim sources")
	}
	var sources map[string]source
	if err := json.Unmarshal(raw, &sources); err != nil {
		return source{}, fmt.Errorf("oidc: could not parse claim sources: %w", err)
	}
	name, said := names[d.claim]
	if !said {
		return source{}, nil
	}
	from, there := sources[name]
	if !there {
		return source{}, fmt.Errorf("id token _claim_names contained a source %s missing in _claims_sources", name)
	}
	return from, nil
}

// ask returns the token that has the claim. An issuer may name any place that shows a certificate this server trusts it with.
func (d *distributed) ask(ctx context.Context, from source) (string, error) {
	if !strings.HasPrefix(from.Endpoint, "https://") {
		return "", errors.New("the endpoint is no https URL")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from.Endpoint, nil)
	if err != nil {
		return "", err
	}
	if from.AccessToken != "" {
		r.Header.Set("Authorization", "Bearer "+from.AccessToken)
	}
	body, _, err := answerTo(d.home.client, r)
	if status := statusError(""); errors.As(err, &status) {
		err = fmt.Errorf("error while getting distributed claim JWT: %w", err)
	}
	return string(body), err
}

// provider is that of an issuer, which has described itself.
func (d *distributed) provider(ctx context.Context, issuer string) (*provider, error) {
	if issuer == d.home.issuer {
		return d.home, nil
	}
	if !strings.HasPrefix(issuer, "https://") {
		return nil, errors.New("its URL is no https URL")
	}
	d.mu.Lock()
	p := d.others[issuer]
	if p == nil && len(d.others) < mostProviders {
		p = newProvider(issuer, "", d.home.client, d.home.algorithms)
		d.others[issuer] = p
	}
	d.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("claims of more than %d issuers are not looked up", mostProviders)
	}
	if p.state.Load().keys != nil {
		return p, nil
	}
	return p, p.discover(ctx)
}

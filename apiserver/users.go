package apiserver

import (
	"crypto"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/util/keyutil"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authn/oidc"
	"github.com/skiff-k8s/skiff/apiserver/features"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

// rememberTokens is how long a token is accepted again without being looked at.
const rememberTokens = 10 * time.Second

// users are the ways to authenticate that the options name.
type users struct {
	authn.Config
	issuers *oidc.Authenticator
}

// parts are those that need the server.
func (u users) parts() []Part {
	if u.Bootstrap == nil {
		return nil
	}
	return []Part{u.Bootstrap}
}

func (o Options) tokens(registry prometheus.Registerer) (*authn.Tokens, error) {
	key, err := serviceaccount.ParseKey(o.ServiceAccountKey)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	issuers, err := o.issuers()
	if err != nil {
		return nil, err
	}
	files, err := o.tokenKeys()
	if err != nil {
		return nil, err
	}
	c := authn.TokensConfig{Issuer: issuers[0], OldIssuers: issuers[1:], Audiences: o.Audiences, Key: key, Metrics: registry}
	for _, file := range files {
		keys, err := publicKeys(file)
		if err != nil {
			return nil, fmt.Errorf("service account key: %w", err)
		}
		c.OldKeys = append(c.OldKeys, keys...)
	}
	return authn.NewTokens(c)
}

// publicKeys are those of PEM, in which there may be private ones too, in all forms that a key that signs may have.
func publicKeys(pem []byte) (keys []crypto.PublicKey, err error) {
	if private, err := serviceaccount.ParseKey(pem); err == nil {
		keys = append(keys, private.Public())
	}
	all, err := keyutil.ParsePublicKeysPEM(pem)
	for _, k := range all {
		keys = append(keys, k)
	}
	if len(keys) > 0 {
		return keys, nil
	}
	return nil, err
}

func (o Options) users(tokens *authn.Tokens, gates features.Gates, registry prometheus.Registerer) (users, error) {
	u := users{Config: authn.Config{StaticTokens: o.StaticTokens, ServiceAccounts: tokens, NoCertificateUIDs: !gates.Enabled(features.AllowParsingUserUIDFromCertAuth)}}
	var err error
	if u.ClientCAs, err = authorities(o.ClientCA, o.ClientCAFile); err != nil {
		return users{}, fmt.Errorf("client CA: %w", err)
	}
	if len(o.FrontProxyCA) > 0 || o.FrontProxyCAFile != "" {
		u.FrontProxy = &authn.FrontProxy{AllowedNames: o.FrontProxyNames}
		if u.FrontProxy.CAs, err = authorities(o.FrontProxyCA, o.FrontProxyCAFile); err != nil {
			return users{}, fmt.Errorf("front proxy CA: %w", err)
		}
	}
	if o.BootstrapTokens {
		u.Bootstrap = &authn.BootstrapTokens{}
	}
	if err := u.addIssuers(o, registry); err != nil || o.TokenWebhook.File == "" {
		return u, err
	}
	c := o.TokenWebhook
	c.Audiences, c.Log = tokens.Audiences(), o.Log
	webhook, err := authn.NewWebhook(c)
	if err != nil {
		return users{}, fmt.Errorf("token webhook: %w", err)
	}
	u.Others = append(u.Others, webhook)
	return u, nil
}

// authorities are those of a file, or in PEM.
func authorities(pem []byte, file string) (*authn.Authorities, error) {
	if file != "" {
		return authn.OpenAuthorities(file)
	}
	return authn.FixedAuthorities(pem)
}

// addIssuers adds the others whose tokens are accepted, and says who may be nobody.
func (u *users) addIssuers(o Options, registry prometheus.Registerer) (err error) {
	c := o.Issuers
	if c.Own, err = o.issuers(); err != nil {
		return err
	}
	c.ServerID, c.Metrics, c.Log = o.Advertise.String(), registry, o.Log
	if u.issuers, err = oidc.Open(c); err != nil {
		return err
	}
	// Its tokens are for this server, whatever audience the issuer knows it by.
	ours := authenticator.WrapAudienceAgnosticToken(u.ServiceAccounts.Audiences(), u.issuers)
	u.Others = append(u.Others, authn.Remember(ours, rememberTokens, 0))
	anonymous := u.issuers.Anonymous()
	u.Anonymous.Off = !anonymous.Enabled
	for _, c := range anonymous.Conditions {
		u.Anonymous.Paths = append(u.Anonymous.Paths, c.Path)
	}
	return nil
}

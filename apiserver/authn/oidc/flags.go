package oidc

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/spf13/pflag"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/utils/ptr"
)

// Flags name one issuer without a file.
type Flags struct {
	IssuerURL, ClientID, CAFile   string
	UsernameClaim, UsernamePrefix string
	GroupsClaim, GroupsPrefix     string
	SigningAlgs                   []string
	RequiredClaims                map[string]string
}

var flagNames = []string{"oidc-issuer-url", "oidc-client-id", "oidc-ca-file", "oidc-username-claim", "oidc-username-prefix", "oidc-groups-claim",
	"oidc-groups-prefix", "oidc-signing-algs", "oidc-required-claim"}

// AddFlags adds the flags of c, which are those of kube-apiserver, and sets their defaults.
func (c *Config) AddFlags(flags *pflag.FlagSet) {
	c.flags = flags
	f := &c.Flags
	flags.StringVar(&c.File, "authentication-config", "", "AuthenticationConfiguration: whose JSON Web Tokens are accepted, and who may be anonymous; reloaded when it changes")
	flags.Var((*not)(&c.NoAnonymous), "anonymous-auth", "serve requests without credentials, as those of system:anonymous")
	flags.Lookup("anonymous-auth").NoOptDefVal = "true"
	flags.StringVar(&f.IssuerURL, "oidc-issuer-url", "", "https URL of an OpenID issuer whose tokens are accepted")
	flags.StringVar(&f.ClientID, "oidc-client-id", "", "audience its tokens must be for")
	flags.StringVar(&f.CAFile, "oidc-ca-file", "", "authority of its certificate; those of the host if empty")
	flags.StringVar(&f.UsernameClaim, "oidc-username-claim", "sub", "claim that is the name of the user")
	flags.StringVar(&f.UsernamePrefix, "oidc-username-prefix", "", "what names of users begin with; the issuer's URL and # if empty, unless the claim is email; - for nothing")
	flags.StringVar(&f.GroupsClaim, "oidc-groups-claim", "", "claim that is the groups of the user")
	flags.StringVar(&f.GroupsPrefix, "oidc-groups-prefix", "", "what names of groups begin with")
	flags.StringSliceVar(&f.SigningAlgs, "oidc-signing-algs", []string{string(jose.RS256)}, "algorithms that tokens may be signed with")
	flags.Var(&pairs{&f.RequiredClaims}, "oidc-required-claim", "claim=value that tokens must have; may be given several times")
}

// changed reports whether one of the flags was given.
func (c Config) changed(names ...string) bool {
	return c.flags != nil && slices.ContainsFunc(names, c.flags.Changed)
}

func (c Config) algorithms() []jose.SignatureAlgorithm {
	if c.File != "" {
		return allAlgorithms
	}
	algorithms := make([]jose.SignatureAlgorithm, len(c.Flags.SigningAlgs))
	for i, a := range c.Flags.SigningAlgs {
		algorithms[i] = jose.SignatureAlgorithm(a)
	}
	return algorithms
}

// fromFlags is what a file would say. It names nobody if there are no flags.
func (c Config) fromFlags() (*apiserverv1.AuthenticationConfiguration, error) {
	f, made := c.Flags, new(apiserverv1.AuthenticationConfiguration)
	if f.IssuerURL == "" || f.ClientID == "" {
		if f.IssuerURL != "" || c.changed(flagNames...) {
			return nil, errors.New("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set")
		}
		return made, nil
	}
	for _, a := range f.SigningAlgs {
		if !slices.Contains(allAlgorithms, jose.SignatureAlgorithm(a)) {
			return nil, fmt.Errorf("oidc: unsupported signing alg: %q", a)
		}
	}
	a := apiserverv1.JWTAuthenticator{
		Issuer:        apiserverv1.Issuer{URL: f.IssuerURL, Audiences: []string{f.ClientID}},
		ClaimMappings: apiserverv1.ClaimMappings{Username: apiserverv1.PrefixedClaimOrExpression{Claim: f.UsernameClaim, Prefix: ptr.To(f.usernamePrefix())}},
	}
	if f.GroupsClaim != "" {
		a.ClaimMappings.Groups = apiserverv1.PrefixedClaimOrExpression{Claim: f.GroupsClaim, Prefix: ptr.To(f.GroupsPrefix)}
	}
	if f.CAFile != "" {
		authority, err := os.ReadFile(f.CAFile)
		if err != nil {
			return nil, err
		}
		a.Issuer.CertificateAuthority = string(authority)
	}
	for _, claim := range slices.Sorted(maps.Keys(f.RequiredClaims)) {
		a.ClaimValidationRules = append(a.ClaimValidationRules, apiserverv1.ClaimValidationRule{Claim: claim, RequiredValue: f.RequiredClaims[claim]})
	}
	made.JWT = []apiserverv1.JWTAuthenticator{a}
	return made, nil
}

func (f Flags) usernamePrefix() string {
	switch {
	case f.UsernamePrefix == "-":
		return ""
	case f.UsernamePrefix == "" && f.UsernameClaim != "email":
		return f.IssuerURL + "#"
	}
	return f.UsernamePrefix
}

// pairs is a flag of key=value, one each time.
type pairs struct{ to *map[string]string }

func (p *pairs) Type() string { return "mapStringString" }

func (p *pairs) String() string {
	var all []string
	for k, v := range *p.to {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func (p *pairs) Set(text string) error {
	key, value, ok := strings.Cut(text, "=")
	if !ok {
		return fmt.Errorf("malformed pair, expect string=string")
	}
	if *p.to == nil {
		*p.to = make(map[string]string)
	}
	(*p.to)[strings.TrimSpace(key)] = strings.TrimSpace(value)
	return nil
}

// not is a flag that says the contrary of what it sets.
type not bool

func (n *not) Type() string { return "bool" }

func (n *not) String() string { return strconv.FormatBool(!bool(*n)) }

func (n *not) Set(text string) error {
	value, err := strconv.ParseBool(text)
	*n = not(!value)
	return err
}

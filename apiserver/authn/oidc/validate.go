package oidc

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/client-go/util/cert"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/expression"
)

// mostIssuers is how many a file may name.
const mostIssuers = 64

// compile makes the rules of a configuration, or says what is wrong with it in the words of Kubernetes, by which people find
// help. own are the issuers of this server's own tokens, which nobody else may claim to be.
func compile(c *apiserverv1.AuthenticationConfiguration, own []string) (all []rules, problems field.ErrorList) {
	root := field.NewPath("jwt")
	if len(c.JWT) > mostIssuers {
		return nil, field.ErrorList{field.TooMany(root, len(c.JWT), mostIssuers)}
	}
	urls, discovery := sets.New[string](), sets.New[string]()
	for i, a := range c.JWT {
		path := root.Index(i)
		made, errs := compileOne(a, sets.New(own...), path)
		all, problems = append(all, made), append(problems, errs...)
		problems = append(problems, unique(urls, a.Issuer.URL, path.Child("issuer", "url"))...)
		if at := ptr.Deref(a.Issuer.DiscoveryURL, ""); at != "" {
			problems = append(problems, unique(discovery, at, path.Child("issuer", "discoveryURL"))...)
		}
	}
	if a := c.Anonymous; a != nil && !a.Enabled && len(a.Conditions) > 0 {
		problems = append(problems, field.Invalid(field.NewPath("anonymous", "conditions"), a.Conditions, "enabled should be set to true when conditions are defined"))
	}
	return all, problems
}

func unique(seen sets.Set[string], value string, path *field.Path) field.ErrorList {
	if seen.Has(value) {
		return field.ErrorList{field.Duplicate(path, value)}
	}
	seen.Insert(value)
	return nil
}

func compileOne(a apiserverv1.JWTAuthenticator, own sets.Set[string], path *field.Path) (rules, field.ErrorList) {
	r := rules{source: a}
	problems := validateIssuer(a.Issuer, own, path.Child("issuer"))
	problems = append(problems, r.compileClaimRules(path.Child("claimValidationRules"))...)
	problems = append(problems, r.compileMappings(path.Child("claimMappings"))...)
	problems = append(problems, r.compileUserRules(path.Child("userValidationRules"))...)
	return r, problems
}

func validateIssuer(i apiserverv1.Issuer, own sets.Set[string], path *field.Path) (problems field.ErrorList) {
	if i.URL == "" {
		problems = append(problems, field.Required(path.Child("url"), ""))
	} else {
		problems = append(problems, validateURL(i.URL, own, path.Child("url"))...)
	}
	if discovery := ptr.Deref(i.DiscoveryURL, ""); discovery != "" {
		at := path.Child("discoveryURL")
		if i.URL != "" && strings.TrimRight(i.URL, "/") == strings.TrimRight(discovery, "/") {
			problems = append(problems, field.Invalid(at, discovery, "discoveryURL must be different from URL"))
		}
		problems = append(problems, validateURL(discovery, nil, at)...)
	}
	problems = append(problems, validateAudiences(i, path)...)
	if i.CertificateAuthority != "" {
		if _, err := cert.NewPoolFromBytes([]byte(i.CertificateAuthority)); err != nil {
			problems = append(problems, field.Invalid(path.Child("certificateAuthority"), "<omitted>", err.Error()))
		}
	}
	return append(problems, validateEgress(i.EgressSelectorType, path.Child("egressSelectorType"))...)
}

// validateEgress refuses selectors: there are no egress configurations that they could select.
func validateEgress(t apiserverv1.EgressSelectorType, path *field.Path) field.ErrorList {
	switch t {
	case "":
		return nil
	case apiserverv1.EgressSelectorControlPlane, apiserverv1.EgressSelectorCluster:
		return field.ErrorList{field.Invalid(path, t, fmt.Sprintf("oidc: egress lookup required with egress selector type %q", t))}
	}
	return field.ErrorList{field.Invalid(path, t, "egress selector must be either controlplane or cluster")}
}

func validateURL(text string, not sets.Set[string], path *field.Path) (problems field.ErrorList) {
	wrong := func(detail string) { problems = append(problems, field.Invalid(path, text, detail)) }
	if not.Has(text) {
		wrong(fmt.Sprintf("URL must not overlap with disallowed issuers: %s", sets.List(not)))
	}
	u, err := url.Parse(text)
	if err != nil {
		wrong(err.Error())
		return problems
	}
	if u.Scheme != "https" {
		wrong("URL scheme must be https")
	}
	if u.User != nil {
		wrong("URL must not contain a username or password")
	}
	if u.RawQuery != "" {
		wrong("URL must not contain a query")
	}
	if u.Fragment != "" {
		wrong("URL must not contain a fragment")
	}
	return problems
}

func validateAudiences(i apiserverv1.Issuer, issuer *field.Path) (problems field.ErrorList) {
	path, policyPath := issuer.Child("audiences"), issuer.Child("audienceMatchPolicy")
	if len(i.Audiences) == 0 {
		return field.ErrorList{field.Required(path, fmt.Sprintf("at least one %s is required", path))}
	}
	seen := sets.New[string]()
	for n, audience := range i.Audiences {
		if audience == "" {
			problems = append(problems, field.Required(path.Index(n), ""))
		}
		problems = append(problems, unique(seen, audience, path.Index(n))...)
	}
	switch policy := i.AudienceMatchPolicy; {
	case policy == apiserverv1.AudienceMatchPolicyMatchAny, policy == "" && len(i.Audiences) == 1:
	case len(i.Audiences) > 1:
		problems = append(problems, field.Invalid(policyPath, policy, "audienceMatchPolicy must be MatchAny for multiple audiences"))
	default:
		problems = append(problems, field.Invalid(policyPath, policy, "audienceMatchPolicy must be empty or MatchAny for single audience"))
	}
	return problems
}

func (r *rules) compileClaimRules(root *field.Path) (problems field.ErrorList) {
	claims, texts := sets.New[string](), sets.New[string]()
	for i, rule := range r.source.ClaimValidationRules {
		path := root.Index(i)
		switch {
		case rule.Claim != "" && rule.Expression != "":
			problems = append(problems, field.Invalid(path, rule.Claim, "claim and expression can't both be set"))
		case rule.Claim == "" && rule.Expression == "":
			problems = append(problems, field.Required(path, "claim or expression is required"))
		case rule.Claim != "":
			if rule.Message != "" {
				problems = append(problems, field.Invalid(path.Child("message"), rule.Message, "may not be specified when claim is set"))
			}
			problems = append(problems, unique(claims, rule.Claim, path.Child("claim"))...)
		default:
			if rule.RequiredValue != "" {
				problems = append(problems, field.Invalid(path.Child("requiredValue"), rule.RequiredValue, "may not be specified when expression is set"))
			}
			x, errs := compileOnce(texts, rule.Expression, expression.Claims, path.Child("expression"))
			if problems = append(problems, errs...); x != nil {
				r.claimChecks = append(r.claimChecks, check{x, rule.Message})
			}
		}
	}
	return problems
}

func (r *rules) compileUserRules(root *field.Path) (problems field.ErrorList) {
	texts := sets.New[string]()
	for i, rule := range r.source.UserValidationRules {
		path := root.Index(i).Child("expression")
		if rule.Expression == "" {
			problems = append(problems, field.Required(path, ""))
			continue
		}
		x, errs := compileOnce(texts, rule.Expression, expression.User, path)
		if problems = append(problems, errs...); x != nil {
			r.userChecks = append(r.userChecks, check{x, rule.Message})
		}
	}
	return problems
}

// compileOnce compiles an expression that says yes or no, unless its text was seen before.
func compileOnce(seen sets.Set[string], text, about string, path *field.Path) (*expression.Identity, field.ErrorList) {
	if errs := unique(seen, text, path); errs != nil {
		return nil, errs
	}
	x, err := expression.CompileIdentity(text, about, expression.Bool)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(path, text, err.Error())}
	}
	return x, nil
}

// mapped compiles an expression that makes something of claims.
func mapped(text string, path *field.Path) (*expression.Identity, field.ErrorList) {
	x, err := expression.CompileIdentity(text, expression.Claims, expression.Any)
	if err != nil {
		return nil, field.ErrorList{field.Invalid(path, text, err.Error())}
	}
	return x, nil
}

func (r *rules) compileMappings(path *field.Path) (problems field.ErrorList) {
	m := r.source.ClaimMappings
	var errs field.ErrorList
	r.username, errs = compilePrefixed(m.Username, true, path.Child("username"))
	problems = append(problems, errs...)
	r.groups, errs = compilePrefixed(m.Groups, false, path.Child("groups"))
	problems = append(problems, errs...)
	switch {
	case m.UID.Claim != "" && m.UID.Expression != "":
		problems = append(problems, field.Invalid(path.Child("uid"), "", "claim and expression can't both be set"))
	case m.UID.Expression != "":
		r.uid, errs = mapped(m.UID.Expression, path.Child("uid", "expression"))
		problems = append(problems, errs...)
	}
	problems = append(problems, r.compileExtra(path.Child("extra"))...)
	if r.username != nil && r.username.Reads("email") && !r.readsVerified() {
		problems = append(problems, field.Invalid(path.Child("username", "expression"), m.Username.Expression,
			"claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression"))
	}
	return problems
}

// readsVerified reports whether somebody asks whether the address of the user is verified.
func (r *rules) readsVerified() bool {
	const verified = "email_verified"
	return r.username.Reads(verified) ||
		slices.ContainsFunc(r.extra, func(e extra) bool { return e.value.Reads(verified) }) ||
		slices.ContainsFunc(r.claimChecks, func(c check) bool { return c.Reads(verified) })
}

func compilePrefixed(m apiserverv1.PrefixedClaimOrExpression, required bool, path *field.Path) (x *expression.Identity, problems field.ErrorList) {
	switch {
	case m.Expression != "" && m.Claim != "":
		problems = append(problems, field.Invalid(path, "", "claim and expression can't both be set"))
	case m.Expression == "" && m.Claim == "":
		if required {
			problems = append(problems, field.Required(path, "claim or expression is required"))
		}
	case m.Expression != "":
		if m.Prefix != nil {
			problems = append(problems, field.Invalid(path.Child("prefix"), *m.Prefix, "may not be specified when expression is set"))
		}
		var errs field.ErrorList
		x, errs = mapped(m.Expression, path.Child("expression"))
		problems = append(problems, errs...)
	case m.Prefix == nil:
		problems = append(problems, field.Required(path.Child("prefix"), "prefix is required when claim is set. It can be set to an empty string to disable prefixing"))
	}
	return x, problems
}

func (r *rules) compileExtra(root *field.Path) (problems field.ErrorList) {
	keys := sets.New[string]()
	for i, m := range r.source.ClaimMappings.Extra {
		path := root.Index(i)
		key := path.Child("key")
		problems = append(problems, validation.IsDomainPrefixedPath(key, m.Key)...)
		if m.Key != strings.ToLower(m.Key) {
			problems = append(problems, field.Invalid(key, m.Key, "must be lowercase"))
		}
		if reserved(m.Key) {
			problems = append(problems, field.Invalid(key, m.Key, "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"))
		}
		if errs := unique(keys, m.Key, key); errs != nil {
			problems = append(problems, errs...)
			continue
		}
		if m.ValueExpression == "" {
			problems = append(problems, field.Required(path.Child("valueExpression"), ""))
			continue
		}
		x, errs := mapped(m.ValueExpression, path.Child("valueExpression"))
		if problems = append(problems, errs...); x != nil {
			r.extra = append(r.extra, extra{m.Key, x})
		}
	}
	return problems
}

// reserved reports whether a key is below a domain of Kubernetes.
func reserved(key string) bool {
	domain, _, is := strings.Cut(key, "/")
	return is && slices.ContainsFunc([]string{"kubernetes.io", "k8s.io"}, func(of string) bool {
		return domain == of || strings.HasSuffix(domain, "."+of)
	})
}

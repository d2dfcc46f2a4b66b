// Package authn finds out who sends a request: by client certificate, front
// proxy headers, static token, service account token or bootstrap token, or as nobody. It also
// issues service account tokens and publishes the keys that verify them.
package authn

import (
	"errors"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Config names the ways to authenticate. Ways that are zero are not offered.
type Config struct {
	// ClientCAs signed the certificates of users: the common name is the user,
	// the organizations are its groups.
	ClientCAs *Authorities
	// NoCertificateUIDs leaves out of consideration what certificates say of the UIDs of users.
	NoCertificateUIDs bool
	// FrontProxy lets another server say on whose behalf it asks.
	FrontProxy *FrontProxy
	// StaticTokens are users by bearer token.
	StaticTokens map[string]user.Info
	// ServiceAccounts verifies tokens it issued.
	ServiceAccounts *Tokens
	// Bootstrap knows the tokens by which machines join; nil: there are none.
	Bootstrap *BootstrapTokens
	// Others know tokens that nobody above knows. They are asked in this order, those that ask elsewhere last.
	Others []authenticator.Token
	// Anonymous says which requests without credentials are served.
	Anonymous Anonymous
}

// Anonymous are requests of nobody. The zero value serves them all.
type Anonymous struct {
	Off bool
	// Paths are the only ones that they may be for; none means all.
	Paths []string
}

func (a Anonymous) serves(r *http.Request) bool {
	return !a.Off && (len(a.Paths) == 0 || slices.Contains(a.Paths, r.URL.Path))
}

// New makes the authenticator of a server. Requests without credentials are
// those of system:anonymous, if these are served; wrong credentials are an error, which means 401.
func New(c Config) authenticator.Request {
	// The first way that knows the request wins.
	var ways []authenticator.Request
	if c.FrontProxy != nil {
		ways = append(ways, c.FrontProxy)
	}
	if c.ClientCAs != nil {
		ways = append(ways, &certificates{authorities: c.ClientCAs, withoutUIDs: c.NoCertificateUIDs})
	}
	ways = append(ways, bearer{c.Tokens()})
	return union{ways, c.Anonymous}
}

// Tokens checks bearer tokens alone, as a TokenReview does.
func (c Config) Tokens() authenticator.Token {
	var ways tokenUnion
	var audiences authenticator.Audiences
	if c.ServiceAccounts != nil {
		audiences = c.ServiceAccounts.Audiences()
	}
	// What is said to nobody in particular is said to this server.
	forUs := func(t authenticator.Token) {
		ways = append(ways, authenticator.WrapAudienceAgnosticToken(audiences, t))
	}
	if c.StaticTokens != nil {
		forUs(static(c.StaticTokens))
	}
	if c.ServiceAccounts != nil {
		ways = append(ways, c.ServiceAccounts)
	}
	if c.Bootstrap != nil {
		forUs(c.Bootstrap)
	}
	return append(ways, c.Others...)
}

type union struct {
	ways      []authenticator.Request
	anonymous Anonymous
}

func (u union) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	var problems []error
	for _, way := range u.ways {
		answer, ok, err := way.AuthenticateRequest(r)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if ok {
			answer.User = addAuthenticated(answer.User)
			return answer, true, nil
		}
	}
	if err := errors.Join(problems...); err != nil || !u.anonymous.serves(r) {
		return nil, false, err
	}
	audiences, _ := authenticator.AudiencesFrom(r.Context())
	return &authenticator.Response{User: anonymous(), Audiences: audiences}, true, nil
}

func anonymous() user.Info {
	return &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
}

// addAuthenticated adds the group of all who proved who they are.
func addAuthenticated(u user.Info) user.Info {
	groups := u.GetGroups()
	if u.GetName() == user.Anonymous || slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return u
	}
	return &user.DefaultInfo{
		Name: u.GetName(), UID: u.GetUID(), Extra: u.GetExtra(),
		Groups: append(slices.Clone(groups), user.AllAuthenticated),
	}
}

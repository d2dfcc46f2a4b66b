// Package authn finds out who sends a request: by client certificate, front
// proxy headers, static token or service account token, or as nobody. It also
// issues service account tokens and publishes the keys that verify them.
package authn

import (
	"crypto/x509"
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
	ClientCAs *x509.CertPool
	// FrontProxy lets another server say on whose behalf it asks.
	FrontProxy *FrontProxy
	// StaticTokens are users by bearer token.
	StaticTokens map[string]user.Info
	// ServiceAccounts verifies tokens it issued.
	ServiceAccounts *Tokens
}

// New makes the authenticator of a server. Requests without credentials are
// those of system:anonymous; wrong credentials are an error, which means 401.
func New(c Config) authenticator.Request {
	// The first way that knows the request wins.
	var ways []authenticator.Request
	if c.FrontProxy != nil {
		ways = append(ways, c.FrontProxy)
	}
	if c.ClientCAs != nil {
		ways = append(ways, &certificates{authorities: c.ClientCAs})
	}
	ways = append(ways, bearer{c.Tokens()})
	return union(ways)
}

// Tokens checks bearer tokens alone, as a TokenReview does.
func (c Config) Tokens() authenticator.Token {
	return tokenUnion{static: c.StaticTokens, serviceAccounts: c.ServiceAccounts}
}

type union []authenticator.Request

func (u union) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	var problems []error
	for _, way := range u {
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
	if err := errors.Join(problems...); err != nil {
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

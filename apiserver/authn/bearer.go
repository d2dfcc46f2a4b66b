package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"strings"
	"unicode/utf8"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver/request"
)

var errInvalidToken = errors.New("invalid bearer token")

// bearer authenticates by the token of the Authorization header, or of the
// WebSocket subprotocol browsers use because they cannot set that header.
type bearer struct{ tokens authenticator.Token }

func (b bearer) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	token, remove := tokenOf(r)
	if token == "" {
		return nil, false, nil
	}
	answer, ok, err := b.tokens.AuthenticateToken(r.Context(), token)
	if err != nil {
		return nil, false, err
	}
	if !ok {
		return nil, false, errInvalidToken
	}
	// What comes after must not forward or log it.
	remove()
	return answer, true, nil
}

// tokenOf returns the token of r and what removes it; "" if there is none.
func tokenOf(r *http.Request) (token string, remove func()) {
	words := strings.Split(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if len(words) < 2 || !strings.EqualFold(words[0], "bearer") {
		return webSocketToken(r)
	}
	// What follows a token is passed over, as kube-apiserver does. What follows two spaces is none.
	if words[1] == "" {
		request.Warn(r.Context(), "the provided Authorization header contains extra space before the bearer token, and is ignored")
		return webSocketToken(r)
	}
	return words[1], func() { r.Header.Del("Authorization") }
}

const webSocketTokenPrefix = "base64url.bearer.authorization.k8s.io."

func webSocketToken(r *http.Request) (token string, remove func()) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return "", nil
	}
	const header = "Sec-Websocket-Protocol"
	var others []string
	for _, line := range r.Header.Values(header) {
		for protocol := range strings.SplitSeq(line, ",") {
			protocol = textproto.TrimString(protocol)
			encoded, is := strings.CutPrefix(protocol, webSocketTokenPrefix)
			if !is {
				others = append(others, protocol)
				continue
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			// A client must offer a real protocol too, which the server picks.
			if err != nil || !utf8.Valid(decoded) || token != "" {
				return "", nil
			}
			token = string(decoded)
		}
	}
	if len(others) == 0 {
		return "", nil
	}
	return token, func() { r.Header.Set(header, strings.Join(others, ",")) }
}

// static are users by token.
type static map[string]user.Info

func (s static) AuthenticateToken(_ context.Context, token string) (*authenticator.Response, bool, error) {
	u, ok := s[token]
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: u}, true, nil
}

// tokenUnion asks one after the other. One that says that a token is wrong does not keep the next from knowing it.
type tokenUnion []authenticator.Token

func (t tokenUnion) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	var problems []error
	for _, way := range t {
		answer, ok, err := way.AuthenticateToken(ctx, token)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if ok {
			answer := *answer // it may be one that is remembered
			answer.User = addAuthenticated(answer.User)
			return &answer, true, nil
		}
	}
	return nil, false, utilerrors.NewAggregate(problems)
}

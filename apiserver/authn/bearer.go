package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/textproto"
	"strings"
	"unicode/utf8"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
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
	kind, token, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	if token = strings.TrimSpace(token); strings.EqualFold(kind, "bearer") && token != "" {
		return token, func() { r.Header.Del("Authorization") }
	}
	return webSocketToken(r)
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

// tokenUnion knows static tokens and those of service accounts.
type tokenUnion struct {
	static          map[string]user.Info
	serviceAccounts *Tokens
}

func (t tokenUnion) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if u, ok := t.static[token]; ok {
		audiences, _ := authenticator.AudiencesFrom(ctx)
		return &authenticator.Response{User: addAuthenticated(u), Audiences: audiences}, true, nil
	}
	if t.serviceAccounts == nil {
		return nil, false, nil
	}
	answer, ok, err := t.serviceAccounts.AuthenticateToken(ctx, token)
	if ok {
		answer.User = addAuthenticated(answer.User)
	}
	return answer, ok, err
}

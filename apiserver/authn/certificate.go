package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// certificates authenticates by the client certificate of the connection.
type certificates struct {
	authorities *Authorities
	withoutUIDs bool
	known       vouched
}

func (c *certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	pool := c.authorities.pool()
	if u := connectionOf(r).user(pool, r, time.Now()); u != nil {
		return &authenticator.Response{User: u}, true, nil
	}
	leaf, is, err := c.known.verify(r, pool)
	if err != nil || leaf == nil || leaf.Subject.CommonName == "" {
		return nil, false, err
	}
	uid := ""
	if !c.withoutUIDs {
		if uid, err = subjectUID(leaf); err != nil {
			return nil, false, err
		}
	}
	fingerprint := sha256.Sum256(leaf.Raw)
	u := addAuthenticated(&user.DefaultInfo{
		Name:   leaf.Subject.CommonName,
		UID:    uid,
		Groups: leaf.Subject.Organization,
		Extra:  map[string][]string{user.CredentialIDKey: {"X509SHA256=" + hex.EncodeToString(fingerprint[:])}},
	})
	connectionOf(r).remember(&connected{by: pool, leaf: leaf, is: is, user: u})
	return &authenticator.Response{User: u}, true, nil
}

// uidAttribute is the subject attribute that carries the UID of a user, below
// the private enterprise number of Kubernetes.
var uidAttribute = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

func subjectUID(c *x509.Certificate) (string, error) {
	uid, found := "", false
	for _, name := range c.Subject.Names {
		if !name.Type.Equal(uidAttribute) {
			continue
		}
		value, ok := name.Value.(string)
		if !ok || value == "" || found {
			return "", errors.New("client certificate: expected one UID that is not empty")
		}
		uid, found = value, true
	}
	return uid, nil
}

// FrontProxy authenticates requests that a trusted proxy forwards with the
// user in headers.
type FrontProxy struct {
	CAs *Authorities
	// AllowedNames are the common names a proxy may have; none allows all.
	AllowedNames []string

	known vouched
}

// Headers of the front proxy protocol, as in ConfigMap
// kube-system/extension-apiserver-authentication.
const (
	FrontProxyUser        = "X-Remote-User"
	FrontProxyUID         = "X-Remote-Uid"
	FrontProxyGroup       = "X-Remote-Group"
	FrontProxyExtraPrefix = "X-Remote-Extra-"
)

// AuthenticateRequest takes the user from the headers and removes them.
func (p *FrontProxy) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	name := r.Header.Get(FrontProxyUser)
	if name == "" {
		return nil, false, nil
	}
	leaf, _, err := p.known.verify(r, p.CAs.pool())
	if err != nil || leaf == nil {
		return nil, false, err
	}
	if len(p.AllowedNames) > 0 && !slices.Contains(p.AllowedNames, leaf.Subject.CommonName) {
		return nil, false, fmt.Errorf("front proxy %q is not in the allowed list", leaf.Subject.CommonName)
	}
	u := &user.DefaultInfo{Name: name, UID: r.Header.Get(FrontProxyUID), Extra: map[string][]string{}}
	for _, g := range r.Header.Values(FrontProxyGroup) {
		if g != "" {
			u.Groups = append(u.Groups, g)
		}
	}
	for header, values := range r.Header {
		if len(header) > len(FrontProxyExtraPrefix) && strings.EqualFold(header[:len(FrontProxyExtraPrefix)], FrontProxyExtraPrefix) {
			key := strings.ToLower(header[len(FrontProxyExtraPrefix):])
			if unescaped, err := url.PathUnescape(key); err == nil {
				key = unescaped
			}
			u.Extra[key] = append(u.Extra[key], values...)
			delete(r.Header, header)
		}
	}
	for _, h := range []string{FrontProxyUser, FrontProxyUID, FrontProxyGroup} {
		r.Header.Del(h)
	}
	return &authenticator.Response{User: u}, true, nil
}

package ingress

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/skiff-k8s/skiff/ingress/route"
)

// canaryFor is the location that takes a request for l: l itself or one of its canaries.
func canaryFor(l *route.Location, r *http.Request) *route.Location {
	for _, candidate := range l.Canaries {
		if takes(candidate.Settings.Canary, r) {
			return candidate
		}
	}
	return l
}

// takes reports whether a request is for a canary: by its header, else by its cookie, else by chance.
func takes(c *route.Canary, r *http.Request) bool {
	if c.Header != "" {
		if values := r.Header.Values(c.Header); len(values) > 0 {
			switch value := values[0]; {
			case c.HeaderValue != "":
				if value == c.HeaderValue {
					return true
				}
			case c.HeaderPattern != nil:
				if c.HeaderPattern.MatchString(value) {
					return true
				}
			case value == "always":
				return true
			case value == "never":
				return false
			}
		}
	}
	if c.Cookie != "" {
		if cookie, err := r.Cookie(c.Cookie); err == nil {
			switch cookie.Value {
			case "always":
				return true
			case "never":
				return false
			}
		}
	}
	return c.Weight > 0 && mathrand.IntN(c.Total) < c.Weight
}

// preflight answers what a browser asks before a request of another site.
func (h *handler) preflight(v *visit) bool {
	c := v.location.Settings.CORS
	if c == nil || v.request.Method != http.MethodOptions {
		return true
	}
	header := v.Header()
	if allowOrigin(c, v.request, header) {
		header.Set("Access-Control-Allow-Methods", c.Methods)
		header.Set("Access-Control-Allow-Headers", c.Headers)
		header.Set("Access-Control-Max-Age", strconv.Itoa(c.MaxAge))
	}
	v.WriteHeader(http.StatusNoContent)
	return false
}

// allowOrigin tells a browser whether a page may see the answer.
func allowOrigin(c *route.CORS, r *http.Request, h http.Header) bool {
	origin := r.Header.Get("Origin")
	allowed := ""
	for _, o := range c.Origins {
		if o == "*" {
			allowed = "*"
			break
		}
		if originMatches(o, origin) {
			allowed = origin
			h.Add("Vary", "Origin")
			break
		}
	}
	if allowed == "" {
		return false
	}
	h.Set("Access-Control-Allow-Origin", allowed)
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if c.Expose != "" {
		h.Set("Access-Control-Expose-Headers", c.Expose)
	}
	return true
}

// originMatches compares an origin with one that may have "*" as its first label.
func originMatches(allowed, origin string) bool {
	scheme, rest, wild := strings.Cut(allowed, "://*.")
	if !wild {
		return strings.EqualFold(allowed, origin)
	}
	name, ok := strings.CutPrefix(strings.ToLower(origin), strings.ToLower(scheme)+"://")
	label, parent, found := strings.Cut(name, ".")
	return ok && found && label != "" && parent == strings.ToLower(rest)
}

// verifier checks passwords. Those that were right it remembers, for a hash takes time by design.
type verifier struct {
	key    []byte
	places chan struct{} // how many passwords are checked at once

	mu    sync.Mutex
	right map[[sha256.Size]byte]bool
}

const (
	rememberedPasswords = 10000
	passwordsAtOnce     = 2
)

func newVerifier() *verifier {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	return &verifier{key: key, places: make(chan struct{}, passwordsAtOnce), right: make(map[[sha256.Size]byte]bool)}
}

func (h *handler) admitUser(v *visit) bool {
	auth := v.location.Settings.Auth
	if auth == nil {
		return true
	}
	if name, password, ok := v.request.BasicAuth(); ok && h.auth.check(v, auth.Users, name, password) {
		return true
	}
	v.Header().Set("WWW-Authenticate", "Basic realm="+strconv.Quote(auth.Realm))
	return v.refuse(http.StatusUnauthorized)
}

func (c *verifier) check(v *visit, users route.Users, name, password string) bool {
	hash, known := users[name]
	if !known {
		return false
	}
	mac := hmac.New(sha256.New, c.key)
	for _, part := range []string{hash, name, password} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		mac.Write([]byte(part))
	}
	sum := [sha256.Size]byte(mac.Sum(nil))
	c.mu.Lock()
	right := c.right[sum]
	c.mu.Unlock()
	if right {
		return true
	}
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	case <-v.request.Context().Done():
		return false
	}
	if !users.Check(name, password) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.right) >= rememberedPasswords {
		clear(c.right)
	}
	c.right[sum] = true
	return true
}

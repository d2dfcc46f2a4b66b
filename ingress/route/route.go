// Package route decides where a request goes. A Builder makes of Ingresses, and of the Services and Secrets they
// name, a Table that never changes; Table.Find is the whole of routing. Nothing here serves or waits.
//
// What an annotation does stands in annotations.go, how several Ingresses share a host in merge.go.
package route

import (
	"crypto/tls"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/client-go/tools/cache"
)

// Key names an Ingress, a Service or a Secret.
type Key = cache.ObjectName

// Table says for every host and path which Location serves it. It is safe for concurrent use.
type Table struct {
	hosts    hosts // by name, by "*.parent", and by "" for Ingresses without host
	fallback *Location
}

// host is what is served for one name.
type host struct {
	exact    map[string]*Location
	prefixes prefixes
	patterns []*Location // those with expressions, the longest first
	fallback *Location
	// redirect is the name that is meant by this one (from-to-www-redirect); empty: none.
	redirect    string
	certificate *tls.Certificate
}

// Location is one path of one Ingress, and all that is to be done with its requests.
type Location struct {
	Ingress  Key
	Host     string // as the rule has it
	Path     string
	Settings *Settings
	Backend  Backend
	Pool     *Pool
	// Secured says that the host has a certificate by the Ingress.
	Secured bool
	// Canaries take some of the requests.
	Canaries []*Location

	pattern *regexp.Regexp // nil for paths that are none
	kind    pathKind
}

// Backend is a port of a Service.
type Backend struct {
	Service  Key
	PortName string
	Port     int32 // 0 if the port has a name
}

// Find returns the location for a path as Clean returns it. redirect is the host to which the client should turn
// instead, if any. Without a location nothing serves the request.
func (t *Table) Find(hostname, path string) (found *Location, redirect string) {
	h := t.host(hostname)
	if h == nil {
		return t.fallback, ""
	}
	if h.redirect != "" {
		return nil, h.redirect
	}
	if l := h.find(path); l != nil {
		return l, ""
	}
	if h.fallback != nil {
		return h.fallback, ""
	}
	return t.fallback, ""
}

// Certificate is what a client that asks for a name is shown; nil if no Ingress has one.
func (t *Table) Certificate(name string) *tls.Certificate {
	name = Hostname(name)
	if h := t.hosts.get(name); h != nil && h.certificate != nil {
		return h.certificate
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if h := t.hosts.get("*." + parent); h != nil {
			return h.certificate
		}
	}
	return nil
}

// host finds the rules of a name: its own, those of the wildcard above it, or those without a host.
func (t *Table) host(name string) *host {
	if h := t.hosts.get(name); h != nil && name != "" {
		return h
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		if h := t.hosts.get("*." + parent); h != nil {
			return h
		}
	}
	return t.hosts.get("")
}

// Hostname is a Host header as rules have hosts: in lower case, without port and without the dot of a full name.
func Hostname(header string) string {
	if i := strings.LastIndexByte(header, ':'); i >= 0 && !strings.Contains(header[i:], "]") {
		header = header[:i]
	}
	return strings.ToLower(strings.TrimSuffix(header, "."))
}

// find is the location of a path: one that is exactly it, else the longest that it begins with or matches.
func (h *host) find(path string) *Location {
	if l, ok := h.exact[path]; ok {
		return l
	}
	best := h.prefixes.longest(path)
	for _, l := range h.patterns {
		if best != nil && len(l.Path) <= len(best.Path) {
			break
		}
		if l.pattern.MatchString(path) {
			return l
		}
	}
	return best
}

// Rewrite is the path that the backend sees instead of a path and the query that comes before the client's own; ok is
// false if the annotations leave the path as it is.
func (l *Location) Rewrite(path string) (rewritten, query string, ok bool) {
	target := l.Settings.RewriteTarget
	if target == "" {
		return "", "", false
	}
	var captures []int
	if l.pattern != nil {
		captures = l.pattern.FindStringSubmatchIndex(path)
	}
	target, query, _ = strings.Cut(target, "?")
	return expand(target, path, captures), expand(query, path, captures), true
}

// expand puts what was captured in place of $1 to $9.
func expand(template, path string, captures []int) string {
	if !strings.Contains(template, "$") {
		return template
	}
	var out strings.Builder
	for i := 0; i < len(template); i++ {
		if template[i] != '$' || i+1 == len(template) {
			out.WriteByte(template[i])
			continue
		}
		i++
		if n := 2 * int(template[i]-'0'); n+1 < len(captures) && captures[n] >= 0 {
			out.WriteString(path[captures[n]:captures[n+1]])
		}
	}
	return out.String()
}

// Allowed reports whether a client may ask at all.
func (s *Settings) Allowed(client netip.Addr) bool {
	return !contains(s.Deny, client) && (s.Allow == nil || contains(s.Allow, client))
}

// Unlimited reports whether no limit is for a client.
func (s *Settings) Unlimited(client netip.Addr) bool { return contains(s.Limits.Except, client) }

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// CookiePath is the path of the cookie that keeps a client at an endpoint, if no annotation says another.
func (l *Location) CookiePath() string {
	if l.kind == expression || l.Path == "" {
		return "/"
	}
	return l.Path
}

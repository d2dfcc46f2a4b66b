package route

import (
	"net/netip"
	"regexp"
	"time"
)

// Settings are what the annotations of an Ingress ask for. The zero value is not the default: defaults returns that.
type Settings struct {
	// Closed says why nothing is served: an annotation that protects cannot be obeyed.
	Closed string

	RewriteTarget string
	UseRegex      bool
	AppRoot       string
	// Redirect sends every request elsewhere.
	Redirect Redirect
	// SSLRedirect sends plain requests to https if the host has a certificate, ForceSSLRedirect even without one.
	SSLRedirect, ForceSSLRedirect bool
	// WWW sends the name with "www." to the one without, or the other way round.
	WWW     bool
	Aliases []string

	// BodyLimit is in bytes; 0: none.
	BodyLimit                          int64
	ConnectTimeout                     time.Duration
	ReadTimeout, SendTimeout           time.Duration
	Protocol                           Protocol
	UpstreamHost, ForwardedPrefix      string
	Affinity                           *Affinity
	Canary                             *Canary
	Allow, Deny                        []netip.Prefix
	CORS                               *CORS
	Auth                               *Auth
	Limits                             Limits
	authType, authSecret, authKeyStyle string
	canary                             Canary
	affinity                           Affinity
	cors                               CORS
	isCanary, hasAffinity, hasCORS     bool
	permanent, temporary               string
	permanentCode, temporaryCode       int
	realm                              string
}

// Redirect is where a client is sent; Code is 0 for nowhere.
type Redirect struct {
	To   string
	Code int
}

// Protocol is what a backend speaks.
type Protocol string

// The protocols of backends.
const (
	HTTP  Protocol = "HTTP"
	HTTPS Protocol = "HTTPS"
	GRPC  Protocol = "GRPC"
	GRPCS Protocol = "GRPCS"
)

// Affinity keeps a client at one endpoint by a cookie.
type Affinity struct {
	Name, Path, Domain, SameSite string
	MaxAge                       int // seconds; 0: until the browser ends
	Expires                      int // seconds; 0: not said
	Secure, ChangeOnFailure      bool
}

// Canary says which requests go to another backend.
type Canary struct {
	Header, HeaderValue, Cookie string
	HeaderPattern               *regexp.Regexp
	Weight, Total               int
}

// CORS is what browsers are told about requests of other sites.
type CORS struct {
	Origins          []string
	Methods, Headers string
	Expose           string
	Credentials      bool
	MaxAge           int
}

// Auth are the users that may ask.
type Auth struct {
	Realm string
	Users Users
}

// Limits are how much one client address may ask; 0: without limit.
type Limits struct {
	PerSecond, PerMinute, Connections int
	Burst                             int // how many times the rate may come at once
	Except                            []netip.Prefix
}

const (
	defaultBody    = 1 << 20
	defaultConnect = 5 * time.Second
	defaultIdle    = 60 * time.Second
)

// defaults are the settings of an Ingress without annotations, those of ingress-nginx.
func defaults() *Settings {
	return &Settings{
		SSLRedirect: true, BodyLimit: defaultBody, Protocol: HTTP,
		ConnectTimeout: defaultConnect, ReadTimeout: defaultIdle, SendTimeout: defaultIdle,
		permanentCode: 301, temporaryCode: 302, authKeyStyle: "auth-file",
		affinity: Affinity{Name: "INGRESSCOOKIE", Path: ""},
		canary:   Canary{Total: 100},
		cors: CORS{
			Origins: []string{"*"}, Methods: "GET, PUT, POST, DELETE, PATCH, OPTIONS",
			Headers:     "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
			Credentials: true, MaxAge: 1728000,
		},
		Limits: Limits{Burst: 5},
	}
}

// settle makes of single annotations what they mean together.
func (s *Settings) settle() {
	switch {
	case s.permanent != "":
		s.Redirect = Redirect{s.permanent, s.permanentCode}
	case s.temporary != "":
		s.Redirect = Redirect{s.temporary, s.temporaryCode}
	}
	if s.hasCORS {
		s.CORS = &s.cors
	}
	if s.hasAffinity {
		s.Affinity = &s.affinity
	}
	if s.isCanary {
		s.Canary = &s.canary
	}
}

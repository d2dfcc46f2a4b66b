package route

import (
	"fmt"
	"slices"
	"strings"
)

// Prefix begins the annotations that are obeyed: those of ingress-nginx, which manifests have.
const Prefix = "nginx.ingress.kubernetes.io/"

// Annotation describes one annotation.
type Annotation struct {
	Name string
	// Does says what it does here, or why it does nothing.
	Does  string
	parse func(s *Settings, value string) error
	// protects says that an Ingress with a value of it that cannot be obeyed serves nothing: its author relies on it.
	protects bool
}

// Refused reports whether the annotation is never obeyed.
func (a Annotation) Refused() bool { return a.parse == nil }

// Protects reports whether an Ingress that has it, and cannot have what it says, serves nothing.
func (a Annotation) Protects() bool { return a.protects }

// Annotations lists all that are known, by what they are about. What is not in it is refused too.
var Annotations = []Annotation{
	{"rewrite-target", "the path that the backend sees; `$1` to `$9` are what the groups of the rule's path captured. The paths of such an Ingress are regular expressions", setRewrite, false},
	{"use-regex", "paths of type `Prefix` and `ImplementationSpecific` are regular expressions (RE2), without regard to case, from the beginning of the path", boolean(func(s *Settings) *bool { return &s.UseRegex }), false},
	{"app-root", "requests for `/` are sent to this path (302)", setAppRoot, false},
	{"ssl-redirect", "`\"false\"` serves hosts with a certificate without TLS too; else such requests are sent to https (308)", boolean(func(s *Settings) *bool { return &s.SSLRedirect }), false},
	{"force-ssl-redirect", "sends requests without TLS to https, even if the host has no certificate of its own (308)", boolean(func(s *Settings) *bool { return &s.ForceSSLRedirect }), false},
	{"permanent-redirect", "sends all requests to this URL (301); `$scheme`, `$host` and `$request_uri` stand for those of the request", target(func(s *Settings) *string { return &s.permanent }), false},
	{"permanent-redirect-code", "another code for that, 300 to 308", code(func(s *Settings) *int { return &s.permanentCode }), false},
	{"temporal-redirect", "sends all requests to this URL (302)", target(func(s *Settings) *string { return &s.temporary }), false},
	{"temporal-redirect-code", "another code for that, 300 to 308", code(func(s *Settings) *int { return &s.temporaryCode }), false},
	{"from-to-www-redirect", "sends `www.` of the host to the host, or the other way round (308)", boolean(func(s *Settings) *bool { return &s.WWW }), false},
	{"server-alias", "further names of the hosts, separated by commas, as long as no Ingress has them as a host", setAliases, false},

	{"proxy-body-size", "the largest body of a request, as `8m`; `0` is no limit. The default is `1m`; more is answered with 413", setBodyLimit, false},
	{"client-max-body-size", "the same", setBodyLimit, false},
	{"proxy-connect-timeout", "seconds until an endpoint must have taken a connection; 5", seconds(func(s *Settings) *duration { return &s.ConnectTimeout }), false},
	{"proxy-read-timeout", "seconds that an answer may pause; 60", seconds(func(s *Settings) *duration { return &s.ReadTimeout }), false},
	{"proxy-send-timeout", "seconds that sending a request may pause; 60", seconds(func(s *Settings) *duration { return &s.SendTimeout }), false},
	{"backend-protocol", "`HTTP`, `HTTPS` (the certificate is not checked), `GRPC`, `GRPCS`, `AUTO_HTTP` (as `HTTP`)", setProtocol, false},
	{"secure-backends", "`\"true\"` is `backend-protocol: HTTPS`", setSecureBackends, false},
	{"upstream-vhost", "the Host that the backend sees", setUpstreamHost, false},
	{"x-forwarded-prefix", "the header X-Forwarded-Prefix that the backend sees", headerText(func(s *Settings) *string { return &s.ForwardedPrefix }), false},

	{"whitelist-source-range", "only clients of these ranges, separated by commas, are served; others get 403", ranges(func(s *Settings) *prefixList { return &s.Allow }), true},
	{"allowlist-source-range", "the same", ranges(func(s *Settings) *prefixList { return &s.Allow }), true},
	{"denylist-source-range", "clients of these ranges get 403", ranges(func(s *Settings) *prefixList { return &s.Deny }), true},
	{"auth-type", "`basic`", setAuthType, true},
	{"auth-secret", "the Secret of the Ingress' namespace with the users: htpasswd in its key `auth` (bcrypt, apr1, `{SHA}`, `{SSHA}`, `{PLAIN}`)", setAuthSecret, true},
	{"auth-secret-type", "`auth-file`, or `auth-map`: a key of the Secret for each user", setAuthStyle, true},
	{"auth-realm", "what the browser shows", headerText(func(s *Settings) *string { return &s.realm }), false},
	{"limit-rps", "requests per second of one client address; more get 503", number(func(s *Settings) *int { return &s.Limits.PerSecond }), true},
	{"limit-rpm", "requests per minute of one client address", number(func(s *Settings) *int { return &s.Limits.PerMinute }), true},
	{"limit-connections", "requests at once of one client address", number(func(s *Settings) *int { return &s.Limits.Connections }), true},
	{"limit-burst-multiplier", "how many times the rate may come at once; 5", number(func(s *Settings) *int { return &s.Limits.Burst }), false},
	{"limit-whitelist", "ranges of clients without these limits", ranges(func(s *Settings) *prefixList { return &s.Limits.Except }), false},

	{"enable-cors", "answers preflight requests (204) and adds the headers for browsers", boolean(func(s *Settings) *bool { return &s.hasCORS }), false},
	{"cors-allow-origin", "origins, separated by commas, with `*` as a first label; `*`", setOrigins, false},
	{"cors-allow-methods", "methods", headerText(func(s *Settings) *string { return &s.cors.Methods }), false},
	{"cors-allow-headers", "headers", headerText(func(s *Settings) *string { return &s.cors.Headers }), false},
	{"cors-expose-headers", "headers that scripts may see", headerText(func(s *Settings) *string { return &s.cors.Expose }), false},
	{"cors-allow-credentials", "`\"false\"`: without cookies; true", boolean(func(s *Settings) *bool { return &s.cors.Credentials }), false},
	{"cors-max-age", "seconds that browsers remember it; 1728000", number(func(s *Settings) *int { return &s.cors.MaxAge }), false},

	{"affinity", "`cookie`: a client stays at one endpoint", setAffinity, false},
	{"affinity-mode", "`balanced` or `persistent`: a client stays at its endpoint as long as that serves", oneOf("balanced", "persistent"), false},
	{"affinity-canary-behavior", "`legacy`: requests are divided among canaries before endpoints", oneOf("legacy"), false},
	{"session-cookie-name", "name of the cookie; INGRESSCOOKIE", cookieText(func(s *Settings) *string { return &s.affinity.Name }), false},
	{"session-cookie-path", "its path; that of the rule, or `/` for regular expressions", cookieText(func(s *Settings) *string { return &s.affinity.Path }), false},
	{"session-cookie-domain", "its domain", cookieText(func(s *Settings) *string { return &s.affinity.Domain }), false},
	{"session-cookie-max-age", "its age in seconds", number(func(s *Settings) *int { return &s.affinity.MaxAge }), false},
	{"session-cookie-expires", "the same, as a date", number(func(s *Settings) *int { return &s.affinity.Expires }), false},
	{"session-cookie-samesite", "`None`, `Lax` or `Strict`", setSameSite, false},
	{"session-cookie-secure", "whether it is for https only; as the request is", boolean(func(s *Settings) *bool { return &s.affinity.Secure }), false},
	{"session-cookie-change-on-failure", "a client whose endpoint does not take connections gets another cookie", boolean(func(s *Settings) *bool { return &s.affinity.ChangeOnFailure }), false},

	{"canary", "the paths take a part of the requests for the same host and path of another Ingress of the namespace", boolean(func(s *Settings) *bool { return &s.isCanary }), true},
	{"canary-weight", "how many of canary-weight-total requests", number(func(s *Settings) *int { return &s.canary.Weight }), true},
	{"canary-weight-total", "100", setWeightTotal, true},
	{"canary-by-header", "requests with this header that says `always`, and none that say `never`", token(func(s *Settings) *string { return &s.canary.Header }), true},
	{"canary-by-header-value", "or this value instead", headerText(func(s *Settings) *string { return &s.canary.HeaderValue }), true},
	{"canary-by-header-pattern", "or values that match this regular expression", setHeaderPattern, true},
	{"canary-by-cookie", "requests with this cookie that says `always`, and none that say `never`", token(func(s *Settings) *string { return &s.canary.Cookie }), true},

	{"proxy-buffering", "nothing: bodies are passed on as they come", ignored, false},
	{"proxy-request-buffering", "nothing: bodies are passed on as they come", ignored, false},
	{"proxy-buffer-size", "nothing: there is no buffer to choose", ignored, false},
	{"proxy-buffers-number", "nothing: there is no buffer to choose", ignored, false},
	{"proxy-busy-buffers-size", "nothing: there is no buffer to choose", ignored, false},
	{"proxy-max-temp-file-size", "nothing: bodies are never written to disk", ignored, false},
	{"client-body-buffer-size", "nothing: there is no buffer to choose", ignored, false},
	{"proxy-http-version", "nothing: backends are asked by HTTP/1.1, and by HTTP/2 for gRPC", ignored, false},
	{"http2-push-preload", "nothing: browsers know no push any more", ignored, false},
	{"service-upstream", "nothing: endpoints are asked themselves", ignored, false},
	{"enable-access-log", "nothing: the access log is of all or none (`--ingress-access-log`)", ignored, false},
	{"load-balance", "`round_robin`; others are refused", oneOf("round_robin"), false},
	{"proxy-next-upstream", "nothing: another endpoint is tried when one takes no connection, and only then", ignored, false},
	{"proxy-next-upstream-tries", "nothing: up to three", ignored, false},
	{"proxy-next-upstream-timeout", "nothing: proxy-connect-timeout for each", ignored, false},
	{"preserve-trailing-slash", "nothing: redirects to https keep the whole path", ignored, false},

	{"configuration-snippet", "code of nginx; there is no nginx", nil, true},
	{"server-snippet", "code of nginx; there is no nginx", nil, true},
	{"stream-snippet", "code of nginx; there is no nginx", nil, false},
	{"auth-snippet", "code of nginx; there is no nginx", nil, true},
	{"modsecurity-snippet", "code of nginx; there is no nginx", nil, true},
	{"enable-modsecurity", "there is no ModSecurity", nil, true},
	{"auth-url", "no other server is asked for permission", nil, true},
	{"auth-signin", "belongs to auth-url", nil, true},
	{"auth-tls-secret", "certificates of clients are not asked for", nil, true},
	{"auth-tls-verify-client", "certificates of clients are not asked for", nil, true},
	{"satisfy", "every condition counts", nil, true},
	{"upstream-hash-by", "endpoints are taken in turn, or by cookie", nil, false},
	{"default-backend", "use `defaultBackend` of the Ingress", nil, false},
	{"custom-http-errors", "answers of backends are passed on as they are", nil, false},
	{"proxy-ssl-secret", "backends are shown no certificate", nil, true},
	{"proxy-ssl-verify", "certificates of backends are not checked", nil, true},
	{"ssl-passthrough", "TLS ends here", nil, true},
	{"mirror-target", "requests go to one backend", nil, false},
	{"limit-rate", "answers are not slowed down", nil, false},
	{"limit-rate-after", "answers are not slowed down", nil, false},
}

var byName = func() map[string]Annotation {
	m := make(map[string]Annotation, len(Annotations))
	for _, a := range Annotations {
		m[a.Name] = a
	}
	return m
}()

// ParseSettings reads the annotations of an Ingress. problems says, in the order of names, which are not obeyed.
func ParseSettings(annotations map[string]string) (s *Settings, problems []string) {
	s = defaults()
	var names []string
	for full := range annotations {
		if name, ours := strings.CutPrefix(full, Prefix); ours {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		value := annotations[Prefix+name]
		a, known := byName[name]
		var problem string
		switch {
		case !known:
			problem = fmt.Sprintf("annotation %s%s is not known and does nothing", Prefix, name)
		case a.Refused():
			problem = fmt.Sprintf("annotation %s%s is refused: %s", Prefix, name, a.Does)
		default:
			err := a.parse(s, value)
			if err == nil {
				continue
			}
			problem = fmt.Sprintf("annotation %s%s: %v", Prefix, name, err)
		}
		if a.protects {
			problem += "; the Ingress serves nothing until it is removed"
			s.Closed = problem
		}
		problems = append(problems, problem)
	}
	s.settle()
	return s, problems
}

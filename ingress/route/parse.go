package route

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

type (
	duration   = time.Duration
	prefixList = []netip.Prefix
	parser     = func(s *Settings, value string) error
)

// longestPattern bounds what a regular expression costs: its program grows with its text, and time with both.
const longestPattern = 1024

func ignored(*Settings, string) error { return nil }

func boolean(field func(*Settings) *bool) parser {
	return func(s *Settings, value string) error {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", value)
		}
		*field(s) = b
		return nil
	}
}

func number(field func(*Settings) *int) parser {
	return func(s *Settings, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > math.MaxInt32 {
			return fmt.Errorf("%q is no number", value)
		}
		*field(s) = n
		return nil
	}
}

func code(field func(*Settings) *int) parser {
	return func(s *Settings, value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < 300 || n > 308 {
			return fmt.Errorf("%q is no code of a redirect", value)
		}
		*field(s) = n
		return nil
	}
}

func seconds(field func(*Settings) *duration) parser {
	return func(s *Settings, value string) error {
		n, err := strconv.Atoi(strings.TrimSuffix(value, "s"))
		if err != nil || n <= 0 || n > math.MaxInt32 {
			return fmt.Errorf("%q is no number of seconds", value)
		}
		*field(s) = time.Duration(n) * time.Second
		return nil
	}
}

func oneOf(values ...string) parser {
	return func(_ *Settings, value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("%q is not served; %s is", value, strings.Join(values, " or "))
		}
		return nil
	}
}

// headerText is what can stand in a header.
func headerText(field func(*Settings) *string) parser {
	return func(s *Settings, value string) error {
		if !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("%q cannot stand in a header", value)
		}
		*field(s) = value
		return nil
	}
}

func cookieText(field func(*Settings) *string) parser {
	return func(s *Settings, value string) error {
		if value == "" || strings.ContainsAny(value, " ;,\"\\") || !httpguts.ValidHeaderFieldValue(value) {
			return fmt.Errorf("%q cannot stand in a cookie", value)
		}
		*field(s) = value
		return nil
	}
}

// token is the name of a header or cookie.
func token(field func(*Settings) *string) parser {
	return func(s *Settings, value string) error {
		if !httpguts.ValidHeaderFieldName(value) {
			return fmt.Errorf("%q is no name of a header or cookie", value)
		}
		*field(s) = value
		return nil
	}
}

func list(value string) (items []string) {
	for _, item := range strings.Split(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func ranges(field func(*Settings) *prefixList) parser {
	return func(s *Settings, value string) error {
		prefixes := prefixList{}
		for _, item := range list(value) {
			prefix, err := netip.ParsePrefix(item)
			if addr, addrErr := netip.ParseAddr(item); addrErr == nil {
				prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
			}
			if err != nil {
				return fmt.Errorf("%q is no range of addresses", item)
			}
			prefixes = append(prefixes, prefix)
		}
		if len(prefixes) == 0 {
			return fmt.Errorf("%q names no range", value)
		}
		*field(s) = prefixes
		return nil
	}
}

func setRewrite(s *Settings, value string) error {
	if !strings.HasPrefix(value, "/") && !strings.HasPrefix(value, "$") {
		return fmt.Errorf("%q does not begin with a slash", value)
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' || c == 0x7f {
			return fmt.Errorf("%q has a control character", value)
		}
		if value[i] == '$' && (i+1 == len(value) || value[i+1] < '1' || value[i+1] > '9') {
			return fmt.Errorf("%q has a variable besides $1 to $9", value)
		}
	}
	s.RewriteTarget = value
	return nil
}

func setAppRoot(s *Settings, value string) error {
	if !strings.HasPrefix(value, "/") || strings.HasPrefix(value, "//") || strings.ContainsAny(value, "\\") || !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("%q is no path", value)
	}
	s.AppRoot = value
	return nil
}

// target is a URL, in which some variables may stand.
func target(field func(*Settings) *string) parser {
	return func(s *Settings, value string) error {
		plain := strings.NewReplacer("$scheme", "http", "$host", "h", "$request_uri", "/").Replace(value)
		u, err := url.Parse(plain)
		switch {
		case err != nil || !httpguts.ValidHeaderFieldValue(value):
			return fmt.Errorf("%q is no URL", value)
		case strings.Contains(plain, "$"):
			return fmt.Errorf("%q has a variable besides $scheme, $host and $request_uri", value)
		case u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https", u.Scheme == "" && !strings.HasPrefix(value, "/"):
			return fmt.Errorf("%q is not of http or https", value)
		}
		*field(s) = value
		return nil
	}
}

func setAliases(s *Settings, value string) error {
	for _, name := range list(value) {
		name = strings.ToLower(name)
		if strings.ContainsAny(name, "~^$()[]/:") || strings.Contains(strings.TrimPrefix(name, "*."), "*") {
			return fmt.Errorf("%q is no name of a host", name)
		}
		s.Aliases = append(s.Aliases, name)
	}
	return nil
}

func setBodyLimit(s *Settings, value string) error {
	digits, factor := strings.ToLower(value), int64(1)
	for suffix, f := range map[string]int64{"k": 1 << 10, "m": 1 << 20, "g": 1 << 30} {
		if rest, ok := strings.CutSuffix(digits, suffix); ok {
			digits, factor = rest, f
			break
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is no size", value)
	}
	s.BodyLimit = n * factor
	return nil
}

func setProtocol(s *Settings, value string) error {
	switch p := Protocol(strings.ToUpper(value)); p {
	case HTTP, HTTPS, GRPC, GRPCS:
		s.Protocol = p
	case "AUTO_HTTP":
		s.Protocol = HTTP
	default:
		return fmt.Errorf("%q is not spoken here", value)
	}
	return nil
}

func setSecureBackends(s *Settings, value string) error {
	secure, err := strconv.ParseBool(value)
	if secure {
		s.Protocol = HTTPS
	}
	return err
}

func setUpstreamHost(s *Settings, value string) error {
	if !httpguts.ValidHostHeader(value) || strings.ContainsAny(value, "$ /") || value == "" {
		return fmt.Errorf("%q is no name of a host", value)
	}
	s.UpstreamHost = value
	return nil
}

func setAuthType(s *Settings, value string) error {
	if value != "basic" {
		return fmt.Errorf("%q is not served; basic is", value)
	}
	s.authType = value
	return nil
}

func setAuthSecret(s *Settings, value string) error {
	s.authSecret = value
	return nil
}

func setAuthStyle(s *Settings, value string) error {
	if value != "auth-file" && value != "auth-map" {
		return fmt.Errorf("%q is neither auth-file nor auth-map", value)
	}
	s.authKeyStyle = value
	return nil
}

func setOrigins(s *Settings, value string) error {
	var origins []string
	for _, origin := range list(value) {
		scheme, rest, ok := strings.Cut(origin, "://")
		if origin != "*" && (!ok || scheme == "" || rest == "" || strings.Contains(strings.TrimPrefix(rest, "*."), "*") || strings.ContainsAny(rest, "/ ") || !httpguts.ValidHeaderFieldValue(origin)) {
			return fmt.Errorf("%q is no origin", origin)
		}
		origins = append(origins, origin)
	}
	if len(origins) == 0 {
		return fmt.Errorf("%q names no origin", value)
	}
	s.cors.Origins = origins
	return nil
}

func setAffinity(s *Settings, value string) error {
	s.hasAffinity = value == "cookie"
	return oneOf("cookie")(s, value)
}

func setSameSite(s *Settings, value string) error {
	for _, known := range []string{"None", "Lax", "Strict"} {
		if strings.EqualFold(value, known) {
			s.affinity.SameSite = known
			return nil
		}
	}
	return fmt.Errorf("%q is neither None nor Lax nor Strict", value)
}

func setWeightTotal(s *Settings, value string) error {
	if err := number(func(s *Settings) *int { return &s.canary.Total })(s, value); err != nil {
		return err
	}
	if s.canary.Total == 0 {
		return fmt.Errorf("nothing can be divided by 0")
	}
	return nil
}

func setHeaderPattern(s *Settings, value string) (err error) {
	s.canary.HeaderPattern, err = compilePattern("", value)
	return err
}

// compilePattern compiles a regular expression of a stranger. RE2 takes time in proportion to text and program.
func compilePattern(before, text string) (*regexp.Regexp, error) {
	if len(text) > longestPattern {
		return nil, fmt.Errorf("a regular expression of %d bytes is longer than %d", len(text), longestPattern)
	}
	pattern, err := regexp.Compile(before + text)
	if err != nil {
		return nil, fmt.Errorf("%q is no regular expression of RE2: %w", text, err)
	}
	return pattern, nil
}

// Location is where a redirect leads for a request.
func (r Redirect) Location(scheme string, request *http.Request) string {
	return strings.NewReplacer("$scheme", scheme, "$host", request.Host, "$request_uri", request.URL.RequestURI()).Replace(r.To)
}

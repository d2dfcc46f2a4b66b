package oidc_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// configuration names issuers of p, each with rules of another kind.
func configuration(p *provider) string {
	var out strings.Builder
	out.WriteString(`apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions: [{path: /livez}, {path: /healthz}]
jwt:
`)
	for _, i := range []struct{ path, issuer, rest string }{
		{"plain", "audiences: [app]", `
  claimMappings:
    username: {claim: sub, prefix: "plain:"}
    groups: {claim: groups, prefix: "plain:"}`},
		{"email", "audiences: [app]", `
  claimMappings:
    username: {claim: email, prefix: ""}
    groups: {claim: roles, prefix: ""}`},
		{"required", "audiences: [app]", `
  claimMappings:
    username: {claim: sub, prefix: ""}
    uid: {claim: oid}
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
  - {claim: none}`},
		{"cel", "audiences: [one, two]\n    audienceMatchPolicy: MatchAny", `
  claimMappings:
    username: {expression: "claims.profile.name + '@' + string(claims.level)"}
    groups: {expression: "has(claims.roles) ? claims.roles : []"}
    uid: {expression: "claims.?uid.orValue('none')"}
    extra:
    - {key: example.com/teams, valueExpression: "claims.?teams.orValue('')"}
    - {key: example.com/host, valueExpression: "claims.profile.?host__dot__name.orValue('')"}
  claimValidationRules:
  - {expression: "claims.exp - claims.iat <= 86400.0", message: "the token lasts too long"}
  - {expression: "!has(claims.blocked) || claims.blocked == false", message: "blocked"}
  userValidationRules:
  - {expression: "!user.username.startsWith('system:')", message: "names of the house"}
  - {expression: "user.groups.all(g, !g.startsWith('system:'))"}`},
		{"scattered", "audiences: [app]", `
  claimMappings:
    username: {claim: sub, prefix: ""}
    groups: {claim: groups, prefix: "far:"}`},
		{"elsewhere", fmt.Sprintf("discoveryURL: %s/description\n    audiences: [app]", p.URL), `
  claimMappings:
    username: {claim: sub, prefix: ""}`},
		{"away", "audiences: [app]", `
  claimMappings:
    username: {claim: sub, prefix: ""}`},
		{"liar", "audiences: [app]", `
  claimMappings:
    username: {claim: sub, prefix: ""}`},
	} {
		authority, _ := json.Marshal(p.authority())
		fmt.Fprintf(&out, "- issuer:\n    url: %s/%s\n    certificateAuthority: %s\n    %s%s\n", p.URL, i.path, authority, i.issuer, i.rest)
	}
	p.at("/description", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL + "/elsewhere", "jwks_uri": p.URL + "/keys"})
	})
	p.at("/away/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "away", http.StatusBadGateway) })
	p.at("/liar/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL + "/plain", "jwks_uri": p.URL + "/keys"})
	})
	return out.String()
}

// question is a token with the name of what is asked by it.
type question struct{ name, token string }

// questions are tokens of p, good and bad.
func questions(t testing.TB, p *provider) []question {
	now := time.Now()
	claims := func(path string, change map[string]any) map[string]any {
		all := map[string]any{"iss": p.URL + "/" + path, "aud": "app", "sub": "jane", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		maps.Copy(all, change)
		maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
		return all
	}
	of := func(path string, change map[string]any) string {
		return sign(t, jose.RS256, p.rsa, "rsa", claims(path, change))
	}
	type m = map[string]any
	good := of("plain", nil)
	parts := strings.Split(good, ".")
	encoded := base64.RawURLEncoding.EncodeToString
	cel := func(change m) string {
		all := m{"aud": []string{"two"}, "profile": m{"name": "jane"}, "level": 3}
		maps.Copy(all, change)
		return of("cel", all)
	}
	required := func(change m) string {
		all := m{"hd": "example.com", "none": "", "oid": "7"}
		maps.Copy(all, change)
		return of("required", all)
	}
	scattered := func(path, endpoint string) string {
		return of("scattered", m{"_claim_names": m{"groups": "src"}, "_claim_sources": m{"src": m{"endpoint": endpoint, "access_token": path}}})
	}
	more := func(change m) string {
		all := claims("scattered", m{"groups": []string{"a", "b"}})
		maps.Copy(all, change)
		return sign(t, jose.RS256, p.rsa, "rsa", all)
	}
	for path, answer := range map[string]string{
		"/groups": more(nil), "/groups/expired": more(m{"exp": now.Add(-time.Hour).Unix()}), "/groups/none": more(m{"groups": 1}), "/groups/garbage": "x",
		"/groups/audience": more(m{"aud": "others"}), "/groups/forged": sign(t, jose.RS256, p.other, "rsa", claims("scattered", m{"groups": "system:masters"})),
	} {
		p.at(path, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, answer) })
	}
	return []question{
		{"good", good},
		{"another algorithm", sign(t, jose.RS512, p.rsa, "rsa", claims("plain", nil))},
		{"PSS", sign(t, jose.PS256, p.rsa, "rsa", claims("plain", nil))},
		{"elliptic curve", sign(t, jose.ES256, p.ec, "ec", claims("plain", nil))},
		{"no key id", sign(t, jose.RS256, p.rsa, "", claims("plain", nil))},
		{"unknown key id", sign(t, jose.RS256, p.rsa, "unknown", claims("plain", nil))},
		{"another key under a known id", sign(t, jose.RS256, p.other, "rsa", claims("plain", nil))},
		{"another kind of key under a known id", sign(t, jose.ES256, p.ec, "rsa", claims("plain", nil))},
		{"no signature", encoded([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."},
		{"no signature, said otherwise", parts[0] + "." + parts[1] + "."},
		{"a shared secret", sign(t, jose.HS256, bytes.Repeat([]byte("x"), 32), "", claims("plain", nil))},
		{"the public key as a shared secret", sign(t, jose.HS256, []byte(p.authority()), "", claims("plain", nil))},
		{"changed", parts[0] + "." + encoded([]byte(fmt.Sprintf(`{"iss":%q,"aud":"app","sub":"root","exp":%d}`, p.URL+"/plain", now.Add(time.Hour).Unix()))) + "." + parts[2]},
		{"two parts", parts[0] + "." + parts[1]},
		{"four parts", good + ".x"},
		{"garbage", "garbage"},
		{"dots", "..."},
		{"JSON", `{"payload":"` + parts[1] + `"}`},
		{"header is garbage", "x." + parts[1] + "." + parts[2]},
		{"critical header", encoded([]byte(`{"alg":"RS256","kid":"rsa","crit":["x"],"x":1}`)) + "." + parts[1] + "." + parts[2]},
		{"claims are a list", signText(t, jose.RS256, p.rsa, "rsa", []byte(`[]`))},
		{"huge", of("plain", m{"padding": strings.Repeat("x", 500_000)})},
		{"expired", of("plain", m{"exp": now.Add(-time.Second).Unix()})},
		{"no end", of("plain", m{"exp": nil})},
		{"an end that is a text", of("plain", m{"exp": "tomorrow"})},
		{"an end with a fraction", of("plain", m{"exp": float64(now.Add(time.Hour).Unix()) + 0.5})},
		{"not yet", of("plain", m{"nbf": now.Add(5 * time.Minute).Unix()})},
		{"not yet, within leeway", of("plain", m{"nbf": now.Add(30 * time.Second).Unix()})},
		{"another audience", of("plain", m{"aud": "others"})},
		{"several audiences", of("plain", m{"aud": []string{"others", "app"}})},
		{"no audience", of("plain", m{"aud": nil})},
		{"an unknown issuer", of("nobody", nil)},
		{"an issuer that is a list", of("plain", m{"iss": []string{p.URL + "/plain"}})},
		{"an issuer with a slash more", of("plain/", nil)},
		{"an issuer that is away", of("away", nil)},
		{"an issuer that describes another", of("liar", nil)},
		{"described elsewhere", of("elsewhere", nil)},
		{"no subject", of("plain", m{"sub": nil})},
		{"a subject that is a number", of("plain", m{"sub": 7})},
		{"an empty subject", of("plain", m{"sub": ""})},
		{"groups", of("plain", m{"groups": []string{"a", "b"}})},
		{"one group", of("plain", m{"groups": "a"})},
		{"groups that are numbers", of("plain", m{"groups": []int{1}})},
		{"groups that are null", of("plain", m{"groups": nil, "jti": "id-1"})},
		{"email", of("email", m{"email": "jane@example.com", "email_verified": true, "roles": []string{"system:masters"}})},
		{"email of which nothing is said", of("email", m{"email": "jane@example.com"})},
		{"email that is not verified", of("email", m{"email": "jane@example.com", "email_verified": false})},
		{"email that is verified by a text", of("email", m{"email": "jane@example.com", "email_verified": "true"})},
		{"a name of the house", of("email", m{"email": "system:admin"})},
		{"nobody", of("email", m{"email": "system:anonymous"})},
		{"required", required(nil)},
		{"required is missing", required(m{"hd": nil})},
		{"required has another value", required(m{"hd": "example.org"})},
		{"required is a number", required(m{"hd": 1})},
		{"uid is missing", required(m{"oid": nil})},
		{"cel", cel(m{"roles": []string{"a", ""}, "uid": "u-1", "teams": []string{"x", "y"}, "profile": m{"name": "jane", "host.name": "h"}, "jti": "id-2"})},
		{"cel, least", cel(nil)},
		{"cel, other audience", cel(m{"aud": []string{"app"}})},
		{"cel, field missing", cel(m{"profile": m{}})},
		{"cel, field is null", cel(m{"roles": json.RawMessage("null")})},
		{"cel, field of another type", cel(m{"profile": m{"name": 1}})},
		{"cel, groups are a map", cel(m{"roles": m{"a": 1}})},
		{"cel, groups are numbers", cel(m{"roles": []int{1}})},
		{"cel, uid is a number", cel(m{"uid": 1})},
		{"cel, extra is a number", cel(m{"teams": 1})},
		{"cel, claim rule", cel(m{"exp": now.Add(48 * time.Hour).Unix()})},
		{"cel, second claim rule", cel(m{"blocked": true})},
		{"cel, claim rule of another type", cel(m{"blocked": "no"})},
		{"cel, user rule", cel(m{"profile": m{"name": "system:jane"}})},
		{"cel, group rule", cel(m{"roles": "system:masters"})},
		{"scattered groups", scattered("t", p.URL+"/groups")},
		{"scattered groups, expired", scattered("t", p.URL+"/groups/expired")},
		{"scattered groups, for others", scattered("t", p.URL+"/groups/audience")},
		{"scattered groups, of another type", scattered("t", p.URL+"/groups/none")},
		{"scattered groups, garbage", scattered("t", p.URL+"/groups/garbage")},
		{"scattered groups, forged", scattered("t", p.URL+"/groups/forged")},
		{"scattered groups, not there", scattered("t", p.URL+"/groups/missing")},
		{"scattered groups without a source", of("scattered", m{"_claim_names": m{"groups": "src"}})},
		{"scattered groups without a place", of("scattered", m{"_claim_names": m{"groups": "src"}, "_claim_sources": m{"src": m{"JWT": "x"}}})},
		{"names of claims that are a list", of("scattered", m{"_claim_names": []string{"groups"}})},
	}
}

// answer is what a server says of a token.
type answer struct {
	Name   string          `json:"name"`
	Code   int             `json:"code"`             // of a request with the token
	User   json.RawMessage `json:"user,omitempty"`   // whose request it is
	Review json.RawMessage `json:"review,omitempty"` // the status of a TokenReview
}

// admin is a static token of an administrator.
const admin = "the-administrators-token"

// client asks a server.
type client struct {
	http *http.Client
	base string
}

func (c client) post(t testing.TB, path, token string, body any) (int, []byte) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return c.do(t, http.MethodPost, path, token, data)
}

func (c client) do(t testing.TB, method, path, token string, data []byte) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, c.base+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	got, err := c.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	said, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	return got.StatusCode, said
}

const group = "/apis/authentication.k8s.io/v1/"

// ask asks whose a token is, by a request of its bearer and by a review.
func (c client) ask(t testing.TB, p *provider, q question) answer {
	t.Helper()
	a := answer{Name: q.name}
	var self struct {
		Status struct {
			UserInfo json.RawMessage `json:"userInfo"`
		} `json:"status"`
	}
	var review struct {
		Status json.RawMessage `json:"status"`
	}
	code, said := c.post(t, group+"selfsubjectreviews", q.token, map[string]string{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
	if a.Code = code; code == http.StatusCreated {
		decode(t, said, &self)
		a.User = normal(p, self.Status.UserInfo)
	}
	_, said = c.post(t, group+"tokenreviews", admin, map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": map[string]any{"token": q.token}})
	decode(t, said, &review)
	a.Review = normal(p, review.Status)
	return a
}

func decode(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v: %.300s", err, data)
	}
}

var times = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? [+-]\d{4} [A-Z]+( m=[+-][\d.]+)?`)

// normal leaves out what is another each time.
func normal(p *provider, data []byte) json.RawMessage {
	text := strings.ReplaceAll(string(data), p.URL, "https://provider.example")
	return json.RawMessage(times.ReplaceAllString(text, "TIME"))
}

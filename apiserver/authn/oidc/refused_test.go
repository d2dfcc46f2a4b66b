package oidc_test

import (
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/skiff-k8s/skiff/apiserver/authn/oidc"
)

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

// own is the issuer of the server's own tokens.
const own = "https://kubernetes.default.svc.cluster.local"

// jwt is a file that names one issuer.
func jwt(issuer, mappings, rest string) string {
	return head + "jwt:\n- issuer: {" + issuer + "}\n  claimMappings: {" + mappings + "}\n" + rest
}

const (
	fine     = "url: https://a.example, audiences: [x]"
	username = `username: {claim: sub, prefix: ""}`
)

// refused are files that are not good.
var refused = map[string]string{
	"empty":                      "",
	"no YAML":                    "{",
	"another kind":               "apiVersion: apiserver.config.k8s.io/v1\nkind: Other\n",
	"another version":            "apiVersion: apiserver.config.k8s.io/v9\nkind: AuthenticationConfiguration\n",
	"an unknown field":           head + "jwts: []\n",
	"a field twice":              head + "jwt: []\njwt: []\n",
	"a field of another type":    head + "jwt: x\n",
	"nothing":                    jwt("", "", ""),
	"no https":                   jwt("url: http://a.example, audiences: [x]", username, ""),
	"no URL":                     jwt(`url: "https://a b", audiences: [x]`, username, ""),
	"a password":                 jwt(`url: "https://a:b@a.example", audiences: [x]`, username, ""),
	"a query and a fragment":     jwt(`url: "https://a.example/?a=b#c", audiences: [x]`, username, ""),
	"discovery at the same URL":  jwt(fine+`, discoveryURL: "https://a.example/"`, username, ""),
	"discovery without TLS":      jwt(fine+`, discoveryURL: "http://b.example"`, username, ""),
	"an empty audience, twice":   jwt(`url: https://a.example, audiences: ["", ""], audienceMatchPolicy: MatchAny`, username, ""),
	"several audiences":          jwt(`url: https://a.example, audiences: [x, y]`, username, ""),
	"another policy":             jwt(fine+`, audienceMatchPolicy: All`, username, ""),
	"no authority":               jwt(fine+`, certificateAuthority: x`, username, ""),
	"another egress":             jwt(fine+`, egressSelectorType: x`, username, ""),
	"no username":                jwt(fine, "", ""),
	"username twice":             jwt(fine, `username: {claim: sub, expression: claims.sub}`, ""),
	"a prefix of an expression":  jwt(fine, `username: {prefix: a, expression: claims.sub}`, ""),
	"no prefix":                  jwt(fine, `username: {claim: sub}, groups: {claim: g}`, ""),
	"groups twice":               jwt(fine, username+`, groups: {claim: g, expression: claims.g}`, ""),
	"uid twice":                  jwt(fine, username+`, uid: {claim: g, expression: claims.g}`, ""),
	"no CEL":                     jwt(fine, `username: {expression: "claims."}, groups: {expression: "foo"}, uid: {expression: "user.uid"}`, ""),
	"email is not verified":      jwt(fine, `username: {expression: claims.email}`, ""),
	"email of one that may lack": jwt(fine, `username: {expression: "claims.?email.orValue('x')"}`, ""),
	"extra":                      jwt(fine, username+`, extra: [{key: foo, valueExpression: "'a'"}, {key: "Example.com/A", valueExpression: ""}, {key: a.k8s.io/x, valueExpression: "("}, {key: a.k8s.io/x, valueExpression: "'a'"}]`, ""),
	"claim rules": jwt(fine, username, `  claimValidationRules:
  - {}
  - {claim: a, expression: "true"}
  - {claim: a, message: m}
  - {claim: a}
  - {expression: "true", requiredValue: x}
  - {expression: "true"}
  - {expression: "1"}
  - {expression: "claims.foo"}
`),
	"user rules": jwt(fine, username, `  userValidationRules:
  - {}
  - {expression: "true"}
  - {expression: "true"}
  - {expression: "user.name == 'x'"}
  - {expression: "user.username"}
  - {expression: "claims.sub == 'x'"}
`),
	"two of a kind":              jwt(fine+", discoveryURL: https://b.example", username, "") + "- issuer: {" + fine + ", discoveryURL: https://b.example}\n  claimMappings: {" + username + "}\n",
	"anonymous with conditions":  head + "anonymous: {enabled: false, conditions: [{path: /livez}]}\n",
	"several things":             jwt("url: http://a.example", "", "anonymous: {enabled: false, conditions: [{path: /livez}]}\n"),
	"too many":                   head + "jwt:\n" + strings.Repeat("- issuer: {"+fine+"}\n  claimMappings: {"+username+"}\n", 65),
	"the issuer of this cluster": jwt("url: "+own+", audiences: [x]", username, ""),
	"an egress":                  jwt(fine+", egressSelectorType: cluster", username, ""),
}

// flagsRefused are flags that do not go together.
var flagsRefused = map[string][]string{
	"no client":         {"--oidc-issuer-url=https://a.example"},
	"no issuer":         {"--oidc-groups-claim=x"},
	"another algorithm": {"--oidc-issuer-url=https://a.example", "--oidc-client-id=x", "--oidc-signing-algs=HS256"},
	"issuer, no TLS":    {"--oidc-issuer-url=http://a.example", "--oidc-client-id=x"},
	"no file":           {"--authentication-config=/nothing/there"},
	"no authority":      {"--oidc-issuer-url=https://a.example", "--oidc-client-id=x", "--oidc-ca-file=/nothing/there"},
	"both":              {"--authentication-config=FILE", "--oidc-client-id=x"},
	"anonymous twice":   {"--authentication-config=FILE", "--anonymous-auth=false"},
}

const anonymousFile = head + "anonymous: {enabled: true}\n"

// refusals are what was said of files and of flags.
type refusals struct {
	Files map[string]string `json:"files"`
	Flags map[string]string `json:"flags"`
}

// said is what Skiff says in other words: where kube-apiserver leaves out in which issuer it is, and names fields as its code does
// and the file does not.
var said = map[string]string{
	"an egress":                  `invalid authentication configuration: jwt[0].issuer.egressSelectorType: Invalid value: "cluster": oidc: egress lookup required with egress selector type "cluster"`,
	"the issuer of this cluster": `invalid authentication configuration: jwt[0].issuer.url: Invalid value: "` + own + `": URL must not overlap with disallowed issuers: [` + own + `]`,
	"anonymous with conditions":  `invalid authentication configuration: anonymous.conditions: Invalid value: [{"path":"/livez"}]: enabled should be set to true when conditions are defined`,
	"several things": `invalid authentication configuration: [jwt[0].issuer.url: Invalid value: "http://a.example": URL scheme must be https, jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required, ` +
		`jwt[0].claimMappings.username: Required value: claim or expression is required, anonymous.conditions: Invalid value: [{"path":"/livez"}]: enabled should be set to true when conditions are defined]`,
}

// TestRefused compares what is said of files and flags that are not good with what kube-apiserver says of them
// (testdata/refusals.json; make oracle records it anew).
func TestRefused(t *testing.T) {
	data, err := os.ReadFile("testdata/refusals.json")
	if err != nil {
		t.Fatal(err)
	}
	var want refusals
	decode(t, data, &want)
	dir := t.TempDir()
	compare := func(name, want string, args ...string) {
		got := "it is taken"
		if err := open(args...); err != nil {
			got = strings.ReplaceAll(err.Error(), dir, "/dir")
		}
		if want := cmp.Or(said[name], want); got != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
	for name, file := range refused {
		compare(name, want.Files[name], "--authentication-config="+write(t, filepath.Join(dir, "config.yaml"), file))
	}
	for name, args := range flagsRefused {
		compare("flags: "+name, want.Flags[name], withFile(t, dir, args)...)
	}
}

func withFile(t *testing.T, dir string, args []string) (out []string) {
	file := write(t, filepath.Join(dir, "config.yaml"), anonymousFile)
	for _, a := range args {
		out = append(out, strings.ReplaceAll(a, "FILE", file))
	}
	return out
}

func open(args ...string) error {
	c := oidc.Config{Own: []string{own}}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	c.AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	_, err := oidc.Open(c)
	return err
}

// TestTaken opens files that are good.
func TestTaken(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1", "v1alpha1"} {
		text, err := json.Marshal(map[string]any{"apiVersion": "apiserver.config.k8s.io/" + version, "kind": "AuthenticationConfiguration", "jwt": []any{}})
		if err != nil {
			t.Fatal(err)
		}
		if err := open("--authentication-config=" + write(t, filepath.Join(t.TempDir(), "config"), string(text))); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
	for _, good := range []string{
		jwt(fine, `username: {expression: "claims.?email_verified.orValue(true) == true ? claims.email : claims.sub"}`, ""),
		jwt(fine, `username: {expression: "claims.email"}`, "  claimValidationRules: [{expression: \"claims.?email_verified.orValue(true) == true\"}]\n"),
		jwt(fine, `username: {expression: "claims.email"}, extra: [{key: example.com/v, valueExpression: "has(claims.email_verified) ? 'v' : ''"}]`, ""),
	} {
		if err := open("--authentication-config=" + write(t, filepath.Join(t.TempDir(), "config"), good)); err != nil {
			t.Errorf("%s\n%v", good, err)
		}
	}
}

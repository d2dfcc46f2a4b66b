package debug_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/debug"
)

var users = map[string]*user.DefaultInfo{
	"admin": {Name: "admin", Groups: []string{"system:masters"}}, "monitor": {Name: "monitor", Groups: []string{"system:monitoring"}}, "nobody": {Name: "nobody"},
}

// asked is a request: who, method, path, accepted type, body.
type asked struct{ as, method, path, accept, body string }

var requests = []asked{
	{"nobody", "GET", "/statusz", "", ""}, {"nobody", "GET", "/flagz", "", ""}, {"nobody", "GET", "/debug/pprof/", "", ""}, {"nobody", "PUT", "/debug/flags/v", "", "9"},
	{"monitor", "GET", "/statusz", "", ""}, {"monitor", "GET", "/flagz", "", ""}, {"monitor", "GET", "/debug/pprof/", "", ""},
	{"admin", "GET", "/statusz", "*/*", ""}, {"admin", "GET", "/statusz", "text/plain", ""}, {"admin", "GET", "/statusz", "application/json", ""},
	{"admin", "GET", "/statusz", "application/json;as=Statusz;v=v1beta1;g=config.k8s.io", ""},
	{"admin", "GET", "/statusz", "application/json;as=Statusz;v=v1alpha1;g=config.k8s.io", ""},
	{"admin", "GET", "/statusz", "application/yaml;as=Statusz;v=v1beta1;g=config.k8s.io", ""},
	{"admin", "GET", "/statusz", "application/json;as=Statusz;v=v2;g=config.k8s.io", ""},
	{"admin", "GET", "/statusz", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io,text/plain", ""},
	{"admin", "POST", "/statusz", "", ""},
	{"admin", "GET", "/flagz", "*/*", ""}, {"admin", "GET", "/flagz", "application/json", ""},
	{"admin", "GET", "/flagz", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io", ""},
	{"admin", "GET", "/flagz", "application/yaml;as=Flagz;v=v1alpha1;g=config.k8s.io", ""},
	{"admin", "GET", "/debug/pprof", "", ""}, {"admin", "GET", "/debug/pprof/", "", ""}, {"admin", "GET", "/debug/pprof/heap", "", ""},
	{"admin", "GET", "/debug/pprof/goroutine?debug=1", "", ""}, {"admin", "GET", "/debug/pprof/cmdline", "", ""}, {"admin", "GET", "/debug/pprof/nothing", "", ""},
	{"admin", "GET", "/debug/flags", "", ""}, {"admin", "GET", "/debug/flags/", "", ""}, {"admin", "GET", "/debug/flags/x", "", ""},
	{"admin", "GET", "/debug/flags/v", "", ""}, {"admin", "PUT", "/debug/flags/v", "", "3"}, {"admin", "PUT", "/debug/flags/v", "", "x"},
	{"admin", "PUT", "/debug/flags/v", "", "-1"}, {"admin", "PUT", "/debug/flags/v", "", ""}, {"admin", "PUT", "/debug/flags/v", "", "0"},
}

// answer is what a server says, without what differs from one to another.
type answer struct {
	Request  string
	Code     int
	Type     string
	Warnings []string
	Text     string
}

func ask(t *testing.T, client *http.Client, base string) (all []answer) {
	plain := *client
	plain.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, a := range requests {
		r, err := http.NewRequestWithContext(t.Context(), a.method, base+a.path, strings.NewReader(a.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+a.as)
		if a.accept != "" {
			r.Header.Set("Accept", a.accept)
		}
		got, err := plain.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(got.Body)
		got.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, answer{a.as + " " + a.method + " " + a.path + " " + a.accept + " " + a.body, got.StatusCode, got.Header.Get("Content-Type"), got.Header.Values("Warning"), normal(a.path, string(body))})
	}
	return all
}

// normal leaves of flags and profiles how they begin, and of values what they are.
func normal(path, text string) string {
	text = strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(path, "/debug/pprof"):
		if len(text) > 10 && !strings.HasPrefix(text, "{") {
			return strings.ToValidUTF8(text[:5], "?")
		}
		return text
	case strings.HasPrefix(path, "/flagz"):
		if strings.HasPrefix(text, "{") && strings.Contains(text, `"flags"`) {
			text = regexp.MustCompile(`"flags":\s*\{[^}]*\}`).ReplaceAllString(text, `"flags":{}`)
		} else if lines := strings.SplitN(text, "\n", 3); len(lines) == 3 && strings.HasPrefix(lines[1], "Warning") {
			text = lines[0] + "\n" + lines[1]
		}
		text = regexp.MustCompile(`(?s)flags:\n(  .*\n)+`).ReplaceAllString(text, "flags:\n")
	}
	for _, r := range []struct{ pattern, by string }{
		{`(?m)^(Started|Up|Go version|Binary version|Emulation version|Paths)(:|: |=| ) ?.*$`, "$1"},
		{`"?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"?`, "TIME"}, {`"uptimeSeconds":\s*\d+`, `"uptimeSeconds":N`}, {`uptimeSeconds: \d+`, "uptimeSeconds: N"}, {`go1\.\d+(\.\d+)?`, "GO"},
		{`(?s)"paths":\s*\[[^]]*\]`, `"paths":[]`}, {`(?s)paths:\n(- [^\n]*\n?)+`, "paths:\n"}, {`\s+`, " "}, {`: `, ":"}, {`([{,]) `, "$1"}, {` \}`, "}"},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.by)
	}
	return text
}

// TestAnswers: the pages are those of kube-apiserver (answers.json).
func TestAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/answers.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []answer
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	level := new(slog.LevelVar)
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Debug.AddFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
		o.Debug.Profiling, o.Debug.Level = true, level
		o.StaticTokens = make(map[string]user.Info)
		for token, u := range users {
			o.StaticTokens[token] = u
		}
	})
	front := httptest.NewServer(s.Handler())
	defer front.Close()
	got := ask(t, front.Client(), front.URL)
	if len(got) != len(want) {
		t.Fatalf("%d requests, %d are recorded: run make oracle", len(got), len(want))
	}
	for i := range got {
		want[i].Text = strings.ReplaceAll(want[i].Text, "\ufffd", "?") // of a profile, which is no text
		if d := cmp.Diff(want[i], got[i]); d != "" {
			t.Errorf("%s (-kube-apiserver +skiff)\n%s", got[i].Request, d)
		}
	}
}

// TestSecretsAreNotShown: a flag that can have a secret in it is there without its value, in all forms.
func TestSecretsAreNotShown(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.String("storage", "postgres://user:secret@host/db", "")
	debug.Classify(flags, "storage")
	transport := apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) { o.Debug.Flags = flags }), "admin").Transport
	for _, accept := range []string{"text/plain", "application/json;as=Flagz;v=v1beta1;g=config.k8s.io", "application/yaml;as=Flagz;v=v1beta1;g=config.k8s.io"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://in-process/flagz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", accept)
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || strings.Contains(string(body), "secret") || !strings.Contains(string(body), "CLASSIFIED") {
			t.Errorf("%s: %d %s, %v", accept, answer.StatusCode, body, err)
		}
	}
}

// TestLevel: what is put is in force at once, and profiles can be left out.
func TestLevel(t *testing.T) {
	level := new(slog.LevelVar)
	for _, profiling := range []bool{true, false} {
		transport := apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) { o.Debug.Profiling, o.Debug.Level = profiling, level }), "admin").Transport
		put := func(v string) int {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "https://in-process/debug/flags/v", strings.NewReader(v))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			return answer.StatusCode
		}
		if !profiling {
			if code := put("4"); code != http.StatusNotFound {
				t.Errorf("without profiling: %d", code)
			}
			continue
		}
		if code := put("4"); code != http.StatusOK || level.Level() != slog.LevelDebug {
			t.Errorf("got %d, level %v, want %v", code, level.Level(), slog.LevelDebug)
		}
		if code := put("0"); code != http.StatusOK || level.Level() != slog.LevelInfo {
			t.Errorf("got %d, level %v, want %v", code, level.Level(), slog.LevelInfo)
		}
		if code := put(strings.Repeat("0", 1000) + "1"); code != http.StatusBadRequest {
			t.Errorf("a long level: %d", code)
		}
	}
}

package apiserver_test

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestAnswers sends the requests of testdata/answers.txt, in order, and wants
// the answers kube-apiserver 1.36.3 gave to them. What differs from run to run
// is replaced on both sides (UID, RV, TIME, AGE, RANDOM), causes that
// kube-apiserver lists twice are listed once, and the managers of fields are
// put in one order.
func TestAnswers(t *testing.T) {
	transport := apiservertest.Config(apiservertest.Start(t, nil), "admin").Transport
	data, err := os.ReadFile("testdata/answers.txt")
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n\n") {
		c := parseCase(t, strings.TrimLeft(text, "\n"))
		t.Run(c.request.Method+" "+c.request.URL.String(), func(t *testing.T) {
			resp, err := transport.RoundTrip(c.request.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.code || resp.Header.Get("Content-Type") != c.contentType {
				t.Errorf("answer is %d %s, want %d %s", resp.StatusCode, resp.Header.Get("Content-Type"), c.code, c.contentType)
			}
			if got := strings.Join(resp.Header.Values("Warning"), ", "); got != c.warning {
				t.Errorf("warning is\n%s\nwant\n%s", got, c.warning)
			}
			if got, want := normal(string(body)), normal(c.answer); got != want {
				t.Errorf("request %s\ngot  %s\nwant %s", c.body, got, want)
			}
		})
	}
}

// TestIndex: the root lists what is served besides objects.
func TestIndex(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://skiff/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := apiservertest.Config(apiservertest.Start(t, nil), "admin").Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Paths []string }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/api/v1", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/.well-known/openid-configuration", "/openid/v1/jwks", "/version", "/livez/ping"} {
		if !slices.Contains(got.Paths, want) {
			t.Errorf("got %q, want %s in it", got.Paths, want)
		}
	}
}

type answerCase struct {
	request     *http.Request
	body        string
	code        int
	contentType string
	warning     string
	answer      string
}

// parseCase reads the request after ">" with its headers, and the answer after
// "<" with its own.
func parseCase(t *testing.T, text string) answerCase {
	t.Helper()
	var c answerCase
	request, answer, ok := strings.Cut(text, "\n< ")
	if !ok {
		t.Fatalf("case without an answer: %s", text)
	}
	lines := strings.Split(request, "\n")
	method, path, _ := strings.Cut(strings.TrimPrefix(lines[0], "> "), " ")
	header := http.Header{"Accept": {"application/json"}, "User-Agent": {"difftool"}}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, ": ")
		if key != "Body" {
			header.Set(key, value)
			continue
		}
		if err := json.Unmarshal([]byte(value), &c.body); err != nil {
			t.Fatal(err)
		}
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/json")
		}
	}
	r, err := http.NewRequest(method, "https://in-process"+path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header, c.request = header, r

	status, rest, _ := strings.Cut(answer, "\n")
	code, contentType, _ := strings.Cut(status, " ")
	if err := json.Unmarshal([]byte(code), &c.code); err != nil {
		t.Fatal(err)
	}
	c.contentType = contentType
	if warning, after, ok := strings.Cut(rest, "\n"); ok && strings.HasPrefix(warning, "Warning: ") {
		c.warning, rest = strings.TrimPrefix(warning, "Warning: "), after
	}
	c.answer = rest
	return c
}

var replacements = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`(resourceVersion\\?"?: ?\\?")\d+(\\?")`), "${1}RV${2}"},
	{regexp.MustCompile(`(resourceVersion\\\\\\":\\\\\\")\d+`), "${1}RV"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`,"\d+s"([,\]])`), `,"AGE"${1}`},
	{regexp.MustCompile(`in record \(\d+\)`), "in record (RV)"},
	{regexp.MustCompile(`(a_|dry)[a-z0-9]{5}\b`), "${1}RANDOM"},
}

// normal replaces what differs from run to run.
func normal(answer string) string {
	for _, r := range replacements {
		answer = r.pattern.ReplaceAllString(answer, r.by)
	}
	answer = rewriteLists(strings.TrimRight(answer, "\n"), "causes", dedupe)
	return rewriteLists(answer, "managedFields", ordered)
}

// rewriteLists changes every JSON list that is the value of a key in text.
func rewriteLists(text, key string, change func([]string) []string) string {
	before, after, found := strings.Cut(text, `"`+key+`":[`)
	if !found {
		return text
	}
	var items []json.RawMessage
	decoder := json.NewDecoder(strings.NewReader("[" + after))
	if decoder.Decode(&items) != nil {
		return text
	}
	var list []string
	for _, item := range items {
		list = append(list, string(item))
	}
	rest := after[decoder.InputOffset()-1:]
	return before + `"` + key + `":[` + strings.Join(change(list), ",") + "]" + rewriteLists(rest, key, change)
}

func dedupe(list []string) []string {
	var kept []string
	for _, item := range list {
		if !slices.Contains(kept, item) {
			kept = append(kept, item)
		}
	}
	return kept
}

// ordered puts managers in an order that does not depend on whether a second
// went by between their writes.
func ordered(list []string) []string { return slices.Sorted(slices.Values(list)) }
